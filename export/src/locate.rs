//! Which checkpoint to export.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sr2_formats::Error;

use crate::ExportError;

/// The checkpoint that `source` means: itself, or the last one of a run folder.
pub fn checkpoint(source: &Path) -> Result<PathBuf, ExportError> {
    let found = fs::metadata(source).map_err(|e| Error::io(source, "open", e))?;
    if found.is_file() {
        return Ok(source.to_path_buf());
    }
    let last = checkpoints(source)?.into_iter().max_by_key(|c| c.step);
    last.map(|c| c.path).ok_or_else(|| ExportError::NoCheckpoint {
        folder: source.to_path_buf(),
        problem: "holds no checkpoint-STEP.safetensors; give a checkpoint or the folder of a run".into(),
    })
}

/// The run folder in `runs` whose checkpoints are the newest.
pub fn newest_run(runs: &Path) -> Result<PathBuf, ExportError> {
    let nothing = || ExportError::NoCheckpoint {
        folder: runs.to_path_buf(),
        problem: "holds no run with a checkpoint; train one, or give a checkpoint".into(),
    };
    if !runs.is_dir() {
        return Err(nothing());
    }
    let mut newest: Option<(SystemTime, PathBuf)> = None;
    for folder in entries(runs)?.into_iter().filter(|path| path.is_dir()) {
        for Checkpoint { path, .. } in checkpoints(&folder)? {
            let modified = fs::metadata(&path).and_then(|m| m.modified()).map_err(|e| Error::io(&path, "read", e))?;
            if newest.as_ref().is_none_or(|(time, _)| modified > *time) {
                newest = Some((modified, folder.clone()));
            }
        }
    }
    newest.map(|(_, folder)| folder).ok_or_else(nothing)
}

struct Checkpoint {
    step: u64,
    path: PathBuf,
}

fn checkpoints(folder: &Path) -> Result<Vec<Checkpoint>, ExportError> {
    let checkpoint = |path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        let step = name.strip_prefix("checkpoint-")?.strip_suffix(".safetensors")?.parse().ok()?;
        Some(Checkpoint { step, path })
    };
    Ok(entries(folder)?.into_iter().filter_map(checkpoint).collect())
}

/// Paths in a folder, by name.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>, ExportError> {
    let list = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = list().map_err(|e| Error::io(folder, "list", e))?;
    paths.sort();
    Ok(paths)
}
