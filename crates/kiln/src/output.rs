//! Standard output of the verbs: plain lines for people, or JSON objects for programs.

use std::io::Write;

use serde::Serialize;

/// Standard output in the form asked for.
pub struct Output {
    json: bool,
}

impl Output {
    /// JSON lines if `json`, else plain lines.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints `line`, or `object` as one line of JSON.
    pub fn say(&self, line: impl FnOnce() -> String, object: &impl Serialize) {
        let text = if self.json { serde_json::to_string(object).unwrap_or_else(|e| e.to_string()) } else { line() };
        // A reader that went away (`| head`) is no failure of the work.
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}
