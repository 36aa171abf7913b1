//! Kiln's error type: one line that says what went wrong, where, and what to do.

use std::fmt;

/// A failure, worded for the user.
///
/// The message is one line: what went wrong, where (the file, the key, the step), and what to do.
/// [`Error::usage`] marks mistakes in the command or recipe (exit status 2); everything else is a
/// failure of the work itself (exit status 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    message: String,
    usage: bool,
}

/// `Result` with Kiln's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of the work: exit status 1.
    pub fn new(message: impl fmt::Display) -> Self {
        Self { message: one_line(&message.to_string()), usage: false }
    }

    /// A usage error (flag, recipe key, missing ability): exit status 2.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { message: one_line(&message.to_string()), usage: true }
    }

    /// Whether this is a usage error.
    pub fn is_usage(&self) -> bool {
        self.usage
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Joins the lines of messages of other libraries; Kiln's own are single lines.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Puts the place in front of another library's error: `read(path).context(|| format!("reading {path}"))`.
pub trait Context<T> {
    /// Turns any error into an [`Error`] whose line begins with `place`.
    fn context<D: fmt::Display>(self, place: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context<D: fmt::Display>(self, place: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| Error::new(format!("{}: {e}", place())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_always_one_line() {
        assert_eq!(Error::new("a\n  b\n").to_string(), "a; b");
        assert!(Error::usage("x").is_usage());
    }
}
