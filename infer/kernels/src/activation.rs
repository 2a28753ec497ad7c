//! Activations that are no clip.

use crate::plane::Place;
use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// A function of one value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `x` where it is not negative, `alpha x` elsewhere.
    LeakyRelu {
        /// Slope of the negative half.
        alpha: f32,
    },
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `x min(max(x / 6 + 1/2, 0), 1)`.
    HardSwish,
}

/// `y = activation(x)`, of one layout.
#[derive(Debug)]
pub(crate) struct Activate {
    pub(crate) x: Place,
    pub(crate) y: Place,
    pub(crate) activation: Activation,
}

impl Kernel for Call<'_, Activate> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let (s, site) = (self.step, &self.site);
        for (channel, row) in s.x.rows(site.part) {
            // SAFETY: the program checked that the buffers lie inside the arena and do not overlap, and gave this
            // thread channels of its own.
            let (x, y) = unsafe { (site.row(&s.x, channel, row), site.row_mut(&s.y, channel, row)) };
            match s.activation {
                Activation::LeakyRelu { alpha } => apply(x, y, |v| if v < 0.0 { alpha * v } else { v }),
                Activation::Sigmoid => apply(x, y, |v| 1.0 / (1.0 + (-v).exp())),
                Activation::HardSwish => apply(x, y, |v| v * (v * (1.0 / 6.0) + 0.5).clamp(0.0, 1.0)),
            }
        }
    }
}

#[inline(always)]
fn apply(x: &[f32], y: &mut [f32], function: impl Fn(f32) -> f32) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = function(*x));
}
