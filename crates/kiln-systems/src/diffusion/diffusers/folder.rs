//! A model folder of diffusers: read into a run, and written from one.
//!
//! ```text
//! model_index.json                                   which components there are
//! unet/config.json                                   or beside it, in old folders
//! unet/diffusion_pytorch_model.safetensors           or in shards, in half precision, or pickled
//! scheduler/scheduler_config.json                    likewise
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kiln_core::{Context, Error, Result, output};
use kiln_data::PictureSize;
use kiln_features::WeightsFile;
use kiln_nn::Init;
use kiln_train::checkpoint;
use kiln_train::{HostTensor, Pictures, Run, State, System, WeightSet, params};
use serde::Serialize;
use serde_json::{Value, json};
use toml::Table;

use super::config::{BlockKind, ClassEmbedType, MidBlock, ModelClass, UNetConfig};
use super::json::Fields;
use super::scheduler::{SchedulerClass, SchedulerConfig};
use super::unet::state_dict_name;
use super::{Config, Diffusers, Networks, VERSION};
use crate::imported;

const WEIGHTS: &str = "diffusion_pytorch_model";

/// What there may be beside the U-Net and its scheduler: it makes conditions or looks at the outcome.
const LEFT_OUT: [&str; 9] = [
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "feature_extractor",
    "image_encoder",
    "safety_checker",
    "text_encoder_3",
    "tokenizer_3",
];

/// How a folder is read.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Height and width of the pictures, in place of the file's `sample_size`.
    pub size: PictureSize,
    /// Changes to the recipe, each with the place it comes from.
    pub changes: Vec<(Table, String)>,
}

/// What was read.
#[derive(Clone, Debug, Serialize)]
pub struct Imported {
    /// The network's class.
    pub model: ModelClass,
    /// The scheduler's class.
    pub scheduler: SchedulerClass,
    /// Numbers in the network.
    pub parameters: usize,
    /// Components of the folder that Kiln does not have.
    pub left_out: Vec<String>,
}

/// Reads a folder of diffusers into a new run.
///
/// # Errors
/// Names the file, and the field or tensor, that is missing, damaged, or not supported.
pub fn import(folder: &Path, root: &Path, options: &ImportOptions) -> Result<Imported> {
    if !folder.is_dir() {
        return Err(Error::usage(format!(
            "{}: not a folder; import takes a model folder of diffusers",
            folder.display()
        )));
    }
    let left_out = read_index(folder)?;
    let config_file = find(folder, "unet", "config.json")?;
    let unet = UNetConfig::read(Fields::open(&config_file)?, options.size.pixels())?;
    if ![1, 3].contains(&unet.in_channels) {
        return Err(Error::new(format!(
            "{}: `in_channels` = {} is not supported; supported: 1 and 3, pictures (latents need an autoencoder)",
            config_file.display(),
            unet.in_channels
        )));
    }
    let scheduler_file = find(folder, "scheduler", "scheduler_config.json")?;
    let scheduler = SchedulerConfig::read(Fields::open(&scheduler_file)?)?;
    let class = scheduler.class;
    let ancestral = class == SchedulerClass::DDPMScheduler;
    let config = Config {
        sampler: match class {
            SchedulerClass::DDPMScheduler => "ddpm",
            SchedulerClass::DDIMScheduler => "ddim",
            SchedulerClass::DPMSolverMultistepScheduler => "dpm++",
        }
        .into(),
        // What the pipelines take when nothing is said.
        sampling_steps: if ancestral { 0 } else { 50.min(scheduler.num_train_timesteps) },
        unet,
        scheduler,
        ..Config::default()
    };

    let [height, width] = config.unet.sample_size;
    let shape = [config.unet.in_channels, height, width];
    let classes = (0..config.labels()).map(|label| label.to_string()).collect();
    let recipe = imported::recipe_of::<Diffusers>(config, shape, classes, &options.changes)?;
    let pictures = Pictures::new([recipe.data.channels, height, width], recipe.data.classes.clone());
    let system = Diffusers::new(recipe.model.clone(), &pictures)?;
    let unet = &recipe.model.unet;

    let weights = WeightsFolder::open(config_file.parent().unwrap_or(folder))?;
    weights.check_size(unet, &config_file)?;
    let network = weights.state(&system)?;
    let parameters = network.values().map(|t| t.values.len()).sum();

    imported::write::<Diffusers>(root, &recipe, network)?;
    Ok(Imported { model: unet.class, scheduler: class, parameters, left_out })
}

/// The components that `model_index.json` names beside the two that are read.
fn read_index(folder: &Path) -> Result<Vec<String>> {
    let path = folder.join("model_index.json");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let mut index = Fields::open(&path)?;
    index.ignore(&["unet", "scheduler"]);
    let mut left_out = Vec::new();
    for (name, value) in index.rest() {
        // A component is [library, class]; anything else is a switch of the pipeline.
        let class = match &value {
            Value::Array(pair) => pair.get(1).and_then(Value::as_str),
            _ => None,
        };
        match class {
            Some(_) if LEFT_OUT.contains(&name.as_str()) => left_out.push(name),
            Some(class) => {
                return Err(Error::new(format!(
                    "{}: component `{name}`, a {class}, is not supported; supported: a unet and a scheduler that make \
                     pictures without it",
                    path.display()
                )));
            }
            None => {}
        }
    }
    Ok(left_out)
}

