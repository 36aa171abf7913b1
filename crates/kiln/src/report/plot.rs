//! Plots of a logged value during training, one curve per run, as SVG: title and legend on top, faint raw
//! lines under smooth ones.

use std::fmt::Display;
use std::ops::Range;

use kiln_core::{Context, Result};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Lines over one quantity.
pub struct Plot {
    /// What runs upwards.
    pub title: String,
    /// What runs to the right, with its unit.
    pub along: String,
    /// One a run.
    pub lines: Vec<Line>,
}

/// The points of one run.
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Its colour.
    pub colour: [u8; 3],
    /// By ascending x; at least one.
    pub points: Vec<(f64, f64)>,
}

/// Twice the size of a plot on the page: the backend rounds to whole units.
const SIZE: (u32, u32) = (1120, 640);
const MARGIN: i32 = 16;
const FONT: u32 = 30;
/// The page's style sheet gives these three other colours in the dark.
pub const INK: RGBColor = RGBColor(0x2B, 0x31, 0x38);
pub const GRID: RGBColor = RGBColor(0xDF, 0xE3, 0xE8);
pub const PAPER: RGBColor = RGBColor(0xFF, 0xFF, 0xFF);

/// Points drawn of a line at most: more than there are columns of pixels.
const DRAWN: usize = 600;
/// Below this many points a line is not smoothed, and its points are marked.
const FEW: usize = 20;
/// Largest over smallest value from which on the axis is logarithmic.
const WIDE: f64 = 20.0;

/// The width of the smoothing kernel (its standard deviation) as a part of the points.
const SMOOTHING: f64 = 0.02;

/// Several plots as one SVG document, some across.
///
/// # Errors
/// None that input can cause.
pub fn page(plots: &[Plot], across: usize) -> Result<String> {
    let (width, height) = SIZE;
    let rows = plots.len().div_ceil(across.max(1)) as u32;
    let (all_width, all_height) = (width * across as u32, height * rows);
    let mut out = format!(
        "<svg width=\"{}\" height=\"{}\" viewBox=\"0 0 {all_width} {all_height}\" xmlns=\"http://www.w3.org/2000/svg\">\n",
        all_width / 2,
        all_height / 2
    );
    for (i, plot) in plots.iter().enumerate() {
        let (x, y) = ((i % across) as u32 * width, (i / across) as u32 * height);
        out += &format!("<g transform=\"translate({x} {y})\">\n{}</g>\n", plot.svg()?);
    }
    Ok(out + "</svg>\n")
}

impl Plot {
    /// The plot as an SVG document.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn svg(&self) -> Result<String> {
        let mut text = String::new();
        {
            let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            root.fill(&PAPER).context(|| "plot")?;
            let below = self.head(&root)?;
            let (_, area) = root.split_vertically(below);
            let xs = self.lines.iter().flat_map(|l| l.points.iter().map(|p| p.0));
            let x = xs.clone().fold(f64::INFINITY, f64::min).min(0.0)..xs.fold(f64::MIN_POSITIVE, f64::max);
            let smooth: Vec<f64> = self.lines.iter().flat_map(|l| smoothed(&l.points)).map(|p| p.1).collect();
            let (low, high) = ends(smooth.iter().copied());
            let (lowest, highest) = ends(self.lines.iter().flat_map(|l| l.points.iter().map(|p| p.1)));
            if lowest > 0.0 && high / low >= WIDE {
                self.draw(&area, x, (lowest / 1.15..highest * 1.15).log_scale())?;
            } else {
                let room = if highest > lowest { (highest - lowest) * 0.05 } else { highest.abs().max(1.0) * 0.1 };
                self.draw(&area, x, lowest - room..highest + room)?;
            }
            root.present().context(|| "plot")?;
        }
        Ok(text)
    }

    /// Title and legend; returns how far down they reach.
    fn head(&self, root: &DrawingArea<SVGBackend, Shift>) -> Result<i32> {
        let style = |size| TextStyle::from(("sans-serif", size).into_font()).color(&INK);
        let bold = ("sans-serif", FONT + 6).into_font().style(FontStyle::Bold);
        root.draw(&Text::new(self.title.clone(), (MARGIN, MARGIN), TextStyle::from(bold).color(&INK)))
            .context(|| "plot")?;
        let (mut x, mut y) = (MARGIN, MARGIN + 68);
        for line in &self.lines {
            let name = shortened(&line.name);
            // The renderer's font is not known here; two thirds of its size is wide for a letter.
            let width = 62 + name.chars().count() as i32 * (FONT as i32 / 2 + 2);
            if x > MARGIN && x + width > SIZE.0 as i32 - MARGIN {
                (x, y) = (MARGIN, y + 42);
            }
            let text = style(FONT).pos(Pos::new(HPos::Left, VPos::Center));
            root.draw(&PathElement::new(
                vec![(x, y), (x + 36, y)],
                ShapeStyle::from(&rgb(line.colour)).stroke_width(6),
            ))
            .and_then(|()| root.draw(&Text::new(name, (x + 48, y), text)))
            .context(|| "plot")?;
            x += width;
        }
        Ok(y + 34)
    }

    fn draw<Y>(&self, area: &DrawingArea<SVGBackend, Shift>, x: Range<f64>, y: Y) -> Result<()>
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let place = || "plot";
        let text = || TextStyle::from(("sans-serif", FONT).into_font()).color(&INK);
        let mut chart = ChartBuilder::on(area)
            .margin(MARGIN)
            .margin_right(40)
            .x_label_area_size(92)
            .y_label_area_size(120)
            .build_cartesian_2d(x, y)
            .context(place)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(ShapeStyle::from(&GRID).stroke_width(2))
            .axis_style(ShapeStyle::from(&GRID).stroke_width(2))
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|v| tick(*v))
            .y_label_formatter(&|v| tick(*v))
            .x_desc(&self.along)
            .axis_desc_style(text())
            .label_style(text())
            .draw()
            .context(place)?;
        for line in &self.lines {
            let colour = rgb(line.colour);
            let few = line.points.len() < FEW;
            if few {
                let dots = line.points.iter().map(|&p| Circle::new(p, 7, colour.filled()));
                chart.draw_series(dots).context(place)?;
            } else {
                let faint = ShapeStyle::from(&colour.mix(0.3)).stroke_width(2);
                chart.draw_series(LineSeries::new(envelope(&line.points), faint)).context(place)?;
            }
            let every = line.points.len().div_ceil(DRAWN);
            let last = line.points.len() - 1;
            let smooth = smoothed(&line.points).into_iter().enumerate();
            let drawn = smooth.filter(|(i, _)| i % every == 0 || *i == last).map(|(_, p)| p);
            chart.draw_series(LineSeries::new(drawn, ShapeStyle::from(&colour).stroke_width(5))).context(place)?;
        }
        Ok(())
    }
}

