//! Sixteen f32 lanes in the registers of each tier, and the kernels generic over them.

mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::{Bf16, Isa};
use scalar::{Scalar, ScalarBf16};

/// Sixteen f32 values held in registers.
///
/// # Safety
/// The methods may be called only where the CPU has the implementing tier's instructions; pointers must be valid for
/// sixteen values (the scale of [`Lanes::add_scaled`] for one).
pub(super) trait Lanes: Copy {
    /// Factors in a word that [`Lanes::add_scaled`] takes: one f32, or two bf16.
    const FACTORS: usize = 1;
    unsafe fn zero() -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self + a b`, lane by lane.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// `self + *scale vector`; where words hold two factors, the sum of both products.
    unsafe fn add_scaled(self, scale: *const f32, vector: Self) -> Self;
    /// Sum of the lanes.
    unsafe fn sum(self) -> f32;
    /// Writes lane `i` of vector `j` to lane `j` of vector `i`; vectors are `from_step` and `to_step` apart.
    unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize);
}

/// Loads a tile. A loop, since `array::map` is compiled as a call, without the tier's registers.
///
/// # Safety
/// As for [`Lanes::load`].
#[inline(always)]
pub(super) unsafe fn load_each<L: Lanes, const TILE: usize>(from: &[*mut f32; TILE]) -> [L; TILE] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut tile = [L::zero(); TILE];
        for p in 0..TILE {
            tile[p] = L::load(from[p]);
        }
        tile
    }
}

/// A computation that can run on any tier. `TILE` is the number of accumulators that suits the tier's registers.
pub(super) trait Kernel {
    /// # Safety
    /// The CPU must have the instructions of `L`.
    unsafe fn run<L: Lanes, const TILE: usize>(self);
}

/// Runs `kernel` with the instructions of `isa`.
#[inline]
pub(super) fn dispatch<K: Kernel>(isa: Isa, kernel: K) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2<K: Kernel>(kernel: K) {
        // SAFETY: this function is only entered where AVX2 and FMA exist.
        unsafe { kernel.run::<x86::Avx2, 6>() }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,avx512f")]
    fn avx512<K: Kernel>(kernel: K) {
        // SAFETY: this function is only entered where AVX-512F exists.
        unsafe { kernel.run::<x86::Avx512, 16>() }
    }

    match isa {
        // SAFETY: the token exists only where the CPU has AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(_) => unsafe { avx2(kernel) },
        // SAFETY: the token exists only where the CPU has AVX-512F, AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) => unsafe { avx512(kernel) },
        // SAFETY: plain Rust, no special instruction.
        _ => unsafe { kernel.run::<Scalar, 2>() },
    }
}

/// Runs `kernel` where only the first eight lanes hold values; the other eight of whatever it stores are zero.
#[inline]
pub(super) fn dispatch_half<K: Kernel>(isa: Isa, kernel: K) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2<K: Kernel>(kernel: K) {
        // SAFETY: this function is only entered where AVX2 and FMA exist.
        unsafe { kernel.run::<x86::Avx2Half, 12>() }
    }

    match isa {
        // SAFETY: the token exists only where the CPU has AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(_) => unsafe { avx2(kernel) },
        _ => dispatch(isa, kernel),
    }
}

/// Runs `kernel` on words of two bf16 values.
#[inline]
pub(super) fn dispatch_bf16<K: Kernel>(bf16: Bf16, kernel: K) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,avx512f,avx512bf16")]
    fn avx512<K: Kernel>(kernel: K) {
        // SAFETY: this function is only entered where AVX512-BF16 exists.
        unsafe { kernel.run::<x86::Avx512Bf16, 16>() }
    }

    match bf16 {
        // SAFETY: the token exists only where the CPU has AVX512-BF16, AVX-512F, AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Bf16::Avx512(_) => unsafe { avx512(kernel) },
        // SAFETY: plain Rust, no special instruction.
        _ => unsafe { kernel.run::<ScalarBf16, 2>() },
    }
}
