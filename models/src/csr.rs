//! A network in a CSR safetensors or `.srz` file, every tensor dense again.

use std::path::Path;

use sr2_formats::Result;

use crate::{CompressedModel, Model};

/// Reads a `.srz` or else a CSR safetensors file with its graph; the sparse weights come back dense.
///
/// # Errors
/// As [`CompressedModel::read`].
pub fn read(path: impl AsRef<Path>) -> Result<Model> {
    Ok(CompressedModel::read(path)?.into_model())
}