fn rgb([r, g, b]: [u8; 3]) -> RGBColor {
    RGBColor(r, g, b)
}

/// Smallest and largest value.
fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

/// A name short enough for a legend; its end is what tells runs apart.
fn shortened(name: &str) -> String {
    let length = name.chars().count();
    if length <= 36 {
        return name.to_string();
    }
    name.chars().take(10).chain(['…']).chain(name.chars().skip(length - 25)).collect()
}

/// A number on an axis: `40k`, `1.5M`, `0.002`.
fn tick(value: f64) -> String {
    let short = |v: f64, unit: &str| format!("{}{unit}", decimal(v));
    match value.abs() {
        1e9.. => short(value / 1e9, "G"),
        1e6.. => short(value / 1e6, "M"),
        1e4.. => short(value / 1e3, "k"),
        _ => decimal(value).to_string(),
    }
}

/// Four significant digits, without the noise of binary fractions.
fn decimal(value: f64) -> impl Display {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// The points under a Gaussian kernel over their order, which does not lag behind as a running
/// average does. Few points are left as they are.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() < FEW {
        return points.to_vec();
    }
    let sigma = (points.len() as f64 * SMOOTHING).max(1.0);
    let reach = (3.0 * sigma).ceil() as usize;
    (0..points.len())
        .map(|i| {
            let near = i.saturating_sub(reach)..(i + reach + 1).min(points.len());
            let (sum, weight) = near.fold((0.0, 0.0), |(sum, weight), j| {
                let w = (-0.5 * ((i as f64 - j as f64) / sigma).powi(2)).exp();
                (sum + w * points[j].1, weight + w)
            });
            (points[i].0, sum / weight)
        })
        .collect()
}

/// A line of at most [`DRAWN`] points: of each stretch of a longer one its lowest and its highest
/// point, so that no spike is lost.
fn envelope(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= DRAWN {
        return points.to_vec();
    }
    let stretch = (2 * points.len()).div_ceil(DRAWN);
    let mut kept = Vec::with_capacity(DRAWN);
    for part in points.chunks(stretch) {
        let order = |a: &usize, b: &usize| part[*a].1.total_cmp(&part[*b].1);
        let low = (0..part.len()).min_by(order).unwrap_or(0);
        let high = (0..part.len()).max_by(order).unwrap_or(0);
        kept.push(part[low.min(high)]);
        if low != high {
            kept.push(part[low.max(high)]);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_short() {
        let wanted = [(0.1 + 0.2, "0.3"), (40_000.0, "40k"), (1_500_000.0, "1.5M"), (0.0, "0"), (-5.0, "-5")];
        for (value, text) in wanted {
            assert_eq!(tick(value), text);
        }
    }

    #[test]
    fn a_long_line_keeps_its_spikes() {
        let mut points: Vec<(f64, f64)> = (0..10_000).map(|i| (f64::from(i), 1.0)).collect();
        points[4321].1 = 50.0;
        points[9000].1 = -3.0;
        let kept = envelope(&points);
        assert!(kept.len() <= DRAWN, "{}", kept.len());
        assert!(kept.contains(&(4321.0, 50.0)) && kept.contains(&(9000.0, -3.0)));
        assert!(kept.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn smoothing_leaves_a_constant_and_few_points_alone_and_quiets_noise() {
        let flat: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(i), 0.7)).collect();
        assert!(smoothed(&flat).iter().zip(&flat).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-12));
        let few = [(0.0, 1.0), (1.0, 5.0)];
        assert_eq!(smoothed(&few), few);
        let noisy: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        assert!(smoothed(&noisy)[50..150].iter().all(|p| (p.1 - 0.5).abs() < 0.01));
    }

    #[test]
    fn a_wide_range_has_a_logarithmic_axis() {
        let plot = |last: f64| Plot {
            title: "loss".into(),
            along: "images".into(),
            lines: vec![Line { name: "a".into(), colour: [1, 2, 3], points: vec![(0.0, 100.0), (500.0, last)] }],
        };
        // Decades are marked only on the logarithmic one.
        let labels = |svg: String| ["0.01\n", "0.1\n", "1\n", "10\n"].iter().filter(|l| svg.contains(**l)).count();
        assert_eq!(labels(plot(0.01).svg().unwrap()), 4);
        assert_eq!(labels(plot(50.0).svg().unwrap()), 0);
    }
}
