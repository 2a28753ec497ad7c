//! `sr2-prune bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use sr2_bench::{BenchOptions, EngineKind, LabelledImages, Places};
use sr2_infer::{Isa, Model};

use crate::model::{self, TestImages, Threads};
use crate::output::say;
use crate::{Format, cache};

/// Time the sparse engine beside its dense self and ONNX Runtime, interleaved, after checking that all agree
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sr2-prune bench                                         the export of the newest finished run
  sr2-prune bench model.onnx --batch 64 --threads 2
  sr2-prune bench model.onnx --explain
  sr2-prune bench model.onnx --batch 64 --tune plan.json
  sr2-prune bench model.onnx --break-even --seconds 0.5
  sr2-prune bench model.onnx --against model-int8.onnx
  sr2-prune bench runs/resnet20-1/export --engines sparse,ort --data examples/data --format json")]
pub struct Arguments {
    /// An export folder, or a .onnx, .csr.safetensors or .srz file [default: the export of the newest finished run]
    model: Option<PathBuf>,
    /// Engines, in the order of the report
    #[arg(long, value_delimiter = ',', default_values_t = EngineKind::ALL)]
    engines: Vec<EngineKind>,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    #[command(flatten)]
    threads: Threads,
    /// Seconds to time each engine
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    seconds: f64,
    /// ONNX Runtime's library, or its folder [default: searched for, see `sr2-prune doctor`]
    #[arg(long, value_name = "FILE|DIR")]
    ort: Option<PathBuf>,
    /// Another ONNX file to time beside it by ONNX Runtime, such as a quantised one; may be repeated
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// Measure which layers are faster sparse and how many images each should take at a time, for some seconds, save
    /// the plan that wins as FILE, and use it
    #[arg(long, value_name = "FILE")]
    tune: Option<PathBuf>,
    /// Use a plan that `--tune` saved
    #[arg(long, value_name = "FILE", conflicts_with = "tune")]
    tuned: Option<PathBuf>,
    /// Show the engine's time, speed and kernels layer by layer, instead of a comparison
    #[arg(long, conflicts_with_all = ["against", "engines", "ort", "data"])]
    explain: bool,
    /// Thin the network step by step, and show how fast each share of zeros is against dense, and from which on it is
    /// faster; `--seconds` count for each of 22 plans
    #[arg(long, conflicts_with_all = ["against", "engines", "data", "tune", "tuned", "explain"])]
    break_even: bool,
    #[command(flatten)]
    images: TestImages,
    /// How to print the report
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// About how long `--tune` measures.
const TUNING: Duration = Duration::from_secs(5);

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    arguments.images.check_used(false)?;
    let path = model::locate(arguments.model.as_deref())?;
    let isa = Isa::from_env().map_err(sr2_infer::Error::from)?;
    let data = match arguments.images.data {
        None => None,
        Some(_) => {
            let network = Model::load(&path)?;
            model::check_input(&path, network.input_shape())?;
            let classes = network.output_shape().iter().product();
            let (images, labels) = model::normalised(&arguments.images.load(classes)?);
            Some(LabelledImages { images, labels })
        }
    };
    let mut options = BenchOptions {
        model: path,
        engines: arguments.engines.clone(),
        against: arguments.against.clone(),
        batch: arguments.batch,
        threads: arguments.threads.threads,
        spin: !arguments.threads.no_spin,
        pin: arguments.threads.pin,
        seconds: arguments.seconds,
        tuning: arguments.tuned.clone(),
        isa,
        data,
        places: Places::of_process(arguments.ort.clone(), cache::folder()),
        program: std::env::current_exe().ok(),
    };
    if let Some(file) = &arguments.tune {
        let tuning = sr2_bench::tune(&options, TUNING)?;
        tuning.save(file)?;
        let [default, tuned] = tuning.default_and_tuned().map(|time| time.as_secs_f64() * 1e3);
        say(format!("{}: {tuned:.3} ms a batch, {default:.3} ms without tuning", file.display()));
        options.tuning = Some(file.clone());
    }
    if arguments.explain {
        return arguments.format.print(&sr2_bench::explain(&options)?);
    }
    if arguments.break_even {
        return arguments.format.print(&sr2_bench::break_even(&options)?);
    }
    let report = sr2_bench::bench(&options)?;
    for absent in &report.unavailable {
        say(format!("{}: {}", absent.engine, absent.reason));
    }
    arguments.format.print(&report)
}
