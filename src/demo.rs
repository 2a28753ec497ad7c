//! `sr2-prune demo`.

use std::path::{Path, PathBuf};

use clap::Args;
use sr2_bench::{BenchOptions, EngineKind, LabelledImages, OnnxRuntime, Places};
use sr2_export::ExportOptions;
use sr2_formats::{Error, write_atomic};
use sr2_infer::Isa;
use sr2_train::Config;
use sr2_train::data::{Cifar, DatasetKind};

use crate::output::say;
use crate::{Format, cache, model, train};

/// Train, export and measure on a bundled sample of CIFAR-10, in about a minute
///
/// Fetches ONNX Runtime into the cache (by pip) if it is not installed. The sample is for trying the tool: its
/// accuracies mean nothing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sr2-prune demo
  sr2-prune demo --runs /tmp/runs --format json")]
pub struct Arguments {
    /// Folder in which the run gets its own
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// How to print the table
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

const TRAIN: &[u8] = include_bytes!("../examples/data/train.parquet");
const TEST: &[u8] = include_bytes!("../examples/data/test.parquet");

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let sample = sample(&arguments.runs)?;
    let config = Config {
        network: Some("resnet8".into()),
        data: Some(sample.clone()),
        epochs: 40,
        lambda: Some(4e-3),
        runs: arguments.runs.clone(),
        ..Config::default()
    };
    say(format!("1/3 train: resnet8 for {} epochs on 1,800 images", config.epochs));
    let summary = train::until_stopped(|progress, stop| sr2_train::train(&config, progress, stop))?;

    say("2/3 export");
    let source = Some(summary.checkpoint);
    let export = sr2_export::export(&ExportOptions { source, ..ExportOptions::default() })?;
    say(&export);

    say("3/3 bench: batch 1, one thread");
    let (images, labels) = model::normalised(&Cifar::open(&sample, DatasetKind::Cifar10)?.load_test()?);
    let options = BenchOptions {
        model: export.folder,
        engines: EngineKind::ALL.into(),
        against: Vec::new(),
        batch: 1,
        threads: 1,
        spin: true,
        pin: false,
        seconds: 2.0,
        tuning: None,
        isa: Isa::from_env().map_err(sr2_infer::Error::from)?,
        data: Some(LabelledImages { images, labels }),
        places: places(),
        program: std::env::current_exe().ok(),
    };
    let report = sr2_bench::bench(&options)?;
    for absent in &report.unavailable {
        say(format!("{}: {}", absent.engine, absent.reason));
    }
    arguments.format.print(&report)
}

/// Writes the sample beside the runs, where a run that was stopped finds it again.
fn sample(runs: &Path) -> Result<PathBuf, Error> {
    let folder = runs.join("demo-images");
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "create", e))?;
    for (name, bytes) in [("train.parquet", TRAIN), ("test.parquet", TEST)] {
        write_atomic(folder.join(name), |w| w.write_all(bytes))?;
    }
    Ok(folder)
}

/// Where ONNX Runtime is, after fetching it if it is nowhere; without it the other engines still run.
fn places() -> Places {
    let places = Places::of_process(None, cache::folder());
    if let (Err(_), Some(cache)) = (OnnxRuntime::find(&places), &places.cache) {
        say(format!("fetching ONNX Runtime {} into {}", sr2_bench::FETCHED_VERSION, cache.display()));
        if let Err(error) = sr2_bench::fetch_onnx_runtime(cache) {
            say(error);
        }
    }
    places
}
