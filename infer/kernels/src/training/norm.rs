//! Batch normalisation of blocked images, fused with the sum and activation that follow it.
//!
//! Per-channel vectors are padded to whole blocks. Sums over a batch are made image by image, so that a caller may
//! compute images in any order and add them up in one.

use super::BLOCK;
use super::pointwise::Activation;
use super::tiered::tiered;

type Lane = [f32; BLOCK];

/// Blocks of an image with the lanes of some per-channel vector.
fn lanes(values: &[f32]) -> &[Lane] {
    values.as_chunks().0
}

tiered! {
    /// For each channel of one image, its mean and sum of squared distances from it: `moments` is `[2][channels]`.
    ///
    /// One pass around the channel's first value, so that a mean large against the deviation costs no digits.
    pub fn accumulate_moments(area: usize, image: &[f32], moments: &mut [f32]) {
        let (means, squares) = moments.split_at_mut(moments.len() / 2);
        let (means, squares) = (means.as_chunks_mut::<BLOCK>().0, squares.as_chunks_mut::<BLOCK>().0);
        for ((pixels, mean), square) in lanes(image).chunks_exact(area).zip(means).zip(squares) {
            let origin = pixels[0];
            let (mut sum, mut sum_squares) = ([[0.0; BLOCK]; 2], [[0.0; BLOCK]; 2]);
            // Two sums at a time: one alone would wait for each addition.
            let (pairs, last) = pixels.as_chunks::<2>();
            for pair in pairs {
                for (half, pixel) in pair.iter().enumerate() {
                    for i in 0..BLOCK {
                        let distance = pixel[i] - origin[i];
                        sum[half][i] += distance;
                        sum_squares[half][i] += distance * distance;
                    }
                }
            }
            for i in 0..BLOCK {
                let distance = last.first().map_or(0.0, |pixel| pixel[i] - origin[i]);
                let (sum, sum_squares) =
                    (sum[0][i] + sum[1][i] + distance, sum_squares[0][i] + sum_squares[1][i] + distance * distance);
                let shift = sum / area as f32;
                mean[i] = origin[i] + shift;
                square[i] = (sum_squares - sum * shift).max(0.0);
            }
        }
    }
}

tiered! {
    /// `output = activation(scale * input + shift + residual)` for one image; `coefficients` is `[2][channels]`: scale,
    /// shift.
    pub fn normalize(
        area: usize,
        coefficients: &[f32],
        activation: Activation,
        input: &[f32],
        residual: Option<&[f32]>,
        output: &mut [f32],
    ) {
        let (scale, shift) = coefficients.split_at(coefficients.len() / 2);
        assert!(input.len() == output.len() && residual.is_none_or(|r| r.len() == input.len()));
        let [low, high] = activation.bounds();
        let step = area * BLOCK;
        for (block, (scale, shift)) in lanes(scale).iter().zip(lanes(shift)).enumerate() {
            let range = block * step..(block + 1) * step;
            let to = output[range.clone()].as_chunks_mut::<BLOCK>().0;
            let from = lanes(&input[range.clone()]);
            if let Some(residual) = residual {
                for ((to, from), other) in to.iter_mut().zip(from).zip(lanes(&residual[range])) {
                    for i in 0..BLOCK {
                        to[i] = clamp(from[i] * scale[i] + shift[i] + other[i], low, high);
                    }
                }
            } else {
                for (to, from) in to.iter_mut().zip(from) {
                    for i in 0..BLOCK {
                        to[i] = clamp(from[i] * scale[i] + shift[i], low, high);
                    }
                }
            }
        }
    }
}

