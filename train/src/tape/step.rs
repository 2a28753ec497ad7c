//! One step of the plan: an operation, the values it reads and makes, and where its gradients go.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use sr2_kernels::Aligned;
use sr2_kernels::training::{self as kernels, Activation, PoolShape, activate, activation_gradient, add_assign};

use super::conv::Conv;
use super::norm::{Norm, NormTarget, NormTensors};
use super::phases::PhaseTimes;
use super::plan::Value;
use super::sparse_conv::InputGradient;
use super::{Pass, Statistics};
use crate::executor::ExecutorError;

/// What a step computes.
#[derive(Debug)]
pub(super) enum Operation {
    Conv(Box<Conv>),
    Norm(Norm),
    Activation(Activation),
    Add,
    Concat,
    MaxPool(PoolShape),
    AveragePool(PoolShape),
    Flatten,
}

impl Operation {
    pub fn is_trainable(&self) -> bool {
        matches!(self, Self::Conv(_) | Self::Norm(_))
    }

    /// Whether the gradient of the output may become that of an input in place.
    pub fn keeps_shape(&self) -> bool {
        matches!(self, Self::Norm(_) | Self::Activation(_) | Self::Add)
    }
}

/// Where the gradient of an input goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Nobody needs it.
    None,
    /// Into a buffer that holds nothing yet.
    Replace(usize),
    /// On top of what the buffer holds.
    Add(usize),
    /// Into the buffer of the output's gradient, which nobody needs afterwards.
    Take,
}

/// Buffers of a step's gradients.
#[derive(Debug)]
pub(super) struct Gradients {
    pub output: usize,
    pub inputs: Vec<Target>,
}

/// An operation in its place.
#[derive(Debug)]
pub(super) struct Step {
    pub operation: Operation,
    /// Values read.
    pub inputs: Vec<usize>,
    /// Value made.
    pub output: usize,
    /// `None` where no gradient comes back.
    pub gradients: Option<Gradients>,
}

