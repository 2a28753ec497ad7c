//! `sr2-prune inspect`.

use std::path::PathBuf;

use clap::Args;

use crate::Format;

/// Show each weight of a file: its zeros, and its size as it is, as CSR, bitmask, gaps and .srz, and by zstd -19
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sr2-prune inspect model.onnx
  sr2-prune inspect pytorch_model.safetensors --format json")]
pub struct Arguments {
    /// A .safetensors (dense or CSR), .onnx or .srz file of any origin
    file: PathBuf,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    arguments.format.print(&sr2_export::inspect(&arguments.file)?)
}
