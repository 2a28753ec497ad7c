//! The sparse path of a convolution, spread over threads by groups of images.

use rayon::prelude::*;
use sr2_kernels::training::{
    ConvShape, SparseConvolution, SparseInputGradient, SparseWeightGradient, SparseWeights, count_nonzeros,
};

use super::Pass;

/// A convolution's plan and lists for its non-zeros.
#[derive(Debug)]
pub(super) struct SparseConv {
    plan: SparseConvolution,
    forward: SparseWeights,
    backward: SparseWeights,
    /// Sums for each non-zero, group by group of images.
    sums: Vec<f32>,
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
        let (forward, backward, sums) = (SparseWeights::default(), SparseWeights::default(), Vec::new());
        Some(Self { plan, forward, backward, sums })
    }

    pub fn forward(&mut self, pass: &Pass, weights: &[f32], bias: Option<&[f32]>, x: &[f32], y: &mut [f32]) {
        let Self { plan, forward, .. } = self;
        plan.refresh_forward(forward, weights);
        let [x_len, y_len] = [x.len(), y.len()].map(|len| len / pass.count * SparseConvolution::IMAGES);
        let groups = y.par_chunks_mut(y_len).zip(x.par_chunks(x_len));
        groups.for_each(|(y, x)| plan.forward(pass.isa, x, forward, bias, y, &mut pass.scratch.get()));
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
        let Self { plan, backward, sums, .. } = self;
        plan.refresh_backward(backward, weights);
        let accumulate = input.as_ref().is_some_and(|i| i.accumulate);
        let dy_len = dy.len() / pass.count * SparseConvolution::IMAGES;
        let groups = dy.len().div_ceil(dy_len);
        let (x, gradient) = weight.unzip();
        sums.clear();
        sums.resize(gradient.as_ref().map_or(0, |_| groups * backward.nnz()), 0.0);
        let dx_chunks = cut(
            input.map(|i| i.values),
            |dx| {
                let len = dx.len() / pass.count * SparseConvolution::IMAGES;
                dx.chunks_mut(len).collect()
            },
            groups,
        );
        let weight_chunks = cut(
            x,
            |x| {
                let len = x.len() / pass.count * SparseConvolution::IMAGES;
                let mut rest = &mut sums[..];
                x.chunks(len).map(|x| (x, rest.split_off_mut(..backward.nnz()).expect("one piece a group"))).collect()
            },
            groups,
        );
        let parts = dy.par_chunks(dy_len).zip(dx_chunks).zip(weight_chunks);
        parts.for_each(|((dy, dx), weight)| {
            let input = dx.map(|values| SparseInputGradient { values, accumulate });
            let weight = weight.map(|(input, sums)| SparseWeightGradient { input, sums });
            plan.backward(pass.isa, dy, backward, input, weight, &mut pass.scratch.get());
        });
        if let Some(gradient) = gradient
            && backward.nnz() > 0
        {
            sums.chunks_exact(backward.nnz()).for_each(|sums| backward.add_to_gradient(sums, gradient));
        }
    }
}

/// The pieces of something, or as many times nothing.
fn cut<T, P>(whole: Option<T>, pieces: impl FnOnce(T) -> Vec<P>, count: usize) -> Vec<Option<P>> {
    match whole {
        Some(whole) => pieces(whole).into_iter().map(Some).collect(),
        None => (0..count).map(|_| None).collect(),
    }
}
