//! Reading a picture at any places: PyTorch's `grid_sample`, and its gradients in the picture and in the places.
//!
//! Where each place reads is worked out once for all channels. A neighbour outside of the picture has an index that
//! no plane has, so that reading it gives the zero it stands for and nothing beyond a plane is ever touched.

use rayon::prelude::*;

/// How a place between pixels is read, in [`crate::grid_sample`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleMode {
    /// Between the four pixels around it, each weighted by how near it is.
    Bilinear,
    /// The nearest pixel; of two equally near the one at the even index.
    Nearest,
}

/// What lies outside of the picture, in [`crate::grid_sample`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplePadding {
    /// Zeros.
    Zeros,
    /// The nearest pixel of the border.
    Border,
    /// The picture mirrored at its border, as often as needed.
    Reflection,
}

/// How [`crate::grid_sample`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridOptions {
    /// Between pixels.
    pub mode: SampleMode,
    /// Outside of the picture.
    pub padding: SamplePadding,
    /// Whether -1 and 1 are the centres of the outermost pixels, rather than their outer edges.
    pub align_corners: bool,
}

impl GridOptions {
    /// Pixels per unit of a coordinate along an axis of `len` pixels, and where the coordinate 0 is.
    pub(crate) fn scale(&self, len: usize) -> (f64, f64) {
        let centre = (len as f64 - 1.0) / 2.0;
        (if self.align_corners { centre } else { len as f64 / 2.0 }, centre)
    }

    /// Where the mirror before the first pixel stands, and how far behind it the other one does.
    pub(crate) fn mirrors(&self, len: usize) -> (f64, f64) {
        if self.align_corners { (0.0, len as f64 - 1.0) } else { (-0.5, len as f64) }
    }

    /// Where a coordinate points along an axis of `len` pixels, and how many pixels that moves for a unit of the
    /// coordinate. A coordinate that is no number points outside of the picture, or at the first pixel where nothing
    /// is outside.
    fn locate(&self, coordinate: f32, len: usize) -> (f32, f32) {
        let ((scale, centre), last) = (self.scale(len), len as f32 - 1.0);
        let (mut at, mut slope) = (coordinate * scale as f32 + centre as f32, scale as f32);
        match self.padding {
            // All four neighbours of -2 are outside, as are those of `len + 1`.
            SamplePadding::Zeros if at > -2.0 => return (at.min(last + 2.0), slope),
            SamplePadding::Zeros => return (-2.0, slope),
            SamplePadding::Border => {}
            SamplePadding::Reflection => {
                let (first, span) = self.mirrors(len);
                let (first, span) = (first as f32, span as f32);
                if span == 0.0 {
                    return (0.0, 0.0);
                }
                let from = at - first;
                slope = if from < 0.0 { -slope } else { slope };
                let (turns, rest) = ((from.abs() / span).floor(), from.abs() % span);
                at = first + if turns % 2.0 == 0.0 { rest } else { span - rest };
                slope = if turns % 2.0 == 0.0 { slope } else { -slope };
            }
        }
        if at > 0.0 && at < last { (at, slope) } else { (if at > 0.0 { last } else { 0.0 }, 0.0) }
    }
}

/// The index of a pixel outside of the picture.
const OUTSIDE: u32 = u32::MAX;

/// What a place reads: the pixels left above, right above, left below and right below of it, how far it is from the
/// first to the right and down, and how far that moves with its coordinates.
struct Place {
    pixels: [u32; 4],
    part: [f32; 2],
    slope: [f32; 2],
}

impl Place {
    fn new([x, y]: [f32; 2], [h, w]: [usize; 2], options: GridOptions) -> Place {
        let ((x, x_slope), (y, y_slope)) = (options.locate(x, w), options.locate(y, h));
        let pixel = |y: f32, x: f32| {
            let inside = y >= 0.0 && x >= 0.0 && y < h as f32 && x < w as f32;
            if inside { (y as usize * w + x as usize) as u32 } else { OUTSIDE }
        };
        match options.mode {
            SampleMode::Bilinear => {
                let (left, above) = (x.floor(), y.floor());
                let pixel = |down: f32, right: f32| pixel(above + down, left + right);
                Place {
                    pixels: [pixel(0.0, 0.0), pixel(0.0, 1.0), pixel(1.0, 0.0), pixel(1.0, 1.0)],
                    part: [x - left, y - above],
                    slope: [x_slope, y_slope],
                }
            }
            SampleMode::Nearest => Place {
                pixels: [pixel(y.round_ties_even(), x.round_ties_even()), OUTSIDE, OUTSIDE, OUTSIDE],
                part: [0.0; 2],
                slope: [0.0; 2],
            },
        }
    }

