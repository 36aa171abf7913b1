//! Reads generators of <https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix> into a run: `latest_net_G.pth` of one direction, or a
//! folder with `latest_net_G_A.pth` and `latest_net_G_B.pth`, both ways.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kiln_core::{Context, Error, Result};
use kiln_data::PictureSize;
use kiln_features::WeightsFile;
use kiln_nn::Init;
use kiln_train::{Pictures, State, System, params};
use serde::Serialize;
use toml::Table;

use super::cyclegan::{self, CycleGan};
use super::networks::{Architecture, GeneratorConfig, Normalization, PatchConfig};
use super::pix2pix::{self, Pix2Pix};
use crate::imported;

/// A ResNet's pictures where nobody says their size.
const SIZE: usize = 256;
/// A U-Net takes pictures of at most 2¹² pixels a side.
const MOST_HALVINGS: usize = 12;
/// What a file may have that a network does not need: counters, and the running statistics of instance norm, which old versions wrote.
const UNUSED: [&str; 3] = ["num_batches_tracked", "running_mean", "running_var"];

/// What was read.
#[derive(Clone, Debug, Serialize)]
pub struct Imported {
    /// The system of the run.
    pub system: &'static str,
    /// `resnet` or `unet`.
    pub generator: Architecture,
    /// Height and width that it is set to.
    pub size: [usize; 2],
    /// Numbers in the generators.
    pub parameters: usize,
}

/// How files are read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Height and width of the pictures: by default 256, or of a U-Net as many pixels as it halves to 1.
    pub size: PictureSize,
    /// Changes to the recipe, each with the place it comes from.
    pub changes: Vec<(Table, String)>,
}

/// The files of a folder that hold generators: of one direction, or of both. None if it has no such files.
///
/// # Errors
/// If the folder cannot be read.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .context(|| folder.display())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    // `latest` comes after all numbers of epochs, and the last number before it.
    let number = |name: &str| name.split('_').next().and_then(|epoch| epoch.parse::<u64>().ok()).unwrap_or(u64::MAX);
    names.sort_by_key(|name| number(name));
    let newest = |ends: &str| {
        let is =
            |name: &&String| [".pth", ".pt", ".safetensors"].iter().any(|ext| name.ends_with(&format!("{ends}{ext}")));
        names.iter().rev().find(is).map(|name| folder.join(name))
    };
    let both: Vec<PathBuf> = [newest("_net_G_A"), newest("_net_G_B")].into_iter().flatten().collect();
    Ok(if both.is_empty() { newest("_net_G").into_iter().collect() } else { both })
}

/// Whether a file is of such a generator, by its names.
///
/// # Errors
/// If it cannot be read.
pub fn is_one(path: &Path) -> Result<bool> {
    let file = WeightsFile::open_checkpoint(path)?;
    Ok(file.shapes().any(|(name, _)| [RESNET_FIRST, UNET_FIRST].contains(&bare(name))))
}

const RESNET_FIRST: &str = "model.1.weight";
const UNET_FIRST: &str = "model.model.0.weight";

/// A name without what `DataParallel` puts before it.
fn bare(name: &str) -> &str {
    name.strip_prefix("module.").unwrap_or(name)
}

