//! Reads a generator of <https://github.com/rosinality/stylegan2-pytorch> into a run: a checkpoint of its trainer or of its
//! converter (`g_ema`, perhaps `d` and `latent_avg`), or a state dict of `g_ema`; pickled or as safetensors.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_features::WeightsFile;
use kiln_nn::Init;
use kiln_nn::tensor::{normal, to_values};
use kiln_train::{Pictures, State, System, params};
use serde::Serialize;
use toml::Table;

use super::rosinality::{discriminator_name, generator_name};
use super::{Config, Networks, StyleGan2};
use crate::adversarial::dcgan::Sizes;
use crate::adversarial::equalised::Widths;
use crate::imported;

/// Draws whose mean is that of W where the file does not say it, as in the port.
const DRAWS: u64 = 4096;

/// Pictures have at most 4·2¹² pixels a side.
const MOST_DOUBLINGS: usize = 12;

/// What was read.
#[derive(Clone, Debug, Serialize)]
pub struct Imported {
    /// Height and width of its pictures.
    pub size: [usize; 2],
    /// Numbers in both networks.
    pub parameters: usize,
    /// Whether the discriminator came with it; else there is a fresh one.
    pub discriminator: bool,
    /// Whether the mean of W came with it; else it was computed.
    pub mean: bool,
}

/// Reads a file into a new run, with changes to its recipe, each with the place it comes from.
///
/// # Errors
/// Names the tensor that is missing, left over, or of another network.
pub fn import(file: &Path, root: &Path, changes: &[(Table, String)]) -> Result<Imported> {
    let source = Source::open(file)?;
    let (config, shape @ [_, height, width]) = source.settings()?;
    let recipe = imported::recipe_of::<StyleGan2>(config, shape, Vec::new(), changes)?;
    let system = StyleGan2::new(recipe.model.clone(), &Pictures::new(shape, Vec::new()))?;
    let device = Device::flex();
    let fresh = system.networks(&mut Init::new(&device, recipe.seed));
    let discriminator = source.shapes.contains_key("d.convs.0.0.weight");
    let network = source.state(params::state(&fresh), discriminator)?;
    let mean = source.shapes.contains_key(MEAN);
    let network = if mean { network } else { with_mean(fresh, network, recipe.model.latent_size, &device)? };
    let parameters = network.values().map(|tensor| tensor.values.len()).sum();

    imported::write::<StyleGan2>(root, &recipe, network)?;
    Ok(Imported { size: [height, width], parameters, discriminator, mean })
}

/// The mean of W, which the converter stores beside the networks.
const MEAN: &str = "latent_avg";

/// The state with the mean of W over draws.
fn with_mean(fresh: Networks, state: State, size: usize, device: &Device) -> Result<State> {
    let networks = params::load(fresh, &state, "the file")?;
    let z = normal(Key::new(0).purpose("where W is"), 0..DRAWS, [DRAWS as usize, size], device);
    let mapping = &networks.generator.mapping;
    let mean: Tensor<1> = mapping.forward(z).mean_dim(0).reshape([size]);
    let mut state = state;
    if let Some(tensor) = state.get_mut("generator.mapping.mean") {
        tensor.values = to_values(mean);
    }
    Ok(state)
}

