//! Opening and checking a recipe's data.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_core::{Context, Error, Result, refuse_if, tell};
use kiln_data::{DataKind, DataSet, Prepared, Split, Tokenizer, check_pairs, few_labels, label_maps};
use kiln_nn::tensor::from_values;

use crate::config::DataConfig;
use crate::recipe::Recipe;
use crate::run::{Run, TOKENIZER};
use crate::system::{Pictures, System};

/// Opens and validates the data of a recipe, and fills in what only the data knows: the shape of
/// the pictures, the classes, what masks and captions hold. A shape that the recipe already has must be the data's, and
/// tokens are those of `run` if it is one that goes on.
///
/// # Errors
/// Names the file at fault, or says which kind of data the system wants.
pub fn prepare<S: System>(recipe: &mut Recipe<S::Config>, run: Option<&Run>) -> Result<(Vec<Arc<Prepared>>, Pictures)> {
    let kind = S::data_kind(&recipe.model);
    let sets = kiln_data::open_all(&recipe.data.set, Split::Train, &recipe.data.rule())?;
    kiln_data::notes(&recipe.data.set, &sets).iter().for_each(|note| tell!("{note}"));
    check_kind(S::ID, kind, &sets)?;
    let mut sets = labelled_part(S::ID, kind, &recipe.data, sets)?;
    if kind == DataKind::LabelMaps {
        sets[0] = label_maps(sets[0].clone(), &recipe.data.palette)?;
        recipe.data.palette = sets[0].palette().to_vec();
    }
    recipe.data.classes = sets[0].classes().to_vec();
    let streams: Vec<Arc<Prepared>> = sets
        .into_iter()
        .enumerate()
        .map(|(number, set)| stream(kind, number, set, &mut recipe.data, run).map(Arc::new))
        .collect::<Result<_>>()?;
    let shape @ [channels, height, width] = common_shape(&recipe.data, &streams)?;
    (recipe.data.channels, recipe.data.size, recipe.data.shape) = (channels, [height, width].into(), shape);
    let pictures = Pictures::of(&recipe.data);
    Ok((streams, pictures))
}

/// Whether every set has as many pictures as a step takes. A system that is fitted in closed form takes no steps.
///
/// # Errors
/// A usage error naming the set.
pub fn check_batch<S: System>(system: &S, recipe: &Recipe<S::Config>, streams: &[Arc<Prepared>]) -> Result<()> {
    if system.phases().is_empty() {
        return Ok(());
    }
    // The labelled few repeat in a batch of as many others.
    let enough = match S::data_kind(&recipe.model) {
        DataKind::PartlyLabelled => &streams[1..],
        DataKind::SourceTarget => &streams[..2],
        _ => streams,
    };
    match enough.iter().find(|stream| recipe.train.batch > stream.len()) {
        Some(stream) => Err(Error::usage(format!(
            "train.batch = {} is larger than the {} pictures of {}; lower the batch",
            recipe.train.batch,
            stream.len(),
            stream.set().name()
        ))),
        None => Ok(()),
    }
}

/// The labelled few that `data.labels` asks for, with all others beside them where the system learns from both.
fn labelled_part(
    id: &str,
    kind: DataKind,
    data: &DataConfig,
    mut sets: Vec<Arc<dyn DataSet>>,
) -> Result<Vec<Arc<dyn DataSet>>> {
    let DataConfig { labels, label_seed, .. } = *data;
    match kind {
        DataKind::PartlyLabelled => Ok(few_labels(sets.remove(0), labels, label_seed)?.to_vec()),
        DataKind::Labelled if labels > 0 => {
            let [few, _] = few_labels(sets.remove(0), labels, label_seed)?;
            Ok(vec![few])
        }
        // Those of the target whose labels are known come beside both sets.
        DataKind::SourceTarget if labels > 0 => {
            let [few, _] = few_labels(sets[1].clone(), labels, label_seed)?;
            sets.push(few);
            Ok(sets)
        }
        _ if labels > 0 => Err(Error::usage(format!(
            "data.labels = {labels}: {id} does not learn from a part of the labels; set it to 0"
        ))),
        _ => Ok(sets),
    }
}