/// Reads the generator of a file into a new run of `pix2pix`, or those of two into one of `cyclegan`.
///
/// # Errors
/// Names the tensor that is missing, left over, or of another network.
pub fn import(paths: &[PathBuf], root: &Path, options: &Options) -> Result<Imported> {
    let sources = paths.iter().map(|path| Source::open(path)).collect::<Result<Vec<_>>>()?;
    let first = sources.first().ok_or_else(|| Error::usage("import: no file"))?;
    let (config, [inputs, outputs]) = first.settings()?;
    if inputs != outputs || ![1, 3].contains(&inputs) {
        return Err(Error::new(format!(
            "{}: it turns pictures of {inputs} channels into {outputs}; supported: 1 to 1 and 3 to 3",
            first.place
        )));
    }
    if let Some(other) = sources.iter().find(|source| source.settings().is_ok_and(|found| found.0 != config)) {
        return Err(Error::new(format!("{}: another network than {}'s", other.place, first.place)));
    }
    let side = match config.generator {
        Architecture::Resnet => SIZE,
        Architecture::Unet => 1 << config.halvings,
    };
    let [height, width] = options.size.or([side; 2]);
    let shape = [inputs, height, width];
    // As the authors' code has it by default.
    let judge = |config: PatchConfig| PatchConfig { discriminator_channels: 64, discriminator_layers: 3, ..config };
    let parameters;
    let system = if sources.len() == 1 {
        let model = pix2pix::Config {
            generator: config.clone(),
            // The authors' code translates with dropout and with each picture's own statistics, unless told otherwise.
            dropout_at_test: config.dropout > 0.0,
            discriminator: judge(pix2pix::Config::default().discriminator),
            ..pix2pix::Config::default()
        };
        let recipe = imported::recipe_of::<Pix2Pix>(model, shape, Vec::new(), &options.changes)?;
        let system = Pix2Pix::new(recipe.model.clone(), &Pictures::new(shape, Vec::new()))?;
        let mut state = params::state(&system.networks(&mut Init::new(&Device::flex(), recipe.seed)));
        parameters = first.fill("generator", &config, &mut state)?;
        imported::write::<Pix2Pix>(root, &recipe, state)?;
        Pix2Pix::ID
    } else {
        let model = cyclegan::Config {
            generators: config.clone(),
            discriminators: judge(cyclegan::Config::default().discriminators),
            ..cyclegan::Config::default()
        };
        let recipe = imported::recipe_of::<CycleGan>(model, shape, Vec::new(), &options.changes)?;
        let system = CycleGan::new(recipe.model.clone(), &Pictures::new(shape, Vec::new()))?;
        let mut state = params::state(&system.networks(&mut Init::new(&Device::flex(), recipe.seed)));
        let mut count = 0;
        for (source, network) in sources.iter().zip(["g_ab", "g_ba"]) {
            count += source.fill(network, &config, &mut state)?;
        }
        parameters = count;
        imported::write::<CycleGan>(root, &recipe, state)?;
        CycleGan::ID
    };
    Ok(Imported { system, generator: config.generator, size: [height, width], parameters })
}

/// The tensors of a file, by their names without `module.`.
struct Source {
    file: WeightsFile,
    shapes: BTreeMap<String, (String, Vec<usize>)>,
    place: String,
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        let (file, place) = (WeightsFile::open_checkpoint(path)?, path.display().to_string());
        let shapes: BTreeMap<_, _> =
            file.shapes().map(|(name, shape)| (bare(name).to_string(), (name.to_string(), shape.to_vec()))).collect();
        Ok(Self { file, shapes, place })
    }

    fn has(&self, name: &str) -> bool {
        self.shapes.contains_key(name)
    }

    /// The sides of a convolution's weight.
    fn sides(&self, name: &str) -> Result<[usize; 4]> {
        let (_, shape) = self.shapes.get(name).ok_or_else(|| self.missing(name))?;
        <[usize; 4]>::try_from(shape.as_slice())
            .map_err(|_| Error::new(format!("{}: tensor `{name}` has shape {shape:?}, not four sides", self.place)))
    }

    fn missing(&self, name: &str) -> Error {
        Error::new(format!("{}: tensor `{name}` is missing", self.place))
    }

    /// Settings of the network, and the channels of the pictures that go in and come out.
    fn settings(&self) -> Result<(GeneratorConfig, [usize; 2])> {
        let norm =
            |conv: &str, norm: &str| match (self.has(&format!("{norm}.weight")), self.has(&format!("{conv}.bias"))) {
                (true, _) => Normalization::Batch,
                (false, true) => Normalization::Instance,
                (false, false) => Normalization::None,
            };
        if self.has(UNET_FIRST) {
            let halvings =
                (0..=MOST_HALVINGS).take_while(|&level| self.has(&format!("{}.weight", unet_down(level)))).count();
            let [channels, inputs, ..] = self.sides(UNET_FIRST)?;
            let config = GeneratorConfig {
                generator: Architecture::Unet,
                generator_channels: channels,
                halvings,
                blocks: 0,
                generator_norm: norm(&unet_down(0), "model.model.1.model.2"),
                // A file does not say; this is the default of the authors' code for pairs.
                dropout: 0.5,
            };
            let [_, outputs, ..] = self.sides("model.model.3.weight")?;
            return Ok((config, [inputs, outputs]));
        }
        let [channels, inputs, ..] = self.sides(RESNET_FIRST)?;
        let at = |i: usize| format!("model.{i}");
        let blocks = |halvings: usize| {
            let first = 4 + 3 * halvings;
            (first..).take_while(|i| self.has(&format!("model.{i}.conv_block.1.weight"))).count()
        };
        let halvings = (1..=4)
            .find(|&halvings| blocks(halvings) > 0)
            .ok_or_else(|| self.missing("model.10.conv_block.1.weight"))?;
        let blocks = blocks(halvings);
        let behind = format!("model.{}.conv_block.6.weight", 4 + 3 * halvings);
        let dropout = self.shapes.get(&behind).is_some_and(|(_, shape)| shape.len() == 4);
        let config = GeneratorConfig {
            generator: Architecture::Resnet,
            generator_channels: channels,
            halvings,
            blocks,
            generator_norm: norm(&at(1), &at(2)),
            dropout: if dropout { 0.5 } else { 0.0 },
        };
        let [outputs, ..] = self.sides(&format!("model.{}.weight", 6 * halvings + blocks + 5))?;
        Ok((config, [inputs, outputs]))
    }

    /// Puts the tensors into the state of a generator, all of it; how many numbers there are.
    fn fill(&self, network: &str, config: &GeneratorConfig, state: &mut State) -> Result<usize> {
        let names: BTreeMap<String, String> = reference_names(config).into_iter().collect();
        let mut left: BTreeMap<&str, &(String, Vec<usize>)> =
            self.shapes.iter().map(|(name, found)| (name.as_str(), found)).collect();
        let mut count = 0;
        for (path, tensor) in state.iter_mut() {
            let inside = path.strip_prefix(network).and_then(|rest| rest.strip_prefix('.'));
            // Behind the name of the architecture.
            let Some((module, part)) = inside.and_then(|rest| rest.split_once('.')?.1.rsplit_once('.')) else {
                continue;
            };
            let theirs =
                names.get(module).ok_or_else(|| Error::new(format!("{}: no name for `{module}`", self.place)))?;
            let name = format!("{theirs}.{part}");
            let (stored, shape) = left.remove(name.as_str()).ok_or_else(|| self.missing(&name))?;
            if *shape != tensor.shape {
                return Err(Error::new(format!(
                    "{}: tensor `{name}` has shape {shape:?} where the others need {:?}",
                    self.place, tensor.shape
                )));
            }
            tensor.values = self.file.values(stored, shape)?;
            if let Some(at) = tensor.values.iter().position(|v| !v.is_finite()) {
                return Err(Error::new(format!(
                    "{}: tensor `{name}` holds {} at {at}; the network is broken",
                    self.place, tensor.values[at]
                )));
            }
            count += tensor.values.len();
        }
        match left.keys().find(|name| !UNUSED.iter().any(|unused| name.ends_with(unused))) {
            Some(name) => Err(Error::new(format!("{}: tensor `{name}` has no place in the network", self.place))),
            None => Ok(count),
        }
    }
}

