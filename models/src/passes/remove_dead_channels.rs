//! Structured zeros make the dense network smaller: filters that are all zero, and filters that nothing reads, go.

use sr2_formats::{Tensor, TensorMap};

use super::channels::{Links, group_inputs};
use super::dead_channels::DeadChannels;
use super::rewrite::{new_bias_name, rebuild, tidy};
use crate::{BatchNormalization, Conv, Gemm, Model, Node, Op};

/// Removes the channels that the output does not depend on, or only by a constant, together with the filters that make
/// them and the weights that read them. The network's output stays the same up to f32 rounding.
///
/// A channel is constant if its filter has no non-zero weight on channels that are not constant; batch norms,
/// activations, pools, sums, concatenations and depthwise convolutions carry it on. Where such a channel `k` of value
/// `c[k]` is read, the reader gets `bias'[o] = bias[o] + sum over k, u, v of c[k] weight[o, k, u, v]`. Padding breaks
/// this at the borders, so a padded convolution keeps one constant channel `r`, the largest, in place of all of them:
/// `weight'[o, r, u, v] = sum over k of c[k] / c[r] weight[o, k, u, v]`, which is exact there too.
///
/// Channels that a sum or a depthwise convolution ties to needed ones stay, as do those of nodes that share a parameter
/// with another node. A value that is needed keeps one channel at least.
pub fn remove_dead_channels(model: &Model) -> Model {
    let dead = DeadChannels::find(model);
    if !dead.dead.contains(&true) {
        return model.clone();
    }
    let (graph, mut parameters) = model.clone().into_parts();
    let mut nodes: Vec<Node> = Vec::new();
    let mut renamed = vec![0];
    for (index, node) in graph.nodes().iter().enumerate() {
        if !dead.slots.of(index + 1).any(|slot| dead.stays(slot)) {
            // Nothing that stays reads it.
            renamed.push(usize::MAX);
            continue;
        }
        let mut node = node.clone();
        node.inputs.retain(|value| dead.slots.of(*value).any(|slot| dead.stays(slot)));
        node.inputs.iter_mut().for_each(|value| *value = renamed[*value]);
        match &mut node.op {
            Op::Conv(conv) => shrink_conv(model, &dead, index, conv, &mut parameters),
            Op::Gemm(gemm) => shrink_gemm(model, &dead, index, gemm, &mut parameters),
            Op::BatchNormalization(norm) => shrink_norm(&dead, index, norm, &mut parameters),
            Op::Concat if node.inputs.len() == 1 => node.op = Op::Identity,
            _ => {}
        }
        nodes.push(node);
        renamed.push(nodes.len());
    }
    tidy(rebuild(&graph, nodes, parameters))
}

fn shrink_conv(model: &Model, dead: &DeadChannels, index: usize, conv: &mut Conv, parameters: &mut TensorMap) {
    let graph = model.graph();
    let stay = |value| dead.slots.of(value).map(|slot| dead.stays(slot)).collect::<Vec<bool>>();
    let (inputs, outputs) = (stay(graph.nodes()[index].inputs[0]), stay(index + 1));
    let channels = outputs.iter().filter(|stays| **stays).count();
    if matches!(Links::of(graph, &dead.slots, index), Links::Mixed) {
        let mixer = Mixer { model, dead, index, weight: &conv.weight, bias: &mut conv.bias };
        mixer.shrink(&inputs, &outputs, parameters);
    } else {
        // A group goes or stays as a whole.
        let group = |o: usize| group_inputs(conv, inputs.len(), o);
        let groups = (0..outputs.len()).filter(|o| outputs[*o]).map(|o| group(o).start);
        let groups = groups.collect::<std::collections::BTreeSet<_>>().len();
        keep_rows(parameters, &conv.weight, &outputs);
        conv.bias.iter().for_each(|bias| keep_rows(parameters, bias, &outputs));
        conv.groups = groups;
    }
    conv.out_channels = channels;
}

fn shrink_gemm(model: &Model, dead: &DeadChannels, index: usize, gemm: &mut Gemm, parameters: &mut TensorMap) {
    let stay = |value| dead.slots.of(value).map(|slot| dead.stays(slot)).collect::<Vec<bool>>();
    let (inputs, outputs) = (stay(model.graph().nodes()[index].inputs[0]), stay(index + 1));
    let mixer = Mixer { model, dead, index, weight: &gemm.weight, bias: &mut gemm.bias };
    mixer.shrink(&inputs, &outputs, parameters);
    gemm.out_features = outputs.iter().filter(|stays| **stays).count();
}

