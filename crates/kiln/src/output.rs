//! What a verb says on standard output: a line for a person, or an object for a program.

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
        if self.json {
            match serde_json::to_string(object) {
                Ok(text) => println!("{text}"),
                Err(e) => eprintln!("kiln: {e}"),
            }
        } else {
            println!("{}", line());
        }
    }
}
