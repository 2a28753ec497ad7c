//! Direct sparse convolution: each non-zero weight is one broadcast and a handful of fused multiply-adds.
//!
//! For one tile of output values held in registers, walk the non-zeros of an output channel; each is a weight and the
//! distance of its tap. The idea is SkimCaffe's direct sparse convolution (Park et al., arXiv 1608.01409); here input
//! channels are cut into blocks so that what one tile reads stays in the first-level cache.

use std::ops::Range;

use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// A non-zero weight and the byte distance of its tap.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tap {
    pub(crate) weight: f32,
    pub(crate) offset: u32,
}

/// `y[o][i] = clip(bias[o] + sum over taps of weight * x[i + offset] + residual[o][i])` for every output channel `o`
/// and flat value `i`. The program checked all ranges when it took the step.
#[derive(Debug)]
pub(crate) struct SparseConv {
    /// Offsets in the arena: taps are relative to `x`; row `o` of `y` and `residual` is `o * stride` further.
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) residual: Option<usize>,
    pub(crate) stride: usize,
    /// Values of a row.
    pub(crate) flat: usize,
    /// Bits of a row to keep.
    pub(crate) mask: Option<Vec<f32>>,
    /// Taps by block of input channels, then by row.
    pub(crate) taps: Vec<Tap>,
    /// For each block, where each row's taps start, and where the last ends.
    pub(crate) blocks: Vec<Vec<u32>>,
    pub(crate) bias: Vec<f32>,
    pub(crate) clip: [f32; 2],
    /// Cost of the rows before each row, and of all.
    pub(crate) cumulative: Vec<u64>,
}

/// Accumulators that fit 16 registers beside a weight and an operand.
pub(crate) const MAX_TILE: usize = 12;

impl Kernel for Call<'_, SparseConv> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        let vectors = s.flat.div_ceil(V::LANES);
        let tiles = vectors.div_ceil(MAX_TILE);
        let part = self.site.part;
        let (rows, tiles_of_part) = if s.bias.len() < 4 * part.count && tiles >= part.count {
            (0..s.bias.len(), part.of(tiles))
        } else {
            (part.weighted(&s.cumulative), 0..tiles)
        };
        for tile in tiles_of_part {
            let (first, end) = (vectors * tile / tiles, vectors * (tile + 1) / tiles);
            let at = first * V::LANES;
            for block in 0..s.blocks.len() {
                let rows = rows.clone();
                // SAFETY: `at` and the tile size stay within the vectors of a row.
                unsafe {
                    match end - first {
                        1 => self.rows::<V, 1, 8>(block, rows, at),
                        2 => self.rows::<V, 2, 6>(block, rows, at),
                        3 => self.rows::<V, 3, 4>(block, rows, at),
                        4 => self.rows::<V, 4, 3>(block, rows, at),
                        5 => self.rows::<V, 5, 2>(block, rows, at),
                        6 => self.rows::<V, 6, 2>(block, rows, at),
                        7 => self.rows::<V, 7, 2>(block, rows, at),
                        8 => self.rows::<V, 8, 1>(block, rows, at),
                        9 => self.rows::<V, 9, 1>(block, rows, at),
                        10 => self.rows::<V, 10, 1>(block, rows, at),
                        11 => self.rows::<V, 11, 1>(block, rows, at),
                        _ => self.rows::<V, 12, 1>(block, rows, at),
                    }
                }
            }
        }
    }
}

impl Call<'_, SparseConv> {
    /// One tile of `P` vectors at flat value `at`, for `rows`, over the taps of one block. `U` taps are in flight at
    /// once, so that short tiles do not wait for their own sums.
    ///
    /// # Safety
    /// The tile must lie within a row rounded up to whole vectors.
    #[inline(always)]
    unsafe fn rows<V: Vector, const P: usize, const U: usize>(&self, block: usize, rows: Range<usize>, at: usize) {
        let s = self.step;
        let (first, last) = (block == 0, block + 1 == s.blocks.len());
        let starts = &s.blocks[block];
        // SAFETY: the program checked that every tap, row, residual and mask of a row of whole vectors lies inside
        // its buffer, that `y` overlaps none of the others, and gave this thread rows or tiles of its own.
        unsafe {
            let x = self.site.arena.add(s.x + at).cast_const().cast::<u8>();
            for row in rows {
                let y = self.site.arena.add(s.y + row * s.stride + at);
                let mut sums = [[V::splat(0.0); P]; U];
                if first {
                    sums[0] = [V::splat(*s.bias.get_unchecked(row)); P];
                } else {
                    for (p, sum) in sums[0].iter_mut().enumerate() {
                        *sum = V::load(y.add(p * V::LANES));
                    }
                }
                let range = *starts.get_unchecked(row) as usize..*starts.get_unchecked(row + 1) as usize;
                let taps = s.taps.get_unchecked(range);
                let chunks = taps.chunks_exact(U);
                for tap in chunks.remainder() {
                    add_tap(tap, x, &mut sums[0]);
                }
                for chunk in chunks {
                    for (tap, sums) in chunk.iter().zip(&mut sums) {
                        add_tap(tap, x, sums);
                    }
                }
                let [low, high] = s.clip.map(|bound| V::splat(bound));
                for p in 0..P {
                    let mut sum = sums[0][p];
                    for more in &sums[1..] {
                        sum = sum.add(more[p]);
                    }
                    if last {
                        if let Some(residual) = s.residual {
                            let residual = self.site.arena.add(residual + row * s.stride + at + p * V::LANES);
                            sum = sum.add(V::load(residual));
                        }
                        sum = sum.clamp(low, high);
                        if let Some(mask) = &s.mask {
                            sum = sum.and(V::load(mask.as_ptr().add(at + p * V::LANES)));
                        }
                    }
                    sum.store(y.add(p * V::LANES));
                }
            }
        }
    }
}

/// `sums += tap.weight * x[tap.offset..]`.
///
/// # Safety
/// `x` must be readable for `P` vectors from the tap's offset on.
#[inline(always)]
unsafe fn add_tap<V: Vector, const P: usize>(tap: &Tap, x: *const u8, sums: &mut [V; P]) {
    // SAFETY: the caller's promise.
    unsafe {
        let weight = V::splat(tap.weight);
        let x = x.add(tap.offset as usize).cast::<f32>();
        for (p, sum) in sums.iter_mut().enumerate() {
            *sum = V::load(x.add(p * V::LANES)).mul_add(weight, *sum);
        }
    }
}
