//! The range of every number in a recipe, in one table. A key of any depth is found by its last part, or by `table.key`
//! where two tables differ.

use std::fmt;

use kiln_core::{Result, refuse_if};
use toml::{Table, Value};

/// The values that a setting takes, ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    low: f64,
    high: f64,
}

const fn range(low: f64, high: f64) -> Range {
    Range { low, high }
}

/// Whole numbers without a row.
pub const WHOLE: Range = range(0.0, 1e6);

/// Numbers with a point, without a row.
pub const REAL: Range = range(-1e9, 1e9);

/// Images counted over a training.
const IMAGES: Range = range(0.0, 1e12);

/// Images between two things that always happen.
const PERIOD: Range = range(1.0, 1e12);

/// Channels of a layer, and how many units it has.
const WIDTH: Range = range(1.0, 65_536.0);

/// Layers on end, and what multiplies them.
const DEPTH: Range = range(0.0, 1_000.0);

/// A share of a whole.
const SHARE: Range = range(0.0, 1.0);

/// A deviation that something is divided by.
const DEVIATION: Range = range(1e-6, 1e6);

/// Decay rates of an optimiser.
const DECAY: Range = range(0.0, 0.999_999_9);

/// Numbers of a random stream.
const SEED: Range = range(0.0, i64::MAX as f64);