/// A file of a component, in its own folder or, in old ones, beside `model_index.json`.
fn find(folder: &Path, component: &str, file: &str) -> Result<PathBuf> {
    let places = [folder.join(component).join(file), folder.join(file)];
    places.iter().find(|p| p.is_file()).cloned().ok_or_else(|| {
        let [first, second] = &places;
        Error::new(format!(
            "{} is missing, and so is {}; is it a model folder of diffusers?",
            first.display(),
            second.display()
        ))
    })
}

/// The tensors of a component, from one file or several.
struct WeightsFolder {
    place: String,
    files: Vec<WeightsFile>,
    /// Which file holds a tensor, and its shape.
    tensors: BTreeMap<String, (usize, Vec<usize>)>,
}

impl WeightsFolder {
    fn open(folder: &Path) -> Result<Self> {
        let named = |ending: &str| folder.join(format!("{WEIGHTS}.{ending}"));
        let candidates = ["safetensors", "safetensors.index.json", "fp16.safetensors", "bin", "bin.index.json"];
        let Some(path) = candidates.into_iter().map(named).find(|p| p.is_file()) else {
            return Err(Error::new(format!(
                "{} is missing; there are the settings, but no weights",
                named("safetensors").display()
            )));
        };
        let is_index = path.extension().is_some_and(|e| e == "json");
        let paths = if is_index { shards(&path)? } else { vec![path.clone()] };
        let files = paths.iter().map(|p| WeightsFile::open(p)).collect::<Result<Vec<_>>>()?;
        let mut tensors = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            tensors.extend(file.shapes().map(|(name, shape)| (name.to_string(), (i, shape.to_vec()))));
        }
        Ok(Self { place: path.display().to_string(), files, tensors })
    }

    /// Refuses settings of a network far larger than the weights before it is made.
    fn check_size(&self, unet: &UNetConfig, config: &Path) -> Result<()> {
        let stored: f64 =
            self.tensors.values().map(|(_, shape)| shape.iter().map(|&n| n as f64).product::<f64>()).sum();
        let least = unet.least_parameters();
        if least > stored {
            return Err(Error::new(format!(
                "{}: a network of these settings has at least {least} numbers, and {} holds {stored}",
                config.display(),
                self.place
            )));
        }
        Ok(())
    }

    /// The state of a run's networks, every tensor of the files used once.
    fn state(&self, system: &Diffusers) -> Result<State> {
        let fresh: Networks = system.networks(&mut Init::new(&Device::flex(), 0));
        let mut state = params::state(&fresh);
        let mut left: BTreeSet<&str> = self.tensors.keys().map(String::as_str).collect();
        for (path, tensor) in &mut state {
            let name = state_dict_name(path.strip_prefix("unet.").unwrap_or(path));
            let stored = self.stored_name(&name);
            left.remove(stored.as_str());
            // Of no file: the first says that it is missing.
            let file = self.tensors.get(&stored).map_or(0, |(file, _)| *file);
            tensor.values = self.files[file].values(&stored, &tensor.shape)?;
            if let Some(at) = tensor.values.iter().position(|v| !v.is_finite()) {
                return Err(Error::new(format!(
                    "{}: tensor `{stored}` holds {} at {at}; the model is broken",
                    self.place, tensor.values[at]
                )));
            }
        }
        match left.first() {
            Some(name) => Err(Error::new(format!(
                "{}: tensor `{name}` has no place in the network that config.json describes",
                self.place
            ))),
            None => Ok(state),
        }
    }

    /// What the file calls a tensor: old ones have other names for the projections of attention.
    fn stored_name(&self, name: &str) -> String {
        const OLD: [(&str, &str); 4] =
            [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")];
        let old = || OLD.iter().map(|(new, old)| name.replace(new, old)).find(|old| self.tensors.contains_key(old));
        if self.tensors.contains_key(name) { name.to_string() } else { old().unwrap_or_else(|| name.to_string()) }
    }
}

/// The files that an index of shards names.
fn shards(index: &Path) -> Result<Vec<PathBuf>> {
    let mut fields = Fields::open(index)?;
    let map: BTreeMap<String, String> = fields.or("weight_map", BTreeMap::new(), "file names by tensor")?;
    let folder = index.parent().unwrap_or(Path::new("."));
    let names: BTreeSet<&String> = map.values().collect();
    let whole = |name: &&String| -> Result<PathBuf> {
        if Path::new(name).components().count() != 1 || name.starts_with('.') {
            return Err(Error::new(format!("{}: `{name}` is not the name of a file beside it", index.display())));
        }
        Ok(folder.join(name))
    };
    if names.is_empty() {
        return Err(Error::new(format!("{}: it names no file", index.display())));
    }
    names.iter().map(whole).collect()
}

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct Exported {
    /// The network's class.
    pub model: ModelClass,
    /// The pipeline that opens the folder; none opens a network with a context by itself.
    pub pipeline: Option<&'static str>,
    /// Numbers in the network.
    pub parameters: usize,
}

