//! What is known of each channel of each value without an image: which are constant, and which live and die together.

use crate::{Conv, Graph, Model, Op, ValueId, reference};

/// Numbers the channels of all values; the features of a flat value count as channels.
pub(super) struct Slots {
    starts: Vec<usize>,
}

impl Slots {
    pub(super) fn new(graph: &Graph) -> Self {
        let mut starts = vec![0];
        for value in 0..=graph.nodes().len() {
            starts.push(starts[value] + graph.shape(value)[0]);
        }
        Self { starts }
    }

    /// The channels of a value.
    pub(super) fn of(&self, value: ValueId) -> std::ops::Range<usize> {
        self.starts[value]..self.starts[value + 1]
    }

    /// Number of channels of all values.
    pub(super) fn len(&self) -> usize {
        *self.starts.last().expect("a graph has an input")
    }
}

/// How the channels that a node makes depend on those it reads.
pub(super) enum Links {
    /// Each of these outputs is made of the inputs it is paired with, and they can only be taken out together:
    /// `(input, output)`.
    Tied(Vec<(usize, usize)>),
    /// Every output is a weighted sum of the inputs: a convolution in one group, a linear layer.
    Mixed,
    /// No channel can be taken out.
    Whole,
}

impl Links {
    pub(super) fn of(graph: &Graph, slots: &Slots, index: usize) -> Self {
        let node = &graph.nodes()[index];
        let (input, output) = (slots.of(node.inputs[0]), slots.of(index + 1));
        match &node.op {
            Op::Gemm(_) => Self::Mixed,
            Op::Conv(conv) if conv.groups == 1 => Self::Mixed,
            Op::Conv(conv) => {
                let pairs = output.clone().enumerate().flat_map(|(o, out)| {
                    let reads = group_inputs(conv, input.len(), o);
                    reads.map(move |i| (i, out)).collect::<Vec<_>>()
                });
                Self::Tied(pairs.map(|(i, out)| (input.start + i, out)).collect())
            }
            Op::Softmax => Self::Whole,
            Op::Flatten => {
                let area = output.len() / input.len();
                Self::Tied(output.clone().map(|out| (input.start + (out - output.start) / area, out)).collect())
            }
            Op::Concat => Self::Tied(node.inputs.iter().flat_map(|v| slots.of(*v)).zip(output).collect()),
            // All others compute each channel from the same channel of their inputs.
            _ => Self::Tied(node.inputs.iter().flat_map(|v| slots.of(*v).zip(output.clone())).collect()),
        }
    }
}

/// The input channels that output channel `o` of a convolution may read.
pub(super) fn group_inputs(conv: &Conv, channels: usize, o: usize) -> std::ops::Range<usize> {
    let width = channels / conv.groups;
    let group = o / (conv.out_channels / conv.groups);
    group * width..(group + 1) * width
}

/// For each channel, its value if that is finite and the same for every image and at every place.
///
/// Such are the channels of filters without non-zeros, and what the rest of the network makes of them alone, computed
/// as [`reference::logits`] does; a padded convolution of a non-zero constant is not constant at the borders.
pub(super) fn constants(model: &Model, slots: &Slots) -> Vec<Option<f32>> {
    let graph = model.graph();
    let last_reads = graph.last_reads();
    let mut known = vec![None; slots.len()];
    // Each value with its constant channels filled in and the others zero.
    let mut values = vec![vec![0.0; graph.input_shape().iter().product()]];
    for (index, node) in graph.nodes().iter().enumerate() {
        let (shape, channels) = (graph.shape(index + 1), slots.of(index + 1));
        let steady = steady(model, slots, index, &known);
        let mut value = match steady.contains(&true) {
            true => reference::evaluate(model, node, &values, shape),
            false => vec![0.0; shape.iter().product()],
        };
        let area = value.len() / channels.len();
        for ((slot, plane), steady) in channels.zip(value.chunks_exact_mut(area)).zip(steady) {
            if steady && plane[0].is_finite() && plane.iter().all(|v| *v == plane[0]) {
                known[slot] = Some(plane[0]);
            } else {
                plane.fill(0.0);
            }
        }
        values.push(value);
        for &value in node.inputs.iter().filter(|v| last_reads[**v] == Some(index)) {
            values[value] = Vec::new();
        }
    }
    known
}

/// Which channels a node makes of constant channels alone.
fn steady(model: &Model, slots: &Slots, index: usize, known: &[Option<f32>]) -> Vec<bool> {
    let graph = model.graph();
    let node = &graph.nodes()[index];
    let (input, output) = (slots.of(node.inputs[0]), slots.of(index + 1));
    let weighted = |weight: &str, reads: &dyn Fn(usize) -> std::ops::Range<usize>| {
        let weight = model.parameter(weight);
        let rows = weight.data().chunks_exact(weight.len() / output.len()).enumerate();
        let row = |(o, row): (usize, &[f32])| {
            let reads = reads(o);
            let mut taps = row.chunks_exact(row.len() / reads.len()).zip(reads);
            taps.all(|(taps, i)| known[input.start + i].is_some() || taps.iter().all(|w| *w == 0.0))
        };
        rows.map(row).collect()
    };
    match (&node.op, Links::of(graph, slots, index)) {
        (Op::Conv(conv), _) => weighted(&conv.weight, &|o| group_inputs(conv, input.len(), o)),
        (Op::Gemm(gemm), _) => weighted(&gemm.weight, &|_| 0..input.len()),
        (_, Links::Tied(pairs)) => {
            let mut steady = vec![true; output.len()];
            pairs.into_iter().for_each(|(i, out)| steady[out - output.start] &= known[i].is_some());
            steady
        }
        _ => vec![false; output.len()],
    }
}

/// Channels that can only be taken out together.
pub(super) struct Classes {
    parents: Vec<usize>,
}

impl Classes {
    pub(super) fn new(graph: &Graph, slots: &Slots) -> Self {
        let mut classes = Self { parents: (0..slots.len()).collect() };
        for index in 0..graph.nodes().len() {
            if let Links::Tied(pairs) = Links::of(graph, slots, index) {
                for (a, b) in pairs {
                    let (a, b) = (classes.of(a), classes.of(b));
                    classes.parents[a] = b;
                }
            }
        }
        classes
    }

    /// A channel that stands for the class of `slot`.
    pub(super) fn of(&mut self, mut slot: usize) -> usize {
        while self.parents[slot] != slot {
            self.parents[slot] = self.parents[self.parents[slot]];
            slot = self.parents[slot];
        }
        slot
    }
}
