//! The folder of one run: its configuration, metrics and checkpoints, and a lock while a process trains in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sr2_formats::{Error, remove_unfinished, write_atomic};
use sr2_models::checkpoint::{self, Checkpoint};

use crate::config::{Config, check_path};
use crate::train_error::TrainError;

#[cfg(test)]
mod tests;

/// Checkpoints kept, besides `best.safetensors`.
const KEPT: usize = 2;

/// A run folder that this process holds; the lock goes with the value. Or one that another process holds and this one
/// trains in with it: then nothing is written.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Locked, by the process that writes; closing it unlocks.
    lock: Option<File>,
}

impl RunFolder {
    /// Makes the folder of a new run in `config.runs` and writes `config.toml` there.
    ///
    /// Without a name the run is called after its `network`, dataset and the first free number.
    pub fn create(config: &Config, network: &str) -> Result<Self, TrainError> {
        config.check_paths()?;
        fs::create_dir_all(&config.runs).map_err(|e| Error::io(&config.runs, "create", e))?;
        let path = match &config.name {
            Some(name) => config.runs.join(name),
            None => make_numbered(config, network)?,
        };
        fs::create_dir_all(&path).map_err(|e| Error::io(&path, "create", e))?;
        let folder = Self::lock(path)?;
        if folder.config_path().exists() {
            return Err(TrainError::RunExists { folder: folder.path });
        }
        write_atomic(folder.config_path(), |w| w.write_all(config.to_toml().as_bytes()))?;
        Ok(folder)
    }

    /// Takes an existing run and its configuration.
    pub fn open(path: &Path) -> Result<(Self, Config), TrainError> {
        check_path("resume", path)?;
        let config = Config::read(&path.join("config.toml"))?;
        Ok((Self::lock(path.to_path_buf())?, config))
    }

    /// The run that another process has made or taken, and its configuration.
    pub fn follow(path: &Path) -> Result<(Self, Config), TrainError> {
        let config = Config::read(&path.join("config.toml"))?;
        Ok((Self { path: path.into(), lock: None }, config))
    }

    fn lock(path: PathBuf) -> Result<Self, TrainError> {
        let file = path.join("lock");
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&file);
        let lock = open.map_err(|e| Error::io(&file, "create", e))?;
        match lock.try_lock() {
            Ok(()) => {
                remove_unfinished(&path)?;
                Ok(Self { path, lock: Some(lock) })
            }
            Err(TryLockError::WouldBlock) => Err(TrainError::RunInUse { folder: path }),
            Err(TryLockError::Error(e)) => Err(Error::io(&file, "lock", e).into()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether another process writes.
    fn follows(&self) -> bool {
        self.lock.is_none()
    }

    fn config_path(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    fn metrics_path(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The checkpoints, oldest first.
    pub fn checkpoints(&self) -> Result<Vec<PathBuf>, Error> {
        Ok(checkpoint::list(&self.path)?.into_iter().map(|(_, path)| path).collect())
    }

    /// Writes `checkpoint-STEP.safetensors`, then removes all but the newest two. If the write fails, the earlier
    /// checkpoints are all still there.
    pub fn save(&self, step: u64, checkpoint: &Checkpoint) -> Result<PathBuf, Error> {
        let path = self.path.join(checkpoint::file_name(step));
        if self.follows() {
            return Ok(path);
        }
        checkpoint::write(&path, checkpoint)?;
        let checkpoints = self.checkpoints()?;
        for old in &checkpoints[..checkpoints.len().saturating_sub(KEPT)] {
            fs::remove_file(old).map_err(|e| Error::io(old, "remove", e))?;
        }
        Ok(path)
    }

    /// Writes `best.safetensors`.
    pub fn save_best(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        if self.follows() {
            return Ok(());
        }
        checkpoint::write(self.path.join("best.safetensors"), checkpoint)
    }

    /// Whether `summary.json` is there, the last thing that a run writes.
    pub fn has_summary(&self) -> bool {
        self.path.join("summary.json").exists()
    }

    /// Writes `summary.json`.
    pub fn save_summary(&self, summary: &impl Serialize) -> Result<(), Error> {
        if self.follows() {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(summary).expect("a summary is plain data");
        write_atomic(self.path.join("summary.json"), |w| writeln!(w, "{text}"))
    }

    /// Appends one object to `metrics.jsonl`.
    pub fn log(&self, record: &impl Serialize) -> Result<(), Error> {
        if self.follows() {
            return Ok(());
        }
        let path = self.metrics_path();
        let line = serde_json::to_string(record).expect("a record is plain data") + "\n";
        let append = || OpenOptions::new().create(true).append(true).open(&path)?.write_all(line.as_bytes());
        append().map_err(|e| Error::io(&path, "append to", e))
    }

    /// Cuts from `metrics.jsonl` what was logged after `step`, which a resumed run will log again, and a line that a
    /// crash left unfinished.
    pub fn cut_metrics(&self, step: u64) -> Result<(), Error> {
        if self.follows() {
            return Ok(());
        }
        let path = self.metrics_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io(&path, "read", e)),
        };
        let logged = |line: &&str| {
            let record: serde_json::Value = serde_json::from_str(line).ok()?;
            record.get("step")?.as_u64()
        };
        let kept: String =
            text.split_inclusive('\n').take_while(|line| logged(line).is_some_and(|s| s <= step)).collect();
        write_atomic(&path, |w| w.write_all(kept.as_bytes()))
    }
}

/// Makes `NETWORK-DATASET-N` with the first N that is free; making it is what claims it.
fn make_numbered(config: &Config, network: &str) -> Result<PathBuf, TrainError> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let network: String = network.chars().take(64).map(plain).collect();
    for number in 1u32.. {
        let name = format!("{network}-{}-{number}", config.dataset.name());
        let path = config.runs.join(name);
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io(&path, "create", e).into()),
        }
    }
    unreachable!("fewer than 2^32 folders in one")
}
