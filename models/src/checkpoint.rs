//! A network in training on disk: dense safetensors with the graph beside the weights.
//!
//! The parameters stand under their own (PyTorch) names, the optimizer's tensors under [`STATE_PREFIX`]; the metadata
//! holds the graph, the [`Provenance`] and whatever else a training run keeps as text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sr2_formats::csr_file::GRAPH_KEY;
use sr2_formats::dense::{self, DenseFile};
use sr2_formats::{Error, Result, TensorMap};

use crate::{Graph, Model};

/// Tensors whose names begin so are the optimizer's, not the network's.
pub const STATE_PREFIX: &str = "optimizer.";
/// Metadata key of the [`Provenance`], as JSON.
pub const PROVENANCE_KEY: &str = "sr2.provenance";

/// A network, what it was trained on, and the state of its training.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The network.
    pub model: Model,
    /// Where it comes from.
    pub provenance: Provenance,
    /// The optimizer's tensors, their names beginning with [`STATE_PREFIX`].
    pub state: TensorMap,
    /// Further metadata.
    pub metadata: BTreeMap<String, String>,
}

/// What a user of the network must know of its training; everything may be unknown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// Name of the dataset, with its variant where there is one.
    pub dataset: Option<String>,
    /// Name of each class, in the order of the outputs.
    pub class_names: Vec<String>,
    /// Mean of each channel that was taken from the pixels, which lie in 0..1.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel that the centred pixels were divided by.
    pub std: Vec<f32>,
    /// Method, seed, epochs, accuracies and the like, by name.
    pub training: BTreeMap<String, serde_json::Value>,
}

/// Reads and checks a checkpoint.
///
/// # Errors
/// A file that is no safetensors file or has no graph, a graph that does not hold together, and tensors that do not
/// fit it.
pub fn read(path: impl AsRef<Path>) -> Result<Checkpoint> {
    let path = path.as_ref();
    let DenseFile { mut tensors, mut metadata } = dense::read(path)?;
    let Some(graph) = metadata.remove(GRAPH_KEY) else {
        let problem = format!("has no metadata {GRAPH_KEY:?}, so it is not a checkpoint of sr2-prune");
        return Err(Error::malformed(path, problem));
    };
    let graph: Graph = json(path, GRAPH_KEY, &graph)?;
    let provenance = match metadata.remove(PROVENANCE_KEY) {
        Some(text) => json(path, PROVENANCE_KEY, &text)?,
        None => Provenance::default(),
    };
    let state = tensors.extract_if(.., |name, _| name.starts_with(STATE_PREFIX)).collect();
    let model = Model::try_read(graph, tensors).map_err(|e| Error::malformed(path, e.to_string()))?;
    Ok(Checkpoint { model, provenance, state, metadata })
}

/// Name of the checkpoint of a step in a run folder.
pub fn file_name(step: u64) -> String {
    format!("checkpoint-{step}.safetensors")
}

/// The checkpoints in a run folder, each with its step, oldest first.
pub fn list(folder: impl AsRef<Path>) -> Result<Vec<(u64, PathBuf)>> {
    let folder = folder.as_ref();
    let paths = || std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let paths = paths().map_err(|e| Error::io(folder, "list", e))?;
    let step = |path: &Path| -> Option<u64> {
        path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.strip_suffix(".safetensors")?.parse().ok()
    };
    let mut checkpoints: Vec<_> = paths.into_iter().filter_map(|path| Some((step(&path)?, path))).collect();
    checkpoints.sort();
    Ok(checkpoints)
}

fn json<T: serde::de::DeserializeOwned>(path: &Path, key: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::malformed(path, format!("metadata {key:?}: {e}")))
}

/// Writes a checkpoint, atomically.
///
/// # Panics
/// If a tensor of the state has a name that does not begin with [`STATE_PREFIX`].
pub fn write(path: impl AsRef<Path>, checkpoint: &Checkpoint) -> Result<()> {
    let stray = checkpoint.state.keys().find(|name| !name.starts_with(STATE_PREFIX));
    assert_eq!(stray, None, "state tensors begin with {STATE_PREFIX:?}");
    let mut tensors = checkpoint.model.parameters().clone();
    tensors.extend(checkpoint.state.clone());
    let mut metadata = checkpoint.metadata.clone();
    let graph = serde_json::to_string(checkpoint.model.graph()).expect("a graph is plain data");
    let provenance = serde_json::to_string(&checkpoint.provenance).expect("provenance is plain data");
    metadata.extend([(GRAPH_KEY.into(), graph), (PROVENANCE_KEY.into(), provenance)]);
    dense::write(path, &tensors, &metadata)
}

#[cfg(test)]
mod tests;
