//! Images with a border of one value.

use crate::plane::Place;
use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// `y[c]` is `x[c]` from its row `top` and column `left` on, and `value` around it.
#[derive(Debug)]
pub(crate) struct Border {
    pub(crate) x: Place,
    pub(crate) y: Place,
    pub(crate) top: usize,
    pub(crate) left: usize,
    pub(crate) value: f32,
}

impl Kernel for Call<'_, Border> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let (s, site) = (self.step, &self.site);
        let left = s.left * s.y.plane.lanes();
        for (channel, row) in s.y.rows(site.part) {
            // SAFETY: the program checked that the buffers lie inside the arena and do not overlap, and gave this
            // thread channels of its own.
            let to = unsafe { site.row_mut(&s.y, channel, row) };
            let Some(source) = row.checked_sub(s.top).filter(|row| *row < s.x.plane.height()) else {
                to.fill(s.value);
                continue;
            };
            // SAFETY: as above.
            let from = unsafe { site.row(&s.x, channel, source) };
            to[..left].fill(s.value);
            to[left..left + from.len()].copy_from_slice(from);
            to[left + from.len()..].fill(s.value);
        }
    }
}
