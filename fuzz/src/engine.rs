//! Readers of the crates that stand on the tensor engine.

use kiln_core::{Context, Error, Result};
use kiln_features::WeightsFile;
use kiln_nn::Init;
use kiln_systems::diffusion::diffusers::folder::{ImportOptions, import};
use kiln_systems::{Visitor, visit_systems};
use kiln_train::checkpoint::{self, Checkpoint, Counters};
use kiln_train::run::read_table;
use kiln_train::{HostTensor, Pictures, Recipe, Run, State, System, recipe};
use sha2::{Digest, Sha256};
use toml::{Table, Value};

use crate::files::{Reader, file, folder, halves};

/// The targets of this file.
pub const READERS: [(&str, Reader); 7] = [
    ("safetensors", safetensors),
    ("weights", weights),
    ("pickle", pickle),
    ("recipe", recipe_file),
    ("set", set),
    ("state", state),
    ("diffusers", diffusers),
];

/// A state of a checkpoint; what was read is written and read again.
fn safetensors(bytes: &[u8]) -> Result<()> {
    let state = checkpoint::from_bytes(bytes, "network.safetensors")?;
    let again = checkpoint::from_bytes(&checkpoint::to_bytes(&state)?, "again")?;
    assert_eq!(state.len(), again.len());
    Ok(())
}

/// A file of weights in any of its formats, every tensor read; then the same as a trainer's checkpoint.
fn weights(bytes: &[u8]) -> Result<()> {
    let whole = WeightsFile::from_bytes("weights.pth", bytes.to_vec());
    let parts = WeightsFile::open_checkpoint(&file("weights.pth", bytes));
    let accepted = whole.is_ok() || parts.is_ok();
    for weights in [&whole, &parts].into_iter().flatten() {
        for (name, shape) in weights.shapes() {
            assert!(weights.values(name, shape)?.len() <= bytes.len());
        }
    }
    if accepted { Ok(()) } else { whole.map(drop) }
}

/// What each record of a zip of `torch.save` holds.
static NUMBERS: [u8; 256] = [1; 256];

/// The pickle inside a zip of `torch.save`, whose sums of bytes are right.
fn pickle(bytes: &[u8]) -> Result<()> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut records = vec![("data.pkl".to_string(), bytes), ("byteorder".to_string(), b"little")];
    records.extend((0..32).map(|key| (format!("data/{key}"), NUMBERS.as_slice())));
    for (name, data) in records {
        zip.start_file(format!("a/{name}"), stored).unwrap();
        std::io::Write::write_all(&mut zip, data).unwrap();
    }
    weights(&zip.finish().unwrap().into_inner())
}

/// A recipe: that of a run, which says the shape of its pictures, or one to train.
fn recipe_file(bytes: &[u8]) -> Result<()> {
    let path = file("run/recipe.toml", bytes);
    let run = Run::open(path.parent().unwrap())?;
    let table = run.recipe()?;
    match table.get("data").and_then(|data| data.get("shape")) {
        Some(_) => of_system(&table, Form::Run(&run)),
        None => of_system(&table, Form::Changes(&[read_table(&path)?])),
    }
}

/// A system's name, then an assignment of `--set` a line.
fn set(bytes: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let system = Table::from_iter([("system".into(), Value::String(lines.next().unwrap_or_default().into()))]);
    let changes = lines.map(recipe::assignment).collect::<Result<Vec<_>>>()?;
    of_system(&system, Form::Changes(&changes))
}

/// Where the changes to a system's defaults are.
#[derive(Clone, Copy)]
enum Form<'a> {
    Run(&'a Run),
    Changes(&'a [Table]),
}

/// Finds the system that a recipe names, and makes its networks without their numbers.
fn of_system(table: &Table, form: Form) -> Result<()> {
    struct Named<'a> {
        id: &'a str,
        form: Form<'a>,
        made: Result<()>,
    }
    impl Visitor for Named<'_> {
        fn visit<S: System>(&mut self) {
            if S::ID == self.id {
                self.made = make::<S>(self.form);
            }
        }
    }
    let id = table.get("system").and_then(Value::as_str).unwrap_or_default();
    let mut named = Named { id, form, made: Err(Error::usage("no such system")) };
    visit_systems(&mut named);
    named.made
}

fn make<S: System>(form: Form) -> Result<()> {
    let recipe = match form {
        Form::Run(run) => run.recipe_of::<S>()?,
        Form::Changes(changes) => {
            let mut table = recipe::defaults::<S>()?;
            changes.iter().try_for_each(|change| recipe::merge(&mut table, change, "--set"))?;
            recipe::typed::<S>(table, "--set")?
        }
    };
    // What a run writes is what it reads.
    let text = toml::to_string_pretty(&recipe).context(|| "recipe")?;
    let again: Recipe<S::Config> = toml::from_str(&text).unwrap();
    assert_eq!(text, toml::to_string_pretty(&again).unwrap());

    let [channels, height, width] = match recipe.data.shape {
        [0, 0, 0] => [recipe.data.channels.max(1), 28, 28],
        shape => shape,
    };
    let [height, width] = recipe.data.size.or([height, width]);
    let classes = match recipe.data.classes.is_empty() {
        true => (0..10).map(|class| class.to_string()).collect(),
        false => recipe.data.classes.clone(),
    };
    let system = S::new(recipe.model, &Pictures::new([channels, height, width], classes))?;
    drop(system.networks(&mut Init::counting()));
    system.phases();
    system.abilities().list();
    Ok(())
}

/// The state of a checkpoint of a run: as it is, and with the hash at its end that makes it whole.
fn state(bytes: &[u8]) -> Result<()> {
    let newest = file("checkpoints/0000000128/state.json", bytes);
    let tensor = HostTensor { shape: vec![1], values: vec![0.5] };
    let network = State::from([("a".to_string(), tensor)]);
    file("checkpoints/0000000128/network.safetensors", &checkpoint::to_bytes(&network)?);
    let read = || Checkpoint::newest(newest.parent().unwrap().parent().unwrap(), &mut drop);
    let as_it_is = read();
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end().trim_end_matches('}').trim_end();
    let hash: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(&newest, format!("{text},\n  \"sha256\": \"{hash}\"\n}}\n")).unwrap();
    let counters = read().or(as_it_is)?.map(|checkpoint| checkpoint.counters).unwrap_or_default();
    // What is read is written.
    let text = serde_json::to_string(&counters).unwrap();
    let _: Counters = serde_json::from_str(&text).context(|| text.clone())?;
    Ok(())
}

/// A model folder of diffusers: the settings of its network, a 0 byte, those of its scheduler, and too few weights.
fn diffusers(bytes: &[u8]) -> Result<()> {
    let (network, scheduler) = halves(bytes);
    file("model/unet/config.json", network);
    file("model/scheduler/scheduler_config.json", scheduler);
    let weights = folder().join("model/unet/diffusion_pytorch_model.safetensors");
    if !weights.exists() {
        let tensor = HostTensor { shape: vec![100_000], values: vec![0.0; 100_000] };
        std::fs::write(weights, checkpoint::to_bytes(&State::from([("a".to_string(), tensor)]))?).unwrap();
    }
    import(&folder().join("model"), &folder().join("imported"), &ImportOptions::default()).map(drop)
}
