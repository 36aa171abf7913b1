//! `kiln`: train, sample, edit, translate and score deep generative vision models.

mod feature_cache;
mod feature_net;
mod hardware;
mod output;
mod report;
mod stats;
mod verbs;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use kiln_core::{Error, Result};
use kiln_train::Precision;

use crate::output::Output;

/// Big tensors are freed and made again every step; glibc gives such blocks back to the kernel and
/// takes them again page by page, mimalloc keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Turn a folder of pictures into a generative model, and the model into pictures.
#[derive(Parser)]
#[command(name = "kiln", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Args, Clone)]
pub struct Common {
    /// One JSON object a line on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress on standard error
    #[arg(long, global = true)]
    pub quiet: bool,
    /// Where to compute: cpu, wgpu or cuda (the last two as they are built in)
    #[arg(long, global = true, default_value = "cpu")]
    pub device: String,
    /// What convolutions multiply: f32, or bf16 with sums and all else in f32. Training keeps to its recipe
    /// (train.precision), which `train` takes this for; measures are f32
    #[arg(long, global = true)]
    pub precision: Option<Precision>,
    /// Threads to compute with; 0 takes every core
    #[arg(long, global = true, default_value_t = 0)]
    pub threads: usize,
}

#[derive(Subcommand)]
enum Verb {
    /// What there is, what each can do, on which kind of data
    Systems,
    /// Data sets: list, fetch, show, stats
    Data(verbs::data::DataArgs),
    /// Train a system or a recipe
    Train(verbs::train::TrainArgs),
    /// Go on with a run from its newest checkpoint
    Resume(verbs::train::ResumeArgs),
    /// Make pictures
    Sample(verbs::sample::SampleArgs),
    /// Turn pictures of one domain into the other
    Translate(verbs::pictures::TranslateArgs),
    /// Encode pictures and decode them again
    Reconstruct(verbs::pictures::ReconstructArgs),
    /// Fill in a part of pictures, given by a mask
    Inpaint(verbs::inpaint::InpaintArgs),
    /// Write the latents of pictures
    Encode(verbs::pictures::EncodeArgs),
    /// Walk from one latent to another
    Interpolate(verbs::latents::InterpolateArgs),
    /// Arithmetic on latents: start − minus + plus; or what each latent does
    Edit(verbs::latents::EditArgs),
    /// Say which class pictures show
    Classify(verbs::pictures::ClassifyArgs),
    /// Say how foreign pictures are to what a run has learned
    Outliers(verbs::outliers::OutliersArgs),
    /// Score a run or pictures
    Evaluate(verbs::evaluate::EvaluateArgs),
    /// Put runs side by side on one page
    Compare(verbs::compare::CompareArgs),
    /// Read a model of diffusers as a run
    Import(verbs::import::ImportArgs),
    /// Write a run as a model of diffusers
    Export(verbs::export::ExportArgs),
    /// Time the field's usual work on this machine
    Bench(verbs::bench::BenchArgs),
    /// Reproduce a paper's claim and write its row of docs/results.md
    Claim(verbs::claim::ClaimArgs),
}

fn main() -> ExitCode {
    kiln_kernels::memory::keep_freed();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let help = matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let _ = e.print();
            return ExitCode::from(if help { 0 } else { 2 });
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("kiln: {e}");
            ExitCode::from(if e.is_usage() { 2 } else { 1 })
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let common = &cli.common;
    let precision = common.precision.unwrap_or_default();
    // Training speaks of its recipe's.
    if !precision.is_native() && !matches!(cli.verb, Verb::Train(_)) {
        eprintln!(
            "--precision {precision}: this processor has no instructions for it, so f32 is used, which is as fast"
        );
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
        Verb::Translate(args) => verbs::pictures::translate(args, common, out),
        Verb::Reconstruct(args) => verbs::pictures::reconstruct(args, common, out),
        Verb::Inpaint(args) => verbs::inpaint::run(args, common, out),
        Verb::Encode(args) => verbs::pictures::encode(args, common, out),
        Verb::Interpolate(args) => verbs::latents::interpolate(args, common, out),
        Verb::Edit(args) => verbs::latents::edit(args, common, out),
        Verb::Classify(args) => verbs::pictures::classify(args, common, out),
        Verb::Outliers(args) => verbs::outliers::run(args, common, out),
        Verb::Evaluate(args) => verbs::evaluate::run(args, common, out),
        Verb::Compare(args) => verbs::compare::run(args, common, out),
        Verb::Import(args) => verbs::import::run(args, out),
        Verb::Export(args) => verbs::export::run(args, out),
        Verb::Bench(args) => verbs::bench::run(args, common, out),
        Verb::Claim(args) => verbs::claim::run(args, common, out),
    }
}