/// A set as it is served, with what comes with its pictures; what only the set knows of that is filled in.
fn stream(
    kind: DataKind,
    number: usize,
    set: Arc<dyn DataSet>,
    data: &mut DataConfig,
    run: Option<&Run>,
) -> Result<Prepared> {
    let stream = Prepared::new(set, data.rule())?;
    Ok(match kind {
        DataKind::LabelMaps if number == 0 => stream.with_classes(),
        DataKind::Paired | DataKind::LabelMaps if number > 0 => stream.with_first(),
        // What stands still: two values, which no class of the source has to share.
        DataKind::MaskedSourceStill if number > 0 => {
            let values = stream.find_mask_values()?;
            refuse_if!(
                values.len() > 2,
                "{}: its masks have {} values, and what stands still is said by two: the larger where it does",
                stream.set().name(),
                values.len()
            );
            stream.with_masks(values)
        }
        DataKind::MaskedSource if number > 0 => stream,
        DataKind::Masked | DataKind::MaskedSource | DataKind::MaskedSourceStill => {
            if data.mask_values.is_empty() {
                data.mask_values = stream.find_mask_values()?;
            }
            stream.with_masks(data.mask_values.clone())
        }
        DataKind::Captioned => {
            let tokenizer = tokenizer(data, &stream, run)?;
            stream.with_tokens(Arc::new(tokenizer), data.caption_length)
        }
        _ => stream,
    })
}

/// Channels, height and width of all sets, which are those that the recipe says if it does.
fn common_shape(data: &DataConfig, streams: &[Arc<Prepared>]) -> Result<[usize; 3]> {
    let shape = streams[0].shape();
    if let Some(other) = streams.iter().find(|s| s.shape() != shape) {
        return Err(Error::usage(format!(
            "data.set = {}: pictures of {:?} and {:?} (channels, height, width); set data.size and data.channels",
            data.set,
            shape,
            other.shape()
        )));
    }
    if data.shape != [0; 3] && data.shape != shape {
        return Err(Error::usage(format!(
            "data.shape = {:?} (channels, height, width), and the pictures of {} are {shape:?} now; a run goes on with \
             pictures of the shape it began with",
            data.shape, data.set
        )));
    }
    Ok(shape)
}

/// What makes tokens of captions: the file that a run has kept, or the one its recipe names, or the words of the captions.
/// Fills in how many tokens there are, and of a caption.
fn tokenizer(data: &mut DataConfig, stream: &Prepared, run: Option<&Run>) -> Result<Tokenizer> {
    let captions = stream.captions()?;
    let tokenizer = match run {
        Some(run) => Tokenizer::open(&run.root().join(TOKENIZER))?,
        None if data.tokenizer.is_empty() => Tokenizer::of_words(&captions, data.vocabulary)?,
        None => Tokenizer::open(Path::new(&data.tokenizer))?,
    };
    let vocabulary = tokenizer.vocabulary();
    if let Some(run) = run.filter(|_| data.vocabulary != vocabulary) {
        return Err(Error::new(format!(
            "{}: {vocabulary} tokens, and the run began with {}; put its own file back",
            run.root().join(TOKENIZER).display(),
            data.vocabulary
        )));
    }
    data.vocabulary = vocabulary;
    if data.caption_length == 0 {
        let lengths: Result<Vec<usize>> = captions.iter().map(|text| Ok(tokenizer.tokens(text)?.len())).collect();
        data.caption_length = lengths.context(|| stream.set().name())?.into_iter().max().unwrap_or(0).max(1);
    }
    // What is wrong with the special tokens of every caption is said before a run begins.
    tokenizer.rows(captions.first().map(String::as_str), data.caption_length).context(|| stream.set().name())?;
    Ok(tokenizer)
}

/// Keeps what makes tokens of captions in the folder of a run, if anything does.
///
/// # Errors
/// If the disk is full or not writable.
pub fn keep_tokenizer(streams: &[Arc<Prepared>], run: &Run) -> Result<()> {
    streams.iter().find_map(|s| s.tokens()).map_or(Ok(()), |(tokenizer, _)| run.write_tokenizer(tokenizer))
}

