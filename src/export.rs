//! `sr2-prune export`.

use std::path::PathBuf;

use clap::Args;
use sr2_export::ExportOptions;

use crate::Format;

/// Write a trained network as dense and CSR safetensors and as ONNX, and check each file
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sr2-prune export                                  the newest run in runs/
  sr2-prune export runs/resnet20-1 --out shipped
  sr2-prune export runs/resnet20-1/best.safetensors")]
pub struct Arguments {
    /// A checkpoint or a run folder [default: the newest run]
    source: Option<PathBuf>,
    /// The folder of runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// The folder to write; an older export there is replaced [default: `export` beside the checkpoint]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How to print the report
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { source, runs, out, format } = arguments;
    let options = ExportOptions { source: source.clone(), runs: runs.clone(), out: out.clone() };
    let report = sr2_export::export(&options)?;
    format.print(&report)
}
