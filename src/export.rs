//! `sr2-prune export`.

use std::path::PathBuf;

use clap::Args;
use sr2_export::{ExportOptions, OnnxForm, OnnxReader, Passes};

use crate::Format;
use crate::exit::Usage;

/// Write a trained network as dense and CSR safetensors and as ONNX, and check each file
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sr2-prune export                                  the newest run in runs/
  sr2-prune export runs/resnet20-1 --out shipped
  sr2-prune export runs/resnet20-1/best.safetensors
  sr2-prune export --target openvino                the smallest ONNX file that OpenVINO loads without loss of speed
  sr2-prune export --onnx dense,scatter,gap         three ONNX files, to compare
  sr2-prune export --remove-dead-channels           smaller dense, too, where whole filters are zero")]
pub struct Arguments {
    /// A checkpoint or a run folder [default: the newest run]
    source: Option<PathBuf>,
    /// The folder of runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// The folder to write; an older export there is replaced [default: `export` beside the checkpoint]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How the ONNX file stores weights; further forms are further files [default: dense, or what --target needs]
    ///
    /// dense: 4 bytes a weight. scatter: 5 to 8 bytes a non-zero, put in place by ConstantOfShape and ScatterElements.
    /// gap: 5 bytes a non-zero, by CumSum too. sparse-init and sparse-const: ONNX's own sparse tensors, 5 to 8 bytes a
    /// non-zero, which few tools load.
    #[arg(long, value_name = "FORM", value_delimiter = ',')]
    onnx: Vec<OnnxForm>,
    /// The tool that is to load the ONNX file: ort, openvino, tract, rten, opencv, onnx (the reference) or any of them;
    /// picks the smallest form, or checks the one named
    #[arg(long, value_name = "TOOL")]
    target: Option<OnnxReader>,
    /// Leave batch norms as trained in the CSR and ONNX files, e.g. to train on
    #[arg(long)]
    no_fold: bool,
    /// Leave out of the CSR and ONNX files what structured zeros make superfluous, so that they are smaller and faster
    /// dense too: filters without non-zeros, filters that nothing reads, residual branches that add a constant
    #[arg(long)]
    remove_dead_channels: bool,
    /// How to print the report
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { source, runs, out, onnx, target, no_fold, remove_dead_channels, format } = arguments;
    let onnx = OnnxForm::choose(onnx, *target).map_err(|e| Usage(e.to_string()))?;
    let passes = Passes { fold_batch_norm: !no_fold, remove_dead_channels: *remove_dead_channels };
    let options = ExportOptions { source: source.clone(), runs: runs.clone(), out: out.clone(), onnx, passes };
    let report = sr2_export::export(&options)?;
    format.print(&report)
}
