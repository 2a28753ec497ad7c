//! [`Lanes`] in the registers of x86-64.

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

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller vouches for AVX2.
        unsafe { sum(_mm256_add_ps(self.0[0], self.0[1])) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        // SAFETY: the caller's contract.
        unsafe { transpose(from, from_step, to, to_step) }
    }
}

/// One 256-bit register, for vectors whose last eight lanes are zero.
#[derive(Clone, Copy)]
pub(super) struct Avx2Half(__m256);

impl Lanes for Avx2Half {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for AVX2.
        unsafe { Self(_mm256_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for AVX2 and sixteen values.
        unsafe { Self(_mm256_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for AVX2 and sixteen values.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), _mm256_setzero_ps());
        }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller vouches for FMA.
        unsafe { Self(_mm256_fmadd_ps(a.0, b.0, self.0)) }
    }

    #[inline(always)]
    unsafe fn add_scaled(self, scale: *const f32, vector: Self) -> Self {
        // SAFETY: the caller vouches for FMA and one value.
        unsafe { self.add_product(Self(_mm256_broadcast_ss(&*scale)), vector) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller vouches for AVX2.
        unsafe { sum(self.0) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        // SAFETY: the caller's contract.
        unsafe { transpose(from, from_step, to, to_step) }
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

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        // SAFETY: the caller's contract; the tier has AVX2.
        unsafe { transpose(from, from_step, to, to_step) }
    }
}

/// Sums in one 512-bit register of products of bf16 pairs.
#[derive(Clone, Copy)]
pub(super) struct Avx512Bf16(Avx512);

impl Lanes for Avx512Bf16 {
    const FACTORS: usize = 2;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for AVX-512F.
        Self(unsafe { Avx512::zero() })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for AVX-512F and sixteen values.
        Self(unsafe { Avx512::load(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for AVX-512F and sixteen values.
        unsafe { self.0.store(to) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller vouches for AVX-512F.
        Self(unsafe { self.0.add_product(a.0, b.0) })
    }

    #[inline(always)]
    unsafe fn add_scaled(self, scale: *const f32, vector: Self) -> Self {
        // SAFETY: the caller vouches for AVX512-BF16 and one value.
        Self(Avx512(unsafe { add_scaled_pairs(self.0.0, scale, vector.0.0) }))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe { self.0.sum() }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        // SAFETY: the caller's contract; the tier has AVX2.
        unsafe { transpose(from, from_step, to, to_step) }
    }
}

/// `_mm512_dpbf16_ps` with a word from memory, which the compiler would load into a register of its own: it then has
/// too few of them for the sums.
///
/// # Safety
/// `scale` must be valid for one value.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn add_scaled_pairs(mut sums: __m512, scale: *const f32, vector: __m512) -> __m512 {
    // SAFETY: reads one value (caller), and writes one register.
    unsafe {
        std::arch::asm!(
            "vdpbf16ps {sums}, {vector}, dword ptr [{scale}]{{1to16}}",
            sums = inout(zmm_reg) sums,
            vector = in(zmm_reg) vector,
            scale = in(reg) scale,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    sums
}

/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn sum(v: __m256) -> f32 {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

/// Transposes four squares of eight by eight values.
///
/// # Safety
/// The CPU must have AVX2, and both pointers be valid for sixteen vectors of sixteen values.
#[inline(always)]
unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
    for row in [0, 8] {
        for column in [0, 8] {
            // SAFETY: the caller's contract.
            unsafe {
                let from = from.add(row * from_step + column);
                let load = |i: usize| _mm256_loadu_ps(from.add(i * from_step));
                let low = quads([load(0), load(1), load(2), load(3)]);
                let high = quads([load(4), load(5), load(6), load(7)]);
                let to = to.add(column * to_step + row);
                for k in 0..4 {
                    let first = _mm256_permute2f128_ps::<0x20>(low[k], high[k]);
                    let second = _mm256_permute2f128_ps::<0x31>(low[k], high[k]);
                    _mm256_storeu_ps(to.add(k * to_step), first);
                    _mm256_storeu_ps(to.add((k + 4) * to_step), second);
                }
            }
        }
    }
}

/// Columns `k` and `k + 4` of four rows, in the halves of vector `k`.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn quads([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0x44>(ab_low, cd_low),
            _mm256_shuffle_ps::<0xee>(ab_low, cd_low),
            _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
            _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
        ]
    }
}
