//! The value of a metric together with everything needed to compare it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A mean and its standard deviation over parts of the data (splits, subsets).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The mean over the parts: the value itself.
    pub mean: f64,
    /// The standard deviation over the parts (population form, as `numpy.std`).
    pub std: f64,
    /// How many parts there are. A single one has no spread.
    pub parts: usize,
}

impl Spread {
    /// Of at least one value; 0 ± 0 of none.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        Self { mean, std: variance.sqrt(), parts: values.len() }
    }
}

/// One result: the metric, its value, the feature network, the number of images and the reference.
///
/// As JSON, absent parts are left out: `{"measure":"fid","value":12.3,"features":"classifier:fashion",
/// "n":10000,"reference":"fashion","split":"test","resize":"stretch to 28x28","kiln":"0.1.0"}`. A value that is not finite (the PSNR of equal
/// pictures) is `null` there, and reads back as NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricValue {
    /// The metric's name: `fid`, `is`, `psnr` …
    pub measure: String,
    /// The value, in the metric's own unit.
    #[serde(deserialize_with = "number_or_null")]
    pub value: f64,
    /// Standard deviation over splits or subsets, where the metric has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
    /// Confidence interval, where the metric has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// The feature network, as `net:weights`; none if the metric needs no network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<String>,
    /// How many pictures were measured.
    pub n: usize,
    /// What they were measured against: the name of a data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The part of the reference: `train`, `test` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// How images were resized for the network; this changes values by points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<String>,
    /// The version of Kiln that measured.
    #[serde(default = "version")]
    pub kiln: String,
}

fn version() -> String {
    env!("CARGO_PKG_VERSION").into()
}

fn number_or_null<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

impl MetricValue {
    /// A value on `n` images; the methods below add the rest.
    pub fn new(measure: &str, value: f64, n: usize) -> Self {
        Self {
            measure: measure.into(),
            value,
            std: None,
            interval: None,
            features: None,
            n,
            reference: None,
            split: None,
            resize: None,
            kiln: version(),
        }
    }

    /// A mean with its standard deviation, if it is one of several parts.
    pub fn spread(measure: &str, spread: Spread, n: usize) -> Self {
        Self { std: (spread.parts > 1).then_some(spread.std), ..Self::new(measure, spread.mean, n) }
    }

    /// With a confidence interval.
    pub fn within(self, interval: [f64; 2]) -> Self {
        Self { interval: Some(interval), ..self }
    }

    /// Whether larger values are better. For distances, errors and nats, smaller ones are.
    pub fn larger_is_better(&self) -> bool {
        const LARGER: [&str; 17] = [
            "is",
            "precision",
            "recall",
            "density",
            "coverage",
            "class_coverage",
            "class_accuracy",
            "diversity",
            "accuracy",
            "pixel_accuracy",
            "miou",
            "psnr",
            "ssim",
            "pair_psnr",
            "pair_ms_ssim",
            "mig",
            "prior_p_value",
        ];
        let name = self.measure.as_str();
        LARGER.contains(&name)
            || name.starts_with("svm_accuracy")
            || name.starts_with("auroc")
            || name.starts_with("pair_ssim")
    }

    /// Its name with that of its network, as in `fid[classifier:fashion]`.
    pub fn full_name(&self) -> String {
        match &self.features {
            Some(net) => format!("{}[{net}]", self.measure),
            None => self.measure.clone(),
        }
    }

    /// Measured in the features of `net` (`classifier:fashion`), to whose size pictures came by `resize`.
    pub fn features(self, net: &str, resize: &str) -> Self {
        Self { features: Some(net.into()), resize: Some(resize.into()), ..self }
    }

    /// Measured against part `split` of the data set `reference`.
    pub fn against(self, reference: &str, split: &str) -> Self {
        Self { reference: Some(reference.into()), split: Some(split.into()), ..self }
    }
}

/// `fid[classifier:fashion] = 12.3 (n = 10000 against fashion/test, stretch to 28x28, kiln 0.1.0)`
impl fmt::Display for MetricValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.full_name(), short(self.value))?;
        if let Some(std) = self.std {
            write!(f, " ± {}", short(std))?;
        }
        if let Some([low, high]) = self.interval {
            write!(f, " in {}..{}", short(low), short(high))?;
        }
        write!(f, " (n = {}", self.n)?;
        if let Some(reference) = &self.reference {
            write!(f, " against {reference}")?;
            if let Some(split) = &self.split {
                write!(f, "/{split}")?;
            }
        }
        if let Some(resize) = self.resize.as_deref().filter(|r| *r != "none") {
            write!(f, ", {resize}")?;
        }
        write!(f, ", kiln {})", self.kiln)
    }
}

/// Five significant digits, without trailing zeros.
fn short(value: f64) -> String {
    match format!("{value:.4e}").parse::<f64>() {
        Ok(rounded) => rounded.to_string(),
        Err(_) => value.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_is_one_line_and_one_object() {
        let fid =
            MetricValue::new("fid", 12.3, 10_000).features("classifier:fashion", "none").against("fashion", "test");
        let shown = fid.clone().features("classifier:fashion", "stretch to 28x28").to_string();
        let version = env!("CARGO_PKG_VERSION");
        let expected = "fid[classifier:fashion] = 12.3 (n = 10000 against fashion/test, stretch to 28x28, kiln ";
        assert_eq!(shown, format!("{expected}{version})"));
        let json = serde_json::to_string(&fid).unwrap();
        assert_eq!(
            json,
            format!(
                r#"{{"measure":"fid","value":12.3,"features":"classifier:fashion","n":10000,"reference":"fashion","split":"test","resize":"none","kiln":"{}"}}"#,
                env!("CARGO_PKG_VERSION")
            )
        );
        assert_eq!(serde_json::from_str::<MetricValue>(&json).unwrap(), fid);
    }

    #[test]
    fn spread_interval_and_rounding_are_shown() {
        let version = env!("CARGO_PKG_VERSION");
        let is = MetricValue::spread("is", Spread { mean: 8.123_456_7, std: 0.05, parts: 10 }, 500)
            .features("net:w", "none");
        assert_eq!(is.to_string(), format!("is[net:w] = 8.1235 ± 0.05 (n = 500, kiln {version})"));
        let of_one_part = Spread { mean: 0.25, std: 1e-15, parts: 1 };
        assert_eq!(MetricValue::spread("kid", of_one_part, 500).std, None);
        let accuracy = MetricValue::new("accuracy", 0.64, 50).within([0.501_41, 0.758_612_5]);
        assert_eq!(accuracy.to_string(), format!("accuracy = 0.64 in 0.50141..0.75861 (n = 50, kiln {version})"));
        assert_eq!(short(123_456_789.0), "123460000");
        assert_eq!(short(-0.000_012_345_67), "-0.000012346");
        assert_eq!(short(0.0), "0");
    }

    #[test]
    fn a_figure_that_is_not_finite_survives_json() {
        let psnr = MetricValue::new("psnr", f64::INFINITY, 1);
        assert_eq!(psnr.to_string(), format!("psnr = inf (n = 1, kiln {})", env!("CARGO_PKG_VERSION")));
        let json = serde_json::to_string(&psnr).unwrap();
        assert!(json.contains(r#""value":null"#));
        assert!(serde_json::from_str::<MetricValue>(&json).unwrap().value.is_nan());
    }
}