/// The name of the block of a U-Net's level.
fn unet_block(level: usize) -> String {
    match level {
        0 => "model".to_string(),
        1 => "model.model.1".to_string(),
        _ => format!("model.model.1{}", ".model.3".repeat(level - 1)),
    }
}

/// The name of the convolution on the way down. Innermost there is no other block inside, but the names are the same.
fn unet_down(level: usize) -> String {
    let entry = if level == 0 { 0 } else { 1 };
    format!("{}.model.{entry}", unet_block(level))
}

/// The layers of a generator: their paths here, and their names in the authors' code.
pub fn reference_names(config: &GeneratorConfig) -> Vec<(String, String)> {
    let halvings = config.halvings;
    let mut names = Vec::new();
    let mut name = |ours: String, theirs: String| names.push((ours, theirs));
    if config.generator == Architecture::Unet {
        for level in 0..halvings {
            let (block, innermost) = (unet_block(level), level + 1 == halvings);
            name(format!("down.{level}"), unet_down(level));
            // Behind the activation, the convolution, its norm and the block inside; an innermost block has neither of the two.
            let up = if level == 0 || innermost { 3 } else { 5 };
            name(format!("up.{level}"), format!("{block}.model.{up}"));
            if level > 0 {
                name(format!("up_norms.batch.{}", level - 1), format!("{block}.model.{}", up + 1));
            }
            if level > 0 && !innermost {
                name(format!("down_norms.batch.{}", level - 1), format!("{block}.model.2"));
            }
        }
        return names;
    }
    // Padding, convolution, norm, activation; then convolution, norm, activation each.
    name("first".into(), "model.1".into());
    name("norms.batch.0".into(), "model.2".into());
    for i in 0..halvings {
        name(format!("down.{i}"), format!("model.{}", 4 + 3 * i));
        name(format!("norms.batch.{}", 1 + i), format!("model.{}", 5 + 3 * i));
    }
    let blocks = 4 + 3 * halvings;
    let second = if config.dropout > 0.0 { 6 } else { 5 };
    for i in 0..config.blocks {
        let theirs = format!("model.{}.conv_block", blocks + i);
        name(format!("blocks.{i}.conv1"), format!("{theirs}.1"));
        name(format!("blocks.{i}.conv2"), format!("{theirs}.{second}"));
        name(format!("blocks.{i}.norms.batch.0"), format!("{theirs}.2"));
        name(format!("blocks.{i}.norms.batch.1"), format!("{theirs}.{}", second + 1));
    }
    let up = blocks + config.blocks;
    for i in 0..halvings {
        name(format!("up.{i}"), format!("model.{}", up + 3 * i));
        name(format!("norms.batch.{}", 1 + halvings + i), format!("model.{}", up + 3 * i + 1));
    }
    name("last".into(), format!("model.{}", up + 3 * halvings + 1));
    names
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use kiln_nn::tensor::to_values;
    use kiln_train::recipe::assignment;
    use kiln_train::{Model, Request, Run, WeightSet, entry};

    use super::*;
    use crate::translation::testing::{assert_close, fixtures, host, tensor, with_fixture_of};

    fn file(name: &str) -> PathBuf {
        fixtures().join("translation").join(name)
    }

    fn model(paths: &[PathBuf], set: &[&str], root: &Path) -> Box<dyn Model> {
        let changes = set.iter().map(|text| (assignment(text).unwrap(), "test".to_string())).collect();
        let imported = import(paths, root, &Options { changes, ..Options::default() }).unwrap();
        let run = Run::open(root).unwrap();
        crate::find(imported.system).unwrap().open(&run, WeightSet::Ema, &Device::flex()).unwrap()
    }

    fn translated(model: &dyn Model, input: &Tensor<4>, direction: &str) -> Vec<f32> {
        let request = Request::new(0..1, 0, &Device::flex()).along(direction);
        to_values(model.translate(input.clone(), &request).unwrap())
    }

    /// The authors' pictures, in evaluation mode and in training mode, within 1/255 and far nearer.
    #[test]
    fn pictures_are_the_authors() {
        with_fixture_of("translation", |fixture| {
            for name in ["unet", "unet_instance", "resnet_batch"] {
                let input = tensor::<4>(fixture, &format!("{name}.input"), &Device::flex());
                for (output, statistics) in [("output", "running"), ("batch", "picture")] {
                    let Ok(view) = fixture.tensor(&format!("{name}.{output}")) else { continue };
                    let dir = tempfile::tempdir().unwrap();
                    let statistics = format!("model.statistics_at_test=\"{statistics}\"");
                    let set = ["model.dropout_at_test=false", statistics.as_str()];
                    let model = model(&[file(&format!("{name}.pth"))], &set, &dir.path().join("run"));
                    let want = host(fixture, &format!("{name}.{output}"));
                    assert_eq!(view.shape(), want.shape);
                    assert_close(name, translated(&*model, &input, "a2b"), want.values, 2e-5);
                }
            }
        });
    }

    #[test]
    fn both_ways_become_a_cyclegan() {
        let dir = tempfile::tempdir().unwrap();
        let paths = files(&fixtures().join("translation")).unwrap();
        assert_eq!(paths, [file("latest_net_G_A.safetensors"), file("latest_net_G_B.pth")]);
        let model = model(&paths, &[], &dir.path().join("run"));
        with_fixture_of("translation", |fixture| {
            let input = tensor::<4>(fixture, "resnet.input", &Device::flex());
            for (direction, name) in [("a2b", "resnet.output"), ("b2a", "resnet_back.output")] {
                let want = host(fixture, name).values;
                assert_close(direction, translated(&*model, &input, direction), want, 2e-5);
            }
        });
        // And it is trained on.
        entry::<CycleGan>().defaults_from(&Run::open(&dir.path().join("run")).unwrap()).unwrap();
    }

    #[test]
    fn a_set_may_be_called_like_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let text = "data.set=2024";
        let changes = vec![(assignment(text).unwrap(), format!("--set {text}"))];
        let root = dir.path().join("run");
        import(&[file("unet_instance.pth")], &root, &Options { changes, ..Options::default() }).unwrap();
        let recipe = Run::open(&root).unwrap().recipe().unwrap();
        assert_eq!(recipe["data"]["set"].as_str(), Some("2024"));
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_one(&file("unet.pth")).unwrap());
        assert!(!is_one(&fixtures().join("translation.safetensors")).unwrap());
        let both = [file("latest_net_G_A.safetensors"), file("unet.pth")];
        assert!(import(&both, &dir.path().join("a"), &Options::default()).is_err());
        let cut = dir.path().join("cut.safetensors");
        let bytes = std::fs::read(file("latest_net_G_A.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let some = tensors.tensors().into_iter().filter(|(name, _)| !name.contains("model.19"));
        std::fs::write(&cut, safetensors::serialize(some, None).unwrap()).unwrap();
        let e = import(&[cut], &dir.path().join("b"), &Options::default()).unwrap_err().to_string();
        assert!(e.contains("`model.19.weight` is missing"), "{e}");
        assert!(!dir.path().join("b").exists());
    }
}
