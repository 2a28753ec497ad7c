//! The most multiply-adds that a core does: what the kernels' speed is measured against.

use std::hint::black_box;
use std::time::Instant;

use super::BLOCK;
use super::lanes::{Kernel, Lanes, dispatch};
use crate::Isa;

/// Multiply-adds of one accumulator that are timed together.
const ROUNDS: usize = 20_000;

/// Operations a second (two a multiply-add) of the calling thread on registers alone: the best of many short runs over
/// some 20 ms.
pub fn peak_flops(isa: Isa) -> f64 {
    let mut best = 0.0;
    let end = Instant::now() + std::time::Duration::from_millis(20);
    while Instant::now() < end {
        let mut operations = 0;
        let start = Instant::now();
        dispatch(isa, RegisterProducts { operations: &mut operations });
        best = f64::max(best, operations as f64 / start.elapsed().as_secs_f64());
    }
    best
}

struct RegisterProducts<'a> {
    operations: &'a mut usize,
}

impl Kernel for RegisterProducts<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const TILE: usize>(self) {
        let factors = black_box([[0.5f32; BLOCK], [1e-3; BLOCK]]);
        // SAFETY: the CPU has `L` (caller); both rows hold sixteen values.
        unsafe {
            let [a, b] = [L::load(factors[0].as_ptr()), L::load(factors[1].as_ptr())];
            let mut sums = [L::zero(); TILE];
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    // The old sum takes part in the product, so that no multiplication can be left out.
                    *sum = b.add_product(a, *sum);
                }
            }
            for sum in sums {
                let mut kept = [0.0f32; BLOCK];
                sum.store(kept.as_mut_ptr());
                black_box(kept);
            }
        }
        *self.operations = 2 * ROUNDS * TILE * BLOCK;
    }
}
