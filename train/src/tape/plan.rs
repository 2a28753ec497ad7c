//! From a graph to steps with buffers.

use std::ops::Range;

use sr2_kernels::training::{Activation, PoolShape, blocked_channels};
use sr2_models::{Graph, Op, ValueId};

use super::conv::Conv;
use super::error;
use super::norm::Norm;
use super::step::{Gradients, Operation, Step, Target};
use crate::executor::ExecutorError;
use crate::layout::{ParameterLayout, Segment};

/// An activation: blocked images, or flat features as images of height and width 1.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub buffer: usize,
    pub channels: usize,
    /// Height and width.
    pub size: [usize; 2],
    /// Whether anything trainable lies before it.
    needs_gradient: bool,
}

impl Value {
    /// Places of one channel.
    pub fn area(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Values of one blocked image.
    pub fn len(&self) -> usize {
        blocked_channels(self.channels) * self.area()
    }
}

/// The steps of a network in forward order; value 0 is its input.
#[derive(Debug)]
pub(super) struct Plan {
    pub steps: Vec<Step>,
    pub values: Vec<Value>,
    /// The logits.
    pub output: usize,
    /// Buffer of the logits' gradient, unless nothing is trainable.
    pub output_gradient: Option<usize>,
    /// Values that each buffer holds an image.
    pub buffer_lens: Vec<usize>,
}

impl Plan {
    pub fn new(graph: &Graph, layout: &ParameterLayout) -> Result<Self, ExecutorError> {
        let mut planner = Planner::new(graph, layout)?;
        for node in 0..graph.nodes().len() {
            planner.node(node)?;
        }
        planner.finish()
    }
}

/// The part of a batch-norm node's successors that its step computes too.
#[derive(Debug, Clone, Copy)]
struct Fusion {
    /// The batch-norm node.
    norm: usize,
    /// The value added to it.
    residual: Option<ValueId>,
    activation: Activation,
}

struct Planner<'a> {
    graph: &'a Graph,
    layout: &'a ParameterLayout,
    /// For each node, the fusion that ends there.
    fusions: Vec<Option<Fusion>>,
    /// Whether a fusion that ends later computes the node.
    absorbed: Vec<bool>,
    /// For each value of the graph, the value of the plan, once it is computed.
    of: Vec<usize>,
    values: Vec<Value>,
    steps: Vec<Step>,
    buffers: Buffers,
}

impl<'a> Planner<'a> {
    fn new(graph: &'a Graph, layout: &'a ParameterLayout) -> Result<Self, ExecutorError> {
        if graph.output_shape().len() != 1 {
            let shape = graph.output_shape();
            return Err(error(format!("the network ends in shape {shape:?}, expected one logit a class")));
        }
        let (fusions, absorbed) = find_fusions(graph);
        let (values, of, steps, buffers) = (Vec::new(), Vec::new(), Vec::new(), Buffers::default());
        let mut planner = Self { graph, layout, fusions, absorbed, of, values, steps, buffers };
        let input = planner.add_value(0, false);
        planner.of.push(input);
        Ok(planner)
    }