/// Keys and their ranges.
pub const RANGES: &[(&str, Range)] = &[
    ("seed", SEED),
    ("label_seed", SEED),
    ("data.size", range(0.0, 16_384.0)),
    ("data.shape", range(0.0, 16_384.0)),
    ("data.channels", range(0.0, 4.0)),
    ("data.background", range(0.0, 255.0)),
    ("data.random_crop", range(0.0, 0.5)),
    ("data.rotation", range(0.0, 180.0)),
    ("data.brightness", SHARE),
    ("data.contrast", SHARE),
    ("data.saturation", SHARE),
    ("data.hue", range(0.0, 0.5)),
    ("data.mask_values", range(0.0, 255.0)),
    ("data.labels", range(0.0, 1e9)),
    ("data.vocabulary", WHOLE),
    ("data.caption_length", range(0.0, 4_096.0)),
    ("train.batch", range(1.0, 1e6)),
    ("train.accumulate", range(1.0, 1e6)),
    ("train.images", PERIOD),
    ("train.stop_after", range(0.0, 1e15)),
    ("train.ema_half_life", range(0.0, 1e12)),
    ("train.ema_ramp", range(0.0, 1e6)),
    ("train.augment_target", range(-1.0, 1.0)),
    ("train.augment_images", PERIOD),
    ("train.augment_p", SHARE),
    ("train.log_every", PERIOD),
    ("train.checkpoint_every", PERIOD),
    ("train.keep", range(1.0, 1e6)),
    ("train.evaluate_every", IMAGES),
    ("train.evaluate_count", range(2.0, 1e7)),
    ("train.preview_every", IMAGES),
    ("train.preview_count", range(1.0, 1_024.0)),
    // Sizes of networks. Together they may take no more than the machine has, see `memory`.
    ("channels", WIDTH),
    ("base_channels", WIDTH),
    ("generator_channels", WIDTH),
    ("discriminator_channels", WIDTH),
    ("block_out_channels", WIDTH),
    ("in_channels", WIDTH),
    ("out_channels", WIDTH),
    ("cross_attention_dim", range(0.0, 65_536.0)),
    ("features", WIDTH),
    ("hidden", WIDTH),
    ("generator_hidden", WIDTH),
    ("discriminator_hidden", WIDTH),
    ("top_hidden", WIDTH),
    ("label_hidden", WIDTH),
    ("domain_hidden", WIDTH),
    ("adversary_hidden", WIDTH),
    ("adaptation_width", WIDTH),
    ("private_channels", WIDTH),
    ("decoder_channels", WIDTH),
    ("discriminator", WIDTH),
    ("classifier", WIDTH),
    ("head", WIDTH),
    ("latent", WIDTH),
    ("top_latent", WIDTH),
    ("latent_size", WIDTH),
    ("embedding_size", WIDTH),
    ("style_size", WIDTH),
    ("style_pixels", range(0.0, 65_536.0)),
    ("patch_size", range(1.0, 63.0)),
    ("scales", range(1.0, 10.0)),
    ("channel_base", range(1.0, 1e6)),
    ("channel_max", WIDTH),
    ("channel_multipliers", range(1.0, 64.0)),
    ("groups", WIDTH),
    ("norm_num_groups", WIDTH),
    ("heads", WIDTH),
    ("patch", range(1.0, 64.0)),
    ("image_width", WIDTH),
    ("text_width", WIDTH),
    ("projection_dim", WIDTH),
    ("resnet_channels", WIDTH),
    ("latent_channels", WIDTH),
    ("num_vq_embeddings", WIDTH),
    ("resnet_blocks", range(1.0, 100.0)),
    ("stage_one_images", IMAGES),
    ("residual_blocks", range(1.0, 100.0)),
    ("kernel", range(1.0, 63.0)),
    ("first_kernel", range(1.0, 63.0)),
    ("blocks", DEPTH),
    ("shared_blocks", DEPTH),
    ("layers", DEPTH),
    ("mapping_layers", DEPTH),
    ("image_layers", DEPTH),
    ("text_layers", DEPTH),
    ("levels", range(0.0, 16.0)),
    ("doublings", range(0.0, 16.0)),
    ("discriminator_layers", range(0.0, 16.0)),
    ("discriminator_scales", range(1.0, 4.0)),
    ("encoder_channels", WIDTH),
    ("encoder_blocks", range(1.0, 10.0)),
    ("halvings", range(0.0, 10.0)),
    ("bottleneck", range(0.0, 65_536.0)),
    ("layers_per_block", DEPTH),
    ("transformer_layers_per_block", DEPTH),
    ("attention_levels", DEPTH),
    ("padding", DEPTH),
    ("place", range(0.0, 10.0)),
    // Chains of steps.
    ("timesteps", range(1.0, 1e5)),
    ("num_train_timesteps", range(1.0, 1e5)),
    // 0 is all of them.
    ("sampling_steps", range(0.0, 1e5)),
    ("sampling_sigma_max", range(1e-3, 1e6)),
    ("corrector_steps", range(0.0, 1e3)),
    ("recurrence", range(0.0, 1e3)),
    ("order", range(1.0, 3.0)),
    ("samples", range(1.0, 1e5)),
    ("discriminator_steps", range(1.0, 1e3)),
    ("generator_steps", range(1.0, 1e3)),
    ("content_steps", range(1.0, 1e3)),
    // Generators with styles.
    ("mapping_lr_multiplier", range(1e-6, 1e3)),
    ("style_mixing", SHARE),
    ("growth", SHARE),
    ("frozen_sizes", range(0.0, 16.0)),
    ("minibatch_std_group", range(1.0, 1e6)),
    ("r1_gamma", range(0.0, 1e6)),
    ("r1_interval", range(1.0, 1e6)),
    ("path_length_weight", range(0.0, 1e6)),
    ("path_length_interval", range(1.0, 1e6)),
    ("path_length_shrink", range(1.0, 1e6)),
    ("path_length_decay", SHARE),
    ("drift", range(0.0, 1e6)),
    ("beta_start", SHARE),
    ("beta_end", SHARE),
    ("sigma", DEVIATION),
    ("sigma_min", DEVIATION),
    ("sigma_max", DEVIATION),
    ("trained_betas", SHARE),
    ("s_churn", range(0.0, 1e6)),
    ("s_tmin", range(0.0, 1e6)),
    ("s_tmax", range(0.0, 1e6)),
    ("s_noise", range(0.0, 100.0)),
    ("rtol", range(1e-9, 1.0)),
    ("atol", range(1e-9, 1.0)),
    ("min_log_variance", range(-80.0, 80.0)),
    // What regularises.
    ("dropout", range(0.0, 0.99)),
    ("input_dropout", range(0.0, 0.99)),
    ("discriminator_dropout", range(0.0, 0.99)),
    ("discriminator_noise", range(0.0, 1e3)),
    ("pieces", range(1.0, 1_000.0)),
    ("gradient_penalty", range(0.0, 1e6)),
    ("exemplars", range(2.0, 1e6)),
    ("noise_size", range(0.0, 65_536.0)),
    ("moving_classes", range(0.0, 255.0)),
    ("categories", range(2.0, 65_536.0)),
    ("continuous", range(0.0, 65_536.0)),
    ("info_weight", range(0.0, 1e6)),
    ("continuous_weight", range(0.0, 1e6)),
    ("mmd_weight", range(0.0, 1e6)),
    ("bandwidths", range(1e-6, 1e6)),
    ("temperature", range(1e-4, 1e3)),
    ("max_scale", range(1.0, 1e6)),
    ("reconstruction_weight", range(0.0, 1e6)),
    ("difference_weight", range(0.0, 1e6)),
    ("similarity_weight", range(0.0, 1e6)),
    ("start", SHARE),
    ("discriminator_weight", range(0.0, 1e6)),
    ("adversarial_weight", range(0.0, 1e6)),
    ("global_weight", range(0.0, 1e6)),
    ("class_weight", range(0.0, 1e6)),
    ("task_weight", range(0.0, 1e6)),
    ("content_weight", range(0.0, 1e6)),
    ("margin", range(0.0, 1e6)),
    ("pull_away", range(0.0, 1e6)),
    ("pretrain", IMAGES),
    ("curriculum", IMAGES),
    ("starting_rate", SHARE),
    ("reconstruction_rate", SHARE),
    ("feature_matching", SHARE),
    ("label_dropout", SHARE),
    ("label_smoothing", SHARE),
    ("corruption_level", SHARE),
    // Shallow domain adaptation.
    ("dimension", WIDTH),
    ("words", WIDTH),
    ("cell", range(1.0, 64.0)),
    ("iterations", range(1.0, 1e3)),
    ("entropy", range(1e-9, 1e6)),
    ("group", range(0.0, 1e6)),
    ("svm_c", range(1e-9, 1e9)),
    // Optimisers.
    ("learning_rate", range(0.0, 1e9)),
    ("warmup", IMAGES),
    ("kl_warmup", IMAGES),
    ("weight_decay", range(0.0, 1e6)),
    ("momentum", SHARE),
    ("beta1", DECAY),
    ("beta2", DECAY),
    ("eps", range(1e-30, 1.0)),
    ("clip_norm", range(0.0, 1e9)),
    ("clip_weights", range(0.0, 1e9)),
];

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |number: f64| match number.abs() {
            _ if number == i64::MAX as f64 => "2^63-1".to_string(),
            1e9.. => format!("{number:e}"),
            0.0 | 0.001.. => number.to_string(),
            _ => format!("{number:e}"),
        };
        write!(f, "{} to {}", short(self.low), short(self.high))
    }
}

