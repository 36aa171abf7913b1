//! Starting from networks that are trained already: those of other runs, or of published files.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use kiln_core::{Error, Result};
use kiln_features::WeightsFile;
use kiln_features::vgg::{ConvValues, hed_as_torchvision};
use kiln_nn::Init;

use crate::checkpoint::WeightSet;
use crate::params::{self, HostTensor, State};
use crate::recipe::Recipe;
use crate::run::Run;
use crate::system::{InitFrom, NetworkPaths, System};

/// The trained weights that a new run starts from.
pub(crate) enum Initial {
    /// All of another run's, which is named.
    Whole(String, State),
    /// Some networks, each from a source of its own; none for most systems.
    Parts(Vec<(String, NetworkPaths, State)>),
}

impl Initial {
    /// Of a recipe: the run of `train.init_from`, or else what the system's settings name.
    ///
    /// # Errors
    /// Names the source that cannot be read, or is of another system.
    pub(crate) fn of<S: System>(recipe: &Recipe<S::Config>) -> Result<Self> {
        let root = &recipe.train.init_from;
        if !root.is_empty() {
            let run = Run::open(Path::new(root))?;
            run.check_system(S::ID)?;
            let theirs = run.recipe_of::<S>()?;
            if S::init_from(&recipe.model) != S::init_from(&theirs.model) {
                return Err(Error::usage(format!(
                    "train.init_from = \"{root}\" takes all networks of that run; leave out the [model] setting that names \
                     another source"
                )));
            }
            return Ok(Self::Whole(root.clone(), of_run(&run)?));
        }
        let part = |from: InitFrom<'_>| Ok((from.source.to_string(), from.networks, weights(from.source)?));
        Ok(Self::Parts(S::init_from(&recipe.model).into_iter().map(part).collect::<Result<_>>()?))
    }

    /// Networks with these weights in place of their fresh ones.
    ///
    /// # Errors
    /// Names the tensors that do not fit.
    pub(crate) fn load<M: Module>(&self, fresh: M) -> Result<M> {
        match self {
            Self::Whole(root, state) => params::load(fresh, state, root).map_err(|e| {
                Error::usage(format!("{e}; a run starts from another with the same networks and classes only"))
            }),
            Self::Parts(parts) => parts
                .iter()
                .try_fold(fresh, |networks, (source, paths, state)| params::adopt(networks, state, paths, source)),
        }
    }

    /// Checks that a run can start from what its recipe names, before there is a folder of it.
    ///
    /// # Errors
    /// As [`Initial::of`] and [`Initial::load`].
    pub(crate) fn check<S: System>(system: &S, recipe: &Recipe<S::Config>, device: &Device) -> Result<()> {
        match Self::of::<S>(recipe)? {
            Self::Parts(parts) if parts.is_empty() => Ok(()),
            initial => initial.load(system.networks(&mut Init::new(device, recipe.seed))).map(drop),
        }
    }
}

/// Fills in the settings that another run determines. A run that starts from one of its own system has them already.
///
/// # Errors
/// As [`System::settle`].
pub(crate) fn settle<S: System>(recipe: &mut Recipe<S::Config>) -> Result<()> {
    if recipe.train.init_from.is_empty() {
        recipe.model = S::settle(recipe.model.clone())?;
        recipe.data = S::settle_data(&recipe.model, recipe.data.clone());
    }
    Ok(())
}

/// The weights of a run's folder, of a file, or of a published network by its name (`weights:vgg16-hed`).
///
/// # Errors
/// If there is no such run, file or name, or it cannot be read.
pub fn weights(source: &str) -> Result<State> {
    let named = source.starts_with("weights:").then(|| kiln_data::trained_file(source)).transpose()?;
    let path = named.as_deref().unwrap_or(Path::new(source));
    if !path.is_file() {
        return of_run(&Run::open(path)?);
    }
    let file = WeightsFile::open(path)?;
    if file.shapes().any(|(name, _)| name == "block1/layers/conv2d/vars/0") {
        let layer = |ConvValues { name, inputs, weight, bias }: ConvValues| {
            let shape = vec![bias.len(), inputs, 3, 3];
            let weight = (format!("{name}.weight"), HostTensor { shape, values: weight });
            [weight, (format!("{name}.bias"), HostTensor { shape: vec![bias.len()], values: bias })]
        };
        return Ok(hed_as_torchvision(&file)?.into_iter().flat_map(layer).collect());
    }
    let tensor = |(name, shape): (&str, &[usize])| {
        Ok((name.to_string(), HostTensor { shape: shape.to_vec(), values: file.values(name, shape)? }))
    };
    file.shapes().map(tensor).collect()
}

/// The weights that a run is used by.
fn of_run(run: &Run) -> Result<State> {
    Ok(run.newest_checkpoint()?.take_weights(WeightSet::Ema))
}
