//! Sixteen f32 lanes in the registers of each tier, and the kernels generic over them.

use crate::Isa;

/// Sixteen f32 values held in registers.
///
/// # Safety
/// The methods may be called only where the CPU has the implementing tier's instructions; pointers must be valid for
/// sixteen values (one value for [`Lanes::add_scaled`]).
pub(super) trait Lanes: Copy {
    unsafe fn zero() -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self + a b`, lane by lane.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// `self + *scale vector`.
    unsafe fn add_scaled(self, scale: *const f32, vector: Self) -> Self;
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
        unsafe { kernel.run::<x86::Avx512, 14>() }
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

/// Plain Rust, for CPUs without AVX2 and as the reference of the other tiers.
#[derive(Clone, Copy)]
struct Scalar([f32; 16]);

impl Lanes for Scalar {
    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; 16])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for sixteen values.
        Self(unsafe { from.cast::<[f32; 16]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for sixteen values.
        unsafe { to.cast::<[f32; 16]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
    }

    #[inline(always)]
    unsafe fn add_scaled(self, scale: *const f32, vector: Self) -> Self {
        // SAFETY: the caller vouches for one value.
        let scale = unsafe { *scale };
        Self(std::array::from_fn(|i| self.0[i] + scale * vector.0[i]))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// Two 256-bit registers.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2([__m256; 2]);

    impl Lanes for Avx2 {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller vouches for AVX2.
            unsafe { Self([_mm256_setzero_ps(); 2]) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller vouches for AVX2 and sixteen values.
            unsafe { Self([_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller vouches for AVX2 and sixteen values.
            unsafe {
                _mm256_storeu_ps(to, self.0[0]);
                _mm256_storeu_ps(to.add(8), self.0[1]);
            }
        }

        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller vouches for FMA.
            unsafe { Self([_mm256_fmadd_ps(a.0[0], b.0[0], self.0[0]), _mm256_fmadd_ps(a.0[1], b.0[1], self.0[1])]) }
        }

        #[inline(always)]
        unsafe fn add_scaled(self, scale: *const f32, vector: Self) -> Self {
            // SAFETY: the caller vouches for FMA and one value.
            unsafe { self.add_product(Self([_mm256_broadcast_ss(&*scale); 2]), vector) }
        }
    }

    /// One 512-bit register.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(__m512);

    impl Lanes for Avx512 {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller vouches for AVX-512F.
            unsafe { Self(_mm512_setzero_ps()) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller vouches for AVX-512F and sixteen values.
            unsafe { Self(_mm512_loadu_ps(from)) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller vouches for AVX-512F and sixteen values.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller vouches for AVX-512F.
            unsafe { Self(_mm512_fmadd_ps(a.0, b.0, self.0)) }
        }

        #[inline(always)]
        unsafe fn add_scaled(self, scale: *const f32, vector: Self) -> Self {
            // SAFETY: the caller vouches for AVX-512F and one value.
            unsafe { Self(_mm512_fmadd_ps(_mm512_set1_ps(*scale), vector.0, self.0)) }
        }
    }
}
