//! Models from files.

use std::path::Path;

use sr2_formats::{Error, Result};
use sr2_models::{CompressedModel, checkpoint, onnx};

/// The files of an export folder that hold a whole network, best first.
const EXPORTED: [&str; 3] = ["model.csr.safetensors", "model.srz", "model.onnx"];

/// Loads a CSR safetensors, `.srz` or ONNX file, a checkpoint, or the first such file of an export folder.
pub(crate) fn load(path: &Path) -> Result<CompressedModel> {
    let found = std::fs::metadata(path).map_err(|e| Error::io(path, "open", e))?;
    if found.is_dir() {
        let Some(file) = EXPORTED.iter().map(|name| path.join(name)).find(|file| file.exists()) else {
            return Err(Error::unsupported(path, format!("holds none of {}", EXPORTED.join(", "))));
        };
        return load(&file);
    }
    let is_csr = path.to_str().is_some_and(|path| path.ends_with(".csr.safetensors"));
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") if !is_csr => Ok(checkpoint::read(path)?.model.into()),
        Some("safetensors" | "srz") => CompressedModel::read(path),
        Some("onnx") => Ok(onnx::import(path)?.into()),
        _ => {
            let expected = "expected a file .onnx, .srz or .csr.safetensors, a checkpoint, or an export folder";
            Err(Error::unsupported(path, expected))
        }
    }
}
