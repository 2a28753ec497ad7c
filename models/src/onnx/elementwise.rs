//! Activations, sums and products.

use sr2_formats::{Error, Tensor};

use super::Importer;
use super::node::NodeView;
use crate::{Clip, Conv, HardSigmoid, LeakyRelu, Op, ValueId};

impl<'a> Importer<'a> {
    pub(super) fn clip(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        let (min, max) = if node.opset < 11 {
            node.only(&["min", "max"])?;
            (node.float("min", f32::MIN)?, node.float("max", f32::MAX)?)
        } else {
            node.only(&[])?;
            (self.scalar(node, 1, f32::MIN)?, self.scalar(node, 2, f32::MAX)?)
        };
        let input = self.value(node, 0)?;
        // ONNX lets the upper bound win.
        self.push(node, Op::Clip(Clip { min: min.min(max), max }), vec![input])
    }

    pub(super) fn leaky_relu(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&["alpha"])?;
        let (input, alpha) = (self.value(node, 0)?, node.float("alpha", 0.01)?);
        self.push(node, Op::LeakyRelu(LeakyRelu { alpha }), vec![input])
    }

    pub(super) fn hard_sigmoid(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&["alpha", "beta"])?;
        let input = self.value(node, 0)?;
        let (alpha, beta) = (node.float("alpha", 0.2)?, node.float("beta", 0.5)?);
        self.push(node, Op::HardSigmoid(HardSigmoid { alpha, beta }), vec![input])
    }

    pub(super) fn add(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        if let Some(sum) = node.proto.output.first().and_then(|name| self.sums.get(name.as_str())) {
            node.only(&[])?;
            return Ok(*sum);
        }
        self.combination(node, Op::Add)
    }

    pub(super) fn mul(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        self.combination(node, Op::Mul)
    }

    /// The sum or product of two values, or of a value and a constant.
    fn combination(&mut self, node: &NodeView<'a>, op: Op) -> Result<ValueId, Error> {
        node.only(&[])?;
        match [0, 1].map(|position| node.optional_input(position).is_some_and(|name| self.constants.has(name))) {
            [true, false] => self.affine(node, &op, 1, 0),
            [false, true] => self.affine(node, &op, 0, 1),
            _ => {
                let inputs = vec![self.value(node, 0)?, self.value(node, 1)?];
                self.push(node, op, inputs)
            }
        }
    }

    /// The sum or product of an image and one constant a channel, or one for all: a convolution of each channel with
    /// one weight.
    fn affine(&mut self, node: &NodeView<'a>, op: &Op, value: usize, constant: usize) -> Result<ValueId, Error> {
        let input = self.value(node, value)?;
        let (name, tensor) = self.required(node, constant)?;
        let &[channels, _, _] = self.builder.shape(input) else {
            let found = self.builder.shape(input);
            return Err(node.unsupported(format!("combines a constant with shape {found:?}, supported are images")));
        };
        let data = match tensor.shape() {
            _ if tensor.len() == 1 => {
                self.constants.charge(channels)?;
                vec![tensor.data()[0]; channels]
            }
            [c, 1, 1] | [1, c, 1, 1] if *c == channels => tensor.data().to_vec(),
            found => {
                let problem = format!("constant {name:?} has shape {found:?}, supported are [] and [{channels}, 1, 1]");
                return Err(node.unsupported(problem));
            }
        };
        let (weight, bias) = match op {
            Op::Mul => (data, None),
            _ => (vec![1.0; channels], Some(data)),
        };
        let weight = Tensor::new([channels, 1, 1, 1], weight);
        let weight_name = if bias.is_some() { format!("{name}.weight") } else { name.into() };
        let conv = Conv {
            weight: self.parameter(node, &weight_name, weight)?,
            bias: bias.map(|data| self.parameter(node, name, Tensor::new([channels], data))).transpose()?,
            out_channels: channels,
            kernel: [1; 2],
            stride: [1; 2],
            pads: [0; 4],
            dilation: [1; 2],
            groups: channels,
        };
        self.push(node, Op::Conv(conv), vec![input])
    }
}