    /// Adds what computes one node.
    fn node(&mut self, index: usize) -> Result<(), ExecutorError> {
        let node = &self.graph.nodes()[index];
        if self.absorbed[index] {
            // Never read: only the fusion's last value is.
            self.of.push(usize::MAX);
            return Ok(());
        }
        if let Some(fusion) = self.fusions[index] {
            let norm = &self.graph.nodes()[fusion.norm];
            let Op::BatchNormalization(attributes) = &norm.op else { unreachable!("a fusion starts at a batch norm") };
            let inputs: Vec<_> = norm.inputs.iter().copied().chain(fusion.residual).collect();
            let step = Norm::new(attributes, fusion.activation, |name| self.range(name), |name| self.buffer(name));
            self.add_step(index, Operation::Norm(step), &inputs);
            return Ok(());
        }
        let from = &self.values[self.of[node.inputs[0]]];
        let to = self.graph.shape(index + 1);
        let pool = |p: &sr2_models::Pool| PoolShape {
            input: from.size,
            output: [to[1], to[2]],
            kernel: p.kernel,
            stride: p.stride,
            before: [p.pads[0], p.pads[1]],
        };
        let operation = match &node.op {
            Op::Conv(c) => {
                let weight = [self.range(&c.weight)].into_iter().chain(c.bias.as_deref().map(|b| self.range(b)));
                let conv = Conv::convolution(c, from, [to[1], to[2]], weight.collect());
                Operation::Conv(Box::new(
                    conv.ok_or_else(|| error(format!("node {:?}: the image is too large", node.name)))?,
                ))
            }
            Op::Gemm(g) => {
                let weight = [self.range(&g.weight)].into_iter().chain(g.bias.as_deref().map(|b| self.range(b)));
                let conv = Conv::linear(g, from, weight.collect());
                Operation::Conv(Box::new(
                    conv.ok_or_else(|| error(format!("node {:?}: too many features", node.name)))?,
                ))
            }
            Op::Relu => Operation::Activation(Activation::Relu),
            Op::Clip(c) => Operation::Activation(Activation::Clip { low: c.min, high: c.max }),
            Op::Add if node.inputs.iter().all(|value| self.graph.shape(*value) == to) => Operation::Add,
            Op::Concat => Operation::Concat,
            Op::MaxPool(p) if p.dilation == [1, 1] => Operation::MaxPool(pool(p)),
            Op::AveragePool(p) if p.dilation == [1, 1] => Operation::AveragePool(pool(p)),
            Op::GlobalAveragePool => {
                let (input, stride, before) = (from.size, from.size, [0, 0]);
                Operation::AveragePool(PoolShape { input, output: [1, 1], kernel: input, stride, before })
            }
            Op::Flatten if from.area() > 1 => Operation::Flatten,
            Op::Flatten | Op::Identity => {
                self.of.push(self.of[node.inputs[0]]);
                return Ok(());
            }
            op => {
                let (name, op) = (&node.name, op.name());
                return Err(error(format!("node {name:?}: {op} is not supported; use --executor candle")));
            }
        };
        self.add_step(index, operation, &node.inputs);
        Ok(())
    }

    fn add_step(&mut self, node: usize, operation: Operation, inputs: &[ValueId]) {
        let inputs: Vec<usize> = inputs.iter().map(|v| self.of[*v]).collect();
        let needs_gradient = operation.is_trainable() || inputs.iter().any(|v| self.values[*v].needs_gradient);
        let output = self.add_value(node + 1, needs_gradient);
        self.of.push(output);
        self.steps.push(Step { operation, inputs, output, gradients: None });
    }

    fn add_value(&mut self, value: ValueId, needs_gradient: bool) -> usize {
        let (channels, size) = match *self.graph.shape(value) {
            [channels, height, width] => (channels, [height, width]),
            ref flat => (flat.iter().product(), [1, 1]),
        };
        let mut value = Value { buffer: 0, channels, size, needs_gradient };
        value.buffer = self.buffers.allocate(value.len());
        self.values.push(value);
        self.values.len() - 1
    }

