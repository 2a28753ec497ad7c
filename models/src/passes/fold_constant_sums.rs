//! Branches that answer the same for every image.

use sr2_formats::Tensor;

use super::channels::{Slots, constants};
use super::rewrite::{rebuild, tidy, unique};
use crate::{BatchNormalization, Graph, Model, Op, ValueId};

/// Cuts off each branch whose value is constant where it is added to another value: the sum becomes a batch norm that
/// adds one constant a channel, or nothing where all are zero. Nodes that nothing reads any more go.
///
/// A residual block without non-zero weights goes as a whole. The network's output stays the same, up to the sign of
/// zeros.
pub fn fold_constant_sums(model: &Model) -> Model {
    let slots = Slots::new(model.graph());
    let known = constants(model, &slots);
    let (graph, mut parameters) = model.clone().into_parts();
    let mut nodes = graph.nodes().to_vec();
    for (index, node) in nodes.iter_mut().enumerate() {
        let Some((other, added)) = constant_operand(&graph, &slots, &known, index) else { continue };
        node.inputs = vec![other];
        node.op = if added.iter().all(|c| *c == 0.0) {
            Op::Identity
        } else {
            let len = added.len();
            let mut add = |suffix: &str, tensor: Tensor| {
                let name = unique(format!("{}.{suffix}", node.name), &parameters);
                parameters.insert(name.clone(), tensor);
                name
            };
            Op::BatchNormalization(BatchNormalization {
                scale: add("weight", Tensor::full([len], 1.0)),
                shift: add("bias", Tensor::new([len], added)),
                mean: add("running_mean", Tensor::full([len], 0.0)),
                var: add("running_var", Tensor::full([len], 1.0 - EPSILON)),
                epsilon: EPSILON,
                momentum: 0.1,
            })
        };
    }
    tidy(rebuild(&graph, nodes, parameters))
}

/// A power of two, so that it and what is missing to 1 add up to exactly 1.
const EPSILON: f32 = 1.0 / 1024.0;

/// If a node is a sum of an image and a value that is constant in each channel: the image and the constants.
fn constant_operand(graph: &Graph, slots: &Slots, known: &[Option<f32>], index: usize) -> Option<(ValueId, Vec<f32>)> {
    let node = &graph.nodes()[index];
    let (Op::Add, [a, b]) = (&node.op, &node.inputs[..]) else { return None };
    let image = |value: ValueId| graph.shape(value) == graph.shape(index + 1) && graph.shape(value).len() == 3;
    let constant = |value: ValueId| known[slots.of(value)].iter().copied().collect::<Option<Vec<f32>>>();
    let one_way = |(from, to): (ValueId, ValueId)| image(to).then(|| constant(from)).flatten().map(|c| (to, c));
    one_way((*a, *b)).or_else(|| one_way((*b, *a)))
}

#[cfg(test)]
mod tests;
