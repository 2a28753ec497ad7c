//! Direct dense convolution: blocks of output channels against tiles of output values, both held in registers.

use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// Output channels of a block.
pub(crate) const BLOCK: usize = 6;

/// Vectors of a tile: with six channels and the operands they fill 15 of 16 registers.
const TILE: usize = 2;

/// The same sum as [`crate::sparse_conv::SparseConv`], over all weights.
#[derive(Debug)]
pub(crate) struct DenseConv {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) residual: Option<usize>,
    pub(crate) stride: usize,
    pub(crate) flat: usize,
    pub(crate) mask: Option<Vec<f32>>,
    /// For each block, for each tap, the weights of the block's channels.
    pub(crate) weights: Vec<[f32; BLOCK]>,
    /// Byte distance of each tap.
    pub(crate) offsets: Vec<u32>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) clip: [f32; 2],
}

/// Up to [`BLOCK`] output channels of one group.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) row: usize,
    pub(crate) rows: usize,
    pub(crate) bias: [f32; BLOCK],
    /// Distance of the group's first input channel, in values.
    pub(crate) x: usize,
}

impl Kernel for Call<'_, DenseConv> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        let vectors = s.flat.div_ceil(V::LANES);
        let tiles = vectors.div_ceil(TILE);
        let part = self.site.part;
        let (blocks, tiles_of_part) = if s.blocks.len() < 4 * part.count && tiles >= part.count {
            (0..s.blocks.len(), part.of(tiles))
        } else {
            (part.of(s.blocks.len()), 0..tiles)
        };
        for tile in tiles_of_part {
            let (first, end) = (vectors * tile / tiles, vectors * (tile + 1) / tiles);
            for block in blocks.clone() {
                let at = first * V::LANES;
                // SAFETY: `at` and the tile size stay within the vectors of a row.
                unsafe {
                    match end - first {
                        1 => self.block::<V, 1>(block, at),
                        _ => self.block::<V, 2>(block, at),
                    }
                }
            }
        }
    }
}

impl Call<'_, DenseConv> {
    /// One tile of `P` vectors at flat value `at` of one block of channels.
    ///
    /// # Safety
    /// The tile must lie within a row rounded up to whole vectors.
    #[inline(always)]
    unsafe fn block<V: Vector, const P: usize>(&self, block: usize, at: usize) {
        let s = self.step;
        // SAFETY: the program checked that every tap, row, residual and mask of a row of whole vectors lies inside
        // its buffer, that `y` overlaps none of the others, and gave this thread blocks or tiles of its own.
        unsafe {
            let weights = s.weights.get_unchecked(block * s.offsets.len()..(block + 1) * s.offsets.len());
            let block = s.blocks.get_unchecked(block);
            let x = self.site.arena.add(s.x + block.x + at).cast_const().cast::<u8>();
            let mut sums = [[V::splat(0.0); P]; BLOCK];
            for (sums, bias) in sums.iter_mut().zip(block.bias) {
                *sums = [V::splat(bias); P];
            }
            for (weights, offset) in weights.iter().zip(&s.offsets) {
                let x = x.add(*offset as usize).cast::<f32>();
                let mut inputs = [V::splat(0.0); P];
                for (p, input) in inputs.iter_mut().enumerate() {
                    *input = V::load(x.add(p * V::LANES));
                }
                for (sums, weight) in sums.iter_mut().zip(weights) {
                    let weight = V::splat(*weight);
                    for (sum, input) in sums.iter_mut().zip(inputs) {
                        *sum = input.mul_add(weight, *sum);
                    }
                }
            }
            let [low, high] = s.clip.map(|bound| V::splat(bound));
            for (r, sums) in sums.into_iter().enumerate() {
                if r == block.rows {
                    break;
                }
                let row = (block.row + r) * s.stride + at;
                for (p, mut sum) in sums.into_iter().enumerate() {
                    if let Some(residual) = s.residual {
                        sum = sum.add(V::load(self.site.arena.add(residual + row + p * V::LANES)));
                    }
                    sum = sum.clamp(low, high);
                    if let Some(mask) = &s.mask {
                        sum = sum.and(V::load(mask.as_ptr().add(at + p * V::LANES)));
                    }
                    sum.store(self.site.arena.add(s.y + row + p * V::LANES));
                }
            }
        }
    }
}
