//! The weights of any file: this project's own, or foreign ones.

use std::collections::BTreeMap;
use std::path::Path;

use sr2_formats::csr_file::{self, CsrFile, CsrParameter, FORMAT_KEY, GRAPH_KEY};
use sr2_formats::dense::{self, DenseFile};
use sr2_formats::{Error, TensorMap, srz};
use sr2_models::checkpoint::STATE_PREFIX;
use sr2_models::{Graph, Model, onnx};

use crate::csr_writer::compress;

/// Reads a `.srz`, `.onnx`, CSR or dense `.safetensors` file. Weights (with a graph its Conv and Gemm weights, without one
/// all tensors of two dimensions and more) come sparse, all else dense; an optimizer's tensors are left out.
pub(crate) fn read(path: &Path) -> Result<CsrFile, Error> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("srz") => srz::read(path),
        Some("onnx") => of_model(&onnx::import(path)?, BTreeMap::new(), path),
        Some("safetensors") if csr_file::is_csr(path)? => {
            let mut file = csr_file::read(path)?;
            // It speaks of the layout, not of the network.
            file.metadata.remove(FORMAT_KEY);
            Ok(file)
        }
        Some("safetensors") => of_dense(dense::read(path)?, path),
        _ => Err(Error::unsupported(path, "expected a file .safetensors, .csr.safetensors, .srz or .onnx")),
    }
}

/// The weights of a network as CSR matrices, its other parameters and the graph as a file holds them.
pub(crate) fn of_model(model: &Model, mut metadata: BTreeMap<String, String>, path: &Path) -> Result<CsrFile, Error> {
    let mut file = CsrFile::default();
    for spec in model.graph().parameters() {
        let (name, tensor) = (spec.name.clone(), model.parameter(&spec.name));
        if spec.role.is_prunable() {
            file.sparse.insert(name.clone(), sparse(path, &name, tensor)?);
        } else {
            file.dense.insert(name, tensor.clone());
        }
    }
    metadata.insert(GRAPH_KEY.into(), serde_json::to_string(model.graph()).expect("a graph is plain data"));
    file.metadata = metadata;
    Ok(file)
}

/// Whether every value is finite, as those of the compressed formats must be.
pub(crate) fn check_finite(tensors: &TensorMap, path: &Path) -> Result<(), Error> {
    for (name, tensor) in tensors {
        if let Some((index, value)) = tensor.data().iter().enumerate().find(|(_, v)| !v.is_finite()) {
            return Err(Error::malformed(path, format!("tensor {name:?} [{index}] is {value:?}, expected finite")));
        }
    }
    Ok(())
}

fn of_dense(file: DenseFile, path: &Path) -> Result<CsrFile, Error> {
    let DenseFile { tensors, metadata } = file;
    let tensors = tensors.into_iter().filter(|(name, _)| !name.starts_with(STATE_PREFIX)).collect();
    if let Some(graph) = metadata.get(GRAPH_KEY) {
        let graph = serde_json::from_str::<Graph>(graph)
            .map_err(|e| Error::malformed(path, format!("metadata {GRAPH_KEY:?} is no graph: {e}")))?;
        let model = Model::try_read(graph, tensors).map_err(|e| Error::malformed(path, e.to_string()))?;
        return of_model(&model, metadata, path);
    }
    let mut found = CsrFile { metadata, ..Default::default() };
    for (name, tensor) in tensors {
        if tensor.shape().len() > 1 && !tensor.is_empty() {
            found.sparse.insert(name.clone(), sparse(path, &name, &tensor)?);
        } else {
            found.dense.insert(name, tensor);
        }
    }
    Ok(found)
}

fn sparse(path: &Path, name: &str, tensor: &sr2_formats::Tensor) -> Result<CsrParameter, Error> {
    let matrix = compress(tensor).map_err(|problem| Error::malformed(path, format!("tensor {name:?}: {problem}")))?;
    Ok(CsrParameter::new(matrix, tensor.shape()))
}