/// The tensors of a file.
struct Source {
    file: WeightsFile,
    shapes: BTreeMap<String, Vec<usize>>,
    /// What stands before the generator's names.
    prefix: &'static str,
    place: String,
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        let (file, place) = (WeightsFile::open_checkpoint(path)?, path.display().to_string());
        let shapes: BTreeMap<String, Vec<usize>> =
            file.shapes().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect();
        let prefix = ["g_ema.", "", "g."].into_iter().find(|p| shapes.contains_key(&format!("{p}input.input")));
        let prefix = prefix.ok_or_else(|| {
            Error::new(format!(
                "{place}: no tensor `g_ema.input.input`; import reads StyleGAN2 generators of rosinality/stylegan2-pytorch"
            ))
        })?;
        Ok(Self { file, shapes, prefix, place })
    }

    /// The shape of a generator's tensor.
    fn shape(&self, name: &str) -> Result<&[usize]> {
        let name = format!("{}{name}", self.prefix);
        let found = self.shapes.get(&name).map(Vec::as_slice);
        found.ok_or_else(|| Error::new(format!("{}: tensor `{name}` is missing", self.place)))
    }

    /// One side of a tensor.
    fn side(&self, name: &str, axis: usize) -> Result<usize> {
        let shape = self.shape(name)?;
        let side = shape.get(axis).copied();
        side.ok_or_else(|| Error::new(format!("{}: tensor `{name}` has shape {shape:?}", self.place)))
    }

    /// Settings of the network and the shape of its pictures.
    fn settings(&self) -> Result<(Config, [usize; 3])> {
        let count = |name: &dyn Fn(usize) -> String| {
            (0..).take_while(|&i| self.shapes.contains_key(&format!("{}{}", self.prefix, name(i)))).count()
        };
        let doublings = count(&|i| format!("to_rgbs.{i}.bias"));
        if doublings > MOST_DOUBLINGS {
            return Err(Error::new(format!("{}: a generator of {} sizes", self.place, doublings + 1)));
        }
        let mapping_layers = count(&|i| format!("style.{}.weight", i + 1));
        let mut channels = vec![self.side("conv1.conv.weight", 1)?];
        for level in 1..=doublings {
            channels.push(self.side(&format!("convs.{}.conv.weight", 2 * (level - 1)), 1)?);
        }
        let base = [self.side("input.input", 2)?, self.side("input.input", 3)?];
        let [height, width] = base.map(|side| side.checked_shl(doublings as u32).unwrap_or(0));
        let shape = [self.side("to_rgb1.bias", 1)?, height, width];
        let unlike = |what: String| Error::new(format!("{}: {what}", self.place));
        if Sizes::of(shape)? != (Sizes { base, doublings }) {
            return Err(unlike(format!("pictures of {width} x {height} from {} x {}", base[1], base[0])));
        }
        let max = channels.iter().copied().max().unwrap_or(1);
        let narrower = channels.iter().position(|&width| width < max).unwrap_or(doublings);
        let widths = Widths { base: channels[narrower] << (narrower + 2), max };
        if let Some(level) = (0..=doublings).find(|&level| widths.at(level) != channels[level]) {
            return Err(unlike(format!(
                "layers of {channels:?} channels: those of size {level} do not follow from the others as base / side, at most {max}"
            )));
        }
        let config = Config {
            latent_size: self.side("style.1.weight", 0)?,
            mapping_layers,
            channel_base: widths.base,
            channel_max: max,
            ..Config::default()
        };
        Ok((config, shape))
    }

    /// The values of all tensors by their paths here; fresh ones where the file has none and need not have any.
    fn state(&self, mut state: State, discriminator: bool) -> Result<State> {
        let mut left: BTreeMap<&str, &[usize]> =
            self.shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
        for (path, tensor) in &mut state {
            let name = match path.strip_prefix("generator.") {
                Some("mapping.mean") => Some(MEAN.to_string()),
                Some(rest) => generator_name(rest).map(|name| format!("{}{name}", self.prefix)),
                None => path
                    .strip_prefix("discriminator.")
                    .filter(|_| discriminator)
                    .and_then(discriminator_name)
                    .map(|name| format!("d.{name}")),
            };
            let Some(name) = name else { continue };
            let optional = name == MEAN || name.contains("noises.");
            let Some(shape) = left.remove(name.as_str()) else {
                if optional {
                    continue;
                }
                return Err(Error::new(format!("{}: tensor `{name}` is missing", self.place)));
            };
            // There are sides of 1 that are not here.
            let bare = |shape: &[usize]| shape.iter().copied().filter(|&side| side != 1).collect::<Vec<_>>();
            if bare(shape) != bare(&tensor.shape) {
                return Err(Error::new(format!(
                    "{}: tensor `{name}` has shape {shape:?} where the others need {:?}",
                    self.place, tensor.shape
                )));
            }
            tensor.values = self.file.values(&name, shape)?;
            if let Some(at) = tensor.values.iter().position(|v| !v.is_finite()) {
                return Err(Error::new(format!(
                    "{}: tensor `{name}` holds {} at {at}; the network is broken",
                    self.place, tensor.values[at]
                )));
            }
        }
        for (name, shape) in left {
            if name.ends_with(".kernel") && self.is_used(name, discriminator) {
                self.check_filter(name, shape)?;
            } else if self.is_used(name, discriminator) {
                return Err(Error::new(format!(
                    "{}: tensor `{name}` has no place in StyleGAN2's networks",
                    self.place
                )));
            }
        }
        Ok(state)
    }

    /// Whether a tensor is of a network that is read.
    fn is_used(&self, name: &str, discriminator: bool) -> bool {
        let of_d = name.starts_with("d.");
        let others = ["g.", "d.", "g_ema.", "g_optim.", "d_optim."];
        match self.prefix {
            "" => others.iter().all(|other| !name.starts_with(other)) || discriminator && of_d,
            prefix => name.starts_with(prefix) || discriminator && of_d,
        }
    }

    /// Checks that pictures are resampled by [1, 3, 3, 1].
    fn check_filter(&self, name: &str, shape: &[usize]) -> Result<()> {
        let taps = [1.0f32, 3.0, 3.0, 1.0];
        let values = self.file.values(name, shape)?;
        let sum: f32 = values.iter().sum();
        let is = |at: usize| (values[at] - taps[at / 4] * taps[at % 4] * sum / 64.0).abs() < 1e-4;
        if values.len() == 16 && sum > 0.5 && (0..16).all(is) {
            return Ok(());
        }
        Err(Error::new(format!(
            "{}: `{name}` is a filter other than [1, 3, 3, 1], which alone is supported",
            self.place
        )))
    }
}