impl Step {
    /// Where a convolution leaves the moments of its output, if a batch norm of the `later` steps reads that.
    pub fn moments<'a>(&self, later: &'a mut [Step], count: usize) -> Option<&'a mut [f32]> {
        if !matches!(self.operation, Operation::Conv(_)) {
            return None;
        }
        later.iter_mut().find_map(|step| match &mut step.operation {
            Operation::Norm(norm) if step.inputs[0] == self.output => Some(norm.moments(count)),
            _ => None,
        })
    }

    /// Computes the step's value, and its `moments` as by [`Step::moments`].
    pub fn forward(
        &mut self,
        pass: &Pass,
        values: &[Value],
        buffers: &mut [Aligned],
        statistics: Statistics,
        running: &[f32],
        moments: Option<&mut [f32]>,
    ) -> Result<(), ExecutorError> {
        let (from, to) = (&values[self.inputs[0]], &values[self.output]);
        let mut output = std::mem::take(&mut buffers[to.buffer]);
        let y = &mut output[..pass.count * to.len()];
        let value = |index: usize| {
            let value = &values[self.inputs[index]];
            &buffers[value.buffer][..pass.count * value.len()]
        };
        let x = value(0);
        let images = || x.par_chunks(from.len());
        match &mut self.operation {
            Operation::Conv(conv) => conv.forward(pass, x, y, moments),
            Operation::Norm(norm) => {
                let residual = (self.inputs.len() > 1).then(|| value(1));
                norm.forward(pass, from, statistics, running, NormTensors { input: x, residual, output: y })?;
            }
            Operation::Activation(activation) => {
                let images = y.par_chunks_mut(to.len()).zip(images());
                images.for_each(|(y, x)| activate(pass.isa, *activation, x, y));
            }
            Operation::Add => {
                let images = y.par_chunks_mut(to.len()).zip(images()).zip(value(1).par_chunks(from.len()));
                images.for_each(|((y, a), b)| kernels::add(pass.isa, a, b, y));
            }
            Operation::Concat => {
                let parts: Vec<_> = (0..self.inputs.len()).map(|i| (&values[self.inputs[i]], value(i))).collect();
                y.par_chunks_mut(to.len()).enumerate().for_each(|(image, y)| {
                    y.fill(0.0);
                    let mut offset = 0;
                    for (part, x) in &parts {
                        let x = &x[image * part.len()..(image + 1) * part.len()];
                        kernels::concat(part.channels, part.area(), offset, x, y);
                        offset += part.channels;
                    }
                });
            }
            Operation::MaxPool(shape) => {
                let images = y.par_chunks_mut(to.len()).zip(images());
                images.for_each(|(y, x)| kernels::max_pool(pass.isa, shape, x, y));
            }
            Operation::AveragePool(shape) => {
                let images = y.par_chunks_mut(to.len()).zip(images());
                images.for_each(|(y, x)| kernels::average_pool(pass.isa, shape, x, y));
            }
            Operation::Flatten => {
                let images = y.par_chunks_mut(to.len()).zip(images());
                images.for_each(|(y, x)| kernels::flatten(from.channels, from.area(), x, y));
            }
        }
        buffers[to.buffer] = output;
        Ok(())
    }

    /// The phase to which the step's time belongs, but for the gradients of a convolution.
    pub fn phase<'a>(&self, times: &'a mut PhaseTimes) -> &'a mut Duration {
        match self.operation {
            Operation::Conv(_) => &mut times.conv_forward,
            Operation::Norm(_) => &mut times.norm,
            _ => &mut times.rest,
        }
    }

    /// Adds the gradients of the step's parameters to `gradient`, and passes that of its output on to its inputs.
    pub fn backward(
        &mut self,
        pass: &Pass,
        values: &[Value],
        buffers: &mut [Aligned],
        gradient: &mut [f32],
        times: &mut PhaseTimes,
    ) {
        let Some(gradients) = &self.gradients else { return };
        let start = Instant::now();
        let (from, to) = (&values[self.inputs[0]], &values[self.output]);
        let mut output_gradient = std::mem::take(&mut buffers[gradients.output]);
        let dy = &mut output_gradient[..pass.count * to.len()];
        match &mut self.operation {
            Operation::Conv(conv) => {
                let (buffer, accumulate) = match gradients.inputs[0] {
                    Target::Replace(buffer) => (Some(buffer), false),
                    Target::Add(buffer) => (Some(buffer), true),
                    Target::None | Target::Take => (None, false),
                };
                let mut dx = buffer.map_or_else(Aligned::default, |buffer| std::mem::take(&mut buffers[buffer]));
                let x = &buffers[from.buffer][..pass.count * from.len()];
                let input = buffer.map(|_| InputGradient { values: &mut dx[..pass.count * from.len()], accumulate });
                conv.backward(pass, x, dy, input, gradient, times);
                if let Some(buffer) = buffer {
                    buffers[buffer] = dx;
                }
            }
            Operation::Norm(norm) => {
                let x = &buffers[from.buffer][..pass.count * from.len()];
                let y = (self.inputs.len() > 1).then(|| &buffers[to.buffer][..pass.count * to.len()]);
                let parts = norm.parameter_gradients(pass, from, x, y, dy, gradient);
                if let Some(target) = gradients.inputs.get(1) {
                    pass_on(pass, dy, from.len(), *target, buffers);
                }
                let (buffer, accumulate) = match gradients.inputs[0] {
                    Target::None => (None, false),
                    Target::Take => (Some(gradients.output), false),
                    Target::Replace(buffer) => (Some(buffer), false),
                    Target::Add(buffer) => (Some(buffer), true),
                };
                if let Some(buffer) = buffer {
                    let mut to = std::mem::take(&mut buffers[buffer]);
                    let x = &buffers[from.buffer][..pass.count * from.len()];
                    let target = match gradients.inputs[0] {
                        Target::Take => NormTarget::InPlace,
                        _ => NormTarget::Other { to: &mut to[..pass.count * from.len()], accumulate },
                    };
                    norm.input_gradient(pass, &parts, x, dy, target);
                    buffers[buffer] = to;
                }
            }
            Operation::Activation(activation) => {
                let y = &buffers[to.buffer][..pass.count * to.len()];
                let images = dy.par_chunks_mut(to.len()).zip(y.par_chunks(to.len()));
                images.for_each(|(dy, y)| activation_gradient(pass.isa, *activation, y, dy));
                pass_on(pass, dy, to.len(), gradients.inputs[0], buffers);
            }
            Operation::Add => {
                // Last first, as planned: an input that both operands name is replaced by the last.
                gradients.inputs.iter().rev().for_each(|target| pass_on(pass, dy, to.len(), *target, buffers));
            }
            Operation::Concat => {
                let mut offset: usize = self.inputs.iter().map(|v| values[*v].channels).sum();
                for (input, target) in self.inputs.iter().zip(&gradients.inputs).rev() {
                    let part = &values[*input];
                    offset -= part.channels;
                    add_images(pass, dy, to.len(), part.len(), *target, buffers, |_, dy, dx| {
                        kernels::concat_gradient(part.channels, part.area(), offset, dy, dx);
                    });
                }
            }
            Operation::MaxPool(shape) => {
                let x = std::mem::take(&mut buffers[from.buffer]);
                add_images(pass, dy, to.len(), from.len(), gradients.inputs[0], buffers, |image, dy, dx| {
                    let x = &x[image * from.len()..(image + 1) * from.len()];
                    kernels::max_pool_gradient(pass.isa, shape, x, dy, dx);
                });
                buffers[from.buffer] = x;
            }
            Operation::AveragePool(shape) => {
                add_images(pass, dy, to.len(), from.len(), gradients.inputs[0], buffers, |_, dy, dx| {
                    kernels::average_pool_gradient(pass.isa, shape, dy, dx);
                });
            }
            Operation::Flatten => {
                add_images(pass, dy, to.len(), from.len(), gradients.inputs[0], buffers, |_, dy, dx| {
                    kernels::flatten_gradient(from.channels, from.area(), dy, dx);
                });
            }
        }
        buffers[gradients.output] = output_gradient;
        if !matches!(self.operation, Operation::Conv(_)) {
            *self.phase(times) += start.elapsed();
        }
    }

    /// Moves the running statistics by those of the last forward pass.
    pub fn move_running(&self, running: &mut [f32]) {
        if let Operation::Norm(norm) = &self.operation {
            norm.move_running(running);
        }
    }

    /// Multiply-add operations of one image's forward pass.
    pub fn multiplications(&self) -> usize {
        match &self.operation {
            Operation::Conv(conv) => conv.multiplications(),
            _ => 0,
        }
    }
}

