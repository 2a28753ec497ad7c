//! The results of a sweep: one row a finished run.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sr2_formats::{Error, write_atomic};

use super::PlannedRun;
use crate::metrics::{read_records, training_seconds};
use crate::summary::Summary;

/// A finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name, and its folder's.
    pub run: String,
    /// The settings that the sweep's file gave it.
    pub settings: Map<String, Value>,
    /// Accuracy on the held-out images: what selects.
    pub validation_accuracy: f64,
    /// Accuracy on the test images: what is reported, and selects nothing.
    pub test_accuracy: f64,
    /// Fraction of the prunable weights that are exactly zero.
    pub sparsity: f64,
    /// Prunable weights that are not zero.
    pub nonzero: usize,
    /// Prunable weights.
    pub weights: usize,
    /// Steps, rejected ones too.
    pub steps: u64,
    /// Forward passes in them.
    pub forward_passes: u64,
    /// Backward passes in them.
    pub backward_passes: u64,
    /// Seconds that the steps took; validation, checkpoints and the end of the run are not in it.
    pub training_seconds: f64,
}

impl Row {
    /// Gathers the row of a finished run from its folder in `out`.
    pub(super) fn gather(run: &PlannedRun, out: &Path) -> Result<Self, Error> {
        let folder = out.join(&run.name);
        let summary = Summary::read(&folder)?;
        let PlannedRun { name, settings, config } = run;
        Ok(Self {
            run: name.clone(),
            settings: settings.clone(),
            validation_accuracy: summary.validation_accuracy,
            test_accuracy: summary.test_accuracy,
            sparsity: summary.sparsity,
            nonzero: summary.layers.iter().map(|layer| layer.nonzero).sum(),
            weights: summary.layers.iter().map(|layer| layer.weights).sum(),
            steps: summary.steps,
            forward_passes: summary.passes.forward,
            backward_passes: summary.passes.backward,
            training_seconds: training_seconds(&read_records(&folder)?, config.step_images()),
        })
    }

    /// A setting of the sweep's file as text; nothing where it has none.
    pub fn setting(&self, key: &str) -> String {
        match self.settings.get(key) {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        }
    }
}

/// Writes rows as JSON lines, whole or not at all.
pub(super) fn write_results<'a>(path: &Path, rows: impl IntoIterator<Item = &'a Row>) -> Result<(), Error> {
    let line = |row: &Row| serde_json::to_string(row).expect("a row is plain data") + "\n";
    let text: String = rows.into_iter().map(line).collect();
    write_atomic(path, |w| w.write_all(text.as_bytes()))
}

/// Reads the results in a sweep's folder: `results.jsonl`, and those of shards, each run once, by name. Nothing if it
/// has no results.
///
/// # Errors
/// A file that cannot be read, or a line that is no row.
pub fn read_results(folder: &Path) -> Result<Vec<Row>, Error> {
    let mut rows: Vec<Row> = Vec::new();
    for path in results_files(folder)? {
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "read", e))?;
        for (i, line) in text.lines().enumerate() {
            let row: Row = serde_json::from_str(line)
                .map_err(|e| Error::malformed(&path, format!("line {}: no row of a sweep: {e}", i + 1)))?;
            if rows.iter().all(|known| known.run != row.run) {
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

fn results_files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, "read", e))?;
    let is_results = |name: &str| name.starts_with("results") && name.ends_with(".jsonl");
    let mut files: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_results))
        .collect();
    // `results.jsonl` first: it holds what shards have left before.
    files.sort_by_key(|path| (path.file_name().is_some_and(|name| name != "results.jsonl"), path.clone()));
    Ok(files)
}
