//! The range of every number on the command line. One table says them; the parser and the help of every verb follow it.

use std::any::TypeId;
use std::fmt;
use std::str::FromStr;

use clap::builder::ValueParser;
use clap::{Arg, Command};
use kiln_data::PictureSize;

use crate::verbs::sample::{Interval, interval};

/// The values that a flag takes, ends included.
#[derive(Clone, Copy)]
enum Range {
    Whole(u64, u64),
    Real(f64, f64),
    /// Pixels along a side; 0 keeps the stored size.
    Side(usize),
}

/// Images counted over a whole training.
const IMAGES: u64 = 1_000_000_000_000;

/// Images made, read or drawn by one command.
const MADE: u64 = 10_000_000;

/// Images beside each other on a sheet.
const COLUMNS: Range = Range::Whole(2, 1_000);

/// Steps of a chain, and what is repeated at each of them.
const REPEATS: u64 = 1_000;

/// Strengths of guidance.
const STRENGTH: Range = Range::Real(-1e6, 1e6);

/// Verb, flag, range; a flag without a verb is that of every verb that has no row of its own.
const RANGES: &[(&str, &str, Range)] = &[
    ("", "threads", Range::Whole(0, 1_024)),
    ("", "max_pixels", Range::Whole(1, u64::MAX)),
    ("", "max_bytes", Range::Whole(1, u64::MAX)),
    ("", "seed", Range::Whole(0, u64::MAX)),
    // A recipe's numbers are signed.
    ("train", "seed", Range::Whole(0, i64::MAX as u64)),
    ("", "n", Range::Whole(1, MADE)),
    ("evaluate", "n", Range::Whole(2, MADE)),
    ("compare", "n", Range::Whole(2, MADE)),
    ("outliers", "n", Range::Whole(1, MADE)),
    ("inpaint", "n", Range::Whole(1, 1_000)),
    ("translate", "n", Range::Whole(1, 1_000)),
    ("translate", "strength", Range::Real(0.0, 1.0)),
    ("translate", "tile", Range::Whole(0, 65_536)),
    ("", "style_weights", Range::Real(0.0, 1e6)),
    ("embed", "perplexity", Range::Real(1.0, 1e6)),
    ("stylize", "size", Range::Whole(0, 16_384)),
    ("stylize", "content_weight", Range::Real(0.0, 1e9)),
    ("stylize", "style_weight", Range::Real(0.0, 1e9)),
    ("stylize", "tv_weight", Range::Real(0.0, 1e9)),
    ("stylize", "learning_rate", Range::Real(1e-6, 10.0)),
    ("train", "steps", Range::Whole(1, 1_000_000_000)),
    ("resume", "steps", Range::Whole(1, 1_000_000_000)),
    ("interpolate", "steps", COLUMNS),
    ("interpolate", "frames", Range::Whole(2, 10_000)),
    ("interpolate", "delay", Range::Whole(10, 10_000)),
    ("", "batch", Range::Whole(1, 1_000_000)),
    ("train", "evaluate_every", Range::Whole(0, IMAGES)),
    ("train", "then_sample", Range::Whole(1, MADE)),
    ("claim", "images", Range::Whole(1, IMAGES)),
    ("", "class", Range::Whole(0, u32::MAX as u64)),
    // The sampler and its guides.
    ("", "steps", Range::Whole(1, 100_000)),
    ("", "eta", Range::Real(0.0, 1.0)),
    ("", "sigma_max", Range::Real(1e-3, 1e6)),
    ("", "s_churn", Range::Real(0.0, 1e6)),
    ("", "s_tmin", Range::Real(0.0, 1e6)),
    ("", "s_tmax", Range::Real(0.0, 1e6)),
    ("", "s_noise", Range::Real(0.0, 100.0)),
    ("", "order", Range::Whole(1, 3)),
    ("", "corrector_steps", Range::Whole(0, REPEATS)),
    ("", "snr", Range::Real(0.0, 100.0)),
    ("", "rtol", Range::Real(1e-9, 1.0)),
    ("", "atol", Range::Real(1e-9, 1.0)),
    ("", "guidance_scale", Range::Real(-1e3, 1e3)),
    ("", "guidance_rescale", Range::Real(0.0, 1.0)),
    ("", "guidance_interval", Range::Real(0.0, 1e6)),
    ("", "classifier_scale", STRENGTH),
    ("", "guide_scale", STRENGTH),
    ("", "backward_steps", Range::Whole(0, REPEATS)),
    ("", "backward_rate", Range::Real(0.0, 1e6)),
    ("", "recurrence", Range::Whole(0, REPEATS)),
    ("", "truncation_psi", Range::Real(-100.0, 100.0)),
    // A sampler setting is a number of TOML, which is signed.
    ("", "noise_seed", Range::Whole(0, i64::MAX as u64)),
    // Latents.
    ("interpolate", "through", Range::Whole(0, IMAGES)),
    ("edit", "start", Range::Whole(0, IMAGES)),
    ("edit", "minus", Range::Whole(0, IMAGES)),
    ("edit", "plus", Range::Whole(0, IMAGES)),
    ("edit", "turn", COLUMNS),
    ("edit", "columns", COLUMNS),
    ("edit", "range", Range::Real(1e-3, 1e3)),
    ("edit", "rows", Range::Whole(0, 1_000)),
    ("edit", "strength", Range::Real(-1e3, 1e3)),
    // Measures.
    ("evaluate", "bootstrap", Range::Whole(0, 10_000)),
    ("evaluate", "samples", Range::Whole(0, 100_000)),
    ("outliers", "samples", Range::Whole(0, 100_000)),
    ("evaluate", "labels_per_class", Range::Whole(1, 1_000_000)),
    ("compare", "samples", Range::Whole(1, 10_000)),
    ("stats", "keep", Range::Whole(2, MADE)),
    ("", "size", Range::Side(16_384)),
    ("bench", "size", Range::Whole(1, 4_096)),
    ("bench", "channels", Range::Whole(1, 4_096)),
    ("bench", "runs", Range::Whole(1, 1_000)),
];

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |number: u64| match number {
            u64::MAX => "2^64-1".to_string(),
            n if n == i64::MAX as u64 => "2^63-1".to_string(),
            n if n == u64::from(u32::MAX) => "2^32-1".to_string(),
            n => n.to_string(),
        };
        match self {
            Self::Whole(low, high) => write!(f, "{low} to {}", short(*high)),
            Self::Real(low, high) => write!(f, "{low} to {high}"),
            Self::Side(most) => write!(f, "0 to {most}"),
        }
    }
}

