//! The network by [`sr2_cuda`]: activations channels last, ReLUs and clips fused into the batch norm or sum before them, and
//! a reverse pass of its own, in which each gradient is written once.

use std::collections::HashMap;

use candle_core::{DType, Result, Tensor, Var};
use sr2_cuda::{BatchNorm, Clamp, Convolution, Pooling, Window};
use sr2_models::{BatchNormalization, Conv, Gemm, Graph, Node, Op};

use super::{Mode, ops};

type Tensors = HashMap<String, Tensor>;

/// Which activations are fused.
#[derive(Debug)]
pub(super) struct ChannelsLast {
    /// For each node what follows it at once.
    clamps: Vec<Clamp>,
    /// Nodes that the one before them computes.
    fused: Vec<bool>,
}

/// What a forward pass leaves.
pub(super) struct Pass {
    /// Values that the reverse pass may need; the network's output is the last.
    values: Vec<Option<Tensor>>,
    /// By node: of a convolution its weights channels last, of a batch norm its moments.
    kept: Vec<Option<Tensor>>,
    dtype: DType,
}

impl Pass {
    /// The logits, `[images, classes]` in f32.
    pub fn logits(&self) -> Result<Tensor> {
        let output = self.values.last().cloned().flatten().expect("the last node makes the output");
        channels_first(&output)?.flatten_from(1)?.to_dtype(DType::F32)
    }

    /// The moments that a node has seen, if it is a batch norm, and the number of values of each channel.
    pub fn moments(&self, node: usize, input: usize) -> Option<(&Tensor, usize)> {
        let x = self.values[input].as_ref()?;
        Some((self.kept[node].as_ref()?, x.elem_count() / x.dims().last()?))
    }
}

fn channels_last(x: &Tensor) -> Result<Tensor> {
    if x.rank() == 4 { x.permute((0, 2, 3, 1))?.contiguous() } else { Ok(x.clone()) }
}

fn channels_first(x: &Tensor) -> Result<Tensor> {
    if x.rank() == 4 { x.permute((0, 3, 1, 2))?.contiguous() } else { Ok(x.clone()) }
}

/// Zeros around the images where cuDNN cannot think them there.
fn padded(x: &Tensor, [top, left, bottom, right]: [usize; 4]) -> Result<Tensor> {
    if [top, left] == [bottom, right] {
        return Ok(x.clone());
    }
    x.pad_with_zeros(1, top, bottom)?.pad_with_zeros(2, left, right)
}

fn convolution(c: &Conv) -> Convolution {
    let [top, left, bottom, right] = c.pads;
    let padding = if [top, left] == [bottom, right] { [top, left] } else { [0, 0] };
    Convolution { stride: c.stride, padding, dilation: c.dilation, groups: c.groups }
}

fn batch_norm<'a>(n: &BatchNormalization, moments: &'a Tensor, tensors: &'a Tensors, clamp: Clamp) -> BatchNorm<'a> {
    BatchNorm { moments, scale: &tensors[&n.scale], epsilon: n.epsilon, clamp }
}

fn window(p: &sr2_models::Pool) -> Window {
    Window { kernel: p.kernel, stride: p.stride, pads: p.pads }
}

/// Whether an operator does the same to channels first and last.
fn is_pointwise(op: &Op) -> bool {
    !matches!(op, Op::Pad(_) | Op::Flatten | Op::Concat)
}

/// An operator by candle's, on activations channels last.
fn by_candle(op: &Op, inputs: &[Tensor]) -> Result<Tensor> {
    let none = Tensors::new();
    if is_pointwise(op) {
        return ops::apply(op, inputs, &none, false);
    }
    let inputs: Vec<Tensor> = inputs.iter().map(channels_first).collect::<Result<_>>()?;
    channels_last(&ops::apply(op, &inputs, &none, false)?)
}

/// The sum over all but the last dimension, in f32.
fn sum_to_channels(g: &Tensor) -> Result<Tensor> {
    if g.rank() == 2 {
        return g.to_dtype(DType::F32)?.sum(0);
    }
    let values = g.elem_count() / g.dim(3)?;
    sr2_cuda::moments(g)?.get(0)?.affine(values as f64, 0.0)
}

impl ChannelsLast {
    pub fn new(graph: &Graph) -> Self {
        let nodes = graph.nodes();
        let mut readers = vec![0; nodes.len() + 1];
        nodes.iter().flat_map(|node| &node.inputs).for_each(|value| readers[*value] += 1);
        let (mut clamps, mut fused) = (vec![Clamp::NONE; nodes.len()], vec![false; nodes.len()]);
        for (index, node) in nodes.iter().enumerate() {
            let clamp = match node.op {
                Op::Relu => Clamp::RELU,
                Op::Clip(c) => Clamp { low: c.min, high: c.max },
                _ => continue,
            };
            let Some(before) = node.inputs[0].checked_sub(1) else { continue };
            let fits = match nodes[before].op {
                Op::BatchNormalization(_) => true,
                Op::Add => same_shapes(graph, &nodes[before]),
                _ => false,
            };
            // The gradient of a bound that bf16 rounds would pass.
            let exact = [clamp.low, clamp.high].iter().all(|bound| bound.to_bits() << 16 == 0);
            if fits && exact && readers[node.inputs[0]] == 1 {
                (clamps[before], fused[index]) = (clamp, true);
            }
        }
        Self { clamps, fused }
    }

