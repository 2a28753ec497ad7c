//! Convolutions and linear layers, spread over threads.

use std::ops::Range;
use std::time::Instant;

use rayon::prelude::*;
use sr2_kernels::Aligned;
use sr2_kernels::training::{
    Arithmetic, ConvShape, Convolution, Factor, add_assign, add_channel_sums, blocked_channels, pair_rows,
};
use sr2_models as models;

use super::Pass;
use super::phases::{PhaseTimes, timed};
use super::plan::Value;
use super::sparse_conv::{InputGradient, SparseConv, felt_density};
use crate::executor::Support;

/// A convolution with its places in the flat parameter vector. A linear layer is a 1x1 convolution of 1x1 images.
#[derive(Debug)]
pub(super) struct Conv {
    plan: Convolution,
    weight: Range<usize>,
    bias: Option<Range<usize>>,
    packed: Aligned,
    packed_backward: Aligned,
    /// The bias with whole blocks.
    padded_bias: Vec<f32>,
    /// Weight gradients of slices of the batch.
    partial: Aligned,
    sparse: Option<SparseConv>,
    /// Of the last forward pass.
    density: f64,
}

/// Densities under which the sparse kernels are faster than the dense ones for every layer of the kernels' example
/// `training_conv`; most break even earlier.
const FORWARD_BREAK_EVEN: f64 = 0.38;
/// The same for the gradient of the input.
const INPUT_GRADIENT_BREAK_EVEN: f64 = 0.38;
/// The same for that of the weight.
const WEIGHT_GRADIENT_BREAK_EVEN: f64 = 0.45;

/// What the dense kernels gain by bf16: the sparse ones, in f32, break even at so many times lower a density.
const BF16_GAIN: f64 = 1.9;

/// Parts into which a weight gradient is cut, by slices of the batch and by output channels; enough for any desktop CPU,
/// few enough for little memory.
const PARTS: usize = 16;

impl Conv {
    /// `None` if an image is too large to plan. `parameters` are the weight and, if any, the bias.
    pub fn convolution(
        c: &models::Conv,
        from: &Value,
        output: [usize; 2],
        parameters: Vec<Range<usize>>,
    ) -> Option<Self> {
        let shape = ConvShape {
            in_channels: from.channels,
            out_channels: c.out_channels,
            groups: c.groups,
            input: from.size,
            output,
            kernel: c.kernel,
            stride: c.stride,
            pads: c.pads,
            dilation: c.dilation,
        };
        Self::new(shape, parameters)
    }

    /// See [`Conv::convolution`].
    pub fn linear(g: &models::Gemm, from: &Value, parameters: Vec<Range<usize>>) -> Option<Self> {
        let shape = ConvShape {
            in_channels: from.channels,
            out_channels: g.out_features,
            groups: 1,
            input: [1, 1],
            output: [1, 1],
            kernel: [1, 1],
            stride: [1, 1],
            pads: [0; 4],
            dilation: [1, 1],
        };
        Self::new(shape, parameters)
    }

    fn new(shape: ConvShape, parameters: Vec<Range<usize>>) -> Option<Self> {
        let plan = Convolution::new(shape)?;
        let mut parameters = parameters.into_iter();
        let weight = parameters.next().expect("a convolution has a weight");
        let bias = parameters.next();
        Some(Self {
            packed: Aligned::zeroed(plan.output_blocks() * plan.forward_block_len()),
            packed_backward: Aligned::zeroed(plan.input_blocks() * plan.backward_block_len()),
            padded_bias: vec![0.0; blocked_channels(shape.out_channels)],
            partial: Aligned::default(),
            sparse: SparseConv::new(shape),
            density: 1.0,
            plan,
            weight,
            bias,
        })
    }

    pub fn multiplications(&self) -> usize {
        self.plan.multiplications()
    }

