//! Kernels that compute each value from one or two others.

use super::{Expected, Twin, edges};
use crate::{Activation, Combination, NO_CLIP, Pooling, ProgramBuilder, Window};

/// Scale, shift and residual are one rounding each.
pub(super) fn pointwise_f32() {
    for width in edges() {
        for (with_affine, with_residual, clip) in [
            (false, false, NO_CLIP),
            (true, false, [0.0, f32::INFINITY]),
            (false, true, [-0.5, 0.5]),
            (true, true, NO_CLIP),
        ] {
            let shape = [3, 2, width];
            let affine = [[1.5, 0.25], [-0.7, 0.1], [0.0, -3.0]];
            // A concatenation of the input and of the result.
            let steps = |b: &mut ProgramBuilder| {
                b.pointwise(0, 1, 0, None, None, NO_CLIP);
                b.pointwise(0, 1, 3, with_affine.then(|| affine.to_vec()), with_residual.then_some(0), clip);
            };
            let expected = |image: &[f32]| {
                let result = image.iter().enumerate().map(|(i, x)| {
                    let [scale, shift] = if with_affine { affine[i / (2 * width)] } else { [1.0, 0.0] }.map(f64::from);
                    let (x, residual) = (f64::from(*x), if with_residual { f64::from(*x) } else { 0.0 });
                    let value = (scale * x + shift + residual).clamp(clip[0].into(), clip[1].into());
                    Expected::rounded(value, 3.0, (scale * x).abs() + shift.abs() + residual.abs())
                });
                image.iter().copied().map(Expected::exact).chain(result).collect()
            };
            let twin = Twin { buffers: &[&shape, &[6, 2, width]], steps: &steps, expected: &expected, range: 1.0 };
            twin.check(&(shape, with_affine, with_residual, clip));
        }
    }
}

pub(super) fn activate_f32() {
    for width in edges() {
        let activations = [Activation::LeakyRelu { alpha: 0.01 }, Activation::Sigmoid, Activation::HardSwish];
        for activation in activations {
            let shape = [2, 3, width];
            let steps = |b: &mut ProgramBuilder| _ = b.activate(0, 1, activation);
            let expected = |image: &[f32]| image.iter().map(|x| activated(activation, *x)).collect();
            let twin = Twin { buffers: &[&shape, &shape], steps: &steps, expected: &expected, range: 8.0 };
            twin.check(&(shape, activation));
        }
    }
}

fn activated(activation: Activation, x: f32) -> Expected {
    let x = f64::from(x);
    match activation {
        Activation::LeakyRelu { alpha } => {
            let value = if x < 0.0 { f64::from(alpha) * x } else { x };
            Expected::rounded(value, 1.0, value.abs())
        }
        // exp is right to a unit in the last place, two roundings; then a sum and a quotient.
        Activation::Sigmoid => {
            let value = 1.0 / (1.0 + (-x).exp());
            Expected::rounded(value, 4.0, value)
        }
        // One sixth, the product with it, the sum, and the product; the limits between shrink errors only.
        Activation::HardSwish => {
            Expected::rounded(x * (x / 6.0 + 0.5).clamp(0.0, 1.0), 4.0, x.abs() * (x.abs() / 6.0 + 0.5))
        }
    }
}

/// One rounding. The second operand is the first, limited to a range, or its largest value in each channel.
pub(super) fn combine_f32() {
    for (width, channels) in edges().flat_map(|width| [1, 3].map(|channels| (width, channels))) {
        for combination in [Combination::Sum, Combination::Product] {
            let joined = |a: f32, b: f32| match combination {
                Combination::Sum => Expected::exact(a + b),
                Combination::Product => Expected::exact(a * b),
            };
            let shape = [channels, 2, width];
            let steps = |b: &mut ProgramBuilder| {
                b.pointwise(0, 1, 0, None, None, [-0.25, 0.5]);
                b.combine(0, 1, 2, combination);
            };
            let expected = |image: &[f32]| image.iter().map(|x| joined(*x, x.clamp(-0.25, 0.5))).collect();
            let buffers: [&[usize]; 3] = [&shape, &shape, &shape];
            Twin { buffers: &buffers, steps: &steps, expected: &expected, range: 1.0 }.check(&(shape, combination));

            let whole = Window { kernel: [2, width], ..Window::POINT };
            let steps = |b: &mut ProgramBuilder| {
                b.pool(0, 1, Pooling::Max, whole);
                b.combine(0, 1, 2, combination);
            };
            let expected = |image: &[f32]| {
                let channel = |channel: &[f32]| {
                    let largest = channel.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    channel.iter().map(|x| joined(*x, largest)).collect::<Vec<_>>()
                };
                image.chunks(2 * width).flat_map(channel).collect()
            };
            let buffers: [&[usize]; 3] = [&shape, &[channels, 1, 1], &shape];
            let twin = Twin { buffers: &buffers, steps: &steps, expected: &expected, range: 1.0 };
            twin.check(&(shape, combination, "of channels"));
        }
    }
}
