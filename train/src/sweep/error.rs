//! Why a sweep could not start or go on.

use std::path::PathBuf;

use sr2_formats::Error;

use super::Failed;
use crate::config::ConfigError;
use crate::train_error::TrainError;

/// A sweep that cannot be made of its configuration, or that a run has ended. Finished runs stay whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// The file cannot be read, is not TOML, or has a key that no setting has.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of a run or the results could not be read or written.
    #[error(transparent)]
    File(#[from] Error),
    /// Nothing to vary.
    #[error("{}: no [[grid]] with settings to vary, such as seed = [0, 1, 2]", path.display())]
    NoGrid {
        /// The file.
        path: PathBuf,
    },
    /// A list without a value.
    #[error("{}: {key} in a [[grid]] is an empty list, so there is no run", path.display())]
    NoValues {
        /// The file.
        path: PathBuf,
        /// The setting.
        key: String,
    },
    /// More runs than anyone can mean.
    #[error("{}: the grid has more than {limit} runs", path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
        /// Runs allowed.
        limit: usize,
    },
    /// A setting that the sweep makes itself.
    #[error("{}: {key} cannot be set in a sweep, which gives each run its folder", path.display())]
    Reserved {
        /// The file.
        path: PathBuf,
        /// The setting.
        key: &'static str,
    },
    /// Values that no run can have: an unknown method, a number out of range.
    #[error("{}: run {run}: {problem}", path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// The run's name.
        run: String,
        /// What is wrong.
        problem: String,
    },
    /// Two combinations with one name.
    #[error("{}: two runs would be called {run:?}; each needs values of its own", path.display())]
    SameName {
        /// The file.
        path: PathBuf,
        /// The name.
        run: String,
    },
    /// A folder made with other settings.
    #[error("{}: was made with {key} = {found}, the sweep has {expected}; remove it, or choose another --out", folder.display())]
    OtherSettings {
        /// The run's folder.
        folder: PathBuf,
        /// The first setting that differs.
        key: String,
        /// Its value there.
        found: String,
        /// Its value in the sweep.
        expected: String,
    },
    /// A shard that there is not.
    #[error("shard is {found:?}, expected I/N with I from 1 to N, such as 1/4")]
    Shard {
        /// The text found.
        found: String,
    },
    /// Runs that diverged, after all others have ended.
    #[error("{failed} of {runs} runs without a result; the first is {}: {}", first.run, first.problem)]
    Unfinished {
        /// How many.
        failed: usize,
        /// Runs of the sweep.
        runs: usize,
        /// The first that failed.
        first: Failed,
    },
    /// A run that could not start or go on, for a reason that would end the others too.
    #[error("run {run}")]
    Run {
        /// The run's name.
        run: String,
        /// The reason.
        source: TrainError,
    },
}

impl SweepError {
    /// The exit code of the command line, as [`TrainError::exit_code`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Run { source, .. } => source.exit_code(),
            Self::Unfinished { first, .. } => first.code,
            Self::File(e) | Self::Config(ConfigError::Read(e)) if e.kind() == sr2_formats::ErrorKind::Io => 4,
            Self::File(_) => 3,
            _ => 2,
        }
    }
}
