//! What an export made: files, sizes, zeros, and how far each file read back is from the checkpoint.

use std::fmt;
use std::path::PathBuf;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use sr2_formats::lossy_path;

use crate::config::Sparsity;
use crate::passes::PassReport;

/// What is said of a checkpoint of a run that had not finished.
pub const UNFINISHED: &str =
    "the run had not finished, so weights are not averaged nor batch-norm statistics recomputed";

/// The outcome of an export.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExportReport {
    /// The checkpoint that was read.
    #[serde(serialize_with = "lossy_path")]
    pub checkpoint: PathBuf,
    /// Whether the run had not finished: see [`UNFINISHED`].
    pub unfinished: bool,
    /// The folder that was written.
    #[serde(serialize_with = "lossy_path")]
    pub folder: PathBuf,
    /// Name of the network.
    pub network: String,
    /// Zeros of the prunable weights.
    pub sparsity: Sparsity,
    /// Bytes of all parameters of the checkpoint as dense f32.
    pub dense_bytes: u64,
    /// What was done to the network of the CSR and ONNX files.
    pub passes: Vec<PassReport>,
    /// What `model.srz` keeps of the values: f32, f16, int8, ...
    pub values: String,
    /// The dense safetensors file and the dense ONNX file under the compressors that any user has.
    pub compressed: [Compressed; 2],
    /// The files with weights.
    pub files: Vec<FileReport>,
}

/// A dense file, whether it was written or not, under general compressors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Compressed {
    /// Its kind: `safetensors`, or `onnx` with batch norms folded as in the files written.
    pub kind: &'static str,
    /// Bytes by `gzip -9`.
    pub gzip: u64,
    /// Bytes by `zstd -19`.
    pub zstd: u64,
}

/// One written file, read back.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileReport {
    /// Name in the folder.
    pub name: String,
    /// What it holds, for people.
    pub content: String,
    /// Its size.
    pub bytes: u64,
    /// How many times smaller than the dense f32 parameters.
    pub ratio: f64,
    /// Largest difference of a logit from the checkpoint's, relative to the checkpoint's largest logit.
    pub max_difference: f64,
}

impl fmt::Display for ExportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sparsity { overall, nnz, weights, .. } = self.sparsity;
        writeln!(f, "{}: {:.2} % sparse, {nnz} of {weights} weights left", self.network, 100.0 * overall)?;
        for PassReport { pass, before, after } in self.passes.iter().filter(|pass| pass.before != pass.after) {
            write!(f, "{pass}: {} -> {} operators, ", before.nodes, after.nodes)?;
            write!(
                f,
                "{} -> {} parameters ({} -> {} ",
                before.parameters, after.parameters, before.nonzero, after.nonzero
            )?;
            writeln!(f, "not zero), {} -> {} multiply-adds", before.macs, after.macs)?;
        }
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN).set_header([
            "file",
            "bytes",
            "smaller than dense",
            "than gzip -9 of it",
            "than zstd -19 of it",
            "logits differ by",
        ]);
        let ratio = |of: u64, to: u64| format!("{:.2}x", of as f64 / to as f64);
        for FileReport { name, bytes, max_difference, .. } in &self.files {
            let Compressed { gzip, zstd, .. } = self.compressed[usize::from(name.ends_with(".onnx"))];
            let differs = if *max_difference == 0.0 { "0".into() } else { format!("{max_difference:.1e}") };
            let ratios = [self.dense_bytes, gzip, zstd].map(|of| ratio(of, *bytes));
            table.add_row([vec![name.clone(), bytes.to_string()], ratios.to_vec(), vec![differs]].concat());
        }
        for Compressed { kind, gzip, zstd } in self.compressed {
            for (compressor, bytes) in [("gzip -9", gzip), ("zstd -19", zstd)] {
                let smaller = [self.dense_bytes, gzip, zstd].map(|of| ratio(of, bytes));
                let name = format!("(dense .{kind} by {compressor})");
                table.add_row([vec![name, bytes.to_string()], smaller.to_vec(), vec![String::new()]].concat());
            }
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "{table}")?;
        write!(f, "written to {}", self.folder.display())
    }
}
