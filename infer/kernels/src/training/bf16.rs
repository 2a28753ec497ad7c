//! Words of two bf16 values: in the bits of an f32 the first value's are the lower half.
//!
//! bf16 is the upper half of an f32. Values are rounded to nearest, ties to even; a NaN stays one.

use super::BLOCK;
use crate::Bf16;

/// `value` in bf16, in the upper half.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let kept = if value.is_nan() { bits | 0x40_0000 } else { nearest };
    kept & 0xffff_0000
}

#[inline(always)]
fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(rounded(first) >> 16 | rounded(second))
}

/// The values of a word.
#[inline(always)]
pub(super) fn unpair(word: f32) -> [f32; 2] {
    [f32::from_bits(word.to_bits() << 16), f32::from_bits(word.to_bits() & 0xffff_0000)]
}

/// The first `len` values from a cache line on, after growing `scratch` to hold them.
pub(super) fn align(scratch: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if scratch.len() < len + BLOCK {
        scratch.resize(len + BLOCK, 0.0);
    }
    let line = scratch.as_ptr().align_offset(size_of::<[f32; BLOCK]>());
    &mut scratch[line..line + len]
}

/// Words of neighbouring lanes; those of one block follow those of the one before after `step`.
pub(super) fn pair_lanes(bf16: Bf16, values: &[f32], words: &mut [f32], step: usize) {
    assert!(words.len().div_ceil(step) >= values.len() / BLOCK, "{} for {}", words.len(), values.len());
    match bf16 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the token exists only where the CPU has AVX512-BF16.
        Bf16::Avx512(_) => unsafe { x86::pair_lanes(values, words, step) },
        _ => {
            for (words, values) in words.chunks_mut(step).zip(values.as_chunks::<BLOCK>().0) {
                for (word, [first, second]) in words.iter_mut().zip(values.as_chunks().0) {
                    *word = pair(*first, *second);
                }
            }
        }
    }
}

/// Words of a value of each slice, or of `first` and zero.
pub(super) fn pair_values(bf16: Bf16, first: &[f32], second: Option<&[f32]>, words: &mut [f32]) {
    let Some(second) = second else {
        words.iter_mut().zip(first).for_each(|(word, first)| *word = pair(*first, 0.0));
        return;
    };
    match bf16 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the token exists only where the CPU has AVX512-BF16.
        Bf16::Avx512(_) => unsafe { x86::pair_values(first, second, words) },
        _ => words.iter_mut().zip(first).zip(second).for_each(|((word, a), b)| *word = pair(*a, *b)),
    }
}

/// The same a vector at a time; subnormal values become zero.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::BLOCK;

    /// `values` are whole blocks.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn pair_lanes(values: &[f32], words: &mut [f32], step: usize) {
        for (words, values) in words.chunks_mut(step).zip(values.as_chunks::<BLOCK>().0) {
            let words = &mut words[..BLOCK / 2];
            // SAFETY: the slices hold 64 and 32 bytes; both types of the transmutation are 256 bits.
            unsafe {
                let pairs = _mm512_cvtneps_pbh(_mm512_loadu_ps(values.as_ptr()));
                _mm256_storeu_si256(words.as_mut_ptr().cast(), std::mem::transmute::<__m256bh, __m256i>(pairs));
            }
        }
    }

    /// All three are whole blocks.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn pair_values(first: &[f32], second: &[f32], words: &mut [f32]) {
        let values = first.as_chunks::<BLOCK>().0.iter().zip(second.as_chunks::<BLOCK>().0);
        for (words, (first, second)) in words.as_chunks_mut::<BLOCK>().0.iter_mut().zip(values) {
            // SAFETY: the arrays hold 64 bytes; both types of the transmutation are 256 bits.
            unsafe {
                let half = |values: &[f32; BLOCK]| {
                    let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(values.as_ptr()));
                    _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(rounded))
                };
                let pairs = _mm512_or_si512(half(first), _mm512_slli_epi32::<16>(half(second)));
                _mm512_storeu_si512(words.as_mut_ptr().cast(), pairs);
            }
        }
    }
}

/// From weights as [`super::Convolution`] packs them to words of two source lanes each.
pub fn pair_rows(packed: &[f32], words: &mut [f32]) {
    assert_eq!(packed.len(), 2 * words.len());
    for (rows, words) in packed.chunks_exact(2 * BLOCK).zip(words.chunks_exact_mut(BLOCK)) {
        let (first, second) = rows.split_at(BLOCK);
        for (word, (first, second)) in words.iter_mut().zip(first.iter().zip(second)) {
            *word = pair(*first, *second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// bf16 keeps 8 significant bits.
    #[test]
    fn values_are_rounded_to_the_nearest_and_ties_to_even() {
        let ulp = 2f32.powi(-7);
        for (value, expected) in [
            (1.0, 1.0),
            (1.0 + 0.49 * ulp, 1.0),
            (1.0 + 0.5 * ulp, 1.0),
            (1.0 + 0.51 * ulp, 1.0 + ulp),
            (1.0 + 1.5 * ulp, 1.0 + 2.0 * ulp),
            (-1.0 - 0.51 * ulp, -1.0 - ulp),
            (-0.0, -0.0),
            (f32::INFINITY, f32::INFINITY),
            (f32::MAX, f32::INFINITY),
        ] {
            let [first, second] = unpair(pair(value, -value));
            assert_eq!(
                [first.to_bits(), second.to_bits()],
                [f32::to_bits(expected), f32::to_bits(-expected)],
                "{value}"
            );
        }
        assert!(unpair(pair(f32::NAN, f32::from_bits(0x7f80_0001))).iter().all(|v| v.is_nan()));
    }
}