/// Gives `gradient` unchanged to an input.
fn pass_on(pass: &Pass, gradient: &[f32], len: usize, target: Target, buffers: &mut [Aligned]) {
    match target {
        Target::None | Target::Take => {}
        Target::Replace(buffer) => {
            let to = buffers[buffer].par_chunks_mut(len).zip(gradient.par_chunks(len));
            to.for_each(|(to, from)| to.copy_from_slice(from));
        }
        Target::Add(buffer) => {
            let to = buffers[buffer].par_chunks_mut(len).zip(gradient.par_chunks(len));
            to.for_each(|(to, from)| add_assign(pass.isa, from, to));
        }
    }
}

/// Calls `add(image, output gradient, input gradient)` for each image, on zeros where the target holds nothing yet.
fn add_images(
    pass: &Pass,
    output_gradient: &[f32],
    output_len: usize,
    input_len: usize,
    target: Target,
    buffers: &mut [Aligned],
    add: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) {
    let (Target::Replace(buffer) | Target::Add(buffer)) = target else { return };
    let dx = buffers[buffer][..pass.count * input_len].par_chunks_mut(input_len);
    let images = dx.zip(output_gradient.par_chunks(output_len)).enumerate();
    images.for_each(|(image, (dx, dy))| {
        if matches!(target, Target::Replace(_)) {
            dx.fill(0.0);
        }
        add(image, dy, dx);
    });
}
