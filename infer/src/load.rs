//! Models from files.

use std::path::Path;

use sr2_formats::csr_file::{self, CsrFile, GRAPH_KEY};
use sr2_formats::{Error, Result};
use sr2_models::{Graph, Model, onnx};

/// The files of an export folder that hold a whole network, best first.
const EXPORTED: [&str; 2] = ["model.csr.safetensors", "model.onnx"];

/// Loads a CSR safetensors or ONNX file, or the first such file of an export folder.
pub(crate) fn load(path: &Path) -> Result<Model> {
    if path.is_dir() {
        let Some(file) = EXPORTED.iter().map(|name| path.join(name)).find(|file| file.exists()) else {
            return Err(Error::unsupported(path, format!("holds neither {} nor {}", EXPORTED[0], EXPORTED[1])));
        };
        return load(&file);
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => load_csr(path),
        Some("onnx") => onnx::import(path),
        _ => Err(Error::unsupported(path, "expected a file .onnx or .csr.safetensors, or an export folder")),
    }
}

fn load_csr(path: &Path) -> Result<Model> {
    let CsrFile { sparse, dense, metadata } = csr_file::read(path)?;
    let Some(graph) = metadata.get(GRAPH_KEY) else {
        return Err(Error::malformed(path, format!("metadata has no {GRAPH_KEY:?}, expected the network's graph")));
    };
    let graph: Graph = serde_json::from_str(graph)
        .map_err(|error| Error::malformed(path, format!("metadata {GRAPH_KEY:?} is no graph: {error}")))?;
    let mut parameters = dense;
    parameters.extend(sparse.into_iter().map(|(name, parameter)| (name, parameter.to_dense())));
    Model::try_new(graph, parameters).map_err(|error| Error::malformed(path, error.to_string()))
}