    /// Plans the backward pass: who writes which gradient where.
    fn finish(mut self) -> Result<Plan, ExecutorError> {
        let output = self.of[self.graph.nodes().len()];
        let mut gradients: Vec<Option<usize>> = vec![None; self.values.len()];
        let mut output_gradient = None;
        if self.values[output].needs_gradient {
            output_gradient = Some(self.buffers.allocate(self.values[output].len()));
            gradients[output] = output_gradient;
        }
        for step in self.steps.iter_mut().rev() {
            // What nothing reads has no gradient.
            if let Some(from) = gradients[step.output].take() {
                let mut taken = false;
                let mut targets = vec![Target::None; step.inputs.len()];
                // Last input first: a residual takes the gradient as it is, the batch norm's input can do without.
                for (index, input) in step.inputs.iter().enumerate().rev() {
                    let once = step.inputs.iter().filter(|v| *v == input).count() == 1;
                    targets[index] = match gradients[*input] {
                        _ if !self.values[*input].needs_gradient => Target::None,
                        Some(buffer) => Target::Add(buffer),
                        None if once && !taken && step.operation.keeps_shape() => {
                            taken = true;
                            gradients[*input] = Some(from);
                            Target::Take
                        }
                        None => {
                            let buffer = self.buffers.allocate(self.values[*input].len());
                            gradients[*input] = Some(buffer);
                            Target::Replace(buffer)
                        }
                    };
                }
                if !taken {
                    self.buffers.free(from);
                }
                step.gradients = Some(Gradients { output: from, inputs: targets });
            }
            self.buffers.free(self.values[step.output].buffer);
        }
        let Self { steps, values, buffers, .. } = self;
        Ok(Plan { steps, values, output, output_gradient, buffer_lens: buffers.lens })
    }

    fn range(&self, name: &str) -> Range<usize> {
        find(self.layout.trainable(), name)
    }

    fn buffer(&self, name: &str) -> Range<usize> {
        find(self.layout.buffers(), name)
    }
}

fn find(segments: &[Segment], name: &str) -> Range<usize> {
    segments.iter().find(|s| s.spec.name == name).expect("the layout is the graph's").range.clone()
}

/// Finds for each batch norm the sum and the activation that are its value's only readers.
fn find_fusions(graph: &Graph) -> (Vec<Option<Fusion>>, Vec<bool>) {
    let nodes = graph.nodes();
    let mut readers = vec![Vec::new(); nodes.len() + 1];
    for (index, node) in nodes.iter().enumerate() {
        node.inputs.iter().for_each(|v| readers[*v].push(index));
    }
    let only_reader = |node: usize| match readers[node + 1][..] {
        [reader] => Some(reader),
        _ => None,
    };
    let (mut fusions, mut absorbed) = (vec![None; nodes.len()], vec![false; nodes.len()]);
    // Last first: of two batch norms that a sum joins, the later one takes the sum, when the other is computed.
    for norm in (0..nodes.len()).rev().filter(|n| matches!(nodes[*n].op, Op::BatchNormalization(_))) {
        let mut fusion = Fusion { norm, residual: None, activation: Activation::Identity };
        let mut end = norm;
        let sums = |r: usize| {
            let operands = nodes[r].inputs.iter();
            matches!(nodes[r].op, Op::Add) && operands.into_iter().all(|v| graph.shape(*v) == graph.shape(r + 1))
        };
        if let Some(sum) = only_reader(end).filter(|r| sums(*r) && !absorbed[*r] && fusions[*r].is_none()) {
            fusion.residual = nodes[sum].inputs.iter().copied().find(|v| *v != norm + 1);
            absorbed[end] = true;
            end = sum;
        }
        if let Some(reader) = only_reader(end) {
            let activation = match &nodes[reader].op {
                Op::Relu => Some(Activation::Relu),
                Op::Clip(c) => Some(Activation::Clip { low: c.min, high: c.max }),
                _ => None,
            };
            if let Some(activation) = activation {
                fusion.activation = activation;
                absorbed[end] = true;
                end = reader;
            }
        }
        fusions[end] = Some(fusion);
    }
    (fusions, absorbed)
}

/// Buffers by lifetime: one that is free serves the next that fits.
#[derive(Debug, Default)]
struct Buffers {
    lens: Vec<usize>,
    free: Vec<usize>,
}

impl Buffers {
    fn allocate(&mut self, len: usize) -> usize {
        let fits = |position: &usize| self.lens[self.free[*position]] >= len;
        let best = (0..self.free.len()).filter(fits).min_by_key(|position| self.lens[self.free[*position]]);
        match best {
            Some(position) => self.free.swap_remove(position),
            None => {
                self.lens.push(len);
                self.lens.len() - 1
            }
        }
    }

    fn free(&mut self, buffer: usize) {
        self.free.push(buffer);
    }
}