    pub fn forward(&mut self, pass: &Pass, x: &[f32], y: &mut [f32]) {
        let Self { plan, packed, padded_bias, sparse, .. } = self;
        let weights = &pass.parameters[self.weight.clone()];
        if let Some(bias) = &self.bias {
            padded_bias[..bias.len()].copy_from_slice(&pass.parameters[bias.clone()]);
        }
        let bias = self.bias.is_some().then_some(&padded_bias[..]);
        self.density = felt_density(weights, pass.count);
        if let Some(sparse) = sparse.as_mut().filter(|_| self.density < break_even(pass, FORWARD_BREAK_EVEN)) {
            sparse.forward(pass, weights, bias, x, y);
            return;
        }
        let arithmetic = arithmetic(plan, pass);
        pack(pass, arithmetic, plan.forward_block_len(), packed, |block, to| plan.pack_forward(block, weights, to));
        let images = images_together(plan, pass);
        let groups = y.par_chunks_mut(images * plan.output_len()).zip(x.par_chunks(images * plan.input_len()));
        groups.for_each(|(y, x)| plan.forward(arithmetic, x, packed, bias, y, &mut pass.scratch.get()));
    }

    /// Adds the gradients of weight and bias, and passes the output's gradient on, at the weights of the last forward
    /// pass.
    pub fn backward(
        &mut self,
        pass: &Pass,
        x: &[f32],
        dy: &[f32],
        input: Option<InputGradient>,
        gradient: &mut [f32],
        times: &mut PhaseTimes,
    ) {
        if let Some(bias) = &self.bias {
            add_bias_gradient(pass, &self.plan, dy, &mut gradient[bias.clone()]);
        }
        let frozen = pass.support == Support::Frozen;
        let sparse_weight =
            self.sparse.is_some() && frozen && self.density < break_even(pass, WEIGHT_GRADIENT_BREAK_EVEN);
        if !sparse_weight {
            timed(&mut times.conv_weight_gradient, || self.weight_gradient(pass, x, dy, gradient));
        }
        let start = Instant::now();
        let by_density = self.density < break_even(pass, INPUT_GRADIENT_BREAK_EVEN);
        let sparse = self.sparse.as_mut().filter(|_| sparse_weight || by_density);
        if let Some(sparse) = sparse {
            let weight = sparse_weight.then(|| (x, &mut gradient[self.weight.clone()]));
            if weight.is_some() || input.is_some() {
                sparse.backward(pass, &pass.parameters[self.weight.clone()], dy, input, weight);
            }
        } else if let Some(InputGradient { values, accumulate }) = input {
            self.input_gradient(pass, dy, values, accumulate);
        }
        times.conv_input_gradient += start.elapsed();
    }

    fn input_gradient(&mut self, pass: &Pass, dy: &[f32], dx: &mut [f32], accumulate: bool) {
        let Self { plan, packed_backward, .. } = self;
        let weights = &pass.parameters[self.weight.clone()];
        let arithmetic = arithmetic(plan, pass);
        pack(pass, arithmetic, plan.backward_block_len(), packed_backward, |block, packed| {
            plan.pack_backward(block, weights, packed);
        });
        let images = images_together(plan, pass);
        let groups = dx.par_chunks_mut(images * plan.input_len()).zip(dy.par_chunks(images * plan.output_len()));
        groups.for_each(|(dx, dy)| {
            plan.input_gradient(arithmetic, dy, packed_backward, dx, accumulate, &mut pass.scratch.get());
        });
    }

    fn weight_gradient(&mut self, pass: &Pass, x: &[f32], dy: &[f32], gradient: &mut [f32]) {
        let Self { plan, partial, .. } = self;
        let (block_len, blocks) = (plan.forward_block_len(), plan.output_blocks());
        // A depthwise gradient takes all blocks at once.
        let parts = if plan.is_depthwise() { 1 } else { blocks.min(PARTS / 2) };
        let part_blocks = blocks.div_ceil(parts);
        let arithmetic = arithmetic(plan, pass);
        // Words of images: each holds as many images as a word holds factors.
        let count = pass.count.div_ceil(arithmetic.factors());
        let slice = count.div_ceil(PARTS / parts);
        let [x_words, dy_words] = &mut *pass.scratch.words();
        let x = Arrange { plan, arithmetic, slice, factor: Factor::Input }.run(x, x_words);
        let dy = Arrange { plan, arithmetic, slice, factor: Factor::OutputGradient }.run(dy, dy_words);
        let slices = count.div_ceil(slice);
        let partial_len = slices * blocks * block_len;
        if partial.len() < partial_len {
            *partial = Aligned::zeroed(partial_len);
        }
        let partial = &mut partial[..partial_len];
        let partials = partial.par_chunks_mut(blocks * block_len);
        let batch = x.par_chunks(slice * plan.input_len()).zip(dy.par_chunks(slice * plan.output_len()));
        partials.zip(batch).for_each(|(sums, (x, dy))| {
            sums.par_chunks_mut(part_blocks * block_len).enumerate().for_each(|(part, sums)| {
                let first = part * part_blocks;
                let range = first..first + sums.len() / block_len;
                sums.fill(0.0);
                plan.weight_gradient(arithmetic, range, x, dy, sums);
            });
        });
        let (first, others) = partial.split_at_mut(blocks * block_len);
        let gradients = gradient[self.weight.clone()].par_chunks_mut(plan.block_weights());
        let sums = first.par_chunks_mut(block_len).zip(gradients).enumerate();
        sums.for_each(|(block, (sum, gradient))| {
            for other in others.chunks_exact(blocks * block_len) {
                add_assign(pass.isa, &other[block * block_len..(block + 1) * block_len], sum);
            }
            plan.unpack_gradient(block, sum, gradient);
        });
    }
}

