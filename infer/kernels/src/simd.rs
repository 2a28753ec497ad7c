//! The few vector operations that every kernel is written in, and how a kernel gets compiled once a tier.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::Isa;

/// A vector of f32 lanes of one tier.
///
/// # Safety
/// Every function may be called only where the CPU has the tier's features; loads and stores touch `LANES` values
/// from a pointer of any alignment.
pub(crate) trait Vector: Copy {
    /// Number of lanes.
    const LANES: usize;

    /// All lanes `value`.
    unsafe fn splat(value: f32) -> Self;
    /// All lanes the value whose bits are the low half of `bits`.
    #[inline(always)]
    unsafe fn splat_low(bits: u64) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::splat(f32::from_bits(bits as u32)) }
    }
    /// Reads `LANES` values.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes `LANES` values.
    unsafe fn store(self, to: *mut f32);
    /// Writes the first `count` values, at most `LANES`.
    unsafe fn store_first(self, to: *mut f32, count: usize);
    /// Asks for the cache line at `at`, which need not be readable, ahead of its use.
    unsafe fn prefetch(_at: *const u8) {}
    /// `self * factor + addend`, with one rounding where the tier fuses.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// The larger of `self` and `other`; NaN where one of them is.
    unsafe fn max(self, other: Self) -> Self;
    /// Each lane of `self` one lane further, behind the last of `below`.
    unsafe fn shift_up(self, below: Self) -> Self;
    /// Each lane of `self` but the first one lane before, then the first of `above`.
    unsafe fn shift_down(self, above: Self) -> Self;
    /// Every second lane of `self`, from the first on, then of `next`.
    unsafe fn even(self, next: Self) -> Self;
    /// Every second lane of `self`, from the second on, then of `next`.
    unsafe fn odd(self, next: Self) -> Self;
    /// In each lane the one that the bits of `lanes` name: one of `self`, or from `LANES` on one of `other`.
    unsafe fn pick(self, other: Self, lanes: Self) -> Self;
    /// In each lane the one of `self` that `lanes`, of which `LANES` are readable, names, or 0 where it is negative.
    unsafe fn select(self, lanes: *const i32) -> Self;
    /// The lanes of both in turn, `self` first: those of the low halves, and those of the high ones.
    unsafe fn zip(self, other: Self) -> (Self, Self);
    /// `self` limited to `[low, high]`; NaN stays NaN.
    unsafe fn clamp(self, low: Self, high: Self) -> Self;
    /// Bitwise and: `mask` has all bits set where a lane is kept and none where it becomes 0.
    unsafe fn and(self, mask: Self) -> Self;
}

/// Work that is written over [`Vector`] and run by [`Isa::launch`].
pub(crate) trait Kernel {
    /// Does the work with vectors `V`. Must be `#[inline(always)]`, as must all it calls that uses `V`: only then is
    /// it compiled with the tier's features.
    ///
    /// # Safety
    /// The CPU must have the features of `V`, and the kernel's own contract must hold.
    unsafe fn run<V: Vector>(&self);

    /// Whether its AVX-512 tier should run with vectors of half the size.
    fn halves(&self) -> bool {
        false
    }
}

impl Isa {
    /// Runs `kernel` compiled for this tier.
    ///
    /// # Safety
    /// The kernel's own contract must hold; that the CPU has the tier is what an `Isa` proves.
    pub(crate) unsafe fn launch(self, kernel: &impl Kernel) {
        let halves = kernel.halves();
        debug_assert!(!halves || matches!(self, Isa::Avx512(_)), "no vectors of half the size on {self}");
        match self {
            // SAFETY: portable vectors need no feature; the rest is the caller's promise.
            Isa::Scalar => unsafe { kernel.run::<Portable>() },
            // SAFETY: the token proves AVX2 and FMA; the rest is the caller's promise.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => unsafe { x86::run_avx2(kernel) },
            // SAFETY: the token proves AVX-512; the rest is the caller's promise.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) if halves => unsafe { x86::run_avx512_half(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => unsafe { x86::run_avx512(kernel) },
            // SAFETY: the token proves NEON; the rest is the caller's promise.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => unsafe { neon::run(kernel) },
            #[allow(unreachable_patterns, reason = "which tiers are left depends on the architecture")]
            Isa::Avx2(_) | Isa::Avx512(_) | Isa::Neon(_) => unreachable!("no token exists on this architecture"),
        }
    }
}

/// Four lanes in plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 4]);

