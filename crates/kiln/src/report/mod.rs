//! The contents of a comparison, independent of the output format. Text here is plain; each writer escapes
//! it for its own format.

pub mod html;
pub mod markdown;
pub mod plot;

use std::time::{SystemTime, UNIX_EPOCH};

use kiln_data::Picture;
use kiln_measure::classes::Confusion;

use self::plot::Plot;

/// A page about some runs.
pub struct Report {
    /// What it is called.
    pub title: String,
    /// When, with and on what it was made.
    pub about: Vec<String>,
    /// The runs: the columns of every table.
    pub runs: Vec<Column>,
    /// The parts, in order.
    pub sections: Vec<Section>,
}

/// A run as a column.
pub struct Column {
    /// The shortest name that tells it from the others.
    pub name: String,
    /// Its system and data.
    pub about: String,
}

/// A part of the page.
pub struct Section {
    /// Its heading.
    pub title: String,
    /// A sentence below the heading; may be empty.
    pub note: String,
    /// What it shows.
    pub content: Vec<Content>,
}

/// Something a section shows.
pub enum Content {
    /// A row for each quantity, a column for each run.
    Table(Vec<Row>),
    /// Pictures side by side.
    Figures(Vec<Figure>),
    /// Which class was taken for which, one table a run.
    Confusions(Vec<Matrix>),
    /// Curves.
    Plots(Vec<Plot>),
    /// Commands that make what is above again.
    Commands(Vec<String>),
}

/// A row of a table.
pub struct Row {
    /// What it is.
    pub label: String,
    /// What it was measured with; may be empty.
    pub note: String,
    /// One a run.
    pub cells: Vec<Cell>,
}

/// A cell of a table.
#[derive(Clone, Default, PartialEq)]
pub struct Cell {
    /// The value; empty where there is none.
    pub value: String,
    /// Its deviation or interval; may be empty.
    pub spread: String,
}

impl Cell {
    /// A value alone.
    pub fn new(value: impl Into<String>) -> Self {
        Self { value: value.into(), spread: String::new() }
    }
}

/// A picture with the run it is from.
pub struct Figure {
    /// Which run, as an index into the report's.
    pub run: usize,
    /// What is to be seen; may be empty.
    pub caption: String,
    /// The picture.
    pub picture: Picture,
}

/// A confusion matrix with the run it is of.
pub struct Matrix {
    /// Which run, as an index into the report's.
    pub run: usize,
    /// On what.
    pub caption: String,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// The counts.
    pub confusion: Confusion,
}

/// The colour of a run, told apart on white and on black: eight by hand, then around the circle of
/// hues by the golden angle.
pub fn colour(run: usize) -> [u8; 3] {
    const CHOSEN: [[u8; 3]; 8] = [
        [0x2f, 0x7d, 0xe1],
        [0xe8, 0x6a, 0x17],
        [0x1d, 0x9e, 0x5b],
        [0xc0, 0x3f, 0xc9],
        [0xd6, 0x31, 0x4b],
        [0x11, 0x9d, 0xb0],
        [0xb0, 0x8a, 0x00],
        [0x7c, 0x6c, 0xd8],
    ];
    CHOSEN.get(run).copied().unwrap_or_else(|| {
        let hue = run as f64 * 137.508_f64;
        // HSL with saturation 0.6 and lightness 0.5.
        [0.0, 8.0, 4.0].map(|n| {
            let k: f64 = (n + hue / 30.0) % 12.0;
            ((0.5 - 0.3 * (k - 3.0).min(9.0 - k).clamp(-1.0, 1.0)) * 255.0).round() as u8
        })
    })
}

/// The present as `2026-01-31 12:34 UTC`.
pub fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let ([year, month, day], of_day) = (date(seconds / 86_400), seconds % 86_400);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", of_day / 3600, of_day % 3600 / 60)
}

/// Year, month and day of so many days after 1 January 1970. Years are counted from March, so that
/// the leap day is the last of its year and month lengths repeat every five months.
fn date(days: u64) -> [u64; 3] {
    let days = days + 719_468; // since 1 March of the year 0
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    [400 * era + year + u64::from(month <= 2), month, day_of_month]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Days as `date -u -d DATE +%s` counts them, divided by 86 400.
    #[test]
    fn dates_are_those_of_the_calendar() {
        for (days, wanted) in [
            (0, [1970, 1, 1]),
            (11_016, [2000, 2, 29]),
            (11_017, [2000, 3, 1]),
            (19_722, [2023, 12, 31]),
            (20_758, [2026, 11, 1]),
            (47_540, [2100, 2, 28]),
            (47_541, [2100, 3, 1]),
        ] {
            assert_eq!(date(days), wanted);
        }
    }

    #[test]
    fn many_runs_have_many_colours() {
        let mut all: Vec<_> = (0..30).map(colour).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 30);
    }
}
