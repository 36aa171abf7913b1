//! Kiln's U-Net of Ho's paper under the names of diffusers' `UNet2DModel`, which is the same network
//! for most settings; for the others this file says which one has no counterpart.

use kiln_core::{Error, Result};
use kiln_nn::unet::UNetConfig as Ho;
use kiln_train::{HostTensor, Recipe, State};

use super::config::{DownBlock, Resampling, TimeScaleShift, UNetConfig, UpBlock};
use super::folder::Model;
use super::scheduler::{SchedulerClass, SchedulerConfig, VarianceType};
use crate::diffusion::ddpm::Config;
use crate::diffusion::parameterisation::Prediction;
use crate::diffusion::sampler::ancestral::Variance;
use crate::diffusion::sampler::grid::Spacing;
use crate::diffusion::schedule::Sde;
use crate::diffusion::unet_sizes;

/// The model of a `ddpm` run.
///
/// # Errors
/// Names the setting that diffusers does not have.
pub fn model(recipe: &Recipe<Config>, state: State, place: &str) -> Result<Model> {
    let config = &recipe.model;
    let ho = &config.unet;
    let refuse = |what: String| Err(Error::usage(format!("{place}: {what}")));
    if ho.patch != 1 {
        return refuse(format!("model.unet.patch = {} has no counterpart in diffusers; only 1 has", ho.patch));
    }
    if ho.channel_multipliers.first() != Some(&1) {
        return refuse(format!(
            "model.unet.channel_multipliers = {:?} has no counterpart in diffusers: the first must be 1, as its \
             first level is as wide as its first convolution",
            ho.channel_multipliers
        ));
    }
    if !ho.base_channels.is_multiple_of(ho.groups) {
        return refuse(format!(
            "model.unet.groups = {} has no counterpart in diffusers where it does not divide base_channels = {}",
            ho.groups, ho.base_channels
        ));
    }
    if ho.rescale_residual {
        return refuse("model.unet.rescale_residual = true has no counterpart in diffusers".into());
    }
    if config.process.sde != Sde::Vp {
        return refuse("model.sde has no counterpart in diffusers but \"vp\"".into());
    }
    if matches!(config.process.prediction, Prediction::Edm | Prediction::Flow) {
        return refuse("model.prediction = \"edm\" has no counterpart in diffusers".into());
    }
    if let Err(why) = ho.check() {
        return refuse(format!("model.unet: {why}"));
    }
    let [channels, height, width] = recipe.data.shape;
    unet_sizes(ho).check(recipe.data.shape)?;
    let widths: Vec<usize> = ho.channel_multipliers.iter().map(|m| m * ho.base_channels).collect();
    let levels = widths.len();
    let attends = |level: usize| ho.attention_levels.contains(&level);
    let last = widths[levels - 1];
    if ho.head_channels == 0 && ho.heads > 1 && (0..levels).any(|level| attends(level) && widths[level] != last) {
        return refuse(format!(
            "model.unet.heads = {} has no counterpart in diffusers, whose heads are equally wide on every level; only \
             1 has where levels of different widths attend",
            ho.heads
        ));
    }
    if config.process.timestep_spacing == Spacing::Quadratic {
        return refuse(
            "model.timestep_spacing = \"quadratic\" has no counterpart in diffusers; set leading, trailing or linspace \
             in the recipe, which changes nothing but how samples are made"
                .into(),
        );
    }
    let learned = config.process.variance == Variance::Learned;
    let resampling = if ho.resample_blocks { Resampling::Resnet } else { Resampling::Conv };
    let unet = UNetConfig {
        sample_size: [height, width],
        in_channels: channels,
        out_channels: if learned { 2 * channels } else { channels },
        down_block_types: (0..levels)
            .map(|l| match (attends(l), ho.resample_blocks) {
                (true, _) => DownBlock::AttnDownBlock2D,
                (false, true) => DownBlock::ResnetDownsampleBlock2D,
                (false, false) => DownBlock::DownBlock2D,
            })
            .collect(),
        up_block_types: (0..levels)
            .rev()
            .map(|l| match (attends(l), ho.resample_blocks) {
                (true, _) => UpBlock::AttnUpBlock2D,
                (false, true) => UpBlock::ResnetUpsampleBlock2D,
                (false, false) => UpBlock::UpBlock2D,
            })
            .collect(),
        layers_per_block: vec![ho.blocks; levels],
        dropout: ho.dropout,
        // One head is as wide as the map, whatever the level.
        attention_head_dim: match (ho.head_channels, ho.heads) {
            (0, 1) => vec![0; levels],
            (0, heads) => vec![last / heads; levels],
            (width, _) => vec![width; levels],
        },
        downsample_type: resampling,
        upsample_type: resampling,
        resnet_time_scale_shift: if ho.scale_shift { TimeScaleShift::ScaleShift } else { TimeScaleShift::Default },
        // Where the time scales, diffusers leaves the norm of the middle's attention out unless it is told.
        attn_norm_num_groups: if ho.scale_shift { ho.groups } else { 0 },
        norm_num_groups: ho.groups,
        // The last label stands for none.
        num_class_embeds: if config.class_conditional { recipe.data.classes.len() + 1 } else { 0 },
        cross_attention_dim: vec![0; levels],
        transformer_layers_per_block: vec![1; levels],
        only_cross_attention: vec![false; levels],
        block_out_channels: widths,
        ..UNetConfig::default()
    };
    // diffusers' DDIM cannot leave a learned variance aside.
    let class = match config.process.sampler.as_str() {
        "ddpm" => SchedulerClass::DDPMScheduler,
        _ if learned => SchedulerClass::DDPMScheduler,
        "dpm++" => SchedulerClass::DPMSolverMultistepScheduler,
        _ => SchedulerClass::DDIMScheduler,
    };
    let scheduler = SchedulerConfig {
        class,
        prediction: config.process.prediction,
        variance_type: match config.process.variance {
            Variance::Small => VarianceType::FixedSmall,
            Variance::Large => VarianceType::FixedLarge,
            Variance::Learned => VarianceType::LearnedRange,
        },
        clip_sample: config.process.clip_sample,
        timestep_spacing: config.process.timestep_spacing,
        ..SchedulerConfig::of_schedule(&config.process.schedule_options())
    };
    Ok(Model { unet, scheduler, state: renamed(ho, state)? })
}

