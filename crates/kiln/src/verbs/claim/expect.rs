//! What a claim expects of its values: comparisons such as `fid[DDIM 50] <= 1.1 * fid[full chain]`.
//!
//! ```text
//! expectation = comparison ("and" comparison)*
//! comparison  = sum (("<" | "<=" | ">" | ">=") sum)+        a chain: each neighbouring pair must hold
//! sum         = product (("+" | "-") product)*
//! product     = factor (("*" | "/") factor)*
//! factor      = "-" factor | "(" sum ")" | number | figure
//! figure      = [claim ":"] metric ["[" label "]"] | label
//! ```
//!
//! A label is the name of a variant, of a measure, or `variant, measure`. Outside of brackets a known label is read before
//! anything else and the longest first, so `M1+M2` is the variant of that name, and `M1 + M2` a sum.

use std::fmt;

use kiln_core::{Error, Result};
use serde::Serialize;

/// How deep parentheses and signs may be nested.
const MOST_NESTED: usize = 64;

/// How many values, numbers, parentheses and signs an expectation may have: a chain of them is evaluated one inside the other.
const MOST_TERMS: usize = 256;

/// A value that an expectation speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// The claim it is of; none for the claim that expects.
    pub claim: Option<String>,
    /// `fid`; none where a claim has a single metric.
    pub metric: Option<String>,
    /// Which variant or measure; none where there is one.
    pub label: Option<String>,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(claim) = &self.claim {
            write!(f, "{claim}:")?;
        }
        match (&self.metric, &self.label) {
            (Some(metric), Some(label)) => write!(f, "{metric}[{label}]"),
            (Some(name), None) | (None, Some(name)) => f.write_str(name),
            (None, None) => Ok(()),
        }
    }
}

/// What became of an expectation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// Every comparison is true.
    #[serde(rename = "holds")]
    Holds,
    /// One is false.
    #[serde(rename = "does not hold")]
    DoesNotHold,
    /// A value that it needs was not measured.
    #[serde(rename = "not measured")]
    NotMeasured,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::NotMeasured => "not measured",
        })
    }
}

/// An expectation as it was read.
#[derive(Debug)]
pub struct Expectation {
    comparisons: Vec<(Sum, Order, Sum)>,
}

#[derive(Clone, Debug)]
enum Sum {
    Number(f64),
    Figure(Figure),
    Of(char, Box<[Sum; 2]>),
}

#[derive(Clone, Copy, Debug)]
struct Order {
    less: bool,
    or_equal: bool,
}

impl Order {
    fn holds(self, a: f64, b: f64) -> bool {
        let (low, high) = if self.less { (a, b) } else { (b, a) };
        low < high || self.or_equal && low == high
    }
}

impl Expectation {
    /// Reads an expectation of a claim that has these `labels`, beside these other `claims`.
    ///
    /// # Errors
    /// A usage error that says where the text stops making sense.
    pub fn parse(text: &str, labels: &[&str], claims: &[&str]) -> Result<Self> {
        let mut parser = Parser { rest: text.trim(), labels, claims, nested: 0, terms: 0 };
        parser.expectation().map_err(|why| Error::usage(format!("expect `{text}`: {why}")))
    }

    /// The values that it speaks of.
    pub fn figures(&self) -> Vec<&Figure> {
        fn of<'a>(sum: &'a Sum, all: &mut Vec<&'a Figure>) {
            match sum {
                Sum::Number(_) => {}
                Sum::Figure(figure) => all.push(figure),
                Sum::Of(_, parts) => parts.iter().for_each(|part| of(part, all)),
            }
        }
        let mut all = Vec::new();
        for (a, _, b) in &self.comparisons {
            of(a, &mut all);
            of(b, &mut all);
        }
        all
    }

    /// Whether it holds of the values that `value` tells; `None` there is a value that was not measured.
    ///
    /// # Errors
    /// Those of `value`.
    pub fn verdict(&self, value: &dyn Fn(&Figure) -> Result<Option<f64>>) -> Result<Verdict> {
        let mut verdict = Verdict::Holds;
        for (a, order, b) in &self.comparisons {
            match (a.value(value)?, b.value(value)?) {
                (Some(a), Some(b)) if order.holds(a, b) => {}
                (Some(_), Some(_)) => verdict = Verdict::DoesNotHold,
                _ => return Ok(Verdict::NotMeasured),
            }
        }
        Ok(verdict)
    }
}

