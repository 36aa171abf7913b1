//! `kiln edit --attribute`: moves images along the attribute vector of a class.
//!
//! v = mean μ(x) of images that have the attribute − mean μ(x) of those that do not (Larsen et al. 2016, *Autoencoding beyond
//! Pixels Using a Learned Similarity Metric*, §4.2; White 2016, *Sampling Generative Networks*, §4.1), from equally many images
//! of every class so that v encodes nothing else. A row goes from z − s·v to z + s·v.

use std::path::Path;

use burn::tensor::Tensor;
use clap::Args;
use kiln_core::{Error, Result};
use kiln_data::{Split, contact_sheet};
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::preview::pictures;
use kiln_train::{Ability, Model};
use serde_json::json;

use crate::output::{Output, shown};
use crate::verbs::evaluate::{chunks_of, prepared};
use crate::verbs::latents::Source;
use crate::verbs::traverse::starts;
use crate::verbs::{encode, need};

/// Pictures of each class whose codes are averaged, at most.
const EACH: usize = 200;

/// Pictures of the run's data among which they are looked for.
const SEEN: usize = 10_000;

#[derive(Args)]
pub struct AttributeArgs {
    /// Draw one row per start, from less to more of a class: CLASS, or CLASS:OTHER to move away from another class (by
    /// default from all others), by name or number; starts from a sample of --start (0 by default) or an image of --from
    #[arg(long, conflicts_with_all = ["minus", "plus", "turn", "traverse"])]
    pub attribute: Option<String>,
    /// Distance from the start: 1 is the distance between the means of the two classes
    #[arg(long, requires = "attribute", default_value_t = 1.0)]
    strength: f64,
}

/// The classes with and without an attribute, as `flag` names them: CLASS, or CLASS:OTHER.
pub fn sides(flag: &str, text: &str, names: &[String]) -> Result<(usize, Vec<usize>)> {
    let class = |word: &str| {
        let known = names.iter().position(|n| n == word).or_else(|| word.parse().ok().filter(|&i| i < names.len()));
        known.ok_or_else(|| {
            Error::usage(format!("{flag} {text}: no class `{word}`; the run's data has {}", names.join(", ")))
        })
    };
    let (with, without) = match text.split_once(':') {
        Some((with, without)) => (class(with)?, vec![class(without)?]),
        None => {
            let with = class(text)?;
            (with, (0..names.len()).filter(|&c| c != with).collect())
        }
    };
    if without.is_empty() || without.contains(&with) {
        return Err(Error::usage(format!("{flag} {text}: pictures without it are needed; name another class")));
    }
    Ok((with, without))
}

/// The mean code of each class, `[1, d]`.
fn means(model: &dyn Model) -> Result<Vec<Option<Tensor<2>>>> {
    let info = model.info();
    let set = prepared(model, &info.data.set, Split::Train)?;
    let classes = info.pictures.classes.len();
    let (mut sums, mut counts) = (vec![Vec::<f64>::new(); classes], vec![0usize; classes]);
    let mut done = 0;
    chunks_of(&set, SEEN, true, &info.device, |images, labels, _| {
        let codes = encode(model, images, done)?;
        done += labels.len();
        let width = codes.dims()[1];
        for (code, &label) in to_values(codes).chunks(width).zip(labels) {
            let class = label as usize;
            if counts[class] < EACH {
                counts[class] += 1;
                sums[class].resize(width, 0.0);
                sums[class].iter_mut().zip(code).for_each(|(sum, &v)| *sum += f64::from(v));
            }
        }
        Ok(())
    })?;
    let mean = |(sum, count): (Vec<f64>, usize)| {
        let mean: Vec<f32> = sum.iter().map(|v| (v / count as f64) as f32).collect();
        (count > 0).then(|| from_values(mean.clone(), [1, mean.len()], &info.device))
    };
    Ok(sums.into_iter().zip(counts).map(mean).collect())
}

/// Draws a row for each start.
pub fn attribute(
    args: &AttributeArgs,
    text: &str,
    starts_at: (&[u64], Option<&Path>),
    columns: usize,
    sheet: &Path,
    source: &Source<'_>,
    out: &Output,
) -> Result<()> {
    let model = source.model;
    need(model, Ability::Encode)?;
    let names = &model.info().pictures.classes;
    let (with, without) = sides("--attribute", text, names)?;
    let means = means(model)?;
    let mean = |class: usize| {
        means[class].clone().ok_or_else(|| {
            Error::usage(format!("--attribute {text}: no picture of class {} among the first {SEEN}", names[class]))
        })
    };
    let rest = without.iter().map(|&class| mean(class)).collect::<Result<Vec<_>>>()?;
    let direction = mean(with)? - Tensor::cat(rest, 0).mean_dim(0);
    let length = f64::from(direction.clone().square().sum().into_scalar::<f32>()).sqrt();
    let mut rows = Vec::new();
    let starts = starts(starts_at, source)?;
    for start in &starts {
        let at = |column: usize| args.strength * (2.0 * column as f64 / (columns - 1) as f64 - 1.0);
        let points = (0..columns).map(|column| start.clone() + direction.clone() * at(column)).collect();
        rows.extend(pictures(model.decode(Tensor::cat(points, 0))?));
    }
    contact_sheet(&rows, columns, 1)?.write_png(sheet, &[("system", model.info().system), ("attribute", text)])?;
    let object =
        json!({"sheet": shown(sheet), "attribute": text, "length": length, "rows": starts.len(), "columns": columns});
    out.say(|| format!("{} rows along a vector of length {length:.2} in {}", starts.len(), sheet.display()), &object);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_a_class_against_another_or_all_others() {
        let names = ["cat", "dog", "1"].map(String::from);
        assert_eq!(sides("--attribute", "dog", &names).unwrap(), (1, vec![0, 2]));
        assert_eq!(sides("--attribute", "dog:cat", &names).unwrap(), (1, vec![0]));
        // A name comes before a number.
        assert_eq!(sides("--attribute", "1:0", &names).unwrap(), (2, vec![0]));
        for wrong in ["bird", "dog:bird", "dog:dog", "7"] {
            assert!(sides("--attribute", wrong, &names).unwrap_err().is_usage(), "{wrong}");
        }
    }
}