/// Kiln's modules beside diffusers', from which the state dict follows.
fn modules(ho: &Ho) -> Vec<(String, String)> {
    let pair = |ours: &str, theirs: &str| (ours.to_string(), theirs.to_string());
    let mut out = vec![
        pair("time1", "time_embedding.linear_1"),
        pair("time2", "time_embedding.linear_2"),
        pair("class", "class_embedding"),
        pair("conv_in", "conv_in"),
        pair("norm_out", "conv_norm_out"),
        pair("conv_out", "conv_out"),
    ];
    let resnet = |ours: String, theirs: String| {
        let parts = [
            ("norm1", "norm1"),
            ("conv1", "conv1"),
            ("time", "time_emb_proj"),
            ("norm2", "norm2"),
            ("conv2", "conv2"),
            ("skip", "conv_shortcut"),
        ];
        parts.map(|(a, b)| (format!("{ours}.{a}"), format!("{theirs}.{b}")))
    };
    let attention = |ours: String, theirs: String| {
        let parts = [("norm", "group_norm"), ("qkv", QKV), ("proj", "to_out.0")];
        parts.map(|(a, b)| (format!("{ours}.{a}"), format!("{theirs}.{b}")))
    };
    let resize = |way: &str, stage: usize, theirs: String| {
        let kind = if way == "down" { "Down" } else { "Up" };
        match ho.resample_blocks {
            true => resnet(format!("{way}.{stage}.{kind}Block"), theirs).to_vec(),
            false => vec![(format!("{way}.{stage}.{kind}"), format!("{theirs}.conv"))],
        }
    };
    let levels = ho.channel_multipliers.len();
    for (way, order) in [("down", (0..levels).collect::<Vec<_>>()), ("up", (0..levels).rev().collect())] {
        let (mut stage, down) = (0, way == "down");
        for (i, level) in order.into_iter().enumerate() {
            let block = format!("{way}_blocks.{i}");
            for j in 0..ho.blocks + usize::from(!down) {
                let attends = ho.attention_levels.contains(&level);
                let kind = if attends { "Attend.block" } else { "Block" };
                out.extend(resnet(format!("{way}.{stage}.{kind}"), format!("{block}.resnets.{j}")));
                if attends {
                    out.extend(attention(format!("{way}.{stage}.Attend.attention"), format!("{block}.attentions.{j}")));
                }
                stage += 1;
            }
            if down && level + 1 < levels {
                out.extend(resize("down", stage, format!("{block}.downsamplers.0")));
                stage += 1;
            }
            if !down && level > 0 {
                out.extend(resize("up", stage, format!("{block}.upsamplers.0")));
                stage += 1;
            }
        }
    }
    out.extend(resnet("middle.block1".into(), "mid_block.resnets.0".into()));
    out.extend(attention("middle.attention".into(), "mid_block.attentions.0".into()));
    out.extend(resnet("middle.block2".into(), "mid_block.resnets.1".into()));
    out
}

/// Queries, keys and values are one projection in Kiln, three in diffusers.
const QKV: &str = "to_{q,k,v}";

/// The state dict of a network, every tensor of `state` used once.
fn renamed(ho: &Ho, mut state: State) -> Result<State> {
    let mut out = State::new();
    for (ours, theirs) in modules(ho) {
        for part in ["weight", "bias"] {
            let Some(tensor) = state.remove(&format!("denoiser.{ours}.{part}")) else { continue };
            // Projections of attention are 1×1 convolutions in Kiln, linear layers in diffusers.
            let linear = |tensor: HostTensor| match tensor.shape[..] {
                [outputs, inputs, 1, 1] => HostTensor { shape: vec![outputs, inputs], ..tensor },
                _ => tensor,
            };
            if let Some(block) = theirs.strip_suffix(QKV) {
                let HostTensor { mut shape, values } = linear(tensor);
                let third = values.len() / 3;
                shape[0] /= 3;
                for (i, name) in ["to_q", "to_k", "to_v"].into_iter().enumerate() {
                    let values = values[i * third..(i + 1) * third].to_vec();
                    out.insert(format!("{block}{name}.{part}"), HostTensor { shape: shape.clone(), values });
                }
            } else {
                let tensor = if theirs.ends_with("to_out.0") { linear(tensor) } else { tensor };
                out.insert(format!("{theirs}.{part}"), tensor);
            }
        }
    }
    match state.keys().next() {
        Some(left) => Err(Error::new(format!("tensor `{left}` of the checkpoint has no counterpart in diffusers"))),
        None => Ok(out),
    }
}
