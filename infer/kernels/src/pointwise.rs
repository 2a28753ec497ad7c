//! Element-wise steps: affine (a batch norm that does not fold), sum, clip, copy into a part of a concatenation.

use std::sync::Arc;

use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// `y[c][i] = clip(scale[c] * x[c][i] + shift[c] + residual[c][i])` over the flat values of each channel; a missing
/// affine map is the identity, a missing residual 0.
#[derive(Debug)]
pub(crate) struct Pointwise {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) residual: Option<usize>,
    pub(crate) stride: usize,
    pub(crate) flat: usize,
    pub(crate) mask: Option<Arc<[f32]>>,
    pub(crate) channels: usize,
    /// Scale and shift of each channel.
    pub(crate) affine: Option<Vec<[f32; 2]>>,
    pub(crate) clip: [f32; 2],
}

impl Kernel for Call<'_, Pointwise> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        let arena = self.site.arena;
        for channel in self.site.part.of(s.channels) {
            let [scale, shift] = s.affine.as_ref().map_or([1.0, 0.0], |affine| affine[channel]);
            let row = channel * s.stride;
            let vectors = s.flat / V::LANES * V::LANES;
            // SAFETY: the program checked that the rows lie inside their buffers and `y` overlaps no other; a last
            // part of a vector is done value by value.
            unsafe {
                let [low, high] = s.clip.map(|bound| V::splat(bound));
                for i in (0..vectors).step_by(V::LANES) {
                    let mut v = V::load(arena.add(s.x + row + i));
                    if s.affine.is_some() {
                        v = v.mul_add(V::splat(scale), V::splat(shift));
                    }
                    if let Some(residual) = s.residual {
                        v = v.add(V::load(arena.add(residual + row + i)));
                    }
                    v = v.clamp(low, high);
                    if let Some(mask) = &s.mask {
                        v = v.and(V::load(mask.as_ptr().add(i)));
                    }
                    v.store(arena.add(s.y + row + i));
                }
                for i in vectors..s.flat {
                    let mut v = *arena.add(s.x + row + i) * scale + shift;
                    if let Some(residual) = s.residual {
                        v += *arena.add(residual + row + i);
                    }
                    let keep = s.mask.as_ref().is_none_or(|mask| mask[i].to_bits() != 0);
                    *arena.add(s.y + row + i) = if keep { clip(v, s.clip) } else { 0.0 };
                }
            }
        }
    }
}

/// `v` limited to `[low, high]`; NaN stays NaN.
#[inline(always)]
pub(crate) fn clip(v: f32, [low, high]: [f32; 2]) -> f32 {
    let raised = if low > v { low } else { v };
    if high < raised { high } else { raised }
}
