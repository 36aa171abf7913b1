//! Progress on standard error: a bar on a terminal, occasional lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use kiln_core::{printable, tell};

/// Shows the position in a long task, its rate, and the remaining time.
pub struct Progress {
    bar: ProgressBar,
    plain: Option<Plain>,
}

struct Plain {
    what: String,
    total: u64,
    start: u64,
    begun: Instant,
    said: Instant,
}

impl Progress {
    /// Starts at `start` of `total` units (`images`, `samples`).
    pub fn new(what: &str, unit: &str, start: u64, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new(total) } else { ProgressBar::hidden() };
        let template = format!("{{prefix}} {{wide_bar}} {{pos}}/{{len}} {unit} · {{per_sec}} · {{eta}} left · {{msg}}");
        bar.set_style(ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(printable(what).into_owned());
        bar.set_position(start);
        bar.reset_eta();
        let now = Instant::now();
        let plain = Plain { what: what.into(), total, start, begun: now, said: now };
        Self { bar, plain: (!terminal).then_some(plain) }
    }

    /// Moves to `position`, with a short message (the losses).
    pub fn update(&mut self, position: u64, message: impl FnOnce() -> String) {
        self.bar.set_position(position);
        match &mut self.plain {
            None => self.bar.set_message(message()),
            Some(plain) if plain.said.elapsed() > Duration::from_secs(10) => {
                plain.said = Instant::now();
                let done = (position - plain.start).max(1) as f64;
                let rate = done / plain.begun.elapsed().as_secs_f64();
                let left = plain.total.saturating_sub(position) as f64 / rate;
                tell!(
                    "{} {position}/{} · {rate:.1}/s · {} left · {}",
                    plain.what,
                    plain.total,
                    minutes(left),
                    message()
                );
            }
            Some(_) => {}
        }
    }

    /// Prints a line without disturbing the bar.
    pub fn say(&self, line: &str) {
        if self.plain.is_some() { tell!("{line}") } else { self.bar.println(printable(line)) }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Seconds as `1h02m`, `3m20s` or `12s`.
pub fn minutes(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        3600.. => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        60.. => format!("{}m{:02}s", s / 60, s % 60),
        _ => format!("{s}s"),
    }
}
