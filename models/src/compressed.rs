//! A network whose pruned weights are CSR matrices, as CSR safetensors and `.srz` files hold it.

use std::collections::BTreeMap;
use std::path::Path;

use sr2_formats::csr_file::{self, CsrFile, CsrParameter, GRAPH_KEY};
use sr2_formats::{Error, Result, Tensor, TensorMap, srz};

use crate::model::{check_shapes, check_variances};
use crate::{Graph, Model, ModelError};

/// A graph with a tensor of the right shape for each of its parameters; weights may be CSR, all else is dense.
#[derive(Debug, Clone, PartialEq)]
pub struct CompressedModel {
    graph: Graph,
    dense: TensorMap,
    sparse: BTreeMap<String, CsrParameter>,
}

/// A weight in the form it is kept in.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// With its zeros.
    Dense(&'a Tensor),
    /// Without them.
    Sparse(&'a CsrParameter),
}

impl CompressedModel {
    /// Reads a `.srz` or else a CSR safetensors file with its graph; nothing is made dense.
    ///
    /// # Errors
    /// A file that breaks its format, has no graph or one that does not hold together, tensors that do not fit it, and
    /// a sparse tensor that is no Conv or Gemm weight.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let is_srz = path.extension().is_some_and(|extension| extension == "srz");
        let file = if is_srz { srz::read(path)? } else { csr_file::read(path)? };
        let CsrFile { sparse, dense, metadata } = file;
        let Some(graph) = metadata.get(GRAPH_KEY) else {
            return Err(Error::malformed(path, format!("has no metadata {GRAPH_KEY:?}, expected the network's graph")));
        };
        let graph: Graph = serde_json::from_str(graph)
            .map_err(|e| Error::malformed(path, format!("metadata {GRAPH_KEY:?} is no graph: {e}")))?;
        let malformed = |problem: String| Error::malformed(path, problem);
        if let Some(spec) = graph.parameters().iter().find(|p| !p.role.is_prunable() && sparse.contains_key(&p.name)) {
            return Err(malformed(format!("tensor {:?} is sparse, expected only Conv and Gemm weights", spec.name)));
        }
        Self::try_new(graph, dense, sparse).map_err(|e| malformed(e.to_string()))
    }

    fn try_new(
        graph: Graph,
        dense: TensorMap,
        sparse: BTreeMap<String, CsrParameter>,
    ) -> std::result::Result<Self, ModelError> {
        let shapes = dense.iter().map(|(name, tensor)| (name.as_str(), tensor.shape()));
        let shapes = shapes.chain(sparse.iter().map(|(name, parameter)| (name.as_str(), parameter.shape())));
        check_shapes(&graph, &shapes.collect())?;
        check_variances(&graph, |name| &dense[name])?;
        Ok(Self { graph, dense, sparse })
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// A parameter that is no weight.
    ///
    /// # Panics
    /// If `name` is a weight, or no parameter of the graph.
    pub fn parameter(&self, name: &str) -> &Tensor {
        self.dense.get(name).unwrap_or_else(|| panic!("{name:?} is no dense parameter of {}", self.graph.name()))
    }

    /// A parameter in the form it is kept in.
    ///
    /// # Panics
    /// If `name` is no parameter of the graph.
    pub fn weight(&self, name: &str) -> Weight<'_> {
        self.sparse.get(name).map_or_else(|| Weight::Dense(self.parameter(name)), Weight::Sparse)
    }

    /// The same network with every tensor dense.
    pub fn into_model(self) -> Model {
        let Self { graph, dense: mut parameters, sparse } = self;
        parameters.extend(sparse.into_iter().map(|(name, parameter)| (name, parameter.to_dense())));
        Model::try_new(graph, parameters).expect("shapes were checked")
    }
}

impl From<Model> for CompressedModel {
    fn from(model: Model) -> Self {
        let (graph, dense) = model.into_parts();
        Self { graph, dense, sparse: BTreeMap::new() }
    }
}

impl Weight<'_> {
    /// The tensor's shape.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Dense(tensor) => tensor.shape(),
            Self::Sparse(parameter) => parameter.shape(),
        }
    }

    /// Number of values that are not zero.
    pub fn nnz(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.nnz(),
            Self::Sparse(parameter) => parameter.matrix().nnz(),
        }
    }
}