impl Range {
    fn of(verb: &str, flag: &str) -> Option<Self> {
        let row = |verb: &str| RANGES.iter().find(|(v, f, _)| (*v, *f) == (verb, flag));
        row(verb).or_else(|| row("")).map(|(.., range)| *range)
    }

    fn whole<T: TryFrom<u64>>(self, text: &str) -> Result<T, String> {
        let number =
            text.parse::<u64>().ok().filter(|n| matches!(self, Self::Whole(low, high) if (low..=high).contains(n)));
        number.and_then(|n| T::try_from(n).ok()).ok_or_else(|| format!("a whole number, {self}, is wanted"))
    }

    fn real(self, text: &str) -> Result<f64, String> {
        let within = |x: &f64| matches!(self, Self::Real(low, high) if (low..=high).contains(x));
        text.parse::<f64>().ok().filter(within).ok_or_else(|| format!("a number, {self}, is wanted"))
    }

    fn interval(self, text: &str) -> Result<Interval, String> {
        let ends @ [low, high] = interval(text)?;
        match self {
            Self::Real(least, most) if least <= low && low <= high && high <= most => Ok(ends),
            _ => Err(format!("two rising numbers, {self}, are wanted")),
        }
    }

    fn side(self, text: &str) -> Result<PictureSize, String> {
        let size = PictureSize::from_str(text).map_err(|e| e.to_string())?;
        let fits = |side: &usize| matches!(self, Self::Side(most) if (1..=most).contains(side));
        match size.pixels() {
            Some(sides) if !sides.iter().all(fits) => Err(format!("sides of {self} pixels are wanted")),
            _ => Ok(size),
        }
    }

