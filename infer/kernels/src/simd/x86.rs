//! The vectors of x86-64.

use std::arch::x86_64::*;

use super::{Kernel, Vector};

/// # Safety
/// The CPU must have AVX2 and FMA, and the kernel's contract must hold.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run_avx2(kernel: &impl Kernel) {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<F32x8>() }
}

/// # Safety
/// The CPU must have AVX-512 F, BW, DQ and VL, AVX2 and FMA, and the kernel's contract must hold.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn run_avx512(kernel: &impl Kernel) {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<F32x16>() }
}

/// As [`run_avx512`], with vectors of half the size, but as many of them in registers.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn run_avx512_half(kernel: &impl Kernel) {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<F32x8>() }
}

/// Eight lanes, AVX2 and FMA.
#[derive(Clone, Copy)]
struct F32x8(__m256);

/// Sixteen lanes, AVX-512.
#[derive(Clone, Copy)]
struct F32x16(__m512);

impl Vector for F32x8 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller promises AVX2.
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises AVX2 and eight readable values.
        Self(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises AVX2 and eight writable values.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: the caller promises AVX2 and that many writable values.
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_maskstore_ps(to, _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes), self.0);
        }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: every CPU of the tier has SSE, and a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the caller promises FMA.
        Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, addend.0) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller promises AVX2.
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the caller promises AVX2. The maximum is `other` where one is NaN, so only `self` needs a look.
        unsafe {
            let larger = _mm256_max_ps(self.0, other.0);
            Self(_mm256_blendv_ps(larger, self.0, _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0)))
        }
    }

    #[inline(always)]
    unsafe fn shift_up(self, below: Self) -> Self {
        // SAFETY: the caller promises AVX2.
        unsafe {
            let before = _mm256_permute2f128_ps::<0x21>(below.0, self.0);
            let bytes = _mm256_alignr_epi8::<12>(_mm256_castps_si256(self.0), _mm256_castps_si256(before));
            Self(_mm256_castsi256_ps(bytes))
        }
    }

    #[inline(always)]
    unsafe fn shift_down(self, above: Self) -> Self {
        // SAFETY: the caller promises AVX2.
        unsafe {
            let behind = _mm256_permute2f128_ps::<0x21>(self.0, above.0);
            let bytes = _mm256_alignr_epi8::<4>(_mm256_castps_si256(behind), _mm256_castps_si256(self.0));
            Self(_mm256_castsi256_ps(bytes))
        }
    }

    #[inline(always)]
    unsafe fn even(self, next: Self) -> Self {
        // SAFETY: the caller promises AVX2. The shuffle works in halves, whose parts the permutation puts in order.
        unsafe {
            let halves = _mm256_castps_pd(_mm256_shuffle_ps::<0b10_00_10_00>(self.0, next.0));
            Self(_mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(halves)))
        }
    }

    #[inline(always)]
    unsafe fn odd(self, next: Self) -> Self {
        // SAFETY: as in `even`.
        unsafe {
            let halves = _mm256_castps_pd(_mm256_shuffle_ps::<0b11_01_11_01>(self.0, next.0));
            Self(_mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(halves)))
        }
    }

    #[inline(always)]
    unsafe fn pick(self, other: Self, lanes: Self) -> Self {
        // SAFETY: the caller promises AVX2. The permutations take the low three bits; the fourth, as a sign, blends.
        unsafe {
            let lanes = _mm256_castps_si256(lanes.0);
            let (own, others) = (_mm256_permutevar8x32_ps(self.0, lanes), _mm256_permutevar8x32_ps(other.0, lanes));
            Self(_mm256_blendv_ps(own, others, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(lanes))))
        }
    }

    #[inline(always)]
    unsafe fn select(self, lanes: *const i32) -> Self {
        // SAFETY: the caller promises AVX2 and eight readable lanes.
        unsafe {
            let lanes = _mm256_loadu_si256(lanes.cast());
            let none = _mm256_castsi256_ps(_mm256_srai_epi32::<31>(lanes));
            Self(_mm256_andnot_ps(none, _mm256_permutevar8x32_ps(self.0, lanes)))
        }
    }

    #[inline(always)]
    unsafe fn zip(self, other: Self) -> (Self, Self) {
        // SAFETY: the caller promises AVX2. Unpacking works in halves, which the permutations put in order.
        unsafe {
            let (low, high) = (_mm256_unpacklo_ps(self.0, other.0), _mm256_unpackhi_ps(self.0, other.0));
            (Self(_mm256_permute2f128_ps::<0x20>(low, high)), Self(_mm256_permute2f128_ps::<0x31>(low, high)))
        }
    }

    #[inline(always)]
    unsafe fn clamp(self, low: Self, high: Self) -> Self {
        // SAFETY: the caller promises AVX2. Both return their second operand where one is NaN.
        Self(unsafe { _mm256_min_ps(high.0, _mm256_max_ps(low.0, self.0)) })
    }

    #[inline(always)]
    unsafe fn and(self, mask: Self) -> Self {
        // SAFETY: the caller promises AVX2.
        Self(unsafe { _mm256_and_ps(self.0, mask.0) })
    }
}

