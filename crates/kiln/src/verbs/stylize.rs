//! `kiln stylize`: what one picture shows in the style of others, by optimisation.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use clap::{Args, ValueEnum};
use kiln_core::{Error, Result, output};
use kiln_data::{Picture, PictureRule, PictureSize, Resize};
use kiln_nn::tensor::from_values;
use kiln_systems::style::gatys::{self, Config, Losses, Method, Start};
use kiln_systems::style::layers::layer_net;
use kiln_train::preview::pictures;
use kiln_train::{Progress, device};
use serde_json::json;

use crate::Common;
use crate::output::{Output, shown};
use crate::verbs::check_png;
use crate::verbs::pictures::{open_whole, parts, recoloured};

#[derive(Args)]
pub struct StylizeArgs {
    /// Image whose content to keep
    input: PathBuf,
    /// PNG to write
    output: PathBuf,
    /// Image whose style to take; repeat it to blend several
    #[arg(long, value_name = "IMAGE", required = true)]
    style: Vec<PathBuf>,
    /// Part of each --style in the blend, such as 0.7,0.3; equal parts by default
    #[arg(long, value_delimiter = ',')]
    style_weights: Vec<f64>,
    /// Longest side of the result in pixels; 0 keeps the image's own
    #[arg(long, default_value_t = 384)]
    size: usize,
    /// Weight of the content
    #[arg(long, default_value_t = Config::default().content_weight)]
    content_weight: f64,
    /// Weight of the style
    #[arg(long, default_value_t = Config::default().style_weight)]
    style_weight: f64,
    /// Weight of total variation, which smooths
    #[arg(long, default_value_t = Config::default().tv_weight)]
    tv_weight: f64,
    /// The network: vgg16-hed, mobilenetv2 or efficientnet-lite0 (`kiln data fetch weights:vgg16-hed`), or vgg19:FILE or vgg16:FILE with torchvision's weights
    #[arg(long, default_value = "vgg16-hed")]
    network: String,
    /// Layers that say what the image shows; relu4_2 of VGG, stage3 of the others by default
    #[arg(long, value_delimiter = ',')]
    content_layers: Vec<String>,
    /// Layers that say how it looks; relu1_1 to relu5_1 of VGG, stage1 to stage5 of the others by default
    #[arg(long, value_delimiter = ',')]
    style_layers: Vec<String>,
    /// How to search
    #[arg(long, value_enum, default_value = "lbfgs")]
    method: MethodName,
    /// Steps of the search
    #[arg(long, default_value_t = Config::default().steps)]
    steps: usize,
    /// Adam's learning rate
    #[arg(long, default_value_t = Config::default().learning_rate)]
    learning_rate: f64,
    /// Where the search begins
    #[arg(long, value_enum, default_value = "content")]
    start: StartName,
    /// Seed of the noise to begin at
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Keep the image's colours: take only how light each pixel is from the result
    #[arg(long)]
    preserve_color: bool,
    /// Folder for the image after every tenth of the steps
    #[arg(long)]
    intermediate: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum MethodName {
    Lbfgs,
    Adam,
}

#[derive(Clone, Copy, ValueEnum)]
enum StartName {
    Content,
    Noise,
}

pub fn run(args: &StylizeArgs, common: &Common, out: &Output) -> Result<()> {
    check_png(&args.output)?;
    args.intermediate.as_deref().map_or(Ok(()), output::check_folder)?;
    let device = device::by_name(&common.device)?;
    let blend = parts(&args.style_weights, args.style.len())?;
    let content = read(&args.input, args.size)?;
    let net = layer_net("--network", &args.network, &device)?;
    let styles = args.style.iter().zip(&blend).map(|(path, weight)| {
        // A style is seen as large as the content, so that its strokes are.
        Ok((tensor(&read(path, content.width.max(content.height))?, &device), *weight))
    });
    let styles = styles.collect::<Result<Vec<_>>>()?;
    let config = Config {
        content_weight: args.content_weight,
        style_weight: args.style_weight,
        tv_weight: args.tv_weight,
        content_layers: args.content_layers.clone(),
        style_layers: args.style_layers.clone(),
        method: match args.method {
            MethodName::Lbfgs => Method::Lbfgs,
            MethodName::Adam => Method::Adam,
        },
        learning_rate: args.learning_rate,
        steps: args.steps,
        start: match args.start {
            StartName::Content => Start::Content,
            StartName::Noise => Start::Noise,
        },
        seed: args.seed,
    };
    let mut progress = (!common.quiet).then(|| Progress::new("stylizing", "steps", 0, args.steps as u64));
    let every = (args.steps / 10).max(1);
    let mut failed = Ok(());
    let finished = |picture: &Tensor<4>| -> Result<Picture> {
        let made = pictures(picture.clone().clamp(-1.0, 1.0)).into_iter().next();
        let made = made.ok_or_else(|| Error::new("the search gave no picture"))?;
        Ok(if args.preserve_color { recoloured(made, &content) } else { made })
    };
    let mut last = Losses::default();
    let made = gatys::stylize(&net, tensor(&content, &device), &styles, &config, |step, losses, picture| {
        last = losses;
        if let Some(bar) = &mut progress {
            bar.update(step as u64, || format!("content {:.4} · style {:.4}", losses.content, losses.style));
        }
        if let (Some(folder), true) = (&args.intermediate, step > 0 && step % every == 0) {
            let path = folder.join(format!("{step:05}.png"));
            let written = output::folder(folder).and_then(|()| finished(picture)?.write_png(&path, &[]));
            failed = std::mem::replace(&mut failed, Ok(())).and(written);
        }
    })?;
    if let Some(bar) = &progress {
        bar.finish();
    }
    failed?;
    let text = [("system", "gatys"), ("network", net.name())];
    finished(&made)?.write_png(&args.output, &text)?;
    let object = json!({
        "output": shown(&args.output), "network": net.name(),
        "content_loss": last.content, "style_loss": last.style, "tv_loss": last.tv,
    });
    let line =
        || format!("{}: content {:.4}, style {:.4} by {}", args.output.display(), last.content, last.style, net.name());
    out.say(line, &object);
    Ok(())
}

/// A picture in colour whose longest side is `size`, or shorter if it is.
fn read(path: &Path, size: usize) -> Result<Picture> {
    let rule = PictureRule { size: PictureSize::STORED, channels: 3, resize: Resize::None, ..PictureRule::default() };
    let picture = open_whole(path, &rule)?.get(0)?.picture.with_channels(3, rule.background);
    let longest = picture.width.max(picture.height);
    if size == 0 || longest <= size {
        return Ok(picture);
    }
    let side = |side: usize| (side * size).div_ceil(longest).max(1);
    Ok(picture.resize(side(picture.width), side(picture.height)))
}

fn tensor(picture: &Picture, device: &Device) -> Tensor<4> {
    from_values(picture.to_unit(), [1, picture.channels, picture.height, picture.width], device)
}
