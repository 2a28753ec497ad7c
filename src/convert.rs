//! `sr2-prune convert`.

use std::path::PathBuf;

use clap::Args;
use sr2_export::{ConvertOptions, OnnxForm};

use crate::Format;

/// Write the weights of any file, and its network if it holds one, in another format; no training needed
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sr2-prune convert model.onnx model.srz                      a foreign network with zeros, small
  sr2-prune convert model.onnx small.onnx --onnx scatter      the same for tools that read ONNX
  sr2-prune convert weights.safetensors weights.csr.safetensors --values bf16
  sr2-prune convert model.srz matrices                        a folder of .npz files for scipy.sparse.load_npz

The endings say the formats: .safetensors (dense), .csr.safetensors, .srz and .onnx are read and written;
.bitmask.safetensors (compressed-tensors, legacy) and a folder of .npz files are written.")]
pub struct Arguments {
    /// The file to read
    from: PathBuf,
    /// The file or folder to write
    to: PathBuf,
    /// Values of a .srz (f32, f16, int8 to int2, palette) or .csr.safetensors file (f32, f16, bf16, int8) [default: f32]
    #[arg(long)]
    values: Option<String>,
    /// How an ONNX file stores weights [default: dense]
    #[arg(long, value_name = "FORM")]
    onnx: Option<OnnxForm>,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { from, to, values, onnx, format } = arguments;
    let options = ConvertOptions { from: from.clone(), to: to.clone(), values: values.clone(), onnx: *onnx };
    format.print(&sr2_export::convert(&options)?)
}
