//! What an export made: files, sizes, zeros, and how far each file read back is from the checkpoint.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::config::Sparsity;
use crate::passes::PassReport;

/// The outcome of an export.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExportReport {
    /// The checkpoint that was read.
    pub checkpoint: PathBuf,
    /// The folder that was written.
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
    /// Bytes of `model.safetensors` by `gzip -9` and `zstd -19`, to compare with.
    pub compressed: BTreeMap<&'static str, u64>,
    /// The files with weights.
    pub files: Vec<FileReport>,
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
        table.load_style(ASCII_MARKDOWN).set_header(["file", "bytes", "smaller than dense", "logits differ by"]);
        for file in &self.files {
            table.add_row([
                file.name.clone(),
                file.bytes.to_string(),
                format!("{:.1}x", file.ratio),
                if file.max_difference == 0.0 { "0".into() } else { format!("{:.1e}", file.max_difference) },
            ]);
        }
        for (compressor, bytes) in &self.compressed {
            let ratio = self.dense_bytes as f64 / *bytes as f64;
            table.add_row([
                format!("(dense by {compressor})"),
                bytes.to_string(),
                format!("{ratio:.1}x"),
                String::new(),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "{table}")?;
        write!(f, "written to {}", self.folder.display())
    }
}