impl Vector for Portable {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller gives four readable values.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller gives four writable values.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: the caller gives that many writable values.
        (0..count).for_each(|i| unsafe { to.add(i).write(self.0[i]) });
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * factor.0[i] + addend.0[i]))
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        let larger = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
        Self(std::array::from_fn(|i| larger(self.0[i], other.0[i])))
    }

    #[inline(always)]
    unsafe fn shift_up(self, below: Self) -> Self {
        Self([below.0[3], self.0[0], self.0[1], self.0[2]])
    }

    #[inline(always)]
    unsafe fn shift_down(self, above: Self) -> Self {
        Self([self.0[1], self.0[2], self.0[3], above.0[0]])
    }

    #[inline(always)]
    unsafe fn even(self, next: Self) -> Self {
        Self([self.0[0], self.0[2], next.0[0], next.0[2]])
    }

    #[inline(always)]
    unsafe fn odd(self, next: Self) -> Self {
        Self([self.0[1], self.0[3], next.0[1], next.0[3]])
    }

    #[inline(always)]
    unsafe fn pick(self, other: Self, lanes: Self) -> Self {
        Self(lanes.0.map(|lane| {
            let lane = lane.to_bits() as usize;
            if lane < 4 { self.0[lane] } else { other.0[lane - 4] }
        }))
    }

    #[inline(always)]
    unsafe fn select(self, lanes: *const i32) -> Self {
        // SAFETY: the caller gives four readable lanes.
        let lanes = unsafe { lanes.cast::<[i32; 4]>().read_unaligned() };
        Self(lanes.map(|lane| usize::try_from(lane).map_or(0.0, |lane| self.0[lane])))
    }

    #[inline(always)]
    unsafe fn zip(self, other: Self) -> (Self, Self) {
        let lane = |i: usize| if i.is_multiple_of(2) { self.0[i / 2] } else { other.0[i / 2] };
        (Self(std::array::from_fn(lane)), Self(std::array::from_fn(|i| lane(i + 4))))
    }

    #[inline(always)]
    unsafe fn clamp(self, low: Self, high: Self) -> Self {
        Self(std::array::from_fn(|i| {
            let raised = if low.0[i] > self.0[i] { low.0[i] } else { self.0[i] };
            if high.0[i] < raised { high.0[i] } else { raised }
        }))
    }

    #[inline(always)]
    unsafe fn and(self, mask: Self) -> Self {
        Self(std::array::from_fn(|i| f32::from_bits(self.0[i].to_bits() & mask.0[i].to_bits())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs every operation on the values it finds and stores the results one after the other.
    struct Operations {
        input: [f32; 64],
        other: [f32; 64],
        output: std::cell::RefCell<Vec<f32>>,
    }

    impl Kernel for Operations {
        #[inline(always)]
        unsafe fn run<V: Vector>(&self) {
            let mut out = vec![0.0f32; 64 * 13];
            for start in (0..64).step_by(V::LANES) {
                // SAFETY: 64 is a multiple of every lane count, and `launch` chose a tier of this CPU.
                unsafe {
                    let x = V::load(self.input.as_ptr().add(start));
                    let ones = V::splat(f32::from_bits(u32::MAX));
                    x.mul_add(V::splat(2.0), V::splat(1.0)).store(out.as_mut_ptr().add(start));
                    x.add(x).store(out.as_mut_ptr().add(64 + start));
                    x.clamp(V::splat(0.0), V::splat(6.0)).store(out.as_mut_ptr().add(128 + start));
                    x.and(ones).store(out.as_mut_ptr().add(192 + start));
                    let other = V::load(self.other.as_ptr().add(start));
                    x.max(other).store(out.as_mut_ptr().add(256 + start));
                    x.even(other).store(out.as_mut_ptr().add(320 + start));
                    x.shift_up(other).store(out.as_mut_ptr().add(384 + start));
                    x.shift_down(other).store(out.as_mut_ptr().add(448 + start));
                    let (low, high) = x.zip(other);
                    low.store(out.as_mut_ptr().add(512 + start));
                    high.store(out.as_mut_ptr().add(576 + start));
                    let lanes: [i32; 16] = std::array::from_fn(|i| (3 * i % V::LANES) as i32 - 1);
                    x.select(lanes.as_ptr()).store(out.as_mut_ptr().add(640 + start));
                    x.odd(other).store(out.as_mut_ptr().add(704 + start));
                    let lanes: [i32; 16] = std::array::from_fn(|i| ((5 * i + 3) % (2 * V::LANES)) as i32);
                    x.pick(other, V::load(lanes.as_ptr().cast())).store(out.as_mut_ptr().add(768 + start));
                }
            }
            *self.output.borrow_mut() = out;
        }
    }

    #[test]
    fn operations_mean_the_same_on_every_tier() {
        let special = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, -1e-40, 6.0, 6.5, -3.25, 0.1];
        let input = std::array::from_fn(|i| special[i % special.len()]);
        let other = std::array::from_fn(|i| special[(i * 5 + 3) % special.len()]);
        for isa in Isa::available() {
            let kernel = Operations { input, other, output: Default::default() };
            // SAFETY: the kernel touches only its own arrays.
            unsafe { isa.launch(&kernel) };
            let out = kernel.output.into_inner();
            for (i, x) in input.into_iter().enumerate() {
                let clamped = if x.is_nan() { x } else { x.clamp(0.0, 6.0) };
                let larger = if x.is_nan() || other[i].is_nan() { f32::NAN } else { x.max(other[i]) };
                let (first, lane) = (i / isa.lanes() * isa.lanes(), i % isa.lanes());
                let second = if lane < isa.lanes() / 2 { &input } else { &other };
                let [even, odd] = [0, 1].map(|odd| second[first + 2 * lane % isa.lanes() + odd]);
                let last = first + isa.lanes() - 1;
                let up = if lane == 0 { other[last] } else { input[i - 1] };
                let down = if i == last { other[first] } else { input[i + 1] };
                let of_both = if lane % 2 == 0 { &input } else { &other };
                let [low, high] = [0, isa.lanes() / 2].map(|half| of_both[first + half + lane / 2]);
                let selected = (3 * lane % isa.lanes()).checked_sub(1).map_or(0.0, |lane| input[first + lane]);
                let named = (5 * lane + 3) % (2 * isa.lanes());
                let of_either = if named < isa.lanes() { &input } else { &other };
                let picked = of_either[first + named % isa.lanes()];
                let moved = [even, up, down, low, high, selected, odd, picked];
                let expected = [x * 2.0 + 1.0, x + x, clamped, x, larger].into_iter().chain(moved);
                for (k, expected) in expected.enumerate() {
                    let found = out[k * 64 + i];
                    let same = found == expected || (found.is_nan() && expected.is_nan());
                    assert!(same, "{isa}, operation {k} of {x}: {found}, expected {expected}");
                }
            }
        }
    }
}
