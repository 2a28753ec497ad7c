//! The layers of which every network of the zoo is made, with PyTorch's names and defaults.

use crate::zoo::INPUT;
use crate::{BatchNormalization, Clip, Conv, Gemm, Graph, GraphBuilder, Node, Op, Pool, ValueId};

/// The network's input.
pub(super) const IMAGE: ValueId = 0;

/// A graph in the making. Each method appends a node and returns its value; a name is the PyTorch module's path.
pub(super) struct Layers {
    builder: GraphBuilder,
}

impl Layers {
    pub(super) fn new(network: &str) -> Self {
        Self { builder: GraphBuilder::new(network, &INPUT) }
    }

    pub(super) fn channels(&self, x: ValueId) -> usize {
        self.builder.shape(x)[0]
    }

    /// Square convolution without bias, padded so that stride 1 keeps the size.
    pub(super) fn conv(&mut self, x: ValueId, name: &str, channels: usize, kernel: usize, stride: usize) -> ValueId {
        self.push_conv(x, same_conv(name, channels, kernel, stride))
    }

    /// 3x3 convolution with bias, stride 1.
    pub(super) fn biased_conv(&mut self, x: ValueId, name: &str, channels: usize) -> ValueId {
        let conv = same_conv(name, channels, 3, 1);
        self.push_conv(x, Conv { bias: Some(format!("{name}.bias")), ..conv })
    }

    /// 3x3 convolution of each channel by itself, without bias.
    pub(super) fn depthwise_conv(&mut self, x: ValueId, name: &str, stride: usize) -> ValueId {
        let channels = self.channels(x);
        self.push_conv(x, Conv { groups: channels, ..same_conv(name, channels, 3, stride) })
    }

    fn push_conv(&mut self, x: ValueId, conv: Conv) -> ValueId {
        let name = conv.weight.trim_end_matches(".weight").to_string();
        self.push(&name, Op::Conv(conv), vec![x])
    }

    pub(super) fn batch_norm(&mut self, x: ValueId, name: &str) -> ValueId {
        let op = Op::BatchNormalization(BatchNormalization {
            scale: format!("{name}.weight"),
            shift: format!("{name}.bias"),
            mean: format!("{name}.running_mean"),
            var: format!("{name}.running_var"),
            epsilon: 1e-5,
            momentum: 0.1,
        });
        self.push(name, op, vec![x])
    }

    pub(super) fn relu(&mut self, x: ValueId, name: &str) -> ValueId {
        self.push(name, Op::Relu, vec![x])
    }

    pub(super) fn relu6(&mut self, x: ValueId, name: &str) -> ValueId {
        self.push(name, Op::Clip(Clip { min: 0.0, max: 6.0 }), vec![x])
    }

    pub(super) fn add(&mut self, a: ValueId, b: ValueId, name: &str) -> ValueId {
        self.push(name, Op::Add, vec![a, b])
    }

    pub(super) fn concat(&mut self, a: ValueId, b: ValueId, name: &str) -> ValueId {
        self.push(name, Op::Concat, vec![a, b])
    }

    /// Maximum of each 2x2 square.
    pub(super) fn halve_by_max(&mut self, x: ValueId, name: &str) -> ValueId {
        self.push(name, Op::MaxPool(HALVE), vec![x])
    }

    /// Mean of each 2x2 square.
    pub(super) fn halve_by_mean(&mut self, x: ValueId, name: &str) -> ValueId {
        self.push(name, Op::AveragePool(HALVE), vec![x])
    }

    /// Mean over the image, then a linear layer `name` to the logits: the end of every network.
    pub(super) fn classify(mut self, x: ValueId, name: &str, classes: usize) -> Graph {
        let x = self.push("avgpool", Op::GlobalAveragePool, vec![x]);
        let x = self.push("flatten", Op::Flatten, vec![x]);
        let (weight, bias) = (format!("{name}.weight"), Some(format!("{name}.bias")));
        self.push(name, Op::Gemm(Gemm { weight, bias, out_features: classes }), vec![x]);
        self.builder.finish().expect("networks of the zoo are valid")
    }

    fn push(&mut self, name: &str, op: Op, inputs: Vec<ValueId>) -> ValueId {
        self.builder.push(Node { name: name.into(), op, inputs }).expect("networks of the zoo are valid")
    }
}

const HALVE: Pool = Pool { kernel: [2, 2], stride: [2, 2], pads: [0; 4], dilation: [1, 1] };

fn same_conv(name: &str, out_channels: usize, kernel: usize, stride: usize) -> Conv {
    Conv {
        weight: format!("{name}.weight"),
        bias: None,
        out_channels,
        kernel: [kernel; 2],
        stride: [stride; 2],
        pads: [kernel / 2; 4],
        dilation: [1, 1],
        groups: 1,
    }
}
