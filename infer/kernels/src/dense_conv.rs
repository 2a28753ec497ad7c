//! Direct dense convolution: blocks of output channels against tiles of output values, both held in registers.
//!
//! Taps are cut into chunks of input channels, so that the inputs of a tile and the weights of a block that one chunk
//! needs stay in the first-level cache.

use std::ops::Range;

use crate::grid::Tile;
use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// Output channels of a block.
pub(crate) const BLOCK: usize = 6;

/// Vectors of a tile: with six channels and the operands they fill 15 of 16 registers.
pub(crate) const TILE: usize = 2;

/// The same sum as [`crate::sparse_conv::SparseConv`], over all weights.
#[derive(Debug)]
pub(crate) struct DenseConv {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) residual: Option<usize>,
    pub(crate) stride: usize,
    pub(crate) tiles: Vec<Tile>,
    pub(crate) mask: Option<Vec<f32>>,
    /// For each chunk, for each block, for each tap, the weights of the block's channels.
    pub(crate) weights: Vec<[f32; BLOCK]>,
    /// Byte distance of each tap.
    pub(crate) offsets: Vec<u32>,
    /// The taps of each chunk.
    pub(crate) chunks: Vec<Range<usize>>,
    pub(crate) blocks: Vec<Block>,
    /// Whether the tiles of a block, rather than the blocks of a tile, follow each other: the smaller of a chunk's
    /// inputs and weights is what should be read again and again.
    pub(crate) block_first: bool,
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
        let (s, part) = (self.step, self.site.part);
        let (blocks, tiles) = if s.blocks.len() < 4 * part.count && s.tiles.len() >= part.count {
            (0..s.blocks.len(), part.of(s.tiles.len()))
        } else {
            (part.of(s.blocks.len()), 0..s.tiles.len())
        };
        let (outer, inner) = if s.block_first { (&blocks, &tiles) } else { (&tiles, &blocks) };
        for chunk in 0..s.chunks.len() {
            for outer in outer.clone() {
                for inner in inner.clone() {
                    let (block, tile) = if s.block_first { (outer, inner) } else { (inner, outer) };
                    let tile = s.tiles[tile];
                    // SAFETY: the tile stays within the vectors of a row.
                    unsafe {
                        match (tile.rows, tile.vectors) {
                            (1, 1) => self.block::<V, 1>(chunk, block, tile.at),
                            (1, TILE) => self.block::<V, TILE>(chunk, block, tile.at),
                            (rows, vectors) => unreachable!("a tile of {rows} x {vectors} vectors"),
                        }
                    }
                }
            }
        }
    }
}

impl Call<'_, DenseConv> {
    /// One tile of `P` vectors at flat value `at` of one block of channels, over the taps of one chunk.
    ///
    /// # Safety
    /// The tile must lie within a row rounded up to whole vectors.
    #[inline(always)]
    unsafe fn block<V: Vector, const P: usize>(&self, chunk: usize, block: usize, at: usize) {
        let s = self.step;
        let (first, last) = (chunk == 0, chunk + 1 == s.chunks.len());
        // SAFETY: the program checked that every tap, row, residual and mask of a row of whole vectors lies inside
        // its buffer, that `y` overlaps none of the others, and gave this thread blocks or tiles of its own.
        unsafe {
            let taps = s.chunks.get_unchecked(chunk).clone();
            let start = taps.start * s.blocks.len() + block * taps.len();
            let weights = s.weights.get_unchecked(start..start + taps.len());
            let offsets = s.offsets.get_unchecked(taps);
            let block = s.blocks.get_unchecked(block);
            let x = self.site.arena.add(s.x + block.x + at).cast_const();
            let y = self.site.arena.add(s.y + block.row * s.stride + at);
            let mut sums = [[V::splat(0.0); P]; BLOCK];
            for (r, sums) in sums.iter_mut().enumerate() {
                if first {
                    *sums = [V::splat(block.bias[r]); P];
                } else if r < block.rows {
                    for (p, sum) in sums.iter_mut().enumerate() {
                        *sum = V::load(y.add(r * s.stride + p * V::LANES));
                    }
                }
            }
            for (weights, offset) in weights.iter().zip(offsets) {
                let x = x.byte_add(*offset as usize);
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
            let residual = s.residual.map(|residual| self.site.arena.add(residual + block.row * s.stride + at));
            let mask = s.mask.as_ref().map(|mask| mask.as_ptr().add(at));
            for (r, sums) in sums.into_iter().enumerate() {
                if r == block.rows {
                    break;
                }
                for (p, mut sum) in sums.into_iter().enumerate() {
                    let place = r * s.stride + p * V::LANES;
                    if last {
                        if let Some(residual) = residual {
                            sum = sum.add(V::load(residual.add(place)));
                        }
                        sum = sum.clamp(low, high);
                        if let Some(mask) = mask {
                            sum = sum.and(V::load(mask.add(p * V::LANES)));
                        }
                    }
                    sum.store(y.add(place));
                }
            }
        }
    }
}
