//! Kiln's error type: one line that says what went wrong, where, and what to do.

use std::any::Any;
use std::fmt;

use crate::printable;

/// A failure, worded for the user.
///
/// The message is one line: what went wrong, where (the file, the key, the step), and what to do.
/// [`Error::usage`] marks mistakes in the command or recipe (exit status 2), [`Error::interrupted`] work that Ctrl-C
/// ended (130); everything else is a failure of the work itself (1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    message: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Work,
    Usage,
    Interrupted,
}

/// The exit status of a command that Ctrl-C ended, as of one that the signal kills.
pub const INTERRUPTED: u8 = 130;

/// `Result` with Kiln's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of the work: exit status 1.
    pub fn new(message: impl fmt::Display) -> Self {
        Self { message: one_line(&message.to_string()), kind: Kind::Work }
    }

    /// A usage error (flag, recipe key, missing ability): exit status 2.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { message: one_line(&message.to_string()), kind: Kind::Usage }
    }

    /// Work that Ctrl-C ended: exit status 130.
    pub fn interrupted(message: impl fmt::Display) -> Self {
        Self { message: one_line(&message.to_string()), kind: Kind::Interrupted }
    }

    /// The same error with a place in front of it: a usage error stays one.
    pub fn at(self, place: impl fmt::Display) -> Self {
        Self { message: one_line(&format!("{place}: {}", self.message)), ..self }
    }

    /// Whether this is a usage error.
    pub fn is_usage(&self) -> bool {
        self.kind == Kind::Usage
    }

    /// The exit status of a command that ends with this error.
    pub fn exit_status(&self) -> u8 {
        match self.kind {
            Kind::Work => 1,
            Kind::Usage => 2,
            Kind::Interrupted => INTERRUPTED,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Joins the lines of messages of other libraries; Kiln's own are single lines. Names in it cannot steer a terminal.
fn one_line(text: &str) -> String {
    printable(&text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")).into_owned()
}

/// Returns a usage error, worded as by `format!`, if a condition holds: `refuse_if!(n == 0, "-n {n}: at least 1")`.
#[macro_export]
macro_rules! refuse_if {
    ($wrong:expr, $($message:tt)+) => {
        if $wrong {
            return Err($crate::Error::usage(format!($($message)+)));
        }
    };
}

/// Puts the place in front of an error, another library's or our own (a usage error stays one): `read(path).context(|| format!("reading {path}"))`.
pub trait Context<T> {
    /// Turns any error into an [`Error`] whose line begins with `place`.
    fn context<D: fmt::Display>(self, place: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: fmt::Display + 'static> Context<T> for std::result::Result<T, E> {
    fn context<D: fmt::Display>(self, place: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| match (&e as &dyn Any).downcast_ref::<Error>() {
            Some(own) => own.clone().at(place()),
            None => Error::new(&e).at(place()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_always_one_line() {
        assert_eq!(Error::new("a\n  b\n").to_string(), "a; b");
        assert!(Error::usage("x").is_usage());
        assert_eq!(Error::new("\x1b[2Ja.png").at("b\tc").to_string(), "b\tc: \\u{1b}[2Ja.png");
    }

    #[test]
    fn a_place_in_front_changes_nothing_else() {
        let error = Error::usage("bad key").at("step 3");
        assert_eq!(error.to_string(), "step 3: bad key");
        assert!(error.is_usage() && !Error::new("x").at("y").is_usage());
        let again = Err::<(), _>(error).context(|| "recipe.toml").unwrap_err();
        assert_eq!(again.to_string(), "recipe.toml: step 3: bad key");
        assert!(again.is_usage());
        assert!(!Err::<(), _>("full").context(|| "disk").unwrap_err().is_usage());
    }
}
