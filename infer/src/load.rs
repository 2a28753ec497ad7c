//! Models from files.

use std::path::Path;

use sr2_formats::{Error, Result};
use sr2_models::{Model, checkpoint, csr, onnx};

/// The files of an export folder that hold a whole network, best first.
const EXPORTED: [&str; 2] = ["model.csr.safetensors", "model.onnx"];

/// Loads a CSR safetensors or ONNX file, a checkpoint, or the first such file of an export folder.
pub(crate) fn load(path: &Path) -> Result<Model> {
    let found = std::fs::metadata(path).map_err(|e| Error::io(path, "open", e))?;
    if found.is_dir() {
        let Some(file) = EXPORTED.iter().map(|name| path.join(name)).find(|file| file.exists()) else {
            return Err(Error::unsupported(path, format!("holds neither {} nor {}", EXPORTED[0], EXPORTED[1])));
        };
        return load(&file);
    }
    let is_csr = path.to_str().is_some_and(|path| path.ends_with(".csr.safetensors"));
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") if is_csr => csr::read(path),
        Some("safetensors") => Ok(checkpoint::read(path)?.model),
        Some("onnx") => onnx::import(path),
        _ => Err(Error::unsupported(
            path,
            "expected a file .onnx or .csr.safetensors, a checkpoint, or an export folder",
        )),
    }
}
