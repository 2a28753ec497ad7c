//! What passes that rewrite a network share.

use std::collections::{BTreeMap, BTreeSet};

use sr2_formats::TensorMap;

use crate::{Graph, Model, Node, Op};

/// How many nodes use each parameter.
pub(super) fn parameter_uses(graph: &Graph) -> BTreeMap<String, usize> {
    let mut uses = BTreeMap::new();
    for node in graph.nodes() {
        for spec in node.op.parameters(graph.shape(node.inputs[0])) {
            *uses.entry(spec.name).or_insert(0) += 1;
        }
    }
    uses
}

/// A name for the bias of a weight, with `_` appended while a parameter has it already.
pub(super) fn new_bias_name(weight: &str, parameters: &TensorMap) -> String {
    unique(format!("{}.bias", weight.strip_suffix(".weight").unwrap_or(weight)), parameters)
}

/// `name`, with `_` appended while a parameter has it already.
pub(super) fn unique(mut name: String, parameters: &TensorMap) -> String {
    while parameters.contains_key(&name) {
        name.push('_');
    }
    name
}

/// The network of these nodes; parameters that none of them reads are left out.
pub(super) fn rebuild(old: &Graph, nodes: Vec<Node>, mut parameters: TensorMap) -> Model {
    let graph = Graph::try_new(old.name(), old.input_shape(), nodes).expect("a pass keeps a graph's shapes in order");
    let names: BTreeSet<_> = graph.parameters().iter().map(|p| p.name.clone()).collect();
    parameters.retain(|name, _| names.contains(name));
    Model::try_new(graph, parameters).expect("each parameter of a rewritten graph has its tensor")
}

/// The network without copies and without the nodes that do not lead to its output.
pub(super) fn tidy(model: Model) -> Model {
    let (graph, parameters) = model.into_parts();
    let output = graph.nodes().len();
    let mut read = vec![false; output + 1];
    read[output] = true;
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        if read[index + 1] {
            node.inputs.iter().for_each(|value| read[*value] = true);
        }
    }
    let (mut nodes, mut renamed) = (Vec::new(), vec![0; output + 1]);
    for (index, node) in graph.nodes().iter().enumerate().filter(|(index, _)| read[index + 1]) {
        let inputs: Vec<_> = node.inputs.iter().map(|value| renamed[*value]).collect();
        // The output is the last node's, so a copy there may be of a value further back.
        if node.op == Op::Identity && index + 1 < output {
            renamed[index + 1] = inputs[0];
            continue;
        }
        nodes.push(Node { inputs, ..node.clone() });
        renamed[index + 1] = nodes.len();
    }
    rebuild(&graph, nodes, parameters)
}