/// Clamps and keeps NaN.
#[inline(always)]
pub(super) fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// What tells where the gradient of a batch norm's activation passes.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    /// The activation and its output.
    Output(Activation, &'a [f32]),
    /// The activation and the coefficients by which [`normalize`] made that output from the input alone: it is computed
    /// again, which takes less time than reading it.
    Coefficients(Activation, &'a [f32]),
}

/// Whether the gradient of an activation with these bounds passes.
#[inline(always)]
fn passes([low, high]: [f32; 2], output: f32) -> bool {
    output > low && output < high
}

tiered! {
    /// With `g` the gradient that an activation's output passes on, writes for each channel the sums of `g` and of
    /// `g * (input - mean)`: `sums` is `[2][channels]`. `gradient`, that of the output, becomes `g` if the mask is the
    /// output, and stays otherwise.
    pub fn accumulate_gradient_moments(
        area: usize,
        means: &[f32],
        mask: Mask,
        input: &[f32],
        gradient: &mut [f32],
        sums: &mut [f32],
    ) {
        assert_eq!(input.len(), gradient.len());
        let (plain, scaled) = sums.split_at_mut(sums.len() / 2);
        let (plain, scaled) = (plain.as_chunks_mut::<BLOCK>().0, scaled.as_chunks_mut::<BLOCK>().0);
        let (Mask::Output(activation, _) | Mask::Coefficients(activation, _)) = mask;
        let bounds = activation.bounds();
        let step = area * BLOCK;
        for (block, mean) in lanes(means).iter().enumerate() {
            let range = block * step..(block + 1) * step;
            let gradient = gradient[range.clone()].as_chunks_mut::<BLOCK>().0;
            let (mut sum, mut sum_scaled) = ([0.0; BLOCK], [0.0; BLOCK]);
            let input = lanes(&input[range.clone()]);
            match mask {
                Mask::Output(_, output) => {
                    for ((gradient, input), output) in gradient.iter_mut().zip(input).zip(lanes(&output[range])) {
                        for i in 0..BLOCK {
                            let g = if passes(bounds, output[i]) { gradient[i] } else { 0.0 };
                            gradient[i] = g;
                            sum[i] += g;
                            sum_scaled[i] += g * (input[i] - mean[i]);
                        }
                    }
                }
                Mask::Coefficients(_, coefficients) => {
                    let [scale, shift] = of_block(coefficients, block);
                    for (gradient, input) in gradient.iter().zip(input) {
                        for i in 0..BLOCK {
                            let g = if passes(bounds, input[i] * scale[i] + shift[i]) { gradient[i] } else { 0.0 };
                            sum[i] += g;
                            sum_scaled[i] += g * (input[i] - mean[i]);
                        }
                    }
                }
            }
            plain[block] = sum;
            scaled[block] = sum_scaled;
        }
    }
}

/// The lanes of one block in both halves of `[2][channels]`.
#[inline(always)]
fn of_block(coefficients: &[f32], block: usize) -> [&Lane; 2] {
    let (scale, shift) = coefficients.split_at(coefficients.len() / 2);
    [&lanes(scale)[block], &lanes(shift)[block]]
}

/// Per-channel coefficients of [`norm_input_gradient`].
#[derive(Debug, Clone, Copy)]
pub struct NormInputGradient<'a> {
    /// Batch mean.
    pub means: &'a [f32],
    /// Factor of the gradient.
    pub gradient: &'a [f32],
    /// Factor of `input - mean`.
    pub centered: &'a [f32],
    /// Constant.
    pub constant: &'a [f32],
    /// An activation that the gradient has yet to pass, with the coefficients of [`normalize`].
    pub mask: Option<(Activation, &'a [f32])>,
}

tiered! {
    /// `target = (+=) a gradient + b (input - mean) + c` for one image, the gradient of a batch norm's input; without
    /// `gradient`, it is read from `target` and replaced.
    pub fn norm_input_gradient(
        area: usize,
        coefficients: NormInputGradient,
        input: &[f32],
        gradient: Option<&[f32]>,
        accumulate: bool,
        target: &mut [f32],
    ) {
        assert!(input.len() == target.len() && gradient.is_none_or(|g| g.len() == target.len()));
        let NormInputGradient { means, gradient: a, centered: b, constant: c, mask } = coefficients;
        let step = area * BLOCK;
        let blocks = lanes(means).iter().zip(lanes(a)).zip(lanes(b)).zip(lanes(c));
        for (block, (((mean, a), b), c)) in blocks.enumerate() {
            let range = block * step..(block + 1) * step;
            let target = target[range.clone()].as_chunks_mut::<BLOCK>().0;
            let input = lanes(&input[range.clone()]);
            let gradient = gradient.map(|gradient| lanes(&gradient[range.clone()]));
            let value = |i: usize, g: f32, x: f32| a[i] * g + (b[i] * (x - mean[i]) + c[i]);
            if let Some((activation, coefficients)) = mask {
                let (bounds, [scale, shift]) = (activation.bounds(), of_block(coefficients, block));
                let masked = |i: usize, g: f32, x: f32| {
                    value(i, if passes(bounds, x * scale[i] + shift[i]) { g } else { 0.0 }, x)
                };
                give(target, input, gradient, accumulate, masked);
            } else {
                give(target, input, gradient, accumulate, value);
            }
        }
    }
}

/// `target = (+=) value(lane, gradient, input)`; without `gradient`, it is read from `target` and replaced.
#[inline(always)]
fn give(
    target: &mut [Lane],
    input: &[Lane],
    gradient: Option<&[Lane]>,
    accumulate: bool,
    value: impl Fn(usize, f32, f32) -> f32,
) {
    let Some(gradient) = gradient else {
        for (to, x) in target.iter_mut().zip(input) {
            for i in 0..BLOCK {
                to[i] = value(i, to[i], x[i]);
            }
        }
        return;
    };
    for ((to, x), g) in target.iter_mut().zip(input).zip(gradient) {
        for i in 0..BLOCK {
            let before = if accumulate { to[i] } else { 0.0 };
            to[i] = before + value(i, g[i], x[i]);
        }
    }
}
