//! Element-wise products, and sums that no other step takes in.

use crate::plane::Plane;
use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// How two values become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combination {
    /// `a + b`.
    Sum,
    /// `a b`.
    Product,
}

/// `y = a combined with b`; `b` has the layout of `a`, or one position that all of its channel share.
#[derive(Debug)]
pub(crate) struct Combine {
    pub(crate) plane: Plane,
    pub(crate) a_start: usize,
    pub(crate) b: Plane,
    pub(crate) b_start: usize,
    pub(crate) y_start: usize,
    pub(crate) channels: usize,
    pub(crate) combination: Combination,
}

impl Kernel for Call<'_, Combine> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let (s, plane) = (self.step, &self.step.plane);
        let (lanes, shared) = (plane.lanes(), s.b != s.plane);
        for channel in self.site.part.of(s.channels) {
            for row in 0..plane.height() {
                let at = channel * plane.stride() + plane.row(row);
                let b_at = channel * s.b.stride() + s.b.row(if shared { 0 } else { row });
                let len = plane.width() * lanes;
                // SAFETY: the program checked that the rows lie inside their buffers and that `y` overlaps neither,
                // and gave this thread channels of its own.
                let (a, b, y) = unsafe {
                    let a = self.site.arena.add(s.a_start + at).cast_const();
                    let b = self.site.arena.add(s.b_start + b_at).cast_const();
                    let y = self.site.arena.add(s.y_start + at);
                    (
                        std::slice::from_raw_parts(a, len),
                        std::slice::from_raw_parts(b, if shared { lanes } else { len }),
                        std::slice::from_raw_parts_mut(y, len),
                    )
                };
                match s.combination {
                    Combination::Sum => combine(a, b, y, |a, b| a + b),
                    Combination::Product => combine(a, b, y, |a, b| a * b),
                }
            }
        }
    }
}

/// `b` is as long as `a`, or is repeated.
#[inline(always)]
fn combine(a: &[f32], b: &[f32], y: &mut [f32], function: impl Fn(f32, f32) -> f32) {
    if let [b] = *b {
        y.iter_mut().zip(a).for_each(|(y, a)| *y = function(*a, b));
        return;
    }
    for (y, a) in y.chunks_exact_mut(b.len()).zip(a.chunks_exact(b.len())) {
        y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y = function(*a, *b));
    }
}
