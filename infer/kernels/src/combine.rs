//! Element-wise products, and sums that no other step takes in.

use crate::plane::Place;
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
    pub(crate) a: Place,
    pub(crate) b: Place,
    pub(crate) y: Place,
    pub(crate) combination: Combination,
}

impl Kernel for Call<'_, Combine> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let (s, site) = (self.step, &self.site);
        let shared = s.b.plane != s.a.plane;
        for (channel, row) in s.a.rows(site.part) {
            // SAFETY: the program checked that the buffers lie inside the arena and that `y` overlaps neither of the
            // others, and gave this thread channels of its own.
            let (a, b, y) = unsafe {
                let b = site.row(&s.b, channel, if shared { 0 } else { row });
                (site.row(&s.a, channel, row), b, site.row_mut(&s.y, channel, row))
            };
            match s.combination {
                Combination::Sum => combine(a, b, y, |a, b| a + b),
                Combination::Product => combine(a, b, y, |a, b| a * b),
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
