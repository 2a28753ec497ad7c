//! The sparse path of a convolution, spread over threads by groups of images.

use rayon::prelude::*;
use sr2_kernels::training::{
    ConvShape, SparseConvolution, SparseInputGradient, SparseWeightGradient, SparseWeights, count_nonzeros,
};

use super::Pass;
use super::conv::{measure, moments_of_groups};

/// A convolution's plan and lists for its non-zeros.
#[derive(Debug)]
pub(super) struct SparseConv {
    plan: SparseConvolution,
    forward: SparseWeights,
    backward: SparseWeights,
}

/// Gradient of a convolution's input.
pub(super) struct InputGradient<'a> {
    pub values: &'a mut [f32],
    pub accumulate: bool,
}

/// Density of a weight as the sparse kernels feel it: they compute whole groups of images.
pub(super) fn felt_density(weights: &[f32], count: usize) -> f64 {
    let computed = count.next_multiple_of(SparseConvolution::IMAGES) as f64;
    count_nonzeros(weights) as f64 / weights.len() as f64 * computed / count as f64
}

impl SparseConv {
    /// `None` where there is no sparse kernel for the shape.
    pub fn new(shape: ConvShape) -> Option<Self> {
        let plan = SparseConvolution::new(shape)?;
        Some(Self { plan, forward: SparseWeights::default(), backward: SparseWeights::default() })
    }

    /// See [`super::conv::Conv::forward`].
    pub fn forward(
        &mut self,
        pass: &Pass,
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &mut [f32],
        moments: Option<&mut [f32]>,
    ) {
        let Self { plan, forward, .. } = self;
        plan.refresh_forward(forward, weights);
        let [x_len, y_len] = [x.len(), y.len()].map(|len| len / pass.count);
        let images = SparseConvolution::IMAGES;
        let groups = y.par_chunks_mut(images * y_len).zip(x.par_chunks(images * x_len));
        groups.zip(moments_of_groups(pass.count, images, moments)).for_each(|((y, x), moments)| {
            plan.forward(pass.isa, x, forward, bias, y, &mut pass.scratch.get());
            measure(pass, y_len, y, moments);
        });
    }

    /// Passes the output's gradient on to the input, and adds that of the non-zeros to `gradient`, whichever is wanted.
    pub fn backward(
        &mut self,
        pass: &Pass,
        weights: &[f32],
        dy: &[f32],
        input: Option<InputGradient>,
        weight: Option<(&[f32], &mut [f32])>,
    ) {
        let Self { plan, backward, .. } = self;
        plan.refresh_backward(backward, weights);
        let together = |values: usize| values / pass.count * SparseConvolution::IMAGES;
        let groups = pass.count.div_ceil(SparseConvolution::IMAGES);
        let accumulate = input.as_ref().is_some_and(|i| i.accumulate);
        let dx = optional(groups, input.map(|i| i.values).map(|dx| dx.chunks_mut(together(dx.len()))));
        let (x, gradient) = weight.unzip();
        let x = optional(groups, x.map(|x| x.chunks(together(x.len()))));
        let parts = dy.par_chunks(together(dy.len())).zip(dx).zip(x);
        let sums = parts.map(|((dy, dx), x)| {
            let mut sums = x.map_or_else(Vec::new, |_| vec![0.0; backward.nnz()]);
            let input = dx.map(|values| SparseInputGradient { values, accumulate });
            let weight = x.map(|input| SparseWeightGradient { input, sums: &mut sums });
            plan.backward(pass.isa, dy, backward, input, weight, &mut pass.scratch.get());
            sums
        });
        let sums: Vec<_> = sums.collect();
        if let Some(gradient) = gradient {
            sums.iter().for_each(|sums| backward.add_to_gradient(sums, gradient));
        }
    }
}

/// A piece for each group, or as many times nothing.
pub(super) fn optional<I: Iterator>(groups: usize, pieces: Option<I>) -> Vec<Option<I::Item>> {
    match pieces {
        Some(pieces) => pieces.map(Some).collect(),
        None => (0..groups).map(|_| None).collect(),
    }
}
