//! Standard output of the verbs: plain lines for people, or JSON objects for programs.

use std::io::Write;
use std::path::Path;

use kiln_core::printable;
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
        let text = match self.json {
            true => plain_json(&serde_json::to_string(object).unwrap_or_else(|e| e.to_string())),
            false => printable(&line()).into_owned(),
        };
        // A reader that went away (`| head`) is no failure of the work.
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}

/// A path in a JSON object, where what is no Unicode has a mark in its place: serde knows no other paths than text.
pub fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// JSON escapes of control characters only those below a space; the others stand in strings, if anywhere.
fn plain_json(text: &str) -> String {
    let escape = |c: char| match c {
        '\u{7f}'..='\u{9f}' => format!("\\u{:04x}", c as u32),
        c => c.to_string(),
    };
    if text.contains(|c: char| ('\u{7f}'..='\u{9f}').contains(&c)) {
        text.chars().map(escape).collect()
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_holds_no_character_that_steers_a_terminal() {
        let text = serde_json::to_string("a\u{9b}2J\u{1b}é").unwrap();
        assert_eq!(plain_json(&text), r#""a\u009b2J\u001bé""#);
        assert_eq!(serde_json::from_str::<String>(&plain_json(&text)).unwrap(), "a\u{9b}2J\u{1b}é");
    }
}
