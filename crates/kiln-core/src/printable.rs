//! Names as a terminal may show them.

use std::borrow::Cow;

/// Text without characters that steer a terminal or turn the direction of writing: each becomes its escape, such as
/// `\u{1b}`. Line ends and tabs stay. The names of files and of classes may hold anything.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if steers(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

fn steers(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}');
    turns || c.is_control() && !matches!(c, '\n' | '\t')
}

/// Prints a line on standard error, so that no name in it steers the terminal. Nobody may be there to read it (`| head`),
/// which ends no work.
#[macro_export]
macro_rules! tell {
    ($($message:tt)+) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "{}", $crate::printable(&format!($($message)+)));
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        assert!(matches!(printable("a é 日本\t1\n"), Cow::Borrowed(_)));
        assert_eq!(printable("a\x1b[31mb\r\u{9b}2J\u{202e}c\x7f"), "a\\u{1b}[31mb\\u{d}\\u{9b}2J\\u{202e}c\\u{7f}");
    }
}
