//! Reads published networks of style transfer into runs: a network of PyTorch's example `fast_neural_style` into one of `texnet`, and the
//! decoder and encoder of <https://github.com/naoto0804/pytorch-AdaIN> into one of `adain`.
//!
//! Their pictures go from 0 to 255, or from 0 to 1, and Kiln's from −1 to 1. The first and the last convolution take that up: padding
//! repeats pixels, so a shift of the picture is a shift of the bias.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kiln_core::{Error, Result};
use kiln_data::PictureSize;
use kiln_features::WeightsFile;
use kiln_features::vgg::{DEVIATION, MEAN};
use kiln_nn::Init;
use kiln_train::{HostTensor, Pictures, State, System, params};
use serde::Serialize;
use toml::Table;

use super::adain::{self, AdaIn};
use super::texnet::{self, TexNet};
use super::vgg::{EncoderConfig, Vgg};
use crate::imported;

/// The size that a recipe says; the networks take any.
const SIZE: usize = 256;

/// What was read.
#[derive(Clone, Debug, Serialize)]
pub struct Imported {
    /// The system of the run.
    pub system: &'static str,
    /// Height and width that it is set to.
    pub size: [usize; 2],
    /// Numbers in its networks.
    pub parameters: usize,
}

/// Networks that were found.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// A network of `fast_neural_style`.
    Transform(PathBuf),
    /// AdaIN's decoder and VGG.
    AdaIn {
        /// `decoder.pth`.
        decoder: PathBuf,
        /// `vgg_normalised.pth`.
        vgg: PathBuf,
    },
}

/// The networks of a file, or of a folder with AdaIN's two; none if there are none.
///
/// # Errors
/// If a file cannot be read.
pub fn find(source: &Path) -> Result<Option<Found>> {
    let stored = |stem: &str| {
        let name = |ext: &str| source.join(stem).with_extension(ext);
        ["pth", "pt", "safetensors"].into_iter().map(name).find(|path| path.is_file())
    };
    if source.is_dir() {
        let both = (stored("decoder"), stored("vgg_normalised"));
        return Ok(match both {
            (Some(decoder), Some(vgg)) => Some(Found::AdaIn { decoder, vgg }),
            _ => None,
        });
    }
    let file = WeightsFile::open_checkpoint(source)?;
    let is = file.shapes().any(|(name, _)| name == "deconv3.conv2d.weight");
    Ok(is.then(|| Found::Transform(source.to_path_buf())))
}

/// Reads them into a new run.
///
/// # Errors
/// Names the tensor that is missing or of another network.
pub fn import(found: &Found, root: &Path, size: PictureSize, changes: &[(Table, String)]) -> Result<Imported> {
    let [height, width] = size.or([SIZE; 2]);
    let shape = [3, height, width];
    match found {
        Found::Transform(path) => {
            let source = Source::open(path)?;
            let k = source.outputs("conv1.conv2d.weight")?;
            let blocks = (1..).take_while(|i| source.has(&format!("res{i}.conv1.conv2d.weight"))).count();
            let model = texnet::Config { style: String::new(), generator_channels: k, blocks, ..Default::default() };
            write::<TexNet>(root, model, shape, changes, |state| {
                source.fill(state, &transform_names(blocks))?;
                // x₂₅₅ = 127.5 x + 127.5, and x = y₂₅₅ / 127.5 − 1.
                affine_input(state, "generator.Transform.down.0.conv", &[[127.5; 3], [127.5; 3]])?;
                affine_output(state, "generator.Transform.last", 1.0 / 127.5, -1.0)
            })
        }
        Found::AdaIn { decoder, vgg } => {
            let (decoder, vgg) = (Source::open(decoder)?, Source::open(vgg)?);
            let k = vgg.outputs("2.weight")?;
            let model = adain::Config { encoder: EncoderConfig::random(Vgg::Vgg19, k), ..adain::Config::default() };
            write::<AdaIn>(root, model, shape, changes, |state| {
                let convs = [2, 5, 9, 12, 16, 19, 22, 25, 29];
                vgg.fill(state, &numbered("encoder", &convs))?;
                decoder.fill(state, &numbered("decoder", &[1, 5, 8, 11, 14, 18, 21, 25, 28]))?;
                // A 1×1 convolution before VGG takes pictures from 0 to 1.
                let [weight, bias] =
                    [("0.weight", vec![3, 3, 1, 1]), ("0.bias", vec![3])].map(|(name, shape)| vgg.values(name, &shape));
                mix_input(state, "encoder.convs.0", &weight?, &bias?)?;
                // Kiln's VGG sees (x₀₁ − mean) / std.
                affine_input(state, "encoder.convs.0", &[DEVIATION, MEAN].map(|values| values.map(|v| v as f32)))?;
                affine_output(state, "decoder.convs.8", 2.0, -1.0)
            })
        }
    }
}

