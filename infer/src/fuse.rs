//! Groups nodes into layers: a convolution takes the sum and the activation that follow it into its last step.

use std::collections::BTreeMap;

use sr2_kernels::{Activation, Combination, NO_CLIP};
use sr2_models::{BatchNormalization, Conv, Gemm, Graph, HardSigmoid, Op, Pad, Pool, ValueId};

use crate::Error;

/// One or more nodes that run as one.
#[derive(Debug)]
pub(crate) struct Layer<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: Kind<'a>,
    pub(crate) inputs: Vec<ValueId>,
    /// Added before the clip.
    pub(crate) residual: Option<ValueId>,
    /// The result is limited to this range.
    pub(crate) clip: [f32; 2],
    pub(crate) output: ValueId,
}

/// What a layer computes from its inputs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind<'a> {
    Conv(&'a Conv),
    Gemm(&'a Gemm),
    /// Channel-wise affine map, or a copy.
    Pointwise(Option<&'a BatchNormalization>),
    /// `alpha x + beta`, to be clipped.
    HardSigmoid(&'a HardSigmoid),
    Activation(Activation),
    Combination(Combination),
    Pad(&'a Pad),
    Concat,
    MaxPool(&'a Pool),
    AveragePool(&'a Pool),
    GlobalAverage,
    Flatten,
    Softmax,
}

/// The layers of a graph in an order they can run in, and the value that is its output.
#[derive(Debug)]
pub(crate) struct Layers<'a> {
    pub(crate) layers: Vec<Layer<'a>>,
    pub(crate) output: ValueId,
}

/// Groups the nodes of a graph.
pub(crate) fn layers(graph: &Graph) -> Result<Layers<'_>, Error> {
    let fusion = Fusion::new(graph);
    let mut taken = vec![false; graph.nodes().len()];
    // The node at whose place each value is made; the input is there from the start.
    let mut made_at: Vec<usize> = (0..=graph.nodes().len()).map(|value| value.saturating_sub(1)).collect();
    let mut layers = Vec::new();
    for (index, node) in graph.nodes().iter().enumerate() {
        if taken[index] || matches!(node.op, Op::Identity) {
            continue;
        }
        let mut layer = Layer {
            name: &node.name,
            kind: Kind::Pointwise(None),
            inputs: node.inputs.iter().map(|value| fusion.source[*value]).collect(),
            residual: None,
            clip: NO_CLIP,
            output: index + 1,
        };
        match &node.op {
            Op::Conv(conv) => layer.kind = Kind::Conv(conv),
            Op::Gemm(gemm) => layer.kind = Kind::Gemm(gemm),
            Op::BatchNormalization(norm) => layer.kind = Kind::Pointwise(Some(norm)),
            Op::Relu => layer.clip = [0.0, f32::INFINITY],
            Op::Clip(clip) => layer.clip = [clip.min, clip.max],
            Op::LeakyRelu(leaky) => layer.kind = Kind::Activation(Activation::LeakyRelu { alpha: leaky.alpha }),
            Op::Sigmoid => layer.kind = Kind::Activation(Activation::Sigmoid),
            Op::HardSwish => layer.kind = Kind::Activation(Activation::HardSwish),
            Op::HardSigmoid(hard) => (layer.kind, layer.clip) = (Kind::HardSigmoid(hard), [0.0, 1.0]),
            Op::Add if fusion.joins_equal_shapes(index) => layer.residual = layer.inputs.pop(),
            Op::Add => layer.combine(graph, Combination::Sum),
            Op::Mul => layer.combine(graph, Combination::Product),
            Op::Pad(pad) => layer.kind = Kind::Pad(pad),
            Op::Concat => layer.kind = Kind::Concat,
            Op::MaxPool(pool) => layer.kind = Kind::MaxPool(pool),
            Op::AveragePool(pool) => layer.kind = Kind::AveragePool(pool),
            Op::GlobalAveragePool => layer.kind = Kind::GlobalAverage,
            Op::Flatten => layer.kind = Kind::Flatten,
            Op::Softmax => layer.kind = Kind::Softmax,
            other => return Err(Error::Operator { node: node.name.clone(), op: other.name().into() }),
        }
        let available = |value: ValueId| value == 0 || made_at[value] < index;
        while let Some(next) = fusion.next(&layer, available) {
            taken[next] = true;
            let node = &graph.nodes()[next];
            match &node.op {
                Op::Relu => layer.clip = [0.0, f32::INFINITY],
                Op::Clip(clip) => layer.clip = [clip.min, clip.max],
                _ => {
                    let operands = node.inputs.iter().map(|value| fusion.source[*value]);
                    layer.residual = operands.into_iter().find(|value| *value != layer.output);
                }
            }
            layer.output = next + 1;
        }
        made_at[layer.output] = index;
        layers.push(layer);
    }
    Ok(Layers { layers, output: fusion.source[graph.nodes().len()] })
}

/// The last layer that reads each value; the network's output is read behind all.
pub(crate) fn last_read(layers: &[Layer<'_>], output: ValueId) -> BTreeMap<ValueId, usize> {
    let mut last_read = BTreeMap::new();
    for (index, layer) in layers.iter().enumerate() {
        for value in layer.inputs.iter().chain(&layer.residual) {
            last_read.insert(*value, index);
        }
    }
    last_read.insert(output, layers.len());
    last_read
}

impl<'a> Layer<'a> {
    /// Name of its weight.
    pub(crate) fn weight(&self) -> Option<&'a str> {
        match self.kind {
            Kind::Conv(conv) => Some(&conv.weight),
            Kind::Gemm(gemm) => Some(&gemm.weight),
            _ => None,
        }
    }

    /// Joins the two inputs element by element, the one with all places of the output first.
    fn combine(&mut self, graph: &Graph, combination: Combination) {
        self.kind = Kind::Combination(combination);
        if graph.shape(self.inputs[0]) != graph.shape(self.output) {
            self.inputs.swap(0, 1);
        }
    }
}

struct Fusion<'a> {
    graph: &'a Graph,
    /// The value that an identity copies, or the value itself.
    source: Vec<ValueId>,
    /// The nodes that read each value; the network's output counts as read by a node past the last.
    readers: Vec<Vec<usize>>,
}

impl<'a> Fusion<'a> {
    fn new(graph: &'a Graph) -> Self {
        let nodes = graph.nodes();
        let mut source: Vec<ValueId> = (0..=nodes.len()).collect();
        let mut readers = vec![Vec::new(); nodes.len() + 1];
        for (index, node) in nodes.iter().enumerate() {
            if matches!(node.op, Op::Identity) {
                source[index + 1] = source[node.inputs[0]];
                continue;
            }
            for value in &node.inputs {
                readers[source[*value]].push(index);
            }
        }
        readers[source[nodes.len()]].push(nodes.len());
        Self { graph, source, readers }
    }

    /// Whether all inputs of a node have the shape of its output.
    fn joins_equal_shapes(&self, node: usize) -> bool {
        let shape = self.graph.shape(node + 1);
        self.graph.nodes()[node].inputs.iter().all(|value| self.graph.shape(*value) == shape)
    }

    /// The node that the layer can take in: the only reader of its output, if that is a sum with a value made before
    /// the layer, or an activation.
    fn next(&self, layer: &Layer<'_>, available: impl Fn(ValueId) -> bool) -> Option<usize> {
        let &[reader] = &self.readers[layer.output][..] else { return None };
        let node = self.graph.nodes().get(reader)?;
        if layer.clip != NO_CLIP {
            return None;
        }
        let convolves = matches!(layer.kind, Kind::Conv(_) | Kind::Pointwise(_));
        let fits = match node.op {
            Op::Relu | Op::Clip(_) => convolves || matches!(layer.kind, Kind::Gemm(_)),
            Op::Add => {
                let mut others = node.inputs.iter().map(|value| self.source[*value]).filter(|v| *v != layer.output);
                convolves
                    && self.joins_equal_shapes(reader)
                    && layer.residual.is_none()
                    && others.next().is_some_and(available)
            }
            _ => false,
        };
        fits.then_some(reader)
    }
}
