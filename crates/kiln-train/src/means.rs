//! Running means of loss terms.

use serde::{Deserialize, Serialize};

use crate::live::Terms;

/// Sums of loss terms since some moment. A checkpoint holds them, so that a resumed run records the same means.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Means(Vec<Sum>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sum {
    term: String,
    /// As text, since a JSON reader need not return every digit of a number.
    #[serde(with = "text")]
    sum: f64,
    count: u64,
}

impl Means {
    pub(crate) fn add(&mut self, terms: &Terms) {
        for (term, value) in terms {
            match self.0.iter_mut().find(|sum| sum.term == *term) {
                Some(sum) => (sum.sum, sum.count) = (sum.sum + value, sum.count + 1),
                None => self.0.push(Sum { term: term.clone(), sum: *value, count: 1 }),
            }
        }
    }

    /// The means, which begin anew.
    pub(crate) fn take(&mut self) -> Terms {
        self.0.drain(..).map(|Sum { term, sum, count }| (term, sum / count as f64)).collect()
    }
}

pub(crate) mod text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
