//! Why a training run ended early.

use std::path::PathBuf;

use sr2_formats::{Error, ErrorKind};

use crate::config::ConfigError;
use crate::data::LoaderError;
use crate::executor::ExecutorError;

/// A training run that could not start or go on. What was saved before stays whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] Error),
    /// No batches can be made.
    #[error(transparent)]
    Loader(#[from] LoaderError),
    /// The network cannot be computed.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// What computes the network has failed in the middle of a run: a device is out of memory, or lost.
    #[error("{problem}; {}", resume_point(last_checkpoint))]
    Failed {
        /// What it says.
        problem: ExecutorError,
        /// The last checkpoint, if there is one.
        last_checkpoint: Option<PathBuf>,
    },
    /// The loss left the finite numbers, or no step is accepted any more.
    #[error("training diverged: {problem}; {}", resume_point(last_checkpoint))]
    Diverged {
        /// What happened, and at which step.
        problem: String,
        /// The last checkpoint, if there is one.
        last_checkpoint: Option<PathBuf>,
    },
    /// Another process holds the run folder.
    #[error("{}: another process is training in this run folder; wait for it, or choose another --name", folder.display())]
    RunInUse {
        /// The folder.
        folder: PathBuf,
    },
    /// A new run under the name of an old one.
    #[error("{}: this run exists; go on with --resume, or choose another --name", folder.display())]
    RunExists {
        /// The folder.
        folder: PathBuf,
    },
    /// Another process of those that train together failed, and says why.
    #[error("process {process} failed")]
    Elsewhere {
        /// Its number.
        process: usize,
        /// Its exit code.
        code: u8,
    },
    /// Processes that train together do not hold the same.
    #[error(
        "{what} not the same in process {process} as in process 0; give all of them the same program, files and kind of processor"
    )]
    OutOfStep {
        /// What differs.
        what: &'static str,
        /// The first process that differs.
        process: usize,
    },
    /// A run to resume that has nothing left to do.
    #[error("{}: this run is finished; nothing to resume", folder.display())]
    RunFinished {
        /// The folder.
        folder: PathBuf,
    },
}

impl TrainError {
    /// The exit code of the command line: 1 failure, 2 configuration, 3 bad input file, 4 I/O, 5 diverged, 6 run in use.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::File(e) | Self::Config(ConfigError::Read(e)) if e.kind() == ErrorKind::Io => 4,
            Self::File(_) => 3,
            Self::Config(_) | Self::Loader(LoaderError::BatchSize { .. } | LoaderError::NoWorkers) => 2,
            Self::RunExists { .. } | Self::RunFinished { .. } => 2,
            Self::Elsewhere { code, .. } => *code,
            Self::Loader(_) | Self::Executor(_) | Self::Failed { .. } | Self::OutOfStep { .. } => 1,
            Self::Diverged { .. } => 5,
            Self::RunInUse { .. } => 6,
        }
    }
}

fn resume_point(last: &Option<PathBuf>) -> String {
    match last {
        Some(path) => format!("the last checkpoint is {}", path.display()),
        None => "no checkpoint was written".into(),
    }
}
