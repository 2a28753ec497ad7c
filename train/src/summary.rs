//! The result of a finished run.

use std::fmt;
use std::path::{Path, PathBuf};

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use serde::{Deserialize, Serialize};
use sr2_formats::Error;

use crate::metrics::{LayerSparsity, Passes, nan_if_null};

/// A finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The run folder.
    pub folder: PathBuf,
    /// The checkpoint to export.
    pub checkpoint: PathBuf,
    /// Steps taken.
    pub steps: u64,
    /// What they computed.
    pub passes: Passes,
    /// Accuracy on the held-out images.
    pub validation_accuracy: f64,
    /// Accuracy on the test images.
    pub test_accuracy: f64,
    /// Loss on the test images; null where it is not finite.
    #[serde(deserialize_with = "nan_if_null")]
    pub test_loss: f64,
    /// Fraction of zeros among the prunable weights.
    pub sparsity: f64,
    /// Sparsity by layer.
    pub layers: Vec<LayerSparsity>,
    /// Seconds of training, in all processes that the run went on in.
    pub seconds: f64,
}

impl Summary {
    /// Reads `summary.json` of the finished run in `folder`.
    ///
    /// # Errors
    /// If it cannot be read, or is no summary.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("summary.json");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "read", e))?;
        serde_json::from_str(&text).map_err(|e| Error::malformed(&path, format!("no summary of a run: {e}")))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |fraction: f64| format!("{:.2} %", 100.0 * fraction);
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN).set_header(["layer", "weights", "left", "sparsity"]);
        for LayerSparsity { name, weights, nonzero } in &self.layers {
            let sparsity = percent(1.0 - *nonzero as f64 / *weights as f64);
            table.add_row([name.clone(), weights.to_string(), nonzero.to_string(), sparsity]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "{table}")?;
        writeln!(f, "sparsity             {}", percent(self.sparsity))?;
        writeln!(f, "validation accuracy  {}", percent(self.validation_accuracy))?;
        writeln!(f, "test accuracy        {}", percent(self.test_accuracy))?;
        writeln!(f, "steps                {} in {:.0} s", self.steps, self.seconds)?;
        writeln!(f, "passes               {} forward, {} backward", self.passes.forward, self.passes.backward)?;
        write!(f, "checkpoint           {}", self.checkpoint.display())
    }
}