impl Range {
    /// That of a setting by its whole key, if it has a row.
    fn of(key: &str) -> Option<Self> {
        let last = key.rsplit('.').next().unwrap_or(key);
        let row = |name: &str| RANGES.iter().find(|(known, _)| *known == name);
        row(key).or_else(|| row(last)).map(|(_, range)| *range)
    }

    fn check(self, key: &str, number: f64, value: &Value, place: &str) -> Result<()> {
        let within = (self.low..=self.high).contains(&number);
        refuse_if!(!within, "{place}: {key} = {value} is out of its range, {self}");
        Ok(())
    }
}

/// Refuses the first number that is out of its range.
///
/// # Errors
/// A usage error that names the key and the range.
pub fn check(recipe: &Table, place: &str) -> Result<()> {
    recipe.iter().try_for_each(|(key, value)| check_value(key, value, place))
}

fn check_value(key: &str, value: &Value, place: &str) -> Result<()> {
    match value {
        Value::Integer(number) => Range::of(key).unwrap_or(WHOLE).check(key, *number as f64, value, place),
        Value::Float(number) => Range::of(key).unwrap_or(REAL).check(key, *number, value, place),
        Value::Array(values) => values.iter().try_for_each(|value| check_value(key, value, place)),
        Value::Table(inner) => {
            inner.iter().try_for_each(|(name, value)| check_value(&format!("{key}.{name}"), value, place))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(recipe: &str) -> Option<String> {
        let refused = check(&recipe.parse().unwrap(), "r.toml").err()?;
        assert!(refused.is_usage());
        Some(refused.to_string())
    }

    #[test]
    fn a_number_out_of_its_range_is_named() {
        assert_eq!(said("seed = 3\n[train]\nbatch = 64\n[model.unet]\ndropout = 0.5\nchannels = [8, 16]"), None);
        for (recipe, says) in [
            ("[train]\nbatch = 0", "r.toml: train.batch = 0 is out of its range, 1 to 1000000"),
            ("[model.unet]\nbase_channels = 9223372036854775807", "model.unet.base_channels"),
            ("[model]\nhidden = [500, 0]", "model.hidden = 0"),
            ("seed = -1", "0 to 2^63-1"),
            ("[data]\nchannels = 9", "0 to 4"),
            ("[model.optimizer]\nlearning_rate = nan", "learning_rate = nan is out of its range, 0 to 1e9"),
            ("[model]\nanything = 1e308", "-1e9 to 1e9"),
            ("[model]\nanything = -1", "0 to 1000000"),
        ] {
            assert!(said(recipe).is_some_and(|line| line.contains(says)), "{recipe}: {:?}", said(recipe));
        }
    }

    /// `docs/ranges.md` says them all.
    #[test]
    fn the_page_has_every_range() {
        let page = include_str!("../../../docs/ranges.md");
        let rows: Vec<String> = RANGES.iter().map(|(key, range)| format!("| `{key}` | {range} |")).collect();
        assert!(page.ends_with(&format!("| key | range |\n|---|---|\n{}\n", rows.join("\n"))), "{}", rows.join("\n"));
        assert!(page.contains(&format!("without a row: {WHOLE}.")) && page.contains(&format!("{REAL}.")));
    }

    #[test]
    fn rows_are_found_by_the_longer_key_first() {
        assert_ne!(Range::of("data.channels"), Range::of("model.channels"));
        let mut keys: Vec<&str> = RANGES.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), RANGES.len(), "a key has two rows");
    }
}