impl Vector for F32x16 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller promises AVX-512.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    /// From an integer register: a broadcast from memory would take a load of its own.
    #[inline(always)]
    unsafe fn splat_low(bits: u64) -> Self {
        // SAFETY: the caller promises AVX-512.
        Self(unsafe { _mm512_castsi512_ps(_mm512_set1_epi32(bits as i32)) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises AVX-512 and sixteen readable values.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises AVX-512 and sixteen writable values.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: the caller promises AVX-512 and that many writable values.
        unsafe { _mm512_mask_storeu_ps(to, ((1u32 << count) - 1) as u16, self.0) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: every CPU of the tier has SSE, and a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the caller promises AVX-512.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller promises AVX-512.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the caller promises AVX-512. The maximum is `other` where one is NaN, so only `self` needs a look.
        unsafe {
            let larger = _mm512_max_ps(self.0, other.0);
            Self(_mm512_mask_mov_ps(larger, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0), self.0))
        }
    }

    #[inline(always)]
    unsafe fn shift_up(self, below: Self) -> Self {
        // SAFETY: the caller promises AVX-512.
        unsafe {
            let lanes = _mm512_alignr_epi32::<15>(_mm512_castps_si512(self.0), _mm512_castps_si512(below.0));
            Self(_mm512_castsi512_ps(lanes))
        }
    }

    #[inline(always)]
    unsafe fn shift_down(self, above: Self) -> Self {
        // SAFETY: the caller promises AVX-512.
        unsafe {
            let lanes = _mm512_alignr_epi32::<1>(_mm512_castps_si512(above.0), _mm512_castps_si512(self.0));
            Self(_mm512_castsi512_ps(lanes))
        }
    }

    #[inline(always)]
    unsafe fn even(self, next: Self) -> Self {
        // SAFETY: the caller promises AVX-512.
        unsafe {
            let lanes = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
            Self(_mm512_permutex2var_ps(self.0, lanes, next.0))
        }
    }

    #[inline(always)]
    unsafe fn odd(self, next: Self) -> Self {
        // SAFETY: the caller promises AVX-512.
        unsafe {
            let lanes = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
            Self(_mm512_permutex2var_ps(self.0, lanes, next.0))
        }
    }

    #[inline(always)]
    unsafe fn pick(self, other: Self, lanes: Self) -> Self {
        // SAFETY: the caller promises AVX-512.
        Self(unsafe { _mm512_permutex2var_ps(self.0, _mm512_castps_si512(lanes.0), other.0) })
    }

    #[inline(always)]
    unsafe fn select(self, lanes: *const i32) -> Self {
        // SAFETY: the caller promises AVX-512 and sixteen readable lanes.
        unsafe {
            let lanes = _mm512_loadu_si512(lanes.cast());
            let some = _mm512_cmpge_epi32_mask(lanes, _mm512_setzero_si512());
            Self(_mm512_maskz_permutexvar_ps(some, lanes, self.0))
        }
    }

    #[inline(always)]
    unsafe fn zip(self, other: Self) -> (Self, Self) {
        // SAFETY: the caller promises AVX-512.
        unsafe {
            let low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            let lanes = |which| Self(_mm512_permutex2var_ps(self.0, which, other.0));
            (lanes(low), lanes(high))
        }
    }

    #[inline(always)]
    unsafe fn clamp(self, low: Self, high: Self) -> Self {
        // SAFETY: the caller promises AVX-512. Both return their second operand where one is NaN.
        Self(unsafe { _mm512_min_ps(high.0, _mm512_max_ps(low.0, self.0)) })
    }

    #[inline(always)]
    unsafe fn and(self, mask: Self) -> Self {
        // SAFETY: the caller promises AVX-512 DQ.
        Self(unsafe { _mm512_and_ps(self.0, mask.0) })
    }
}
