//! `kiln sample`.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use burn::tensor::Tensor;
use clap::Args;
use kiln_core::{Context as _, Error, Result, budget, output, read_file, read_text, refuse_if};
use kiln_data::{Picture, contact_sheet, read_png_text};
use kiln_features::WeightsFile;
use kiln_nn::tensor::from_values;
use kiln_systems::diffusion::guidance::{ColourHistogram, Edges};
use kiln_systems::diffusion::noisy_classifier::ClassifierGuide;
use kiln_systems::segmenter::SegmenterGuide;
use kiln_train::model::Info;
use kiln_train::preview::pictures;
use kiln_train::request::{check_class, sampler_flags};
use kiln_train::{
    Ability, ChainWatch, Context, Guide, Guided, Looks, Model, Progress, Prompt, Request, Run, WeightSet, checkpoint,
};
use serde::Serialize;
use serde_json::json;
use toml::Table;

use crate::Common;
use crate::output::{Output, shown};
use crate::verbs::pictures::one_picture;
use crate::verbs::texts::Tokenized;
use crate::verbs::{need, open, weight_set};

/// Images generated at a time; the images do not depend on it.
pub const CHUNK: u64 = 100;

#[derive(Args)]
pub struct SampleArgs {
    /// Run folder
    run: PathBuf,
    /// Number of images
    #[arg(short)]
    n: usize,
    /// Seed; the same seed gives the same images at any batch size
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder to write: 00000.png … and grid.png; further samples that an earlier call left there are removed
    #[arg(long)]
    out: PathBuf,
    /// Sample this class only, by number from 0
    #[arg(long)]
    class: Option<u32>,
    /// What the images are to show, for a run that has learned from captions
    #[arg(long, conflicts_with_all = ["text_file", "class"])]
    text: Option<String>,
    /// A file with a text a line; image i shows line i, and so around
    #[arg(long, value_name = "FILE", conflicts_with = "class")]
    text_file: Option<PathBuf>,
    /// What they are not to show: guidance leads away from it; needs --guidance-scale
    #[arg(long, value_name = "TEXT")]
    negative_text: Option<String>,
    /// Start from this noise: a safetensors file with a tensor `noise` `[n, c, h, w]`
    #[arg(long)]
    noise: Option<PathBuf>,
    /// Text embeddings for a conditional network: a safetensors file with a tensor `encoder_hidden_states`
    /// `[n or 1, tokens, features]` and optionally `negative_encoder_hidden_states` to guide away from
    #[arg(long)]
    context: Option<PathBuf>,
    /// Weights to use: ema (the moving average, if the run keeps one) or live
    #[arg(long, value_parser = weight_set, default_value = "ema")]
    weights: WeightSet,
    /// While sampling, write the current predictions of the images to preview.png
    #[arg(long)]
    preview: bool,
    /// Write the predictions along the denoising steps to trajectory.png
    #[arg(long)]
    trajectory: bool,
    #[command(flatten)]
    sampler: SamplerArgs,
}

/// The sampler of a verb that is given images.
#[derive(Args, Clone, Default, Serialize)]
pub struct ChainArgs {
    /// Sampler of a diffusion system, such as ddim, euler or dpm++
    #[arg(long, help_heading = SAMPLER)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<String>,
    /// Number of denoising steps
    #[arg(long, help_heading = SAMPLER)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
}

