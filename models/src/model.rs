//! A graph with all its parameters.

use std::collections::{BTreeMap, BTreeSet};

use sr2_formats::{Tensor, TensorMap};

use crate::{Graph, ParameterRole};

/// A graph and a tensor of the right shape for each of its parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    graph: Graph,
    parameters: TensorMap,
}

/// A set of tensors that does not fit a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A parameter of the graph has no tensor.
    #[error("tensor {name:?} of {network} is missing; expected shape {shape:?}")]
    Missing {
        /// The parameter.
        name: String,
        /// Name of the network.
        network: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor has another shape than the graph says.
    #[error("tensor {name:?} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The parameter.
        name: String,
        /// Shape found.
        found: Vec<usize>,
        /// Shape of the graph's parameter.
        expected: Vec<usize>,
    },
    /// A batch norm's variance is negative or not finite.
    #[error("tensor {name:?} [{index}] is {value}, expected a variance: finite, 0 or more")]
    Variance {
        /// The parameter.
        name: String,
        /// Where in it.
        index: usize,
        /// What is there, as text.
        value: String,
    },
    /// A tensor that no node reads.
    #[error("tensor {name:?} belongs to no node of {network}")]
    Unknown {
        /// The tensor.
        name: String,
        /// Name of the network.
        network: String,
    },
}

impl Model {
    /// Joins a graph with its tensors: each parameter must be there in its shape, and nothing else.
    pub fn try_new(graph: Graph, parameters: TensorMap) -> Result<Self, ModelError> {
        check_shapes(&graph, &parameters.iter().map(|(name, tensor)| (name.as_str(), tensor.shape())).collect())?;
        Ok(Self { graph, parameters })
    }

    /// The same for tensors from outside, whose batch-norm variances must be such.
    pub fn try_read(graph: Graph, parameters: TensorMap) -> Result<Self, ModelError> {
        let model = Self::try_new(graph, parameters)?;
        check_variances(&model.graph, |name| model.parameter(name))?;
        Ok(model)
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// All parameters and buffers by name.
    pub fn parameters(&self) -> &TensorMap {
        &self.parameters
    }

    /// The tensor of a parameter of the graph.
    ///
    /// # Panics
    /// If `name` is not a parameter of the graph.
    pub fn parameter(&self, name: &str) -> &Tensor {
        self.parameters.get(name).unwrap_or_else(|| panic!("{name:?} is not a parameter of {}", self.graph.name()))
    }

    /// Graph and tensors, to rewrite.
    pub fn into_parts(self) -> (Graph, TensorMap) {
        (self.graph, self.parameters)
    }

    /// Fraction of exact zeros among the prunable (Conv and Gemm) weights.
    pub fn sparsity(&self) -> f64 {
        let weights = self.graph.parameters().iter().filter(|p| p.role.is_prunable());
        let (nnz, total) = weights.fold((0, 0), |(nnz, total), p| {
            let tensor = self.parameter(&p.name);
            (nnz + tensor.nnz(), total + tensor.len())
        });
        1.0 - nnz as f64 / total.max(1) as f64
    }
}

/// Whether tensors of these shapes are the parameters of a graph: each is there, and nothing else.
pub(crate) fn check_shapes(graph: &Graph, shapes: &BTreeMap<&str, &[usize]>) -> Result<(), ModelError> {
    for spec in graph.parameters() {
        let network = graph.name().to_string();
        let Some(found) = shapes.get(spec.name.as_str()) else {
            return Err(ModelError::Missing { name: spec.name.clone(), network, shape: spec.shape.clone() });
        };
        if *found != spec.shape {
            let (found, expected) = (found.to_vec(), spec.shape.clone());
            return Err(ModelError::Shape { name: spec.name.clone(), found, expected });
        }
    }
    if shapes.len() > graph.parameters().len() {
        let known: BTreeSet<_> = graph.parameters().iter().map(|p| p.name.as_str()).collect();
        let unknown = shapes.keys().find(|name| !known.contains(**name)).expect("more tensors than parameters");
        return Err(ModelError::Unknown { name: unknown.to_string(), network: graph.name().into() });
    }
    Ok(())
}

/// Whether the batch-norm variances of a graph are finite and not negative.
pub(crate) fn check_variances<'a>(graph: &Graph, tensor: impl Fn(&str) -> &'a Tensor) -> Result<(), ModelError> {
    for spec in graph.parameters().iter().filter(|spec| spec.role == ParameterRole::RunningVar) {
        let values = tensor(&spec.name).data();
        if let Some(index) = values.iter().position(|v| !(v.is_finite() && *v >= 0.0)) {
            let value = format!("{:?}", values[index]);
            return Err(ModelError::Variance { name: spec.name.clone(), index, value });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
