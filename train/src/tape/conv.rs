//! Convolutions and linear layers, spread over threads.

use std::ops::Range;
use std::time::Instant;

use rayon::prelude::*;
use sr2_kernels::Aligned;
use sr2_kernels::training::{
    Arithmetic, ConvShape, Convolution, accumulate_moments, add_assign, add_channel_sums, blocked_channels, pair_rows,
};
use sr2_models as models;

use super::Pass;
use super::phases::{PhaseTimes, timed};
use super::plan::Value;
use super::sparse_conv::{InputGradient, SparseConv, felt_density, optional};
use super::winograd::WinogradConv;
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
    sparse: Option<SparseConv>,
    winograd: Option<WinogradConv>,
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

/// What the dense kernels gain by fewer products, and so those break even at so many times lower a density.
const WINOGRAD_GAIN: f64 = 1.35;

/// What the dense kernels gain by bf16: the sparse ones, in f32, break even at so many times lower a density.
const BF16_GAIN: f64 = 1.9;

/// Parts into which a weight gradient is cut, by slices of the batch and by output channels; enough for any desktop CPU,
/// few enough for little memory.
const PARTS: usize = 16;

/// Values that the weight gradients of slices of the batch may fill: as long as they fit, slices are cut rather than
/// output channels, so that each value is read by one task.
const PARTIAL_LEN: usize = 5 << 19;

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
            packed: Aligned::default(),
            packed_backward: Aligned::default(),
            padded_bias: vec![0.0; blocked_channels(shape.out_channels)],
            sparse: SparseConv::new(shape),
            winograd: WinogradConv::new(shape),
            density: 1.0,
            plan,
            weight,
            bias,
        })
    }

    /// How much faster the dense output and input gradient are than where the sparse ones were measured.
    fn dense_gain(&self, pass: &Pass) -> f64 {
        if pass.bf16.is_none() && self.winograd.is_some() { WINOGRAD_GAIN } else { bf16_gain(pass) }
    }

    pub fn multiplications(&self) -> usize {
        self.plan.multiplications()
    }

    /// With `moments`, of which each image has `[2][channels]`, writes those of the output too, image by image while they
    /// are in the caches.
    pub fn forward(&mut self, pass: &Pass, x: &[f32], y: &mut [f32], moments: Option<&mut [f32]>) {
        let break_even = FORWARD_BREAK_EVEN / self.dense_gain(pass);
        let Self { plan, packed, padded_bias, sparse, winograd, .. } = self;
        let weights = &pass.parameters[self.weight.clone()];
        if let Some(bias) = &self.bias {
            padded_bias[..bias.len()].copy_from_slice(&pass.parameters[bias.clone()]);
        }
        let bias = self.bias.is_some().then_some(&padded_bias[..]);
        self.density = felt_density(weights, pass.count);
        if let Some(sparse) = sparse.as_mut().filter(|_| self.density < break_even) {
            sparse.forward(pass, weights, bias, x, y, moments);
            return;
        }
        if let Some(winograd) = winograd.as_mut().filter(|_| pass.bf16.is_none()) {
            winograd.forward(pass, weights, bias, x, y, moments);
            return;
        }
        let arithmetic = arithmetic(plan, pass);
        let sizes = [plan.output_blocks(), plan.forward_block_len()];
        pack(pass, arithmetic, sizes, packed, |block, to| plan.pack_forward(block, weights, to));
        let images = images_together(plan, pass);
        let groups = y.par_chunks_mut(images * plan.output_len()).zip(x.par_chunks(images * plan.input_len()));
        groups.zip(moments_of_groups(pass.count, images, moments)).for_each(|((y, x), moments)| {
            plan.forward(arithmetic, x, packed, bias, y, &mut pass.scratch.get());
            measure(pass, plan.output_len(), y, moments);
        });
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
            self.sparse.is_some() && frozen && self.density < WEIGHT_GRADIENT_BREAK_EVEN / bf16_gain(pass);
        if !sparse_weight {
            timed(&mut times.conv_weight_gradient, || self.weight_gradient(pass, x, dy, gradient));
        }
        let start = Instant::now();
        let by_density = self.density < INPUT_GRADIENT_BREAK_EVEN / self.dense_gain(pass);
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
        let Self { plan, packed_backward, winograd, .. } = self;
        let weights = &pass.parameters[self.weight.clone()];
        if let Some(winograd) = winograd.as_mut().filter(|_| pass.bf16.is_none()) {
            winograd.input_gradient(pass, weights, dy, dx, accumulate);
            return;
        }
        let arithmetic = arithmetic(plan, pass);
        let sizes = [plan.input_blocks(), plan.backward_block_len()];
        pack(pass, arithmetic, sizes, packed_backward, |block, to| plan.pack_backward(block, weights, to));
        let images = images_together(plan, pass);
        let groups = dx.par_chunks_mut(images * plan.input_len()).zip(dy.par_chunks(images * plan.output_len()));
        groups.for_each(|(dx, dy)| {
            plan.input_gradient(arithmetic, dy, packed_backward, dx, accumulate, &mut pass.scratch.get());
        });
    }

    fn weight_gradient(&self, pass: &Pass, x: &[f32], dy: &[f32], gradient: &mut [f32]) {
        let plan = &self.plan;
        let (block_len, blocks) = (plan.forward_block_len(), plan.output_blocks());
        let parts = (PARTS * blocks * block_len).div_ceil(PARTIAL_LEN).next_power_of_two().min(blocks).min(PARTS / 2);
        // A depthwise gradient takes all blocks at once.
        let parts = if plan.is_depthwise() { 1 } else { parts };
        let part_blocks = blocks.div_ceil(parts);
        let arithmetic = arithmetic(plan, pass);
        // Whole pairs of images in bf16.
        let slice = pass.count.div_ceil(PARTS / parts).next_multiple_of(arithmetic.factors());
        let slices = pass.count.div_ceil(slice);
        let partial_len = slices * blocks * block_len;
        let mut partial = pass.scratch.partial(partial_len);
        let partial = &mut partial[..partial_len];
        let partials = partial.par_chunks_mut(blocks * block_len);
        let batch = x.par_chunks(slice * plan.input_len()).zip(dy.par_chunks(slice * plan.output_len()));
        // Else every part would rewrite the inputs of its slice.
        let share = parts > 1 && !plan.reads_images(arithmetic);
        let slice_words = if share { plan.paired_len(arithmetic, slice) } else { 0 };
        let mut paired = pass.scratch.paired(slices * slice_words);
        let paired = &mut paired[..slices * slice_words];
        if share {
            let parts = paired.par_chunks_mut(slice_words).zip(batch.clone());
            parts.for_each(|(words, (x, dy))| pair_slice(plan, arithmetic, x, dy, words));
        }
        partials.zip(batch).enumerate().for_each(|(slice, (sums, (x, dy)))| {
            sums.par_chunks_mut(part_blocks * block_len).enumerate().for_each(|(part, sums)| {
                let first = part * part_blocks;
                let range = first..first + sums.len() / block_len;
                sums.fill(0.0);
                if share {
                    let (images, words) = (x.len() / plan.input_len(), &paired[slice * slice_words..]);
                    plan.paired_weight_gradient(arithmetic, range, images, words, sums);
                } else {
                    plan.weight_gradient(arithmetic, range, x, dy, sums, &mut pass.scratch.get());
                }
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

/// Rewrites a slice of the batch for its weight gradient.
fn pair_slice(plan: &Convolution, arithmetic: Arithmetic, x: &[f32], dy: &[f32], words: &mut [f32]) {
    let images = plan.summed_images();
    let groups = words.par_chunks_mut(plan.paired_len(arithmetic, images)).zip(x.par_chunks(images * plan.input_len()));
    groups.zip(dy.par_chunks(images * plan.output_len())).for_each(|((words, x), dy)| {
        plan.pair_images(arithmetic, 0..plan.output_blocks(), [x, dy], words);
    });
}

fn bf16_gain(pass: &Pass) -> f64 {
    if pass.bf16.is_some() { BF16_GAIN } else { 1.0 }
}

/// What a convolution multiplies.
fn arithmetic(plan: &Convolution, pass: &Pass) -> Arithmetic {
    match pass.bf16 {
        Some(bf16) if !plan.is_depthwise() => Arithmetic::Bf16(bf16),
        _ => Arithmetic::F32(pass.isa),
    }
}

/// Packs block after block of weights by `pack_block`, into `packed`, which is made as long as they need.
fn pack(
    pass: &Pass,
    arithmetic: Arithmetic,
    [blocks, block_len]: [usize; 2],
    packed: &mut Aligned,
    pack_block: impl Fn(usize, &mut [f32]) + Sync,
) {
    let words = block_len / arithmetic.factors();
    grow(packed, blocks * words);
    packed[..blocks * words].par_chunks_mut(words).enumerate().for_each(|(block, words)| match arithmetic {
        Arithmetic::F32(_) => pack_block(block, words),
        Arithmetic::Bf16(_) => {
            let mut scratch = pass.scratch.get();
            if scratch.len() < block_len {
                scratch.resize(block_len, 0.0);
            }
            pack_block(block, &mut scratch[..block_len]);
            pair_rows(&scratch[..block_len], words);
        }
    });
}

/// Makes `buffer` at least `len` long, and forgets what it held.
pub(super) fn grow(buffer: &mut Aligned, len: usize) {
    if buffer.len() < len {
        *buffer = Aligned::zeroed(len);
    }
}

/// The moments of each group of `images`, or as many times nothing.
pub(super) fn moments_of_groups(count: usize, images: usize, moments: Option<&mut [f32]>) -> Vec<Option<&mut [f32]>> {
    optional(count.div_ceil(images), moments.map(|moments| moments.chunks_mut(images * (moments.len() / count))))
}

/// Writes the moments of some images, if they are wanted.
pub(super) fn measure(pass: &Pass, image_len: usize, images: &[f32], moments: Option<&mut [f32]>) {
    let Some(moments) = moments else { return };
    let images = images.chunks_exact(image_len);
    let len = moments.len() / images.len();
    for (moments, image) in moments.chunks_exact_mut(len).zip(images) {
        accumulate_moments(pass.isa, 2 * image_len / len, image, moments);
    }
}

/// Images that one task computes: as many as fit the caches, unless threads would go without.
fn images_together(plan: &Convolution, pass: &Pass) -> usize {
    if plan.wants_whole_groups() {
        return plan.group();
    }
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