/// Settings of the sampler; each system has its own defaults.
#[derive(Args, Clone, Default, Serialize)]
pub struct SamplerArgs {
    /// Sampler: ddpm, ddim, euler, euler-ancestral, heun, dpm++, dpm++-sde, unipc, pc or ode
    #[arg(long, help_heading = SAMPLER)]
    pub sampler: Option<String>,
    /// Number of denoising steps
    #[arg(long, help_heading = SAMPLER)]
    pub steps: Option<usize>,
    /// Spacing of the timesteps: leading, trailing, linspace or quadratic
    #[arg(long, help_heading = SAMPLER)]
    pub timestep_spacing: Option<String>,
    /// η of ddim: 0 is deterministic, 1 adds as much noise as ddpm
    #[arg(long, help_heading = SAMPLER)]
    pub eta: Option<f64>,
    /// Variance of ddpm's steps: small (β̃) or large (β)
    #[arg(long, help_heading = SAMPLER)]
    pub variance: Option<String>,
    /// Spacing of a solver's noise levels: schedule, karras (the default of most runs) or exponential
    #[arg(long, help_heading = SAMPLER)]
    pub sigmas: Option<String>,
    /// Largest noise level σ/α of karras and exponential, such as 80
    #[arg(long, help_heading = SAMPLER)]
    pub sigma_max: Option<f64>,
    /// Last noise level of a solver: zero or sigma_min
    #[arg(long, help_heading = SAMPLER)]
    pub final_sigma: Option<String>,
    /// Noise that euler and heun add before each step, S_churn of EDM: 0 (none) to about the number of steps
    #[arg(long, help_heading = SAMPLER)]
    pub s_churn: Option<f64>,
    /// Least noise level σ/α at which --s-churn adds noise
    #[arg(long, help_heading = SAMPLER)]
    pub s_tmin: Option<f64>,
    /// Largest noise level σ/α at which it does
    #[arg(long, help_heading = SAMPLER)]
    pub s_tmax: Option<f64>,
    /// Standard deviation of that noise, such as 1.003
    #[arg(long, help_heading = SAMPLER)]
    pub s_noise: Option<f64>,
    /// Order of dpm++ and unipc: 1 to 3
    #[arg(long, help_heading = SAMPLER)]
    pub order: Option<usize>,
    /// Variant of the solver: midpoint or heun for dpm++, bh1 or bh2 for unipc
    #[arg(long, help_heading = SAMPLER)]
    pub solver_type: Option<String>,
    /// Predictor of pc: reverse-diffusion, ancestral or none
    #[arg(long, help_heading = SAMPLER)]
    pub predictor: Option<String>,
    /// Langevin corrector steps of pc at each noise level
    #[arg(long, help_heading = SAMPLER)]
    pub corrector_steps: Option<usize>,
    /// Signal-to-noise ratio of the corrector steps
    #[arg(long, help_heading = SAMPLER)]
    pub snr: Option<f64>,
    /// Relative tolerance of ode
    #[arg(long, help_heading = SAMPLER)]
    pub rtol: Option<f64>,
    /// Absolute tolerance of ode
    #[arg(long, help_heading = SAMPLER)]
    pub atol: Option<f64>,
    /// Classifier-free guidance scale; 1 is unguided. Without --class, a class is drawn for each image
    #[arg(long, help_heading = GUIDANCE)]
    pub guidance_scale: Option<f64>,
    /// Rescale guided predictions towards the standard deviation of unguided ones: 0 (off) to 1
    #[arg(long, help_heading = GUIDANCE)]
    pub guidance_rescale: Option<f64>,
    /// Guide only between these noise levels σ/α, such as 0.2,5
    #[arg(long, value_parser = interval, help_heading = GUIDANCE)]
    pub guidance_interval: Option<Interval>,
    /// Guide by the classifier of this run: a noisy-classifier on the noisy image, any other on the predicted one
    #[arg(long, help_heading = GUIDANCE)]
    #[serde(skip)]
    pub classifier: Option<PathBuf>,
    /// Override what the classifier sees: noisy (the current image) or clean (the predicted one)
    #[arg(long, requires = "classifier", value_parser = looks, help_heading = GUIDANCE)]
    #[serde(skip)]
    pub classifier_looks_at: Option<Looks>,
    /// Strength of the classifier's guidance
    #[arg(long, default_value_t = 1.0, requires = "classifier", help_heading = GUIDANCE)]
    #[serde(skip)]
    pub classifier_scale: f64,
    /// Guide by an image: colours:FILE (its colour histogram), edges:FILE (its outlines), or with --segmenter mask:FILE
    /// (bright where the class should be)
    #[arg(long, help_heading = GUIDANCE)]
    #[serde(skip)]
    pub guide: Option<String>,
    /// Run of a segmenter, for --guide mask:FILE
    #[arg(long, requires = "guide", help_heading = GUIDANCE)]
    #[serde(skip)]
    pub segmenter: Option<PathBuf>,
    /// Strength of --guide
    #[arg(long, default_value_t = 1.0, requires = "guide", help_heading = GUIDANCE)]
    #[serde(skip)]
    pub guide_scale: f64,
    /// Gradient steps on the predicted image, for guides that look at it
    #[arg(long, help_heading = GUIDANCE)]
    pub backward_steps: Option<usize>,
    /// Size of each gradient step
    #[arg(long, requires = "backward_steps", help_heading = GUIDANCE)]
    pub backward_rate: Option<f64>,
    /// Undo and repeat each step of ddpm and ddim this many times
    #[arg(long, help_heading = GUIDANCE)]
    pub recurrence: Option<usize>,
    /// Draw the latent towards its mean by ψ: below 1 gives more typical, less varied images. Of biggan: draw its numbers beyond
    /// ±ψ again
    #[arg(long, help_heading = SAMPLER)]
    pub truncation_psi: Option<f64>,
    /// Seed of the noise inputs, which are the same for all images otherwise
    #[arg(long, help_heading = SAMPLER)]
    pub noise_seed: Option<u64>,
}