/// Whether data sets offer what a system wants.
///
/// # Errors
/// A usage error that says what is wanted.
pub fn check_kind(id: &str, wanted: DataKind, sets: &[Arc<dyn DataSet>]) -> Result<()> {
    let domains = match wanted {
        DataKind::TwoDomains
        | DataKind::SourceTarget
        | DataKind::MaskedSource
        | DataKind::MaskedSourceStill
        | DataKind::Paired
        | DataKind::LabelMaps => 2,
        _ => 1,
    };
    let names = sets.iter().map(|s| s.name()).collect::<Vec<_>>().join(",");
    if sets.len() != domains {
        let example = match (domains, wanted) {
            (1, _) => "one set",
            (_, DataKind::Paired) => {
                "two sets separated by a comma, such as --data A,B, or left:DIR,right:DIR of pictures side by side"
            }
            _ => "two sets separated by a comma, such as --data A,B",
        };
        return Err(Error::usage(format!("{id} wants {example}; `{names}` names {}", sets.len())));
    }
    let needs_labels = matches!(wanted, DataKind::Labelled | DataKind::PartlyLabelled | DataKind::SourceTarget);
    if needs_labels && sets[0].classes().is_empty() {
        return Err(Error::usage(format!(
            "{id} wants labels, and {} has none; use a folder with one sub-folder a class, or a labelled set of `kiln data list`",
            sets[0].name()
        )));
    }
    if wanted == DataKind::SourceTarget {
        let [source, target] = [&sets[0], &sets[1]].map(|set| set.classes());
        refuse_if!(
            !target.is_empty() && source != target,
            "{}: its classes ({}) are not those of {} ({}), and a class has to mean the same in both",
            sets[1].name(),
            target.join(", "),
            sets[0].name(),
            source.join(", ")
        );
    }
    let masked = match wanted {
        DataKind::Masked | DataKind::MaskedSource => &sets[..1],
        DataKind::MaskedSourceStill => sets,
        _ => &[],
    };
    if let Some(set) = masked.iter().find(|set| !set.kinds().contains(&DataKind::Masked)) {
        return Err(Error::usage(format!(
            "{id} wants masks, and {} has none; use a folder of `images` and `masks` with the same names in both",
            set.name()
        )));
    }
    if !masked.is_empty() {
        return Ok(());
    }
    if wanted == DataKind::Captioned && !sets[0].kinds().contains(&wanted) {
        return Err(Error::usage(format!(
            "{id} wants captions, and {} lacks some; put a text file NAME.txt beside each NAME.png of a folder",
            sets[0].name()
        )));
    }
    if matches!(wanted, DataKind::Paired | DataKind::LabelMaps) {
        return check_pairs(&sets[0], &sets[1]);
    }
    let plain = matches!(wanted, DataKind::Images | DataKind::TwoDomains) || needs_labels;
    if !plain && !sets[0].kinds().contains(&wanted) {
        return Err(Error::usage(format!("{id} wants {wanted:?} data, which {} is not", sets[0].name())));
    }
    Ok(())
}

/// Whether the data can be served as the system wants it, before there is a folder of the run.
///
/// # Errors
/// A usage error naming what the data lacks.
pub fn check_grouping<S: System>(system: &S, streams: &[Arc<Prepared>]) -> Result<()> {
    let grouping = system.grouping();
    streams.iter().try_for_each(|stream| grouping.check(&**stream.set()))
}

/// Some pictures of each domain, always the same, for previews.
///
/// # Errors
/// If a picture cannot be read.
pub fn examples(streams: &[Arc<Prepared>], count: usize, device: &Device) -> Result<Vec<Tensor<4>>> {
    streams
        .iter()
        .map(|stream| {
            let [c, h, w] = stream.shape();
            let n = count.min(stream.len());
            let key = Key::new(0).purpose("examples");
            // A set with known factors lies in their order, and its first pictures are all but the same.
            let ordered = !stream.set().factors().is_empty();
            let mut values = Vec::with_capacity(n * c * h * w);
            for i in 0..n {
                let place = if ordered { key.permute(i as u64, stream.len() as u64) as usize } else { i };
                values.extend(stream.get(place)?.values);
            }
            Ok(from_values(values, [n, c, h, w], device))
        })
        .collect()
}