    /// Runs the network on images channels first. With `keep`, all that [`ChannelsLast::backward`] needs stays; without,
    /// values go after their last read.
    pub fn forward(
        &self,
        (graph, last_reads): (&Graph, &[Option<usize>]),
        tensors: &Tensors,
        images: &Tensor,
        (mode, dtype, keep): (Mode, DType, bool),
    ) -> Result<Pass> {
        let nodes = graph.nodes();
        let mut pass = Pass { values: Vec::with_capacity(nodes.len() + 1), kept: Vec::new(), dtype };
        pass.values.push(Some(channels_last(&images.to_dtype(dtype)?)?));
        for (index, node) in nodes.iter().enumerate() {
            let inputs: Vec<Tensor> = node
                .inputs
                .iter()
                .map(|v| pass.values[*v].clone().expect("values live until their last read"))
                .collect();
            let (output, kept) = self.apply(index, node, &inputs, tensors, (mode, dtype))?;
            pass.values.push(Some(output));
            pass.kept.push(kept);
            for value in node.inputs.iter().filter(|_| !keep) {
                if last_reads[*value] == Some(index) {
                    pass.values[*value] = None;
                }
            }
        }
        Ok(pass)
    }

    fn apply(
        &self,
        index: usize,
        node: &Node,
        inputs: &[Tensor],
        tensors: &Tensors,
        (mode, dtype): (Mode, DType),
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (x, clamp) = (&inputs[0], self.clamps[index]);
        let output = match &node.op {
            _ if self.fused[index] => x.clone(),
            Op::Conv(c) => {
                let weights = sr2_cuda::weights_last(&tensors[&c.weight], dtype)?;
                let mut y = convolution(c).forward(&padded(x, c.pads)?, &weights)?;
                if let Some(bias) = &c.bias {
                    y = y.broadcast_add(&tensors[bias].to_dtype(dtype)?)?;
                }
                return Ok((y, Some(weights)));
            }
            Op::BatchNormalization(n) => {
                let moments = match mode {
                    Mode::Training => {
                        ops::check_values(n, x.elem_count() / x.dim(3)?)?;
                        sr2_cuda::moments(x)?
                    }
                    Mode::Inference => Tensor::stack(&[&tensors[&n.mean], &tensors[&n.var]], 0)?,
                };
                let y = batch_norm(n, &moments, tensors, clamp).forward(x, &tensors[&n.shift])?;
                return Ok((y, Some(moments)));
            }
            Op::Add if x.shape() == inputs[1].shape() => sr2_cuda::add(x, &inputs[1], clamp)?,
            Op::MaxPool(p) => Pooling::Max.forward(x, window(p))?,
            Op::AveragePool(p) => Pooling::Average.forward(x, window(p))?,
            Op::GlobalAveragePool => sr2_cuda::mean(x)?,
            Op::Concat => Tensor::cat(inputs, x.rank() - 1)?,
            Op::Gemm(_) => ops::apply(&node.op, &[x.to_dtype(DType::F32)?], tensors, dtype == DType::BF16)?,
            op => by_candle(op, inputs)?,
        };
        Ok((output, None))
    }

    /// The gradient of each parameter from that of the logits.
    pub fn backward(&self, graph: &Graph, tensors: &Tensors, mut pass: Pass, logits: &Tensor) -> Result<Tensors> {
        let mut parameters = Tensors::new();
        let mut gradients: Vec<Option<Tensor>> = vec![None; pass.values.len()];
        let output = pass.values.last().cloned().flatten().expect("the last node makes the output");
        let (images, rest) = (output.dim(0)?, &output.dims()[1..]);
        let first = match *rest {
            [height, width, channels] => channels_last(&logits.reshape((images, channels, height, width))?)?,
            _ => logits.clone(),
        };
        gradients[graph.nodes().len()] = Some(first.to_dtype(output.dtype())?);
        for (index, node) in graph.nodes().iter().enumerate().rev() {
            let output = pass.values[index + 1].take().expect("a pass that kept its values");
            let Some(g) = gradients[index + 1].take() else { continue };
            let inputs: Vec<&Tensor> =
                node.inputs.iter().map(|v| pass.values[*v].as_ref().expect("values come before their reads")).collect();
            let kept = pass.kept[index].take();
            let found =
                self.gradient(index, node, (&inputs, &output, &g), kept, tensors, (pass.dtype, &mut parameters))?;
            for (value, found) in node.inputs.iter().zip(found).filter(|(value, _)| **value != 0) {
                let sum = match gradients[*value].take() {
                    Some(other) => sr2_cuda::add(&other, &found, Clamp::NONE)?,
                    None => found,
                };
                gradients[*value] = Some(sum);
            }
        }
        Ok(parameters)
    }

