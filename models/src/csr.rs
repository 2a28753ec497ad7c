//! A network in a CSR safetensors file, as an export writes it.

use std::path::Path;

use sr2_formats::csr_file::{self, CsrFile, GRAPH_KEY};
use sr2_formats::{Error, Result};

use crate::{Graph, Model};

/// Reads a CSR safetensors file with its graph; the sparse weights come back dense.
///
/// # Errors
/// A file that breaks the layout, has no graph or one that does not hold together, and tensors that do not fit it.
pub fn read(path: impl AsRef<Path>) -> Result<Model> {
    let path = path.as_ref();
    let CsrFile { sparse, dense, metadata } = csr_file::read(path)?;
    let Some(graph) = metadata.get(GRAPH_KEY) else {
        return Err(Error::malformed(path, format!("has no metadata {GRAPH_KEY:?}, expected the network's graph")));
    };
    let graph: Graph = serde_json::from_str(graph)
        .map_err(|e| Error::malformed(path, format!("metadata {GRAPH_KEY:?} is no graph: {e}")))?;
    let mut parameters = dense;
    parameters.extend(sparse.into_iter().map(|(name, parameter)| (name, parameter.to_dense())));
    Model::try_new(graph, parameters).map_err(|e| Error::malformed(path, e.to_string()))
}
