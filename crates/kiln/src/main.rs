//! `kiln`: train, sample, edit, translate and score deep generative vision models.

mod feature_cache;
mod feature_net;
mod hardware;
mod judge;
mod output;
mod ranges;
mod report;
mod stats;
mod usage;
mod verbs;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use kiln_core::{Budget, Error, Result, set_budget, tell};
use kiln_train::{Precision, interrupt};

use crate::output::Output;

/// Big tensors are freed and made again every step; glibc gives such blocks back to the kernel and
/// takes them again page by page, mimalloc keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Train, sample, edit, translate and score deep generative vision models.
#[derive(Parser)]
#[command(name = "kiln", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

/// Options of every verb.
#[derive(Args, Clone)]
pub struct Common {
    /// Print one JSON object per line on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Show no progress on standard error
    #[arg(long, global = true)]
    pub quiet: bool,
    /// Compute on cpu, wgpu or cuda (the last two only in builds with that feature)
    #[arg(long, global = true, default_value = "cpu")]
    pub device: String,
    /// Multiply in f32, or in bf16 inside convolutions only. `train` stores it in the recipe (train.precision), which
    /// `resume` keeps; metrics always use f32
    #[arg(long, global = true)]
    pub precision: Option<Precision>,
    /// Use this many threads; 0 uses every core
    #[arg(long, global = true, default_value_t = 0)]
    pub threads: usize,
    /// Read pictures of at most this many pixels
    #[arg(long, global = true, hide_short_help = true, default_value_t = Budget::default().pixels)]
    pub max_pixels: u64,
    /// Read data files of at most this many bytes, decompressed
    #[arg(long, global = true, hide_short_help = true, default_value_t = Budget::default().bytes)]
    pub max_bytes: u64,
}

#[derive(Subcommand)]
enum Verb {
    /// List the systems, their abilities and the kind of data each needs
    Systems,
    /// List, fetch and show data sets, and compute their statistics
    Data(verbs::data::DataArgs),
    /// Train a system or a recipe
    Train(verbs::train::TrainArgs),
    /// Continue a run from its newest checkpoint
    Resume(verbs::train::ResumeArgs),
    /// Sample images from a run
    Sample(verbs::sample::SampleArgs),
    /// Translate images from one domain to the other
    Translate(verbs::translate::TranslateArgs),
    /// Draw what an image shows in the style of others, by optimisation
    Stylize(verbs::stylize::StylizeArgs),
    /// Encode images and decode them again
    Reconstruct(verbs::pictures::ReconstructArgs),
    /// Inpaint the masked part of images
    Inpaint(verbs::inpaint::InpaintArgs),
    /// Encode images and write their latents
    Encode(verbs::pictures::EncodeArgs),
    /// Interpolate between samples in latent space
    Interpolate(verbs::latents::InterpolateArgs),
    /// Edit latents: start − minus + plus, a traversal of each latent, or an attribute vector
    Edit(verbs::latents::EditArgs),
    /// Classify images
    Classify(verbs::pictures::ClassifyArgs),
    /// Find the images of a folder that match a text
    Search(verbs::search::SearchArgs),
    /// Score how unlike a run's training data images are
    Outliers(verbs::outliers::OutliersArgs),
    /// Measure the quality of a run or of images
    Evaluate(verbs::evaluate::EvaluateArgs),
    /// Draw a map of what a run makes of images, beside one of their pixels
    Embed(verbs::embed::EmbedArgs),
    /// Compare runs side by side on one page
    Compare(verbs::compare::CompareArgs),
    /// Import a model of diffusers, or networks of others, as a run
    Import(verbs::import::ImportArgs),
    /// Export a run as a diffusers model
    Export(verbs::export::ExportArgs),
    /// Time typical training and inference work on this machine
    Bench(verbs::bench::BenchArgs),
    /// Reproduce a paper's claim and write its row of docs/results.md
    Claim(verbs::claim::ClaimArgs),
}

fn main() -> ExitCode {
    kiln_kernels::memory::keep_freed();
    let parsed = ranges::ranged(Cli::command()).try_get_matches().and_then(|m| Cli::from_arg_matches(&m));
    let done = match parsed {
        Ok(cli) => run(&cli),
        Err(e) => {
            let missing = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            let help = [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion];
            if help.contains(&e.kind()) || e.kind() == missing {
                let _ = e.print();
            }
            if help.contains(&e.kind()) { Ok(()) } else { Err(usage::error(&e)) }
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tell!("kiln: {e}");
            ExitCode::from(e.exit_status())
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    interrupt::install()?;
    let common = &cli.common;
    set_budget(Budget { pixels: common.max_pixels, bytes: common.max_bytes });
    let precision = common.precision.unwrap_or_default();
    // Training speaks of its recipe's.
    if !precision.is_native() && !matches!(cli.verb, Verb::Train(_)) {
        tell!("--precision {precision}: this processor has no instructions for it, so f32 is used, which is as fast");
    }
    if common.threads > 0 {
        rayon::ThreadPoolBuilder::new()
            .num_threads(common.threads)
            .build_global()
            .map_err(|e| Error::new(format!("--threads {}: {e}", common.threads)))?;
    }
    precision.scope(|| verb(cli, &Output::new(common.json)))
}

fn verb(cli: &Cli, out: &Output) -> Result<()> {
    let common = &cli.common;
    match &cli.verb {
        Verb::Systems => verbs::systems::run(out),
        Verb::Data(args) => verbs::data::run(args, common, out),
        Verb::Train(args) => verbs::train::train(args, common, out),
        Verb::Resume(args) => verbs::train::resume(args, common, out),
        Verb::Sample(args) => verbs::sample::run(args, common, out),
        Verb::Translate(args) => verbs::translate::run(args, common, out),
        Verb::Stylize(args) => verbs::stylize::run(args, common, out),
        Verb::Reconstruct(args) => verbs::pictures::reconstruct(args, common, out),
        Verb::Inpaint(args) => verbs::inpaint::run(args, common, out),
        Verb::Encode(args) => verbs::pictures::encode(args, common, out),
        Verb::Interpolate(args) => verbs::latents::interpolate(args, common, out),
        Verb::Edit(args) => verbs::latents::edit(args, common, out),
        Verb::Classify(args) => verbs::pictures::classify(args, common, out),
        Verb::Search(args) => verbs::search::run(args, common, out),
        Verb::Outliers(args) => verbs::outliers::run(args, common, out),
        Verb::Evaluate(args) => verbs::evaluate::run(args, common, out),
        Verb::Embed(args) => verbs::embed::run(args, common, out),
        Verb::Compare(args) => verbs::compare::run(args, common, out),
        Verb::Import(args) => verbs::import::run(args, out),
        Verb::Export(args) => verbs::export::run(args, out),
        Verb::Bench(args) => verbs::bench::run(args, common, out),
        Verb::Claim(args) => verbs::claim::run(args, common, out),
    }
}