    /// The gradients of a node's inputs; those of its parameters are put into `parameters`. None of the images.
    fn gradient(
        &self,
        index: usize,
        node: &Node,
        (inputs, output, g): (&[&Tensor], &Tensor, &Tensor),
        kept: Option<Tensor>,
        tensors: &Tensors,
        (dtype, parameters): (DType, &mut Tensors),
    ) -> Result<Vec<Tensor>> {
        let (x, clamp) = (inputs[0], self.clamps[index]);
        let mut put = |name: &String, gradient: Tensor| -> Result<()> {
            let sum = match parameters.remove(name) {
                Some(other) => (other + gradient)?,
                None => gradient,
            };
            parameters.insert(name.clone(), sum);
            Ok(())
        };
        let first = match &node.op {
            _ if self.fused[index] => g.clone(),
            Op::Conv(c) => {
                let weights = kept.expect("a convolution keeps its weights");
                let (convolution, padded) = (convolution(c), padded(x, c.pads)?);
                let gradient = convolution.weight_gradient(&padded, g, weights.dims4()?)?;
                put(&c.weight, sr2_cuda::weights_first(&gradient)?)?;
                if let Some(bias) = &c.bias {
                    put(bias, sum_to_channels(g)?)?;
                }
                if node.inputs[0] == 0 {
                    return Ok(Vec::new());
                }
                let gradient = convolution.input_gradient(g, &weights, padded.dims4()?)?;
                let (_, height, width, _) = x.dims4()?;
                let [top, left, ..] = c.pads;
                if padded.shape() == x.shape() {
                    gradient
                } else {
                    gradient.narrow(1, top, height)?.narrow(2, left, width)?.contiguous()?
                }
            }
            Op::BatchNormalization(n) => {
                let moments = kept.expect("a batch norm keeps its moments");
                let found = batch_norm(n, &moments, tensors, clamp).gradient([x, output, g])?;
                put(&n.scale, found.scale)?;
                put(&n.shift, found.shift)?;
                found.x
            }
            Op::Add if x.shape() == inputs[1].shape() => {
                let g = if clamp == Clamp::NONE { g.clone() } else { sr2_cuda::clamp_gradient(output, g, clamp)? };
                return Ok(vec![g.clone(), g]);
            }
            Op::MaxPool(p) => Pooling::Max.gradient(x, g, window(p))?,
            Op::AveragePool(p) => Pooling::Average.gradient(x, g, window(p))?,
            Op::GlobalAveragePool => sr2_cuda::mean_gradient(g, x.dims4()?)?,
            Op::Concat => {
                let mut start = 0;
                let part = |x: &&Tensor| {
                    let channels = x.dim(x.rank() - 1)?;
                    start += channels;
                    g.narrow(x.rank() - 1, start - channels, channels)?.contiguous()
                };
                return inputs.iter().map(part).collect();
            }
            Op::Gemm(gemm) => linear_gradient(gemm, x, g, &tensors[&gemm.weight], (dtype, &mut put))?,
            op => return gradients_by_candle(op, inputs, g),
        };
        Ok(vec![first])
    }
}

/// Whether a node's inputs have one shape.
fn same_shapes(graph: &Graph, node: &Node) -> bool {
    node.inputs.iter().all(|value| graph.shape(*value) == graph.shape(node.inputs[0]))
}

/// The gradient of the input of a linear layer.
fn linear_gradient(
    gemm: &Gemm,
    x: &Tensor,
    g: &Tensor,
    weight: &Tensor,
    (dtype, put): (DType, &mut impl FnMut(&String, Tensor) -> Result<()>),
) -> Result<Tensor> {
    // candle multiplies no bf16 on the CPU.
    let rounded = |tensor: &Tensor| {
        let rounded = tensor.to_dtype(dtype)?;
        if tensor.device().is_cpu() { rounded.to_dtype(DType::F32) } else { Ok(rounded) }
    };
    let factor = rounded(g)?;
    put(&gemm.weight, factor.t()?.matmul(&rounded(x)?)?.to_dtype(DType::F32)?)?;
    if let Some(bias) = &gemm.bias {
        put(bias, sum_to_channels(g)?)?;
    }
    factor.matmul(&rounded(weight)?)?.to_dtype(x.dtype())
}

/// The gradients of the inputs of an operator without parameters.
fn gradients_by_candle(op: &Op, inputs: &[&Tensor], g: &Tensor) -> Result<Vec<Tensor>> {
    let variables: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input)).collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
    let gradients = (by_candle(op, &tensors)? * g)?.sum_all()?.backward()?;
    let gradient = |v: &Var| gradients.get(v).map_or_else(|| v.zeros_like(), |gradient| gradient.contiguous());
    variables.iter().map(gradient).collect()
}