fn write<S: System>(
    root: &Path,
    model: S::Config,
    shape: [usize; 3],
    changes: &[(Table, String)],
    fill: impl FnOnce(&mut State) -> Result<()>,
) -> Result<Imported> {
    let recipe = imported::recipe_of::<S>(model, shape, Vec::new(), changes)?;
    let system = S::new(recipe.model.clone(), &Pictures::new(shape, Vec::new()))?;
    let mut state = params::state(&system.networks(&mut Init::new(&Device::flex(), recipe.seed)));
    fill(&mut state)?;
    let parameters = state.values().map(|tensor| tensor.values.len()).sum();
    imported::write::<S>(root, &recipe, state)?;
    Ok(Imported { system: S::ID, size: [shape[1], shape[2]], parameters })
}

/// The layers of a transform: their paths here, and their names in PyTorch's example.
pub fn transform_names(blocks: usize) -> Vec<(String, String)> {
    let mut names = vec![("generator.Transform.last".to_string(), "deconv3.conv2d".to_string())];
    let mut both = |ours: String, conv: String, norm: String| {
        let at = |part: &str| format!("generator.Transform.{ours}.{part}");
        names.push((at("conv"), format!("{conv}.conv2d")));
        names.push((at("norm"), norm));
    };
    for i in 0..3 {
        both(format!("down.{i}"), format!("conv{}", i + 1), format!("in{}", i + 1));
    }
    for i in 0..2 {
        both(format!("up.{i}"), format!("deconv{}", i + 1), format!("in{}", i + 4));
    }
    for block in 0..blocks {
        for i in 0..2 {
            let theirs = |part: &str| format!("res{}.{part}{}", block + 1, i + 1);
            both(format!("blocks.{block}.{i}"), theirs("conv"), theirs("in"));
        }
    }
    names
}

/// The convolutions of a network of layers in a row: their paths here, and their numbers there.
fn numbered(network: &str, layers: &[usize]) -> Vec<(String, String)> {
    layers.iter().enumerate().map(|(i, layer)| (format!("{network}.convs.{i}"), layer.to_string())).collect()
}

/// The tensors of a file.
struct Source {
    file: WeightsFile,
    names: BTreeSet<String>,
    place: String,
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        let (file, place) = (WeightsFile::open_checkpoint(path)?, path.display().to_string());
        let names = file.shapes().map(|(name, _)| name.to_string()).collect();
        Ok(Self { file, names, place })
    }

    fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// How many channels a convolution gives.
    fn outputs(&self, name: &str) -> Result<usize> {
        let shape = self.file.shapes().find(|(own, _)| *own == name).map(|(_, shape)| shape.to_vec());
        match shape.as_deref() {
            Some(&[outputs, _, _, _]) if outputs > 0 => Ok(outputs),
            Some(shape) => Err(Error::new(format!("{}: tensor `{name}` has shape {shape:?}", self.place))),
            None => Err(Error::new(format!("{}: tensor `{name}` is missing", self.place))),
        }
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let values = self.file.values(name, shape)?;
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(Error::new(format!(
                "{}: tensor `{name}` holds {} at {at}; the network is broken",
                self.place, values[at]
            ))),
            None => Ok(values),
        }
    }

    /// Puts tensors where layers of these paths have them.
    fn fill(&self, state: &mut State, names: &[(String, String)]) -> Result<()> {
        for (ours, theirs) in names {
            for part in ["weight", "bias"] {
                let tensor = of(state, &format!("{ours}.{part}"))?;
                tensor.values = self.values(&format!("{theirs}.{part}"), &tensor.shape)?;
            }
        }
        Ok(())
    }
}

