//! Max and average pooling over windows with gaps, which no network of note uses: plain loops.

use crate::pooling::{Pool, Pooling};
use crate::simd::{Kernel, Vector};
use crate::step::Call;
use crate::window::Window;

/// A pooling whose window has gaps.
#[derive(Debug)]
pub(crate) struct DilatedPool(pub(crate) Pool);

impl Kernel for Call<'_, DilatedPool> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = &self.step.0;
        for channel in self.site.part.of(s.channels) {
            for (row, col) in (0..s.y.height()).flat_map(|row| (0..s.y.width()).map(move |col| (row, col))) {
                let rows = inside(&s.window, 0, row, s.x.height());
                let places = || rows.clone().flat_map(|r| inside(&s.window, 1, col, s.x.width()).map(move |c| (r, c)));
                for lane in 0..s.x.lanes() {
                    // SAFETY: the program checked that the planes lie inside their buffers, which do not overlap, and
                    // gave this thread channels of its own; the places lie inside the image.
                    let read = |(r, c): (usize, usize)| unsafe {
                        let at = s.x_start + channel * s.x.stride() + s.x.row(r) + c * s.x.lanes() + lane;
                        *self.site.arena.add(at)
                    };
                    let values = places().map(read);
                    let result = match s.pooling {
                        Pooling::Max => values.fold(f32::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a }),
                        Pooling::Average => values.sum::<f32>() / places().count().max(1) as f32,
                    };
                    // SAFETY: as above.
                    unsafe {
                        let at = s.y_start + channel * s.y.stride() + s.y.row(row) + col * s.y.lanes() + lane;
                        *self.site.arena.add(at) = result;
                    }
                }
            }
        }
    }
}

/// Places of the window at output position `at` that lie inside `size`, along one axis.
fn inside(window: &Window, axis: usize, at: usize, size: usize) -> impl Iterator<Item = usize> + Clone {
    let (start, step, pad) = (at * window.stride[axis], window.dilation[axis], window.pads[axis]);
    (0..window.kernel[axis]).filter_map(move |k| (start + k * step).checked_sub(pad)).filter(move |place| *place < size)
}