/// The ends of `0.2,5`.
pub type Interval = [f64; 2];

/// Reads `0.2,5`.
pub fn interval(text: &str) -> std::result::Result<Interval, String> {
    let ends = text.split_once(',').map(|(low, high)| [low, high].map(|end| end.trim().parse::<f64>()));
    match ends {
        Some([Ok(low), Ok(high)]) => Ok([low, high]),
        _ => Err("expected two numbers, such as 0.2,5".into()),
    }
}

fn looks(text: &str) -> std::result::Result<Looks, String> {
    match text {
        "noisy" => Ok(Looks::Noisy),
        "clean" => Ok(Looks::Clean),
        _ => Err("there are noisy and clean".into()),
    }
}

const SAMPLER: &str = "Sampler";
const GUIDANCE: &str = "Guidance";

impl SamplerArgs {
    /// The settings that are given, as a request carries them: each system reads its own, and refuses the others.
    pub fn table(&self) -> Result<Table> {
        Table::try_from(self).context(|| "sampler settings")
    }

    /// What else steers the pictures of a run.
    ///
    /// # Errors
    /// If a classifier or a picture does not fit it.
    pub fn guides(&self, info: &Info, class: Option<u32>, common: &Common) -> Result<Vec<Guided>> {
        let mut guides: Vec<Guided> = Vec::new();
        let mut classes = Classes { of: format!("the run {}", info.run), names: info.pictures.classes.clone() };
        if let Some(run) = &self.classifier {
            let (model, _) = open(run, WeightSet::Ema, &common.device)?;
            need(&*model, Ability::Classify)?;
            let guide = ClassifierGuide::new(model, info.pictures.shape, self.classifier_looks_at)?;
            check_class(class, guide.classes())?;
            same_classes(&mut classes, &format!("--classifier {}", run.display()), guide.classes())?;
            let scale = self.classifier_scale;
            let shown = match self.classifier_looks_at {
                Some(Looks::Noisy) => " --classifier-looks-at noisy",
                Some(Looks::Clean) => " --classifier-looks-at clean",
                None => "",
            };
            let name = format!("--classifier {}{shown} --classifier-scale {scale}", run.display());
            guides.push(Guided { guide: Rc::new(guide), scale, name });
        }
        if let Some(spec) = &self.guide {
            let Some((kind, file)) = spec.split_once(':') else {
                return Err(Error::usage(format!("--guide {spec}: expected colours:FILE, edges:FILE or mask:FILE")));
            };
            let picture = one_picture(Path::new(file), info)?;
            let guide: Rc<dyn Guide> = match (kind, &self.segmenter) {
                ("colours", None) => Rc::new(ColourHistogram::of(picture)),
                ("edges", None) => Rc::new(Edges::of(picture)),
                ("mask", Some(run)) => {
                    let (model, _) = open(run, WeightSet::Ema, &common.device)?;
                    need(&*model, Ability::Segment)?;
                    let guide = SegmenterGuide::new(model, picture)?;
                    check_class(class, guide.classes())?;
                    same_classes(&mut classes, &format!("--segmenter {}", run.display()), guide.classes())?;
                    Rc::new(guide)
                }
                _ => {
                    return Err(Error::usage(format!(
                        "--guide {spec}: there are colours:FILE, edges:FILE, and with --segmenter mask:FILE"
                    )));
                }
            };
            let scale = self.guide_scale;
            let by = self.segmenter.as_ref().map(|run| format!("--segmenter {} ", run.display())).unwrap_or_default();
            guides.push(Guided { guide, scale, name: format!("{by}--guide {spec} --guide-scale {scale}") });
        }
        Ok(guides)
    }
}

/// Whose classes the numbers of `--class` are.
struct Classes {
    of: String,
    names: Vec<String>,
}