fn shrink_norm(dead: &DeadChannels, index: usize, norm: &BatchNormalization, parameters: &mut TensorMap) {
    let stay: Vec<bool> = dead.slots.of(index + 1).map(|slot| dead.stays(slot)).collect();
    for name in [&norm.scale, &norm.shift, &norm.mean, &norm.var] {
        keep_rows(parameters, name, &stay);
    }
}

/// A node whose outputs are weighted sums of its inputs.
struct Mixer<'a> {
    model: &'a Model,
    dead: &'a DeadChannels,
    index: usize,
    weight: &'a str,
    bias: &'a mut Option<String>,
}

impl Mixer<'_> {
    /// Adds in what dead constant inputs contribute, then leaves out the rows and columns that do not stay.
    fn shrink(self, inputs: &[bool], outputs: &[bool], parameters: &mut TensorMap) {
        let weight = self.model.parameter(self.weight);
        let taps = weight.len() / (inputs.len() * outputs.len());
        let mut sums: Vec<f64> = weight.data().iter().map(|w| f64::from(*w)).collect();
        let mut bias = match &self.bias {
            Some(bias) => self.model.parameter(bias).data().iter().map(|b| f64::from(*b)).collect(),
            None => vec![0.0; outputs.len()],
        };
        let value = self.model.graph().nodes()[self.index].inputs[0];
        let channels = self.dead.slots.of(value);
        for (k, slot) in channels.clone().enumerate().filter(|(_, slot)| self.dead.dead[*slot]) {
            let constant = self.dead.constants[slot].map_or(0.0, f64::from);
            let evenly = constant == 0.0 || self.dead.adds_evenly(self.model, self.index, k);
            let stand_in = self.dead.stand_ins[value].filter(|_| !evenly);
            for (o, bias) in bias.iter_mut().enumerate() {
                let at = |k: usize| (o * inputs.len() + k) * taps;
                for tap in 0..taps {
                    let w = std::mem::take(&mut sums[at(k) + tap]);
                    match stand_in {
                        Some(other) => {
                            let factor = constant / self.dead.constants[other].map_or(1.0, f64::from);
                            sums[at(other - channels.start) + tap] += factor * w;
                        }
                        None => *bias += constant * w,
                    }
                }
            }
        }
        let rows = sums.chunks_exact(inputs.len() * taps).zip(outputs).filter(|(_, stays)| **stays);
        let columns = rows.flat_map(|(row, _)| row.chunks_exact(taps).zip(inputs).filter(|(_, stays)| **stays));
        let data: Vec<f32> = columns.flat_map(|(taps, _)| taps.iter().map(|w| *w as f32)).collect();
        let count = |stay: &[bool]| stay.iter().filter(|stays| **stays).count();
        let shape = [&[count(outputs), count(inputs)], &weight.shape()[2..]].concat();
        parameters.insert(self.weight.into(), Tensor::new(shape, data));

        let bias: Vec<f32> = bias.iter().zip(outputs).filter(|(_, stays)| **stays).map(|(b, _)| *b as f32).collect();
        if self.bias.is_some() || bias.iter().any(|b| *b != 0.0) {
            let name = self.bias.get_or_insert_with(|| new_bias_name(self.weight, parameters));
            parameters.insert(name.clone(), Tensor::new([bias.len()], bias));
        }
    }
}

/// Leaves out the slices along the first axis that do not stay.
fn keep_rows(parameters: &mut TensorMap, name: &str, stay: &[bool]) {
    let tensor = parameters.get_mut(name).expect("a graph's parameters have tensors");
    let rows = tensor.data().chunks_exact(tensor.len() / stay.len()).zip(stay).filter(|(_, stays)| **stays);
    let data: Vec<f32> = rows.flat_map(|(row, _)| row.iter().copied()).collect();
    let mut shape = tensor.shape().to_vec();
    shape[0] = stay.iter().filter(|stays| **stays).count();
    *tensor = Tensor::new(shape, data);
}

#[cfg(test)]
mod tests;
