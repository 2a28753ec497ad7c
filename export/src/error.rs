//! Why an export failed.

use std::path::PathBuf;

/// An export that was not made, or whose files do not say what the checkpoint says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] sr2_formats::Error),
    /// There is nothing to export.
    #[error("{}: {problem}", folder.display())]
    NoCheckpoint {
        /// Where a run or a checkpoint was looked for.
        folder: PathBuf,
        /// What is missing, and the next step.
        problem: String,
    },
    /// A file cannot be converted to what was asked for.
    #[error("{}: {problem}", path.display())]
    Target {
        /// The file or folder to write.
        path: PathBuf,
        /// What it cannot be, and what it can.
        problem: String,
    },
    /// The folder to write holds something else than an export.
    #[error("{}: holds {found:?}, which no export writes; choose another folder", folder.display())]
    ForeignFolder {
        /// The folder.
        folder: PathBuf,
        /// A name in it.
        found: String,
    },
    /// A written file, read back, is not the checkpoint's network. Nothing is left of the export.
    #[error("{file} read back differs from the checkpoint: {problem}; this is a bug, nothing was exported")]
    Differs {
        /// Name of the file.
        file: String,
        /// What differs.
        problem: String,
    },
}
