//! Images with a border of one value.

use crate::plane::Plane;
use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// `y[c]` is `x[c]` from its row `top` and column `left` on, and `value` around it.
#[derive(Debug)]
pub(crate) struct Border {
    pub(crate) x: Plane,
    pub(crate) x_start: usize,
    pub(crate) y: Plane,
    pub(crate) y_start: usize,
    pub(crate) channels: usize,
    pub(crate) top: usize,
    pub(crate) left: usize,
    pub(crate) value: f32,
}

impl Kernel for Call<'_, Border> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        let lanes = s.x.lanes();
        for channel in self.site.part.of(s.channels) {
            for row in 0..s.y.height() {
                let to = s.y_start + channel * s.y.stride() + s.y.row(row);
                // SAFETY: the program checked that the planes lie inside their buffers, which do not overlap, and
                // gave this thread channels of its own.
                let to = unsafe { std::slice::from_raw_parts_mut(self.site.arena.add(to), s.y.width() * lanes) };
                let source = row.checked_sub(s.top).filter(|row| *row < s.x.height());
                let (left, len) = (s.left * lanes, s.x.width() * lanes);
                let Some(source) = source else {
                    to.fill(s.value);
                    continue;
                };
                to[..left].fill(s.value);
                let from = s.x_start + channel * s.x.stride() + s.x.row(source);
                // SAFETY: as above.
                let from = unsafe { std::slice::from_raw_parts(self.site.arena.add(from).cast_const(), len) };
                to[left..left + len].copy_from_slice(from);
                to[left + len..].fill(s.value);
            }
        }
    }
}
