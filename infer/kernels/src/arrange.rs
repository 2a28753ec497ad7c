//! Rearranges an input for a convolution whose taps do not lie at constant distances: strides, small or unpadded maps.

use crate::plane::Plane;
use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// Marks a position of a pattern that becomes 0.
pub(crate) const ZERO: i32 = -1;

/// For every channel, fills the positions of its panels by one pattern.
#[derive(Debug, Clone)]
pub(crate) struct Arrange {
    pub(crate) x: Plane,
    pub(crate) x_start: usize,
    pub(crate) channels: usize,
    /// Where the first channel's panels start, and how far the next channel's are.
    pub(crate) to: usize,
    pub(crate) stride: usize,
    /// For each position of the panels, the distance of its source from the start of the channel's plane, or [`ZERO`].
    /// With one lane it is filled up with [`ZERO`] to whole vectors of any tier.
    pub(crate) pattern: Vec<i32>,
}

impl Kernel for Call<'_, Arrange> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        for channel in self.site.part.of(s.channels) {
            // SAFETY: the program checked that the pattern stays within the planes of `x`, and its positions within
            // the scratch, which no plane overlaps; a program has one lane or as many as `V`.
            unsafe {
                let from = self.site.arena.add(s.x_start + channel * s.x.stride()).cast_const();
                let to = self.site.arena.add(s.to + channel * s.stride);
                if s.x.lanes() == 1 {
                    for i in (0..s.pattern.len()).step_by(V::LANES) {
                        V::gather(from, s.pattern.as_ptr().add(i)).store(to.add(i));
                    }
                } else {
                    for (i, source) in s.pattern.iter().enumerate() {
                        let value = if *source == ZERO { V::splat(0.0) } else { V::load(from.add(*source as usize)) };
                        value.store(to.add(i * V::LANES));
                    }
                }
            }
        }
    }
}