fn break_even(pass: &Pass, density: f64) -> f64 {
    if pass.bf16.is_some() { density / BF16_GAIN } else { density }
}

/// What a convolution multiplies.
fn arithmetic(plan: &Convolution, pass: &Pass) -> Arithmetic {
    match pass.bf16 {
        Some(bf16) if !plan.is_depthwise() => Arithmetic::Bf16(bf16),
        _ => Arithmetic::F32(pass.isa),
    }
}

/// How a factor of a weight gradient is arranged.
struct Arrange<'a> {
    plan: &'a Convolution,
    arithmetic: Arithmetic,
    /// Images, or pairs of them in bf16, that one task sums over.
    slice: usize,
    factor: Factor,
}

impl Arrange<'_> {
    /// The images as the kernel reads them, in `words` if they must change.
    fn run<'a>(&self, images: &'a [f32], words: &'a mut Aligned) -> &'a [f32] {
        let Self { plan, arithmetic, slice, factor } = *self;
        if !plan.arranges(arithmetic) {
            return images;
        }
        let len = match factor {
            Factor::Input => plan.input_len(),
            Factor::OutputGradient => plan.output_len(),
        };
        let (factors, together) = (arithmetic.factors(), plan.arranged());
        let total = (images.len() / len).div_ceil(factors) * len;
        if words.len() < total {
            *words = Aligned::zeroed(total);
        }
        let words = &mut words[..total];
        let slices = words.par_chunks_mut(slice * len).zip(images.par_chunks(slice * factors * len));
        slices.for_each(|(words, images)| {
            let groups = words.par_chunks_mut(together * len).zip(images.par_chunks(together * factors * len));
            groups.for_each(|(words, images)| plan.arrange(arithmetic, factor, images, words));
        });
        words
    }
}

/// Packs block after block of weights by `pack_block`; for bf16 only the first half of `packed` is used.
fn pack(
    pass: &Pass,
    arithmetic: Arithmetic,
    block_len: usize,
    packed: &mut [f32],
    pack_block: impl Fn(usize, &mut [f32]) + Sync,
) {
    if matches!(arithmetic, Arithmetic::F32(_)) {
        packed.par_chunks_mut(block_len).enumerate().for_each(|(block, packed)| pack_block(block, packed));
        return;
    }
    let half = packed.len() / 2;
    packed[..half].par_chunks_mut(block_len / 2).enumerate().for_each(|(block, words)| {
        let mut scratch = pass.scratch.get();
        if scratch.len() < block_len {
            scratch.resize(block_len, 0.0);
        }
        pack_block(block, &mut scratch[..block_len]);
        pair_rows(&scratch[..block_len], words);
    });
}

/// Images that one task computes: as many as fit the caches, unless threads would go without.
fn images_together(plan: &Convolution, pass: &Pass) -> usize {
    plan.group().min(pass.count.div_ceil(4 * rayon::current_num_threads()))
}

fn add_bias_gradient(pass: &Pass, plan: &Convolution, dy: &[f32], gradient: &mut [f32]) {
    let [height, width] = plan.shape().output;
    let sums = dy.par_chunks(plan.output_len()).map(|image| {
        let mut sums = vec![0.0; blocked_channels(gradient.len())];
        add_channel_sums(pass.isa, height * width, image, &mut sums);
        sums
    });
    for sums in sums.collect::<Vec<_>>() {
        gradient.iter_mut().zip(sums).for_each(|(gradient, sum)| *gradient += sum);
    }
}