impl Sum {
    fn value(&self, value: &dyn Fn(&Figure) -> Result<Option<f64>>) -> Result<Option<f64>> {
        Ok(match self {
            Self::Number(number) => Some(*number),
            Self::Figure(figure) => value(figure)?,
            Self::Of(operator, parts) => {
                let [a, b] = &**parts;
                a.value(value)?.zip(b.value(value)?).map(|(a, b)| match operator {
                    '+' => a + b,
                    '-' => a - b,
                    '*' => a * b,
                    _ => a / b,
                })
            }
        })
    }
}

struct Parser<'a> {
    /// What is not read yet, without space in front.
    rest: &'a str,
    labels: &'a [&'a str],
    claims: &'a [&'a str],
    /// Parentheses and signs that are open here.
    nested: usize,
    /// Values, numbers, parentheses and signs so far.
    terms: usize,
}

/// A part of the text, or why it cannot be read.
type Read<T> = std::result::Result<T, String>;

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl<'a> Parser<'a> {
    fn expectation(&mut self) -> Read<Expectation> {
        let mut comparisons = Vec::new();
        loop {
            let mut left = self.sum()?;
            let mut order = self.order().ok_or_else(|| self.wanted("<, <=, > or >="))?;
            loop {
                let right = self.sum()?;
                comparisons.push((left, order, right.clone()));
                left = right;
                match self.order() {
                    Some(next) => order = next,
                    None => break,
                }
            }
            if self.rest.is_empty() {
                return Ok(Expectation { comparisons });
            }
            let word = self.rest.strip_prefix("and").filter(|rest| !rest.starts_with(in_word));
            self.rest = word.ok_or_else(|| self.wanted("`and` or the end"))?.trim_start();
        }
    }

    fn sum(&mut self) -> Read<Sum> {
        self.chain(&['+', '-'], |parser| parser.chain(&['*', '/'], Self::factor))
    }

    fn chain(&mut self, operators: &[char], part: impl Fn(&mut Self) -> Read<Sum>) -> Read<Sum> {
        let mut sum = part(self)?;
        while let Some(operator) = operators.iter().copied().find(|&o| self.take(o)) {
            sum = Sum::Of(operator, Box::new([sum, part(self)?]));
        }
        Ok(sum)
    }

    fn factor(&mut self) -> Read<Sum> {
        if self.nested > MOST_NESTED {
            return Err(format!("more than {MOST_NESTED} parentheses and signs inside each other"));
        }
        self.nested += 1;
        let factor = self.factor_inside();
        self.nested -= 1;
        factor
    }

    fn factor_inside(&mut self) -> Read<Sum> {
        self.terms += 1;
        if self.terms > MOST_TERMS {
            return Err(format!("more than {MOST_TERMS} terms; split it into several expectations"));
        }
        if let Some(label) = self.label() {
            return Ok(Sum::Figure(Figure { claim: None, metric: None, label: Some(label.into()) }));
        }
        if self.take('-') {
            return Ok(Sum::Of('-', Box::new([Sum::Number(0.0), self.factor()?])));
        }
        if self.take('(') {
            let sum = self.sum()?;
            return if self.take(')') { Ok(sum) } else { Err(self.wanted("`)`")) };
        }
        if self.rest.starts_with(|c: char| c.is_ascii_digit()) {
            let mut before = '0';
            let number = self.word(|c| {
                let exponent = matches!((before, c), ('e', '+' | '-'));
                before = c;
                exponent || c == '.' || c == 'e' || c.is_ascii_digit()
            });
            return number.parse().map(Sum::Number).map_err(|_| format!("`{number}` is no number"));
        }
        let claim = self.claim();
        let metric = self.word(in_word);
        if metric.is_empty() {
            return Err(self.wanted("a value, a number or `(`"));
        }
        let label = if self.take('[') {
            let (label, rest) = self.rest.split_once(']').ok_or_else(|| format!("`{metric}[` is not closed"))?;
            self.rest = rest.trim_start();
            Some(label.trim().to_string())
        } else {
            None
        };
        Ok(Sum::Figure(Figure { claim, metric: Some(metric.into()), label }))
    }

    /// The longest label that the rest begins with.
    fn label(&mut self) -> Option<&'a str> {
        let rests = self.labels.iter().filter_map(|label| Some((*label, self.rest.strip_prefix(label)?)));
        let whole = rests.filter(|(label, rest)| !label.is_empty() && !rest.starts_with(|c| in_word(c) || c == '['));
        let (label, rest) = whole.max_by_key(|(label, _)| label.len())?;
        self.rest = rest.trim_start();
        Some(label)
    }

    /// `vae-fashion:`.
    fn claim(&mut self) -> Option<String> {
        let of = |claim: &&str| Some((claim.to_string(), self.rest.strip_prefix(claim)?.strip_prefix(':')?));
        let (claim, rest) = self.claims.iter().find_map(of)?;
        self.rest = rest.trim_start();
        Some(claim)
    }

    fn order(&mut self) -> Option<Order> {
        let less = self.rest.starts_with('<');
        if !less && !self.rest.starts_with('>') {
            return None;
        }
        self.rest = &self.rest[1..];
        let or_equal = self.rest.starts_with('=');
        self.rest = self.rest[usize::from(or_equal)..].trim_start();
        Some(Order { less, or_equal })
    }

    fn take(&mut self, c: char) -> bool {
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.map_or(self.rest, str::trim_start);
        rest.is_some()
    }

    fn word(&mut self, mut of: impl FnMut(char) -> bool) -> &'a str {
        let (word, rest) = self.rest.split_at(self.rest.find(|c| !of(c)).unwrap_or(self.rest.len()));
        self.rest = rest.trim_start();
        word
    }

    fn wanted(&self, what: &str) -> String {
        let here = if self.rest.is_empty() { "at the end".into() } else { format!("before `{}`", self.rest) };
        format!("expected {what} {here}; values here are metric[label] and `{}`", self.labels.join("`, `"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    const LABELS: [&str; 6] = ["M1", "M2", "M1+M2", "supervised", "2 quadrants, deterministic", "K=5"];

    fn read(text: &str) -> Result<Expectation> {
        Expectation::parse(text, &LABELS, &["vae", "vae-fashion"])
    }

    fn verdict(text: &str) -> Verdict {
        let value = |figure: &Figure| {
            Ok(Some(match figure.to_string().as_str() {
                "M1" | "fid[a]" => 1.0,
                "M2" | "fid[b, c]" => 2.0,
                "M1+M2" => 10.0,
                "2 quadrants, deterministic" | "vae-fashion:fid" => 20.0,
                "K=5" | "vae:fid[x]" => 5.0,
                _ => return Ok(None),
            }))
        };
        read(text).unwrap().verdict(&value).unwrap()
    }

    #[test]
    fn names_are_read_whole_and_sums_by_precedence() {
        for holds in [
            "M1+M2 > M2 > M1",
            "M1 + M2 < M1+M2",
            "M1 + M2 * 2 <= 5 and 5 <= K=5",
            "(M1 + M2) * 2 >= 6",
            "-M2 - 1 < -2.5",
            "10 / M2 / 5 <= 1",
            "1e-3 < 0.1 < M1 < 2.5e1-10",
            "fid[a] < fid[b, c] <= 1.1 * fid[b, c]",
            "2 quadrants, deterministic > 19.5",
            "fid[a] < vae-fashion:fid and vae:fid[x] < vae-fashion:fid",
        ] {
            assert_eq!(verdict(holds), Verdict::Holds, "{holds}");
        }
        for does_not in ["M2 < M1", "M1 < M2 < M2", "M1 < M2 and M2 < M1", "M2 > M2", "1 - fid[a] > 0"] {
            assert_eq!(verdict(does_not), Verdict::DoesNotHold, "{does_not}");
        }
        for open in ["supervised < M1", "M2 < M1 < is", "M1 < M2 and fid[z] < M1"] {
            assert_eq!(verdict(open), Verdict::NotMeasured, "{open}");
        }
    }

    #[test]
    fn depth_and_length_have_an_end() {
        let nested = |n: usize| format!("{}M1{} < M2", "(".repeat(n), ")".repeat(n));
        let signs = |n: usize| format!("{}M1 < M2", "-".repeat(n));
        let chain = |n: usize| format!("M1{} < M2", " + M1".repeat(n));
        for text in [nested(64), signs(64), chain(250)] {
            read(&text).unwrap();
        }
        for text in [nested(65), signs(65), nested(1_000_000), signs(1_000_000), chain(256), chain(100_000)] {
            let said = read(&text).unwrap_err();
            assert!(said.is_usage() && said.to_string().contains("more than"), "{}", text.len());
        }
    }

    #[test]
    fn a_value_that_is_no_number_holds_of_nothing() {
        let nan = |_: &Figure| Ok(Some(f64::NAN));
        assert_eq!(read("M1 <= M2").unwrap().verdict(&nan).unwrap(), Verdict::DoesNotHold);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("M1", "expected <, <=, > or >= at the end"),
            ("M1 < ", "expected a value, a number or `(` at the end"),
            ("M1 < M2 or M2 < M1", "before `or M2 < M1`"),
            ("(M1 < M2", "expected `)`"),
            ("fid[M1 < 3", "`fid[` is not closed"),
            ("1.2.3 < M1", "`1.2.3` is no number"),
            ("vea:fid < M1", "before `:fid < M1`"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.is_usage() && said.to_string().contains(part), "{said}");
        }
    }
}
