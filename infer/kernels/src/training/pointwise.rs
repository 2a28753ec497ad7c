//! Value-by-value passes.

use super::norm::clamp;
use super::tiered::tiered;

/// What follows a batch norm or stands alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `max(x, 0)`; its gradient at 0 is 0, as PyTorch's.
    Relu,
    /// Clamp to `[low, high]`; its gradient at the bounds is 0, as PyTorch's ReLU6.
    Clip {
        /// Lower bound.
        low: f32,
        /// Upper bound.
        high: f32,
    },
}

impl Activation {
    /// The output's bounds; the gradient passes where the output lies strictly between them.
    pub(super) fn bounds(self) -> [f32; 2] {
        match self {
            Self::Identity => [f32::NEG_INFINITY, f32::INFINITY],
            Self::Relu => [0.0, f32::INFINITY],
            Self::Clip { low, high } => [low, high],
        }
    }
}

tiered! {
    /// `output = activation(input)`.
    pub fn activate(activation: Activation, input: &[f32], output: &mut [f32]) {
        let [low, high] = activation.bounds();
        output.iter_mut().zip(input).for_each(|(y, x)| *y = clamp(*x, low, high));
    }
}

tiered! {
    /// Passes `gradient`, that of the activation's `output`, back to its input, in place.
    pub fn activation_gradient(activation: Activation, output: &[f32], gradient: &mut [f32]) {
        let [low, high] = activation.bounds();
        for (g, y) in gradient.iter_mut().zip(output) {
            *g = if *y > low && *y < high { *g } else { 0.0 };
        }
    }
}

tiered! {
    /// `output = a + b`.
    pub fn add(a: &[f32], b: &[f32], output: &mut [f32]) {
        output.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = a + b);
    }
}

tiered! {
    /// `sum += other`.
    pub fn add_assign(other: &[f32], sum: &mut [f32]) {
        sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
    }
}

tiered! {
    /// For each channel of one blocked image, the sum of its values, added to `sums`.
    pub fn add_channel_sums(area: usize, image: &[f32], sums: &mut [f32]) {
        let (pixels, sums) = (image.as_chunks::<{ crate::training::BLOCK }>().0, sums.as_chunks_mut().0);
        for (pixels, sums) in pixels.chunks_exact(area).zip(sums) {
            let sums: &mut [f32; crate::training::BLOCK] = sums;
            for pixel in pixels {
                sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += value);
            }
        }
    }
}