    fn read(&self, plane: &[f32]) -> [f32; 4] {
        self.pixels.map(|pixel| plane.get(pixel as usize).copied().unwrap_or(0.0))
    }

    fn weights(&self) -> [f32; 4] {
        let [x, y] = self.part;
        [(1.0 - x) * (1.0 - y), x * (1.0 - y), (1.0 - x) * y, x * y]
    }

    fn value(&self, plane: &[f32]) -> f32 {
        self.read(plane).into_iter().zip(self.weights()).map(|(value, weight)| value * weight).sum()
    }

    /// How the value changes with the coordinates.
    fn slopes(&self, plane: &[f32]) -> [f32; 2] {
        let ([a, b, c, d], [x, y]) = (self.read(plane), self.part);
        let (right, down) = ((b - a) * (1.0 - y) + (d - c) * y, (c - a) * (1.0 - x) + (d - b) * x);
        [right * self.slope[0], down * self.slope[1]]
    }
}

/// The sizes of an operation: pictures, channels, their size, and places of each picture.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub channels: usize,
    pub size: [usize; 2],
    pub places: usize,
}

impl Shape {
    fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    fn locate(&self, grid: &[f32], options: GridOptions) -> Vec<Place> {
        let (grid, _) = grid.as_chunks::<2>();
        grid.par_iter().with_min_len(SHARE).map(|at| Place::new(*at, self.size, options)).collect()
    }

    /// Runs `work` on each plane of `size` elements, with its index and the places of its picture.
    fn each_plane(
        &self,
        places: &[Place],
        planes: &mut [f32],
        size: usize,
        work: impl Fn(usize, &[Place], &mut [f32]) + Sync,
    ) {
        let least = SHARE.div_ceil(self.places.max(1));
        planes.par_chunks_mut(size.max(1)).enumerate().with_min_len(least).for_each(|(i, plane)| {
            work(i, &places[i / self.channels * self.places..][..self.places], plane);
        });
    }
}

/// Places read by a task at least.
const SHARE: usize = 1 << 12;

/// `[n, c, places]` from pictures `[n, c, h, w]` and a grid `[n, places, 2]` of x and y.
pub(crate) fn forward(x: &[f32], grid: &[f32], s: Shape, options: GridOptions) -> Vec<f32> {
    let places = s.locate(grid, options);
    let mut out = vec![0.0; places.len() * s.channels];
    s.each_plane(&places, &mut out, s.places, |i, places, to| {
        let plane = &x[i * s.pixels()..][..s.pixels()];
        to.iter_mut().zip(places).for_each(|(to, place)| *to = place.value(plane));
    });
    out
}

/// The gradients in pictures and grid for that in the output; those not in `wants` are empty.
pub(crate) fn backward(
    x: &[f32],
    grid: &[f32],
    g: &[f32],
    s: Shape,
    options: GridOptions,
    wants: [bool; 2],
) -> (Vec<f32>, Vec<f32>) {
    let places = s.locate(grid, options);
    let mut dx = vec![0.0; if wants[0] { x.len() } else { 0 }];
    s.each_plane(&places, &mut dx, s.pixels(), |i, places, to| {
        for (g, place) in g[i * s.places..][..s.places].iter().zip(places) {
            for (pixel, weight) in place.pixels.into_iter().zip(place.weights()) {
                if let Some(to) = to.get_mut(pixel as usize) {
                    *to += g * weight;
                }
            }
        }
    });
    let mut dgrid = vec![0.0; if wants[1] { grid.len() } else { 0 }];
    let (gradients, _) = dgrid.as_chunks_mut::<2>();
    let least = SHARE.div_ceil(s.channels.max(1));
    gradients.par_iter_mut().enumerate().with_min_len(least).for_each(|(i, to)| {
        let first = i / s.places * s.channels;
        for plane in first..first + s.channels {
            let slopes = places[i].slopes(&x[plane * s.pixels()..][..s.pixels()]);
            let g = g[plane * s.places + i % s.places];
            to.iter_mut().zip(slopes).for_each(|(to, slope)| *to += g * slope);
        }
    });
    (dx, dgrid)
}