/// Refuses a guide whose classes are others: a number would be another class to each. A run without classes takes any.
fn same_classes(known: &mut Classes, of: &str, names: &[String]) -> Result<()> {
    if known.names.is_empty() {
        *known = Classes { of: of.into(), names: names.to_vec() };
    }
    refuse_if!(
        known.names != names,
        "{of}: its classes ({}) are not those of {} ({}); guide by a run of the same classes in the same order",
        names.join(", "),
        known.of,
        known.names.join(", ")
    );
    Ok(())
}

/// `n` pictures of a run, chunk by chunk, with progress.
pub fn generate(
    model: &dyn Model,
    n: usize,
    request: &Request,
    quiet: bool,
    each: &mut dyn FnMut(u64, Tensor<4>) -> Result<()>,
) -> Result<()> {
    let n = n as u64;
    let progress = (!quiet).then(|| Rc::new(RefCell::new(Progress::new("sampling", "pictures", 0, n))));
    for start in (0..n).step_by(CHUNK as usize) {
        let end = (start + CHUNK).min(n);
        let mut part = request.narrow(start as usize, (end - start) as usize);
        if let Some(progress) = progress.clone() {
            // A chain of many steps tells how far its pictures are.
            let (inner, many) = (request.watch.clone(), end - start);
            part.watch = Some(ChainWatch(Rc::new(move |i, of, x0| {
                if let Some(of) = of {
                    let done = start + many * i as u64 / of as u64;
                    progress.borrow_mut().update(done, || format!("step {} of {of}", i + 1));
                }
                if let Some(ChainWatch(watch)) = &inner {
                    watch(i, of, x0);
                }
            })));
        }
        each(start, model.generate(&part)?)?;
        if let Some(p) = &progress {
            p.borrow_mut().update(end, String::new);
        }
    }
    if let Some(p) = &progress {
        p.borrow().finish();
    }
    Ok(())
}

pub fn run(args: &SampleArgs, common: &Common, out: &Output) -> Result<()> {
    output::check_folder(&args.out)?;
    let (model, device) = open(&args.run, args.weights, &common.device)?;
    need(&*model, Ability::Generate)?;
    let recipe = Run::open(&args.run)?.recipe()?;
    let own = recipe.get("model").and_then(|model| model.get("sampler")).and_then(|sampler| sampler.as_str());
    refuse_if!(
        args.trajectory && args.sampler.sampler.as_deref().or(own) == Some("ode"),
        "--trajectory: the sampler ode takes each picture its own way; draw the chain of another, such as --sampler ddim"
    );
    let mut request = Request::new(0..args.n as u64, args.seed, &device);
    request.condition.class = args.class;
    request.condition.text = prompt(args, &*model)?;
    request.sampler = args.sampler.table()?;
    request.guides = args.sampler.guides(model.info(), args.class, common)?;
    if let Some(path) = &args.noise {
        request.noise = Some(read_noise(path, args.n, &device)?);
    }
    if let Some(path) = &args.context {
        request.condition.context = Some(read_context(path, args.n, &device)?);
    }
    let seen = Rc::new(RefCell::new(Vec::new()));
    let preview = args.preview.then(|| Preview::new(&args.out, model.info().system));
    if args.trajectory || args.preview {
        let (into, preview, whole) = (seen.clone(), preview.clone(), args.trajectory);
        request.watch = Some(ChainWatch(Rc::new(move |i, _, x0: &Tensor<4>| {
            if let Some(preview) = &preview {
                preview.show(x0);
            }
            // A chain that begins after the first is of other pictures.
            if whole && i == into.borrow().len() {
                let shown = x0.dims()[0].min(TRAJECTORIES);
                into.borrow_mut().push(pictures(x0.clone().narrow(0, 0, shown)));
            }
        })));
    }
    write(&*model, &request, args.n, &args.out, common, out)?;
    if let Some(preview) = &preview {
        preview.end()?;
    }
    if !args.trajectory {
        return Ok(());
    }
    let strip = args.out.join("trajectory.png");
    trajectory(&seen.borrow())?.write_png(&strip, &[("system", model.info().system)])?;
    out.say(|| format!("the chain of the first ones in {}", strip.display()), &json!({"trajectory": shown(&strip)}));
    Ok(())
}

