//! The one error of reading and writing files.

use std::fmt;
use std::path::{Path, PathBuf};

/// A file that could not be read or written: which file, where in it, what was found and what was expected.
#[derive(Debug)]
pub struct Error {
    path: PathBuf,
    kind: ErrorKind,
    message: String,
}

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused: missing file, permission, full disk.
    Io,
    /// The content breaks the format's rules.
    Malformed,
    /// The content is valid but asks for something this program does not do.
    Unsupported,
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The operating system refused `action` ("read", "create", ...) on `path`.
    pub fn io(path: impl AsRef<Path>, action: &str, source: std::io::Error) -> Self {
        Self::new(path, ErrorKind::Io, format!("cannot {action}: {source}"))
    }

    /// `path` breaks its format; `message` names the tensor or byte, what was found and what was expected.
    pub fn malformed(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::new(path, ErrorKind::Malformed, message)
    }

    /// `path` is valid, but `message` says what in it is not supported, and the next step.
    pub fn unsupported(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::new(path, ErrorKind::Unsupported, message)
    }

    fn new(path: impl AsRef<Path>, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { path: path.as_ref().to_path_buf(), kind, message: message.into() }
    }

    /// The class of the failure, for exit codes.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The file it is about.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}

/// Its message holds the operating system's, so there is no `source` to print after it.
impl std::error::Error for Error {}
