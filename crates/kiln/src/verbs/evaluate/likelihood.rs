//! The likelihood of held-out images.

use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_measure::MetricValue;
use kiln_nn::tensor::to_values;
use kiln_train::Ability;

use super::Asked;
use crate::verbs::outliers::{self, Scorer, background};

/// Mean and 95 % interval over the pictures, in nats and in bits a dimension: of the bound, or exactly.
pub fn measure(asked: &Asked<'_>, exact: bool) -> Result<Vec<MetricValue>> {
    let (model, args) = (asked.run("nll", Ability::Likelihood)?, asked.args);
    let mut all = Vec::new();
    let n = asked.chunks(model, &asked.reference, |images, _| {
        let key = Key::new(args.seed).purpose("nll").at(all.len() as u64);
        let nats = match exact {
            false => model.nll(images, args.samples, key)?,
            true => model.exact_nll(images, args.samples.max(1), key)?.ok_or_else(|| {
                Error::usage(format!("nll_exact: {} has a bound only; ask for nll", model.info().system))
            })?,
        };
        all.extend(to_values(nats).into_iter().map(f64::from));
        Ok(())
    })?;
    let mean = all.iter().sum::<f64>() / n as f64;
    let variance = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n as f64 - 1.0).max(1.0);
    let half = 1.96 * (variance / n as f64).sqrt();
    let name = if exact { "nll_exact".into() } else { model.nll_name(args.samples)? };
    let dims: usize = model.info().pictures.shape.iter().product();
    let bits = 1.0 / (dims as f64 * std::f64::consts::LN_2);
    let scaled = |name: &str, scale: f64| {
        asked.against(MetricValue::new(name, mean * scale, n).within([(mean - half) * scale, (mean + half) * scale]))
    };
    Ok(vec![scaled(&name, 1.0), scaled(if exact { "bpd_exact" } else { "bpd" }, bits)])
}

/// AUROC of each score of outliers: the run's own held-out pictures against the reference's.
pub fn outliers(asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
    let (model, args) = (asked.run("outliers", Ability::Likelihood)?, asked.args);
    let other = args.background.as_deref().map(|run| background(run, model, asked.common)).transpose()?;
    let (samples, seed) = (args.samples, args.seed);
    let mut scorer =
        Scorer { model, background: other.as_deref(), samples, seed, quiet: asked.common.quiet, typical: 0.0 };
    outliers::measure(&mut scorer, (&asked.reference, asked.split), args.n)
}
