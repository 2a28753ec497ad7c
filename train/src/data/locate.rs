//! Where the data lies when the user does not say.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use sr2_formats::{Error, Result};

use super::DatasetKind;
use super::cifar::missing;

/// The folder to read a dataset from: `flag` if given, else the variable `SR2_DATA` if set and not empty, else the
/// cache folder if it exists. Relative folders are relative to the working directory.
///
/// # Errors
/// If none is given and the cache holds nothing: the error says what to do.
pub fn locate(kind: DatasetKind, flag: Option<&Path>) -> Result<PathBuf> {
    choose(kind, flag, env::var_os("SR2_DATA").map(PathBuf::from), &cache_folder(kind)?)
}

/// Where `sr2-prune data fetch` puts a dataset: `sr2-prune/data/NAME` in the user's cache folder (`$XDG_CACHE_HOME`,
/// by default `~/.cache`, on Linux and macOS).
///
/// # Errors
/// If the user's home folder is not known.
pub fn cache_folder(kind: DatasetKind) -> Result<PathBuf> {
    let base = etcetera::choose_base_strategy().map_err(|error| {
        let source = io::Error::new(io::ErrorKind::NotFound, format!("{error}; name a folder with --data DIR"));
        Error::io("cache folder", "find the home folder", source)
    })?;
    Ok(base.cache_dir().join("sr2-prune").join("data").join(kind.name()))
}

pub(super) fn choose(
    kind: DatasetKind,
    flag: Option<&Path>,
    variable: Option<PathBuf>,
    cache: &Path,
) -> Result<PathBuf> {
    if let Some(folder) = flag {
        return Ok(folder.to_path_buf());
    }
    if let Some(folder) = variable.filter(|folder| !folder.as_os_str().is_empty()) {
        return Ok(folder);
    }
    if cache.is_dir() {
        return Ok(cache.to_path_buf());
    }
    Err(missing(cache, kind, "no --data DIR, no $SR2_DATA, and nothing here"))
}
