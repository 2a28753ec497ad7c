//! What the CPU can do at best, to measure kernels against.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::Isa;
use crate::simd::{Kernel, Vector};

/// Sums in flight: enough to hide the latency of a multiply-add, few enough for 16 registers.
const SUMS: usize = 12;

/// Rounds of one timing.
const ROUNDS: usize = 20_000;

/// Multiply-adds on registers only.
struct MultiplyAdds;

impl Kernel for MultiplyAdds {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        // SAFETY: the caller proves the features of `V`; 64 values hold any vector.
        unsafe {
            let (factor, addend) = (V::splat(black_box(0.5)), V::splat(black_box(1.0)));
            let mut sums = [addend; SUMS];
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    *sum = sum.mul_add(factor, addend);
                }
            }
            let mut out = [0.0f32; 64];
            for sum in sums {
                sum.store(out.as_mut_ptr());
                black_box(&out);
            }
        }
    }
}

/// Operations a second that `threads` threads do together in multiply-adds of this tier, each of which counts as two:
/// the best of a tenth of a second.
pub fn peak_flops(isa: Isa, threads: usize) -> f64 {
    let operations = (2 * SUMS * ROUNDS * isa.lanes()) as f64;
    let best = || {
        let (mut best, start) = (Duration::MAX, Instant::now());
        while start.elapsed() < Duration::from_millis(100) {
            let run = Instant::now();
            // SAFETY: the kernel touches only its own arrays.
            unsafe { isa.launch(&MultiplyAdds) };
            best = best.min(run.elapsed());
        }
        operations / best.as_secs_f64()
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(best)).collect();
        let own = best();
        own + others.into_iter().map(|other| other.join().expect("the loop does not panic")).sum::<f64>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wider vectors do more, and no CPU does less than a million or more than a trillion a core.
    #[test]
    fn peaks_are_plausible() {
        for isa in Isa::available() {
            let peak = peak_flops(isa, 1);
            assert!((1e6..1e12).contains(&peak), "{isa}: {peak:e}");
        }
    }
}
