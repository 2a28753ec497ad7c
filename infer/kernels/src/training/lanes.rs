//! Sixteen f32 lanes in the registers of each tier, and the kernels generic over them.

use super::bf16::unpair;
use crate::{Bf16, Isa};

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
struct ScalarBf16(Scalar);

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
}
