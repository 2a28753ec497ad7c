//! The vectors of AArch64.

use std::arch::aarch64::*;

use super::{Kernel, Vector};

/// # Safety
/// The CPU must have NEON, and the kernel's contract must hold.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run(kernel: &impl Kernel) {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<F32x4>() }
}

/// Four lanes, NEON.
#[derive(Clone, Copy)]
struct F32x4(float32x4_t);

impl Vector for F32x4 {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller promises NEON.
        Self(unsafe { vdupq_n_f32(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises NEON and four readable values.
        Self(unsafe { vld1q_f32(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises NEON and four writable values.
        unsafe { vst1q_f32(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        let mut values = [0.0; Self::LANES];
        // SAFETY: the caller promises NEON and that many writable values, at most four.
        unsafe {
            vst1q_f32(values.as_mut_ptr(), self.0);
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, count);
        }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the caller promises NEON.
        Self(unsafe { vfmaq_f32(addend.0, self.0, factor.0) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller promises NEON.
        Self(unsafe { vaddq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the caller promises NEON. The maximum is NaN where one is.
        Self(unsafe { vmaxq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn shift_up(self, below: Self) -> Self {
        // SAFETY: the caller promises NEON.
        Self(unsafe { vextq_f32::<3>(below.0, self.0) })
    }

    #[inline(always)]
    unsafe fn shift_down(self, above: Self) -> Self {
        // SAFETY: the caller promises NEON.
        Self(unsafe { vextq_f32::<1>(self.0, above.0) })
    }

    #[inline(always)]
    unsafe fn even(self, next: Self) -> Self {
        // SAFETY: the caller promises NEON.
        Self(unsafe { vuzp1q_f32(self.0, next.0) })
    }

    #[inline(always)]
    unsafe fn odd(self, next: Self) -> Self {
        // SAFETY: the caller promises NEON.
        Self(unsafe { vuzp2q_f32(self.0, next.0) })
    }

    #[inline(always)]
    unsafe fn pick(self, other: Self, lanes: Self) -> Self {
        // SAFETY: the caller promises NEON. Lane `i` is the bytes from `4 i` on of both tables together.
        unsafe {
            let first = vmulq_n_u32(vreinterpretq_u32_f32(lanes.0), 0x0404_0404);
            let bytes = vreinterpretq_u8_u32(vaddq_u32(first, vdupq_n_u32(0x0302_0100)));
            let table = uint8x16x2_t(vreinterpretq_u8_f32(self.0), vreinterpretq_u8_f32(other.0));
            Self(vreinterpretq_f32_u8(vqtbl2q_u8(table, bytes)))
        }
    }

    #[inline(always)]
    unsafe fn select(self, lanes: *const i32) -> Self {
        let mut values = [0.0; 4];
        // SAFETY: the caller promises NEON, and four readable lanes.
        unsafe {
            vst1q_f32(values.as_mut_ptr(), self.0);
            let lanes = lanes.cast::<[i32; 4]>().read_unaligned();
            let selected = lanes.map(|lane| usize::try_from(lane).map_or(0.0, |lane| values[lane]));
            Self(vld1q_f32(selected.as_ptr()))
        }
    }

    #[inline(always)]
    unsafe fn zip(self, other: Self) -> (Self, Self) {
        // SAFETY: the caller promises NEON.
        unsafe { (Self(vzip1q_f32(self.0, other.0)), Self(vzip2q_f32(self.0, other.0))) }
    }

    #[inline(always)]
    unsafe fn clamp(self, low: Self, high: Self) -> Self {
        // SAFETY: the caller promises NEON. Both are NaN where one is, which limits never are.
        Self(unsafe { vminq_f32(vmaxq_f32(self.0, low.0), high.0) })
    }

    #[inline(always)]
    unsafe fn and(self, mask: Self) -> Self {
        // SAFETY: the caller promises NEON.
        unsafe {
            let bits = vandq_u32(vreinterpretq_u32_f32(self.0), vreinterpretq_u32_f32(mask.0));
            Self(vreinterpretq_f32_u32(bits))
        }
    }
}
