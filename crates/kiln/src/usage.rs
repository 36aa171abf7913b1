//! What clap says of a command line that it cannot read, as Kiln's one line.

use clap::error::ErrorKind;
use kiln_core::Error;

/// The message without its heads and its usage lines, and where to read on.
pub fn error(refused: &clap::Error) -> Error {
    if refused.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Error::usage("no verb is given, or only half of one; the list above has them all");
    }
    let text = refused.render().to_string();
    let mut said = String::new();
    for line in text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:")) {
        if line.is_empty() || line.starts_with("For more information") {
            continue;
        }
        // What a colon announces stands behind it.
        said += if said.is_empty() || said.ends_with(':') { "" } else { ";" };
        said += if said.is_empty() { "" } else { " " };
        said += line.strip_prefix("error: ").unwrap_or(line);
    }
    let Some(usage) = text.lines().find_map(|line| line.trim().strip_prefix("Usage: ")) else {
        return Error::usage(said);
    };
    let verb: Vec<&str> = usage.split(' ').take_while(|word| !word.starts_with(['[', '<', '-'])).collect();
    Error::usage(format!("{said}; see `{} --help`", verb.join(" ")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Cli;
    use crate::ranges::ranged;

    #[test]
    fn every_refusal_is_one_line() {
        let said = |words: &[&str]| {
            let words = ["kiln"].iter().chain(words);
            error(&ranged(Cli::command()).try_get_matches_from(words).unwrap_err()).to_string()
        };
        let cases: [(&[&str], &str); 5] = [
            (&["smple"], "unrecognized subcommand 'smple'; tip: "),
            (
                &["sample", "r"],
                "the following required arguments were not provided: -n <N>; --out <OUT>; see `kiln sample --help`",
            ),
            (
                &["sample", "r", "-n", "0", "--out", "o"],
                "invalid value '0' for '-n <N>': a whole number, 1 to 10000000, is wanted",
            ),
            (
                &["sample", "r", "--sed", "1"],
                "unexpected argument '--sed' found; tip: a similar argument exists: '--seed'; see `kiln sample --help`",
            ),
            (&["data"], "no verb is given"),
        ];
        for (words, begins) in cases {
            let line = said(words);
            assert!(line.starts_with(begins), "{words:?}: {line}");
            assert!(!line.contains("Usage") && !line.contains("error:") && !line.contains('\n'), "{line}");
        }
    }
}