    /// What reads values of the flag's own type; none of what is no number.
    fn parser(self, arg: &Arg) -> Option<ValueParser> {
        let own = arg.get_value_parser().type_id();
        let is = |id: TypeId| own == id;
        Some(match () {
            () if is(TypeId::of::<usize>()) => ValueParser::from(move |text: &str| self.whole::<usize>(text)),
            () if is(TypeId::of::<u64>()) => ValueParser::from(move |text: &str| self.whole::<u64>(text)),
            () if is(TypeId::of::<u32>()) => ValueParser::from(move |text: &str| self.whole::<u32>(text)),
            () if is(TypeId::of::<f64>()) => ValueParser::from(move |text: &str| self.real(text)),
            () if is(TypeId::of::<Interval>()) => ValueParser::from(move |text: &str| self.interval(text)),
            () if is(TypeId::of::<PictureSize>()) => ValueParser::from(move |text: &str| self.side(text)),
            () => return None,
        })
    }
}

/// The command with the range of each number in its parser and its help.
pub fn ranged(command: Command) -> Command {
    let verb = command.get_name().to_string();
    let command = command.mut_args(|arg| {
        let Some(range) = Range::of(&verb, arg.get_id().as_str()) else { return arg };
        let Some(parser) = range.parser(&arg) else { return arg };
        let help = arg.get_help().map(|help| format!("{help} [range: {range}]")).unwrap_or_default();
        arg.value_parser(parser).allow_negative_numbers(true).help(help)
    });
    command.mut_subcommands(ranged)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Cli;

    /// Verb and flag of every number there is.
    fn numbers(command: &Command) -> Vec<(String, String)> {
        let any = Range::Whole(0, 0);
        let own = command.get_arguments().filter(|arg| any.parser(arg).is_some());
        let own = own.map(|arg| (command.get_name().to_string(), arg.get_id().to_string()));
        own.chain(command.get_subcommands().flat_map(numbers)).collect()
    }

    #[test]
    fn every_number_has_a_range_and_every_range_a_number() {
        let all = numbers(&Cli::command());
        assert!(all.len() > 60);
        for (verb, flag) in &all {
            assert!(Range::of(verb, flag).is_some(), "{verb} --{flag} has no range");
        }
        for (verb, flag, _) in RANGES {
            assert!(
                all.iter().any(|(v, f)| f == flag && (verb.is_empty() || v == verb)),
                "{verb} --{flag}: no such flag"
            );
        }
        let help = ranged(Cli::command()).find_subcommand_mut("edit").unwrap().render_long_help().to_string();
        assert!(help.contains("[range: 2 to 1000]"), "{help}");
    }

    #[test]
    fn what_is_out_of_its_range_is_refused() {
        let whole = Range::Whole(1, 10);
        for text in ["0", "-1", "11", "18446744073709551616", "1.5", "nan", "", "1e3", "٣"] {
            assert!(whole.whole::<usize>(text).is_err(), "{text}");
        }
        assert_eq!(
            (whole.whole::<u32>("10"), Range::Whole(0, u64::MAX).whole::<u32>("4294967296").is_err()),
            (Ok(10), true)
        );
        let real = Range::Real(-1.0, 1.0);
        for text in ["nan", "inf", "-inf", "1e308", "1.1", "", "x"] {
            assert!(real.real(text).is_err(), "{text}");
        }
        assert_eq!(real.real("-0.5"), Ok(-0.5));
        assert_eq!(real.interval("0, 1"), Ok([0.0, 1.0]));
        assert!(real.interval("1,0").is_err() && real.interval("0,nan").is_err() && real.interval("1").is_err());
        let side = Range::Side(100);
        assert!(side.side("0").is_ok() && side.side("48,64").is_ok());
        assert!(side.side("48,101").is_err() && side.side("18446744073709551615").is_err());
    }
}
