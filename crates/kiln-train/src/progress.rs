//! Progress on standard error: a bar on a terminal, occasional lines elsewhere, also while a step takes long.

use std::io::IsTerminal;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
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
    pulse: Arc<Pulse>,
}

/// The time between two lines.
const PAUSE: Duration = Duration::from_secs(10);

/// The time without a line after which one says that the work goes on.
const SILENCE: Duration = Duration::from_secs(30);

/// What the thread that breaks a silence knows.
struct Pulse {
    state: Mutex<State>,
    ended: Condvar,
}

struct State {
    position: u64,
    said: Instant,
    over: bool,
}

impl Pulse {
    fn begin(what: String, start: u64, total: u64) -> Arc<Self> {
        let begun = Instant::now();
        let state = Mutex::new(State { position: start, said: begun, over: false });
        let pulse = Arc::new(Self { state, ended: Condvar::new() });
        let own = pulse.clone();
        // Where no thread is to be had, the work is silent.
        let _ = std::thread::Builder::new().spawn(move || {
            let mut state = own.state.lock().unwrap_or_else(PoisonError::into_inner);
            while !state.over {
                if state.said.elapsed() > SILENCE {
                    state.said = Instant::now();
                    let so_far = minutes(begun.elapsed().as_secs_f64());
                    tell!("{what} {}/{total} · at work for {so_far}", state.position);
                }
                state = own.ended.wait_timeout(state, PAUSE).unwrap_or_else(PoisonError::into_inner).0;
            }
        });
        pulse
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&self) {
        self.with(|state| state.over = true);
        self.ended.notify_all();
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.pulse.end();
    }
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
        let plain =
            || Plain { what: what.into(), total, start, begun: now, pulse: Pulse::begin(what.into(), start, total) };
        Self { bar, plain: (!terminal).then(plain) }
    }

    /// Moves to `position`, with a short message (the losses).
    pub fn update(&mut self, position: u64, message: impl FnOnce() -> String) {
        self.bar.set_position(position);
        match &mut self.plain {
            None => self.bar.set_message(message()),
            Some(plain) => {
                let due = plain.pulse.with(|state| {
                    state.position = position;
                    let due = state.said.elapsed() > PAUSE;
                    if due {
                        state.said = Instant::now();
                    }
                    due
                });
                if due {
                    let done = (position - plain.start).max(1) as f64;
                    let rate = done / plain.begun.elapsed().as_secs_f64();
                    let left = minutes(plain.total.saturating_sub(position) as f64 / rate);
                    let (what, total) = (&plain.what, plain.total);
                    tell!("{what} {position}/{total} · {rate:.1}/s · {left} left · {}", message());
                }
            }
        }
    }

    /// Prints a line without disturbing the bar.
    pub fn say(&self, line: &str) {
        if self.plain.is_some() { tell!("{line}") } else { self.bar.println(printable(line)) }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(plain) = &self.plain {
            plain.pulse.end();
        }
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
