//! [`Lanes`] in plain Rust.

use super::Lanes;
use crate::training::bf16::unpair;

/// Plain Rust, for CPUs without AVX2 and as the reference of the other tiers.
#[derive(Clone, Copy)]
pub(super) struct Scalar([f32; 16]);

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

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.0.iter().sum()
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        for i in 0..16 {
            for j in 0..16 {
                // SAFETY: the caller vouches for sixteen vectors of sixteen values.
                unsafe { *to.add(i * to_step + j) = *from.add(j * from_step + i) };
            }
        }
    }
}

/// [`Scalar`] sums of products of bf16 pairs.
#[derive(Clone, Copy)]
pub(super) struct ScalarBf16(Scalar);

impl Lanes for ScalarBf16 {
    const FACTORS: usize = 2;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: plain Rust.
        Self(unsafe { Scalar::zero() })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for sixteen values.
        Self(unsafe { Scalar::load(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for sixteen values.
        unsafe { self.0.store(to) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: plain Rust.
        Self(unsafe { self.0.add_product(a.0, b.0) })
    }

    #[inline(always)]
    unsafe fn add_scaled(self, scale: *const f32, vector: Self) -> Self {
        // SAFETY: the caller vouches for one value.
        let scale = unpair(unsafe { *scale });
        let sum = |i: usize| {
            let factors = unpair(vector.0.0[i]);
            self.0.0[i] + (scale[0] * factors[0] + scale[1] * factors[1])
        };
        Self(Scalar(std::array::from_fn(sum)))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: plain Rust.
        unsafe { self.0.sum() }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        // SAFETY: the caller's contract.
        unsafe { Scalar::transpose(from, from_step, to, to_step) }
    }
}