/// The texts that are asked for, as tokens of the run.
fn prompt(args: &SampleArgs, model: &dyn Model) -> Result<Option<Prompt>> {
    let (flag, words) = match (&args.text, &args.text_file) {
        (Some(text), _) => ("--text", vec![text.clone()]),
        (None, Some(file)) => {
            let text = read_text(file, budget().bytes)?;
            let lines: Vec<String> =
                text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
            refuse_if!(lines.is_empty(), "{}: no text in it", file.display());
            ("--text-file", lines)
        }
        (None, None) => {
            refuse_if!(args.negative_text.is_some(), "--negative-text: needs a --text to guide to");
            return Ok(None);
        }
    };
    refuse_if!(
        args.negative_text.is_some() && args.sampler.guidance_scale.is_none(),
        "--negative-text: has no effect without --guidance-scale, such as 3"
    );
    let writer = Tokenized::of(model)?;
    let tokens = writer.tokens(flag, &words)?;
    let negative = args.negative_text.iter().map(|text| writer.tokens("--negative-text", std::slice::from_ref(text)));
    Ok(Some(Prompt { words, tokens, negative: negative.collect::<Result<Vec<_>>>()?.pop() }))
}

/// The pictures expected so far, on one sheet that is drawn again now and then.
struct Preview {
    folder: PathBuf,
    system: &'static str,
    drawn: Cell<Option<Instant>>,
    /// What kept it from being drawn: sampling goes on all the same.
    failed: RefCell<Option<Error>>,
}

impl Preview {
    /// The time between two drawings.
    const PAUSE: Duration = Duration::from_secs(1);

    fn new(folder: &Path, system: &'static str) -> Rc<Self> {
        Rc::new(Self { folder: folder.into(), system, drawn: Cell::new(None), failed: RefCell::new(None) })
    }

    fn show(&self, x0: &Tensor<4>) {
        if self.drawn.get().is_some_and(|at| at.elapsed() < Self::PAUSE) {
            return;
        }
        if let Err(e) = self.draw(x0) {
            self.failed.replace(Some(e));
        }
        self.drawn.set(Some(Instant::now()));
    }

    fn draw(&self, x0: &Tensor<4>) -> Result<()> {
        output::folder(&self.folder)?;
        let all = pictures(x0.clone());
        contact_sheet(&all, 0, 1)?.write_png(&self.folder.join("preview.png"), &[("system", self.system)])
    }

