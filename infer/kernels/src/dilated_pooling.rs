//! Max and average pooling over windows with gaps, which no network of note uses: plain loops.

use crate::pooling::{Pool, Pooling, maximum};
use crate::simd::{Kernel, Vector};
use crate::step::Call;
use crate::window::Window;

/// A pooling whose window has gaps.
#[derive(Debug)]
pub(crate) struct DilatedPool(pub(crate) Pool);

impl Kernel for Call<'_, DilatedPool> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let (s, site) = (&self.step.0, &self.site);
        let (lanes, width) = (s.x.plane.lanes(), s.x.plane.width());
        for (channel, row) in s.y.rows(site.part) {
            // SAFETY: the program checked that the buffers lie inside the arena and do not overlap, and gave this
            // thread channels of its own.
            let y = unsafe { site.row_mut(&s.y, channel, row) };
            let rows = inside(&s.window, 0, row, s.x.plane.height());
            for (i, y) in y.iter_mut().enumerate() {
                let (col, lane) = (i / lanes, i % lanes);
                let places = || rows.clone().flat_map(|r| inside(&s.window, 1, col, width).map(move |c| (r, c)));
                // SAFETY: as above.
                let values = places().map(|(r, c)| unsafe { site.row(&s.x, channel, r) }[c * lanes + lane]);
                *y = match s.pooling {
                    Pooling::Max => values.fold(f32::NEG_INFINITY, maximum),
                    Pooling::Average => values.sum::<f32>() / places().count().max(1) as f32,
                };
            }
        }
    }
}

/// Places of the window at output position `at` that lie inside `size`, along one axis.
fn inside(window: &Window, axis: usize, at: usize, size: usize) -> impl Iterator<Item = usize> + Clone {
    let (start, step, pad) = (at * window.stride[axis], window.dilation[axis], window.pads[axis]);
    (0..window.kernel[axis]).filter_map(move |k| (start + k * step).checked_sub(pad)).filter(move |place| *place < size)
}