/// A model as diffusers has it.
pub(super) struct Model {
    pub unet: UNetConfig,
    pub scheduler: SchedulerConfig,
    /// The state dict.
    pub state: State,
}

/// Writes a run as a folder of diffusers.
///
/// # Errors
/// If the run's system or one of its settings has no counterpart there, which is named.
pub fn export(run: &Run, weights: WeightSet, folder: &Path) -> Result<Exported> {
    let id = run.recipe()?.get("system").and_then(|v| v.as_str()).unwrap_or_default().to_string();
    if ![Diffusers::ID, super::super::ddpm::Ddpm::ID].contains(&id.as_str()) {
        return Err(Error::usage(format!(
            "{}: {id} has no counterpart in diffusers; ddpm and diffusers do",
            run.root().display()
        )));
    }
    let state = run.newest_checkpoint()?.take_weights(weights);
    let model = if id == Diffusers::ID {
        let config: Config = run.recipe_of::<Diffusers>()?.model;
        let named = |(path, tensor): (String, HostTensor)| {
            (state_dict_name(path.strip_prefix("unet.").unwrap_or(&path)), tensor)
        };
        Model { unet: config.unet, scheduler: config.scheduler, state: state.into_iter().map(named).collect() }
    } else {
        let place = run.recipe_path().display().to_string();
        super::of_ddpm::model(&run.recipe_of::<super::super::ddpm::Ddpm>()?, state, &place)?
    };
    // Recipe and checkpoint must fit together, as for any use of the run.
    crate::find(&id)?.open(run, weights, &Device::flex())?;
    model.write(folder)
}

impl Model {
    fn write(&self, folder: &Path) -> Result<Exported> {
        if folder.join("model_index.json").exists() || folder.join("unet").exists() {
            return Err(Error::usage(format!("{}: there is a model already; choose another --out", folder.display())));
        }
        for part in ["unet", "scheduler"] {
            let path = folder.join(part);
            std::fs::create_dir_all(&path).context(|| format!("creating {}", path.display()))?;
        }
        let pipeline = match (self.unet.class, self.scheduler.class) {
            (ModelClass::UNet2DConditionModel, _) => None,
            (_, SchedulerClass::DDPMScheduler) => Some("DDPMPipeline"),
            (_, _) => Some("DDIMPipeline"),
        };
        let json = |path: PathBuf, value: &Value| -> Result<()> {
            let mut bytes = serde_json::to_vec_pretty(value).context(|| path.display())?;
            bytes.push(b'\n');
            output::write(&path, &bytes)
        };
        output::write(
            &folder.join("unet").join(format!("{WEIGHTS}.safetensors")),
            &checkpoint::to_bytes(&self.state)?,
        )?;
        json(folder.join("unet/config.json"), &self.unet.to_json())?;
        json(folder.join("scheduler/scheduler_config.json"), &self.scheduler.to_json())?;
        if let Some(pipeline) = pipeline {
            let index = json!({
                "_class_name": pipeline,
                "_diffusers_version": VERSION,
                "scheduler": ["diffusers", self.scheduler.class],
                "unet": ["diffusers", self.unet.class],
            });
            json(folder.join("model_index.json"), &index)?;
        }
        let parameters = self.state.values().map(|t| t.values.len()).sum();
        Ok(Exported { model: self.unet.class, pipeline, parameters })
    }
}

impl UNetConfig {
    /// A part of the numbers that the network has, counted without making it.
    fn least_parameters(&self) -> f64 {
        let last = self.block_out_channels.len() - 1;
        let default_time = 2 * self.block_out_channels[0];
        let time = if self.time_embedding_dim > 0 { self.time_embedding_dim } else { default_time } as f64;
        let of_level = |level: usize| {
            let looks_at_context = self.down_block_types[level].kind() == BlockKind::CrossAttention
                || self.up_block_types[last - level].kind() == BlockKind::CrossAttention
                || level == last && self.mid_block_type == MidBlock::UNetMidBlock2DCrossAttn;
            let blocks = if looks_at_context { self.transformer_layers_per_block[level] } else { 0 };
            let (c, context) = (self.block_out_channels[level] as f64, self.cross_attention_dim[level] as f64);
            self.layers_per_block[level] as f64 * c * (9.0 * c + time) + blocks as f64 * c * (12.0 * c + context)
        };
        let labels = match self.class_embed_type {
            ClassEmbedType::Table => self.num_class_embeds as f64 * time,
            ClassEmbedType::Timestep => 0.0,
        };
        (0..=last).map(of_level).sum::<f64>() + time * time + labels
    }
}