    fn end(&self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

/// Chains drawn, and pictures of each.
const TRAJECTORIES: usize = 8;
const STATIONS: usize = 12;

/// A row for each chain: the pictures expected on the way, evenly over its evaluations.
fn trajectory(seen: &[Vec<Picture>]) -> Result<Picture> {
    let Some(last) = seen.len().checked_sub(1) else {
        return Err(Error::usage("--trajectory: this system or sampler has no chain of steps to draw; leave it out"));
    };
    let stations = STATIONS.min(seen.len());
    let at = |i: usize| &seen[i * last / (stations - 1).max(1)];
    let cell = |row: usize, i: usize| at(i)[row].clone();
    let cells: Vec<Picture> =
        (0..seen[0].len()).flat_map(|row| (0..stations).map(move |i| (row, i))).map(|(row, i)| cell(row, i)).collect();
    contact_sheet(&cells, stations, 1)
}

/// After training: samples on seed 0 into the run folder.
pub fn into_folder(root: &Path, n: usize, common: &Common, out: &Output) -> Result<()> {
    let (model, device) = open(root, WeightSet::Ema, &common.device)?;
    need(&*model, Ability::Generate)?;
    let request = Request::new(0..n as u64, 0, &device);
    write(&*model, &request, n, &root.join("samples"), common, out)
}

fn write(model: &dyn Model, request: &Request, n: usize, folder: &Path, common: &Common, out: &Output) -> Result<()> {
    let info = model.info();
    let mut all: Vec<Picture> = Vec::new();
    generate(model, n, request, common.quiet, &mut |start, images| {
        // Only after the first pictures exist: a refused request leaves no empty folder.
        output::folder(folder)?;
        if start == 0 {
            clear(folder, n)?;
        }
        for (i, picture) in pictures(images).into_iter().enumerate() {
            let index = start + i as u64;
            let flags = sampler_flags(&request.sampler).into_iter();
            let class = request.condition.class.map(|class| format!("--class {class}"));
            let prompt = request.condition.text.as_ref().map(|prompt| format!("--text \"{}\"", prompt.word(index)));
            let guides = request.guides.iter().map(|g| g.name.clone());
            let settings = flags.chain(class).chain(prompt).chain(guides).collect::<Vec<_>>().join(" ");
            let text = [
                ("system", info.system.to_string()),
                ("run", info.run.clone()),
                ("seed", format!("{}", request.seed)),
                ("index", index.to_string()),
                ("settings", settings),
            ];
            let text: Vec<(&str, &str)> = text.iter().map(|(k, v)| (*k, v.as_str())).collect();
            picture.write_png(&folder.join(format!("{index:05}.png")), &text)?;
            if all.len() < 400 {
                all.push(picture);
            }
        }
        Ok(())
    })?;
    // A column a text, if there are several.
    let texts = request.condition.text.as_ref().map_or(1, |text| text.words.len());
    let columns = if (2..=all.len()).contains(&texts) { texts } else { 0 };
    let grid = folder.join("grid.png");
    contact_sheet(&all, columns, 1)?.write_png(&grid, &[("system", info.system)])?;
    let object = json!({"n": n, "folder": shown(folder), "grid": shown(&grid)});
    out.say(|| format!("{n} pictures in {}, all on {}", folder.display(), grid.display()), &object);
    Ok(())
}

/// Removes what an earlier call has left in a folder and this one does not write over: pictures numbered from `n` on. Only
/// those go that say in their text that they are samples of that number.
fn clear(folder: &Path, n: usize) -> Result<()> {
    let place = || format!("reading {}", folder.display());
    for entry in std::fs::read_dir(folder).context(place)? {
        let path = entry.context(place)?.path();
        let index = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".png")?.parse::<usize>().ok());
        let Some(index) = index.filter(|&index| index >= n && path.ends_with(format!("{index:05}.png"))) else {
            continue;
        };
        let text = read_png_text(&path).unwrap_or_default();
        let says = |key: &str| text.iter().find(|(keyword, _)| keyword == key).map(|(_, said)| said.as_str());
        if says("system").is_some() && says("index") == Some(&index.to_string()) {
            std::fs::remove_file(&path).context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

fn read_context(path: &Path, n: usize, device: &burn::tensor::Device) -> Result<Context> {
    let file = WeightsFile::open(path)?;
    let place = path.display();
    let part = |name: &str| match file.shapes().find(|(found, _)| *found == name) {
        None => Ok(None),
        Some((_, &[rows, tokens, features])) if (rows == 1 || rows >= n) && tokens > 0 => {
            let values = file.values(name, &[rows, tokens, features])?;
            Ok(Some(from_values(values, [rows, tokens, features], device)))
        }
        Some((_, shape)) => Err(Error::usage(format!(
            "{place}: `{name}` has shape {shape:?}; expected [1 or at least {n}, tokens, features]"
        ))),
    };
    let context = Context { with: part("encoder_hidden_states")?, without: part("negative_encoder_hidden_states")? };
    match context.with {
        Some(_) => Ok(context),
        None => Err(Error::usage(format!("{place}: no tensor named `encoder_hidden_states`"))),
    }
}

fn read_noise(path: &Path, n: usize, device: &burn::tensor::Device) -> Result<Tensor<4>> {
    let bytes = read_file(path, u64::MAX)?;
    let place = path.display().to_string();
    let mut state = checkpoint::from_bytes(&bytes, &place)?;
    let noise = state.remove("noise").ok_or_else(|| Error::usage(format!("{place}: no tensor named `noise`")))?;
    match noise.shape[..] {
        [count, c, h, w] if count >= n => {
            let values = noise.values[..n * c * h * w].to_vec();
            Ok(from_values(values, [n, c, h, w], device))
        }
        _ => {
            Err(Error::usage(format!("{place}: `noise` has shape {:?}; expected [at least {n}, c, h, w]", noise.shape)))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_call_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let picture = Picture::new(1, 1, 1, vec![0]).unwrap();
        let write = |name: &str, text: &[(&str, &str)]| picture.write_png(&folder.path().join(name), text).unwrap();
        for i in 0..5 {
            write(&format!("{i:05}.png"), &[("system", "vae"), ("index", &i.to_string())]);
        }
        // A picture of the user's, a copy under another number, a sheet, and another name.
        write("00007.png", &[]);
        write("00008.png", &[("system", "vae"), ("index", "3")]);
        write("grid.png", &[("system", "vae")]);
        write("9.png", &[("system", "vae"), ("index", "9")]);
        std::fs::write(folder.path().join("00006.png"), "no picture").unwrap();
        clear(folder.path(), 2).unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["00000.png", "00001.png", "00006.png", "00007.png", "00008.png", "9.png", "grid.png"]);
    }
}
