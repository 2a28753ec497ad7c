//! Opening a file to read it whole.

use std::fs::{self, File};
use std::path::Path;

use crate::{Error, Result};

/// Opens a regular file and tells its length. Anything else is refused before it is opened, which for a pipe would wait
/// for a writer.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let regular = |found: &fs::Metadata| match found.is_file() {
        true => Ok(found.len()),
        false => Err(Error::malformed(path, "is not a regular file")),
    };
    regular(&fs::metadata(path).map_err(|e| Error::io(path, "open", e))?)?;
    let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let length = regular(&file.metadata().map_err(|e| Error::io(path, "read", e))?)?;
    Ok((file, length))
}
