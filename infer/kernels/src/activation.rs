//! Activations that are no clip.

use crate::plane::Plane;
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
    pub(crate) x_start: usize,
    pub(crate) y_start: usize,
    pub(crate) plane: Plane,
    pub(crate) channels: usize,
    pub(crate) activation: Activation,
}

impl Kernel for Call<'_, Activate> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let (s, plane) = (self.step, &self.step.plane);
        for channel in self.site.part.of(s.channels) {
            for row in 0..plane.height() {
                let at = channel * plane.stride() + plane.row(row);
                let len = plane.width() * plane.lanes();
                // SAFETY: the program checked that the rows lie inside their buffers, which do not overlap, and gave
                // this thread channels of its own.
                let (x, y) = unsafe {
                    let x = self.site.arena.add(s.x_start + at).cast_const();
                    let y = self.site.arena.add(s.y_start + at);
                    (std::slice::from_raw_parts(x, len), std::slice::from_raw_parts_mut(y, len))
                };
                match s.activation {
                    Activation::LeakyRelu { alpha } => apply(x, y, |v| if v < 0.0 { alpha * v } else { v }),
                    Activation::Sigmoid => apply(x, y, |v| 1.0 / (1.0 + (-v).exp())),
                    Activation::HardSwish => apply(x, y, |v| v * (v * (1.0 / 6.0) + 0.5).clamp(0.0, 1.0)),
                }
            }
        }
    }
}

#[inline(always)]
fn apply(x: &[f32], y: &mut [f32], function: impl Fn(f32) -> f32) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = function(*x));
}
