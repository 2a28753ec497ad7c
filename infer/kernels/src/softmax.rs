//! Softmax over features.

use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// `y[f] = exp(x[f] - max x) / sum of exp(x - max x)`, for each lane.
#[derive(Debug)]
pub(crate) struct Softmax {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) features: usize,
    pub(crate) lanes: usize,
}

impl Kernel for Call<'_, Softmax> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        for lane in self.site.part.of(s.lanes) {
            // SAFETY: the program checked that `features` times `lanes` values lie inside both buffers.
            let x = |f: usize| unsafe { *self.site.arena.add(s.x + f * s.lanes + lane) };
            let largest = (0..s.features).map(x).fold(f32::NEG_INFINITY, f32::max);
            let total: f32 = (0..s.features).map(|f| (x(f) - largest).exp()).sum();
            for f in 0..s.features {
                // SAFETY: as above; `y` is another buffer than `x`.
                unsafe { *self.site.arena.add(s.y + f * s.lanes + lane) = (x(f) - largest).exp() / total };
            }
        }
    }
}
