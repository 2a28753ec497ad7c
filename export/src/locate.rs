//! Which checkpoint to export.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sr2_formats::Error;
use sr2_models::checkpoint::{self, Checkpoint};

use crate::ExportError;

/// The checkpoint that `source` means: itself, or the last one of a run folder.
pub fn last_checkpoint(source: &Path) -> Result<PathBuf, ExportError> {
    let found = fs::metadata(source).map_err(|e| Error::io(source, "open", e))?;
    if found.is_file() {
        return Ok(source.to_path_buf());
    }
    let last = checkpoint::list(source)?.pop();
    last.map(|(_, path)| path).ok_or_else(|| ExportError::NoCheckpoint {
        folder: source.to_path_buf(),
        problem: "holds no checkpoint-STEP.safetensors; give a checkpoint or the folder of a run".into(),
    })
}

/// Whether this is a checkpoint of a training that had not finished: it tells of its steps, but not of the accuracies at
/// their end. The best network of a run, in a file of another name, is no such checkpoint.
pub fn is_unfinished(path: &Path, checkpoint: &Checkpoint) -> bool {
    let training = &checkpoint.provenance.training;
    let of_a_run = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"checkpoint-"));
    of_a_run && training.contains_key("steps") && !training.contains_key("validation_accuracy")
}

/// The run folder in `runs` whose checkpoints are the newest: if runs have finished, of those (they hold `summary.json`).
pub fn newest_run(runs: &Path) -> Result<PathBuf, ExportError> {
    let nothing = || ExportError::NoCheckpoint {
        folder: runs.to_path_buf(),
        problem: "holds no run with a checkpoint; train one with `sr2-prune train`, or name what you mean".into(),
    };
    if !runs.is_dir() {
        return Err(nothing());
    }
    let mut newest: Option<((bool, SystemTime), PathBuf)> = None;
    for folder in entries(runs)?.into_iter().filter(|path| path.is_dir()) {
        let finished = folder.join("summary.json").exists();
        for (_, path) in checkpoint::list(&folder)? {
            let modified = fs::metadata(&path).and_then(|m| m.modified()).map_err(|e| Error::io(&path, "read", e))?;
            if newest.as_ref().is_none_or(|(rank, _)| (finished, modified) > *rank) {
                newest = Some(((finished, modified), folder.clone()));
            }
        }
    }
    newest.map(|(_, folder)| folder).ok_or_else(nothing)
}

/// Paths in a folder, by name.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>, ExportError> {
    let list = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = list().map_err(|e| Error::io(folder, "list", e))?;
    paths.sort();
    Ok(paths)
}
