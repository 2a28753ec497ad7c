//! Results on stdout, progress and warnings on stderr, whether somebody reads there or not.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Stdout takes no more: a full disk, say.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to stdout: {0}")]
pub struct StdoutError(io::Error);

/// Writes to stdout. A reader that has seen enough (`| head`) is no failure.
pub fn print(text: impl AsRef<[u8]>) -> Result<(), StdoutError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(StdoutError),
    }
}

/// Writes a line to stderr. Where it cannot be written, the command goes on all the same.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