/// A tensor of networks made here.
fn of<'a>(state: &'a mut State, path: &str) -> Result<&'a mut HostTensor> {
    state.get_mut(path).ok_or_else(|| Error::new(format!("there is no tensor {path} to fill")))
}

/// A convolution that gives the same of x as it gave of `scale` x + `shift`, channel by channel.
fn affine_input(state: &mut State, conv: &str, [scale, shift]: &[[f32; 3]; 2]) -> Result<()> {
    let matrix: Vec<f32> = (0..9).map(|i| if i % 4 == 0 { scale[i / 4] } else { 0.0 }).collect();
    mix_input(state, conv, &matrix, shift)
}

/// A convolution that gives the same of x as it gave of `matrix` x + `shift`, both over three channels.
fn mix_input(state: &mut State, conv: &str, matrix: &[f32], shift: &[f32]) -> Result<()> {
    let weight = of(state, &format!("{conv}.weight"))?;
    let places: usize = weight.shape[2..].iter().product();
    let mut added = Vec::new();
    for filter in weight.values.chunks_mut(3 * places) {
        let before = filter.to_vec();
        let channel = |c: usize| &before[c * places..(c + 1) * places];
        added.push((0..3).map(|c| channel(c).iter().sum::<f32>() * shift[c]).sum::<f32>());
        for (at, value) in filter.iter_mut().enumerate() {
            let (input, place) = (at / places, at % places);
            *value = (0..3).map(|c| channel(c)[place] * matrix[3 * c + input]).sum();
        }
    }
    let bias = of(state, &format!("{conv}.bias"))?;
    bias.values.iter_mut().zip(added).for_each(|(bias, more)| *bias += more);
    Ok(())
}

/// A convolution that gives `scale` y + `shift` where it gave y.
fn affine_output(state: &mut State, conv: &str, scale: f32, shift: f32) -> Result<()> {
    of(state, &format!("{conv}.weight"))?.values.iter_mut().for_each(|value| *value *= scale);
    of(state, &format!("{conv}.bias"))?.values.iter_mut().for_each(|value| *value = *value * scale + shift);
    Ok(())
}

#[cfg(test)]
mod tests {
    use kiln_nn::tensor::to_values;
    use kiln_train::request::Style;
    use kiln_train::{Request, Run, WeightSet};

    use super::*;
    use crate::translation::testing::{assert_close, fixtures, host, tensor, with_fixture_of};

    /// tests/reference/style.py: pictures of the published code with weights of its own, within 1/255 and far nearer.
    #[test]
    fn pictures_are_those_of_the_published_code() {
        let device = Device::flex();
        for (name, source) in [("fast", "style/fast.pth"), ("adain", "style/adain")] {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("run");
            let found = find(&fixtures().join(source)).unwrap().unwrap();
            let imported = import(&found, &root, PictureSize::default(), &[]).unwrap();
            let run = Run::open(&root).unwrap();
            let model = crate::find(imported.system).unwrap().open(&run, WeightSet::Ema, &device).unwrap();
            with_fixture_of("style", |file| {
                let mut request = Request::new(0..1, 0, &device);
                if name == "adain" {
                    let image = tensor::<4>(file, "adain.style", &device);
                    request.condition.styles = vec![Style { image, weight: 1.0 }];
                }
                let input = tensor::<4>(file, &format!("{name}.input"), &device);
                let got = to_values(model.translate(input, &request).unwrap());
                assert_close(name, got, host(file, &format!("{name}.output")).values, 2e-4);
            });
        }
    }

    #[test]
    fn other_files_are_none_of_these() {
        assert_eq!(find(&fixtures().join("translation/unet.pth")).unwrap(), None);
        assert_eq!(find(&fixtures().join("translation")).unwrap(), None);
    }
}
