//! The path of a dense 3x3 convolution in f32 with fewer products, spread over threads by groups of images.

use rayon::prelude::*;
use sr2_kernels::Aligned;
use sr2_kernels::training::{ConvShape, WinogradConvolution};

use super::Pass;
use super::conv::{grow, measure, moments_of_groups};

/// A convolution's plan and weights.
#[derive(Debug)]
pub(super) struct WinogradConv {
    plan: WinogradConvolution,
    /// The 1x3 weights of each product.
    transformed: Aligned,
    packed: Aligned,
    packed_backward: Aligned,
}

/// Filters that one task transforms.
const FILTERS: usize = 4096;

impl WinogradConv {
    /// `None` where it would not be faster.
    pub fn new(shape: ConvShape) -> Option<Self> {
        let plan = WinogradConvolution::new(shape)?;
        let [transformed, packed, packed_backward] = Default::default();
        Some(Self { plan, transformed, packed, packed_backward })
    }

    /// As [`super::conv::Conv::forward`].
    pub fn forward(
        &mut self,
        pass: &Pass,
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &mut [f32],
        moments: Option<&mut [f32]>,
    ) {
        let (rows, images) = (self.plan.rows(), self.images_together(pass));
        transform(false, weights, &mut self.transformed);
        let [blocks, len, of_product] = [rows.output_blocks(), rows.forward_block_len(), weights.len() / 3];
        grow(&mut self.packed, WinogradConvolution::PRODUCTS * blocks * len);
        self.packed.par_chunks_mut(len).enumerate().for_each(|(i, packed)| {
            rows.pack_forward(i % blocks, &self.transformed[i / blocks * of_product..], packed);
        });
        let [x_len, y_len] = [x.len(), y.len()].map(|len| len / pass.count);
        let groups = y.par_chunks_mut(images * y_len).zip(x.par_chunks(images * x_len));
        groups.zip(moments_of_groups(pass.count, images, moments)).for_each(|((y, x), moments)| {
            let scratch = [&mut *pass.scratch.get(), &mut *pass.scratch.second()];
            self.plan.forward(pass.isa, x, &self.packed, bias, y, scratch);
            measure(pass, y_len, y, moments);
        });
    }

    pub fn input_gradient(&mut self, pass: &Pass, weights: &[f32], dy: &[f32], dx: &mut [f32], accumulate: bool) {
        let (rows, images) = (self.plan.rows(), self.images_together(pass));
        transform(true, weights, &mut self.transformed);
        let [blocks, len, of_product] = [rows.input_blocks(), rows.backward_block_len(), weights.len() / 3];
        grow(&mut self.packed_backward, WinogradConvolution::PRODUCTS * blocks * len);
        self.packed_backward.par_chunks_mut(len).enumerate().for_each(|(i, packed)| {
            rows.pack_backward(i % blocks, &self.transformed[i / blocks * of_product..], packed);
        });
        let [dx_len, dy_len] = [dx.len(), dy.len()].map(|len| len / pass.count * images);
        dx.par_chunks_mut(dx_len).zip(dy.par_chunks(dy_len)).for_each(|(dx, dy)| {
            let scratch = [&mut *pass.scratch.get(), &mut *pass.scratch.second()];
            self.plan.input_gradient(pass.isa, dy, &self.packed_backward, dx, accumulate, scratch);
        });
    }

    /// Images that one task computes: as many as fit the caches, unless threads would go without.
    fn images_together(&self, pass: &Pass) -> usize {
        self.plan.group().min(pass.count.div_ceil(rayon::current_num_threads()))
    }
}

fn transform(backward: bool, weights: &[f32], transformed: &mut Aligned) {
    grow(transformed, WinogradConvolution::PRODUCTS * weights.len() / 3);
    transformed.par_chunks_mut(weights.len() / 3).enumerate().for_each(|(product, transformed)| {
        let parts = transformed.par_chunks_mut(3 * FILTERS).zip(weights.par_chunks(9 * FILTERS));
        parts.for_each(|(to, weights)| WinogradConvolution::transform_weights(product, backward, weights, to));
    });
}
