//! Fixtures of the tests of this module.

mod fetching;
mod loading;
mod reading;
mod real;

use std::path::{Path, PathBuf};

use super::pixels::{IMAGE_BYTES, SIDE};
use super::{Dataset, DatasetKind};

/// The sample that comes with the repository.
fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data")
}

/// A folder of full-size data beside the repository, or `None` with a word on stderr.
fn shared(name: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let folder = std::env::var_os("SR2_SHARED").map_or_else(beside, PathBuf::from).join("data").join(name);
    if !folder.is_dir() {
        eprintln!("SKIP: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

/// `images` images whose bytes and classes follow from the index; rows, columns and channels all differ.
fn synthetic(kind: DatasetKind, images: usize) -> Dataset {
    let pixels = (0..images * IMAGE_BYTES).map(|i| (i * 31 + i / (SIDE * SIDE) * 7) as u8).collect();
    let labels = (0..images).map(|i| (i % kind.classes()) as u8).collect();
    Dataset::new(kind, pixels, labels)
}
