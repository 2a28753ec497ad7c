//! Batch normalisation at inference is affine per channel, so it can live in the convolution before it.

use sr2_formats::{Tensor, TensorMap};

use super::rewrite::{new_bias_name, parameter_uses, rebuild};
use crate::{BatchNormalization, Conv, Graph, Model, Node, Op};

/// Folds each batch normalisation that is the only reader of a convolution into the convolution's weight and bias:
///
/// `a = scale / sqrt(var + epsilon)`, `weight'[o] = a[o] weight[o]`, `bias'[o] = a[o] (bias[o] - mean[o]) + shift[o]`,
/// computed in f64. The network's output stays the same up to f32 rounding.
///
/// A new bias is called after its weight (`conv1.weight` gives `conv1.bias`; with `_` appended while a parameter of
/// the network already has that name). A batch normalisation stays where it follows anything else than a convolution
/// (pre-activation networks), where the convolution's parameters are shared with another node, and where a folded
/// value would not be finite.
///
/// A zero weight stays zero, and is +0.0. A non-zero weight can become zero only where `scale` is zero or the product
/// is below the smallest f32.
pub fn fold_batch_norm(model: &Model) -> Model {
    let (graph, mut parameters) = model.clone().into_parts();
    let reads = reads(&graph);
    let uses = parameter_uses(&graph);
    // The bias that an earlier fold made belongs to its convolution alone.
    let shared = |name: &str| uses.get(name).is_some_and(|count| *count > 1);

    let mut folded: Vec<Node> = Vec::with_capacity(graph.nodes().len());
    // New value of each old one.
    let mut renamed = vec![0];
    for (index, node) in graph.nodes().iter().enumerate() {
        let mut node = node.clone();
        node.inputs.iter_mut().for_each(|value| *value = renamed[*value]);
        if let Op::BatchNormalization(norm) = &node.op {
            let producer = node.inputs[0];
            let only_reader = reads[graph.nodes()[index].inputs[0]] == 1;
            // The network's output is its last node, so a final batch norm may only vanish into the node before it.
            let keeps_output = index + 1 < graph.nodes().len() || producer == folded.len();
            if let Some(Op::Conv(conv)) = producer.checked_sub(1).map(|p| &mut folded[p].op)
                && only_reader
                && keeps_output
                && !shared(&conv.weight)
                && !conv.bias.as_deref().is_some_and(shared)
                && fold(conv, norm, &mut parameters)
            {
                renamed.push(producer);
                continue;
            }
        }
        folded.push(node);
        renamed.push(folded.len());
    }

    rebuild(&graph, folded, parameters)
}

/// How many nodes read each value.
fn reads(graph: &Graph) -> Vec<usize> {
    let mut reads = vec![0; graph.nodes().len() + 1];
    graph.nodes().iter().flat_map(|node| &node.inputs).for_each(|value| reads[*value] += 1);
    reads
}

/// Rewrites one convolution; leaves everything as it was and returns false if a value would not be finite.
fn fold(conv: &mut Conv, norm: &BatchNormalization, parameters: &mut TensorMap) -> bool {
    let channel = |name: &str, o: usize| f64::from(parameters[name].data()[o]);
    let channels = 0..conv.out_channels;
    let factors: Vec<f64> = channels
        .clone()
        .map(|o| channel(&norm.scale, o) / (channel(&norm.var, o) + f64::from(norm.epsilon)).sqrt())
        .collect();
    let weight = &parameters[&conv.weight];
    let rows = weight.data().chunks(weight.len() / conv.out_channels);
    // Adding +0.0 turns the -0.0 of a zero times a negative factor into +0.0 and changes nothing else.
    let scaled = |(row, factor): (&[f32], &f64)| row.iter().map(|w| (f64::from(*w) * factor) as f32 + 0.0).collect();
    let folded_weight = rows.zip(&factors).flat_map::<Vec<f32>, _>(scaled).collect::<Vec<f32>>();
    let folded_bias: Vec<f32> = channels
        .map(|o| {
            let bias = conv.bias.as_deref().map_or(0.0, |b| channel(b, o));
            (factors[o] * (bias - channel(&norm.mean, o)) + channel(&norm.shift, o)) as f32
        })
        .collect();
    if !folded_weight.iter().chain(&folded_bias).all(|v| v.is_finite()) {
        return false;
    }

    let shape = weight.shape().to_vec();
    let bias = conv.bias.clone().unwrap_or_else(|| new_bias_name(&conv.weight, parameters));
    parameters.insert(conv.weight.clone(), Tensor::new(shape, folded_weight));
    parameters.insert(bias.clone(), Tensor::new([conv.out_channels], folded_bias));
    conv.bias = Some(bias);
    true
}

#[cfg(test)]
mod tests;
