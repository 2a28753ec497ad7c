//! Exit codes: one for each thing a script may want to tell apart.

use std::process::ExitCode;

use sr2_bench::{BenchError, OnnxRuntimeError};
use sr2_export::ExportError;
use sr2_formats::ErrorKind;
use sr2_train::TrainError;
use sr2_train::collective::CollectiveError;
use sr2_train::sweep::SweepError;

use crate::output::StdoutError;

/// The table for `--help`.
pub const CODES: &str = "Exit codes:
  0    ok
  1    failure; of verify: the files differ
  2    usage or configuration
  3    bad input file
  4    I/O: a file is missing, a disk is full, the network is down
  5    training diverged
  6    run folder in use
  130  stopped by Ctrl-C (143 by SIGTERM); training has saved a checkpoint";

/// Training was stopped by a signal, after it has saved a checkpoint.
#[derive(Debug, thiserror::Error)]
#[error("stopped by {name}; go on with: {resume}")]
pub struct Stopped {
    /// The signal's number.
    pub signal: u8,
    /// Its name.
    pub name: &'static str,
    /// The command that goes on.
    pub resume: String,
}

/// A command that cannot be meant, and what to do instead.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// A failure that another process of an MPI job says.
#[derive(Debug, thiserror::Error)]
#[error("another process failed")]
pub struct SaidElsewhere {
    /// The exit code.
    pub code: u8,
}

/// The exit code of a failure.
pub fn code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(number(error))
}

/// The exit code of a failure as a number.
pub fn number(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of).unwrap_or(1)
}

fn code_of(error: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(error) = error.downcast_ref::<Stopped>() {
        return Some(128 + error.signal);
    }
    if let Some(error) = error.downcast_ref::<SaidElsewhere>() {
        return Some(error.code);
    }
    if error.is::<Usage>() || error.is::<CollectiveError>() {
        return Some(2);
    }
    if error.is::<StdoutError>() {
        return Some(4);
    }
    if let Some(error) = error.downcast_ref::<TrainError>() {
        return Some(error.exit_code());
    }
    if let Some(error) = error.downcast_ref::<SweepError>() {
        return Some(error.exit_code());
    }
    if let Some(error) = error.downcast_ref::<sr2_formats::Error>() {
        return Some(of_file(error));
    }
    if let Some(error) = error.downcast_ref::<ExportError>() {
        return match error {
            ExportError::File(error) => Some(of_file(error)),
            ExportError::NoCheckpoint { .. } | ExportError::ForeignFolder { .. } | ExportError::Target { .. } => {
                Some(2)
            }
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<BenchError>() {
        return match error {
            BenchError::Usage(_) => Some(2),
            BenchError::Model(error) => Some(of_file(error)),
            BenchError::Native(error) => of_engine(error),
            BenchError::OnnxRuntime(error) => of_onnx_runtime(error),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<OnnxRuntimeError>() {
        return of_onnx_runtime(error);
    }
    error.downcast_ref::<sr2_infer::Error>().and_then(of_engine)
}

fn of_engine(error: &sr2_infer::Error) -> Option<u8> {
    use sr2_infer::Error;
    match error {
        Error::File(error) => Some(of_file(error)),
        Error::Isa(_) | Error::Option { .. } | Error::TuningMismatch { .. } => Some(2),
        Error::Operator { .. }
        | Error::Weight { .. }
        | Error::Size { .. }
        | Error::Memory { .. }
        | Error::TuningFile { .. } => Some(3),
        _ => None,
    }
}

fn of_onnx_runtime(error: &OnnxRuntimeError) -> Option<u8> {
    match error {
        OnnxRuntimeError::NotHere { .. } => Some(2),
        OnnxRuntimeError::Broken { .. } => Some(3),
        OnnxRuntimeError::Fetch { .. } => Some(4),
        _ => None,
    }
}

fn of_file(error: &sr2_formats::Error) -> u8 {
    match error.kind() {
        ErrorKind::Io => 4,
        _ => 3,
    }
}
