//! The graph: nodes in topological order, shapes inferred and checked when it is built.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::op::{Op, ParameterSpec};

/// A value of the graph: 0 is the network's input, `k + 1` the output of node `k`.
pub type ValueId = usize;

/// One operator applied to earlier values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Unique name, for messages and for ONNX.
    pub name: String,
    /// What it computes.
    #[serde(flatten)]
    pub op: Op,
    /// The values it reads.
    pub inputs: Vec<ValueId>,
}

/// A validated network: nodes in topological order with known shapes; the last node's output is the network's.
///
/// Shapes leave out the batch, which every value shares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Description", into = "Description")]
pub struct Graph {
    name: String,
    nodes: Vec<Node>,
    shapes: Vec<Vec<usize>>,
    parameters: Vec<ParameterSpec>,
}

/// What is stored of a graph; the rest is inferred.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    name: String,
    input: Vec<usize>,
    nodes: Vec<Node>,
}

/// A node that does not fit the graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node {node:?} ({op}): {problem}")]
pub struct GraphError {
    /// Name of the node.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// What was found and what was expected.
    pub problem: String,
}

impl Graph {
    /// Checks the nodes and infers every shape. `input` is the shape of one image, `[C, H, W]`.
    pub fn try_new(name: impl Into<String>, input: &[usize], nodes: Vec<Node>) -> Result<Self, GraphError> {
        let mut builder = GraphBuilder::new(name, input);
        for node in nodes {
            builder.push(node)?;
        }
        builder.finish()
    }

    /// Name of the network.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The nodes in topological order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Shape of a value, without the batch.
    pub fn shape(&self, value: ValueId) -> &[usize] {
        &self.shapes[value]
    }

    /// Shape of one input image.
    pub fn input_shape(&self) -> &[usize] {
        &self.shapes[0]
    }

    /// Shape of one output.
    pub fn output_shape(&self) -> &[usize] {
        &self.shapes[self.nodes.len()]
    }

    /// Every parameter and buffer, each name once, in order of first use.
    pub fn parameters(&self) -> &[ParameterSpec] {
        &self.parameters
    }

    /// For each value, the last node that reads it (`None` for the output and for values never read).
    pub fn last_reads(&self) -> Vec<Option<usize>> {
        let mut last = vec![None; self.shapes.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for &value in &node.inputs {
                last[value] = Some(index);
            }
        }
        last
    }

    /// Number of values in Conv and Gemm weights, the ones a penalty may prune.
    pub fn prunable_weights(&self) -> usize {
        let prunable = self.parameters.iter().filter(|p| p.role.is_prunable());
        prunable.map(|p| p.shape.iter().product::<usize>()).sum()
    }

    /// Multiply-adds of all Conv and Gemm nodes for one image, with dense weights: a weight of a convolution counts once
    /// for each output position.
    pub fn macs(&self) -> u64 {
        let macs = self.nodes.iter().enumerate().map(|(index, node)| {
            let specs = node.op.parameters(self.shape(node.inputs[0]));
            let weights = specs.iter().filter(|p| p.role.is_prunable()).map(|p| p.shape.iter().product::<usize>());
            let positions = self.shape(index + 1)[1..].iter().product::<usize>();
            weights.sum::<usize>() as u64 * positions as u64
        });
        macs.fold(0, u64::saturating_add)
    }
}

impl TryFrom<Description> for Graph {
    type Error = GraphError;

    fn try_from(d: Description) -> Result<Self, GraphError> {
        Self::try_new(d.name, &d.input, d.nodes)
    }
}

impl From<Graph> for Description {
    fn from(mut g: Graph) -> Self {
        Self { name: g.name, input: g.shapes.swap_remove(0), nodes: g.nodes }
    }
}

/// Builds a [`Graph`] node by node.
#[derive(Debug, Clone)]
pub struct GraphBuilder {
    graph: Graph,
    seen: BTreeMap<String, usize>,
    names: std::collections::BTreeSet<String>,
}

/// More nodes than this are taken for an error; the networks of interest have hundreds.
const MAX_NODES: usize = 1 << 14;

/// More values than this in one tensor is taken for an error, long before memory runs out.
const MAX_VALUES: usize = 1 << 31;

impl GraphBuilder {
    /// An empty graph over images of shape `input`.
    pub fn new(name: impl Into<String>, input: &[usize]) -> Self {
        let graph =
            Graph { name: name.into(), nodes: Vec::new(), shapes: vec![input.to_vec()], parameters: Vec::new() };
        Self { graph, seen: BTreeMap::new(), names: Default::default() }
    }

    /// Appends a node; returns the value it makes.
    pub fn push(&mut self, node: Node) -> Result<ValueId, GraphError> {
        let graph = &mut self.graph;
        let error = |problem| GraphError { node: node.name.clone(), op: node.op.name().into(), problem };
        if graph.nodes.is_empty() {
            check_input(graph.input_shape()).map_err(error)?;
        }
        if graph.nodes.len() == MAX_NODES {
            return Err(error(format!("is one more than the {MAX_NODES} nodes that a network may have")));
        }
        if let Some(value) = node.inputs.iter().find(|v| **v >= graph.shapes.len()) {
            return Err(error(format!("reads value {value}, which does not come before it")));
        }
        if !self.names.insert(node.name.clone()) {
            return Err(error("name is used twice".into()));
        }
        let inputs: Vec<&[usize]> = node.inputs.iter().map(|v| graph.shapes[*v].as_slice()).collect();
        let shape = node.op.output_shape(&inputs).map_err(error)?;
        let specs = node.op.parameters(inputs.first().copied().unwrap_or_default());
        let shapes = std::iter::once(&shape).chain(specs.iter().map(|s| &s.shape));
        for shape in shapes {
            let size = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= MAX_VALUES);
            if size.is_none() || size == Some(0) {
                return Err(error(format!("shape {shape:?} must hold 1 to {MAX_VALUES} values")));
            }
        }
        for spec in specs {
            match self.seen.get(&spec.name) {
                None => {
                    self.seen.insert(spec.name.clone(), graph.parameters.len());
                    graph.parameters.push(spec);
                }
                Some(&index) if graph.parameters[index] == spec => {}
                Some(&index) => {
                    let first = &graph.parameters[index];
                    return Err(error(format!(
                        "parameter {:?} is {:?} {:?} here and {:?} {:?} before",
                        spec.name, spec.role, spec.shape, first.role, first.shape
                    )));
                }
            }
        }
        graph.shapes.push(shape);
        graph.nodes.push(node);
        Ok(graph.nodes.len())
    }

    /// The value made last, or the input.
    pub fn last(&self) -> ValueId {
        self.graph.nodes.len()
    }

    /// Shape of a value made so far.
    pub fn shape(&self, value: ValueId) -> &[usize] {
        self.graph.shape(value)
    }

    /// The finished graph; its output is the last node's.
    pub fn finish(self) -> Result<Graph, GraphError> {
        if self.graph.nodes.is_empty() {
            let problem = "has no nodes, expected at least one".into();
            return Err(GraphError { node: self.graph.name, op: "graph".into(), problem });
        }
        Ok(self.graph)
    }
}

/// Whether images of this shape may be a network's input.
pub(crate) fn check_input(shape: &[usize]) -> Result<(), String> {
    match shape {
        [_, _, _] if shape.iter().all(|d| (1..=1 << 16).contains(d)) => Ok(()),
        _ => Err(format!("the network's input must be [channels, height, width], each 1 to 65536, got {shape:?}")),
    }
}

#[cfg(test)]
mod tests;
