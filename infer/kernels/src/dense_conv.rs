//! Direct dense convolution: blocks of output channels against tiles of output values, both held in registers.
//!
//! Taps are cut into chunks of input channels, so that the inputs of a tile and the weights of a block that one chunk
//! needs stay in the first-level cache.

use std::ops::Range;
use std::sync::Arc;

use crate::Isa;
use crate::grid::{Grid, Tile};
use crate::plane::{ALIGN, Plane};
use crate::simd::{Kernel, Vector};
use crate::sparse_conv::PREFETCH;
use crate::step::Call;

/// Output channels of a block and vectors of a tile at most, which with the operands fill the registers of the tier.
fn most(isa: Isa) -> [usize; 2] {
    if matches!(isa, Isa::Avx512(_)) { [8, 3] } else { [6, 2] }
}

/// Output channels of a block.
pub(crate) fn rows(isa: Isa) -> usize {
    most(isa)[0]
}

/// The tiles of a channel's outputs: of one row and about one size. The last one has no vectors where just one value
/// lies behind the whole ones, which then takes a channel a lane, rather than a vector of each channel.
pub(crate) fn tiles(y: &Plane, isa: Isa) -> Vec<Tile> {
    let (lanes, [rows, vectors]) = (isa.lanes(), most(isa));
    let values = y.values();
    if y.lanes() > 1 || rows > lanes || values < lanes || values % lanes != 1 {
        return Grid::of(y).tiles(lanes, vectors, [1, vectors]);
    }
    let mut tiles = Grid::rows(1, values - 1).tiles(lanes, vectors, [1, vectors]);
    tiles.push(Tile { at: values - 1, rows: 1, vectors: 0 });
    tiles
}

/// The same sum as [`crate::sparse_conv::SparseConv`], over all weights.
#[derive(Debug, Clone)]
pub(crate) struct DenseConv {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) residual: Option<usize>,
    pub(crate) stride: usize,
    /// See [`tiles`].
    pub(crate) tiles: Vec<Tile>,
    pub(crate) mask: Option<Arc<[f32]>>,
    /// For each chunk, for each block, for each tap, the weights of the block's `rows` channels; then a vector of zeros.
    pub(crate) weights: Arc<[f32]>,
    pub(crate) rows: usize,
    /// Byte distance of each tap.
    pub(crate) offsets: Vec<u32>,
    /// The taps of each chunk, in parts that read through one of the edges.
    pub(crate) chunks: Vec<Chunk>,
    /// Bits of the inputs to keep.
    pub(crate) edges: Vec<Arc<[f32]>>,
    pub(crate) blocks: Vec<Block>,
    /// Whether the tiles of a block, rather than the blocks of a tile, follow each other: the smaller of a chunk's
    /// inputs and weights is what should be read again and again.
    pub(crate) block_first: bool,
    /// Whether outputs leave the second-level cache between layers, and are asked for ahead.
    pub(crate) far: bool,
    pub(crate) clip: [f32; 2],
}

/// Taps that are added to the sums at once.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub(crate) taps: Range<usize>,
    /// Taps whose inputs are kept where an edge, if one is named, has bits.
    pub(crate) parts: Vec<(Range<usize>, Option<usize>)>,
}

/// Some output channels of one group.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) row: usize,
    pub(crate) rows: usize,
    /// Of each channel, then 0 up to the channels of a block.
    pub(crate) bias: Vec<f32>,
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
                        match (s.rows, tile.vectors) {
                            (6, 0) => self.last_value::<V, 6>(chunk, block, tile.at),
                            (8, 0) => self.last_value::<V, 8>(chunk, block, tile.at),
                            (6, 1) => self.block::<V, 6, 1>(chunk, block, tile.at),
                            (6, 2) => self.block::<V, 6, 2>(chunk, block, tile.at),
                            (8, 1) => self.block::<V, 8, 1>(chunk, block, tile.at),
                            (8, 2) => self.block::<V, 8, 2>(chunk, block, tile.at),
                            (8, 3) => self.block::<V, 8, 3>(chunk, block, tile.at),
                            (rows, vectors) => unreachable!("a block of {rows} rows x {vectors} vectors"),
                        }
                    }
                }
            }
        }
    }
}

/// What the taps of one chunk add to one block of channels, at a value of their rows.
struct Operands<'a> {
    chunk: &'a Chunk,
    block: &'a Block,
    /// Whether the chunk is the first, and the last.
    ends: [bool; 2],
    /// Where the block's weights of the chunk begin, in taps.
    start: usize,
    x: *const f32,
    y: *mut f32,
    residual: Option<*const f32>,
}

impl Call<'_, DenseConv> {
    /// The operands of a chunk and a block at flat value `at`.
    ///
    /// # Safety
    /// `at` must lie within a row.
    #[inline(always)]
    unsafe fn operands(&self, chunk: usize, block: usize, at: usize) -> Operands<'_> {
        let s = self.step;
        let ends = [chunk == 0, chunk + 1 == s.chunks.len()];
        // SAFETY: chunks and blocks are the step's own, and the program checked that every row lies inside its buffer.
        unsafe {
            let chunk = s.chunks.get_unchecked(chunk);
            let start = chunk.taps.start * s.blocks.len() + block * chunk.taps.len();
            let block = s.blocks.get_unchecked(block);
            let row = |plane: usize| self.site.arena.add(plane + block.row * s.stride + at);
            let x = self.site.arena.add(s.x + block.x + at).cast_const();
            let residual = s.residual.map(|residual| row(residual).cast_const());
            Operands { chunk, block, ends, start, x, y: row(s.y), residual }
        }
    }

    /// One tile of `P` vectors at flat value `at` of one block of `R` channels, over the taps of one chunk.
    ///
    /// # Safety
    /// The tile must lie within a row rounded up to whole vectors.
    #[inline(always)]
    unsafe fn block<V: Vector, const R: usize, const P: usize>(&self, chunk: usize, block: usize, at: usize) {
        let s = self.step;
        // SAFETY: the program checked that every tap, row, residual and mask of a row of whole vectors lies inside
        // its buffer, that `y` overlaps none of the others, and gave this thread blocks or tiles of its own.
        unsafe {
            let Operands { chunk, block, ends: [first, last], start, x, y, residual } = self.operands(chunk, block, at);
            if last && s.far {
                // They are not needed before all taps are added.
                for start in residual.into_iter().chain([y.cast_const()]) {
                    for place in (0..R).flat_map(|r| (0..P).map(move |p| r * s.stride + p * V::LANES)) {
                        V::prefetch(start.wrapping_add(place).cast::<u8>());
                    }
                }
            }
            let mut sums = [[V::splat(0.0); P]; R];
            for (r, sums) in sums.iter_mut().enumerate() {
                if first {
                    *sums = [V::splat(*block.bias.get_unchecked(r)); P];
                } else if r < block.rows {
                    for (p, sum) in sums.iter_mut().enumerate() {
                        *sum = V::load(y.add(r * s.stride + p * V::LANES));
                    }
                }
            }
            for (taps, edge) in &chunk.parts {
                let offsets = s.offsets.get_unchecked(taps.clone());
                let start = (start + taps.start - chunk.taps.start) * R;
                let weights = s.weights.get_unchecked(start..start + offsets.len() * R);
                match edge {
                    None => add_taps::<V, R, P, false>(weights, offsets, x, x, &mut sums),
                    Some(edge) => {
                        let edge = s.edges.get_unchecked(*edge).as_ptr().add(at);
                        add_taps::<V, R, P, true>(weights, offsets, x, edge, &mut sums);
                    }
                }
            }
            let [low, high] = s.clip.map(|bound| V::splat(bound));
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

    /// The value at `at` of one block of `R` channels, a channel a lane, over the taps of one chunk.
    ///
    /// # Safety
    /// A vector must have `R` lanes or more, `at` must be the last value of a row, and a vector from it on must lie in the
    /// row rounded up to whole vectors.
    #[inline(always)]
    unsafe fn last_value<V: Vector, const R: usize>(&self, chunk: usize, block: usize, at: usize) {
        let s = self.step;
        // SAFETY: as in `block`; behind the last weight there are as many as a vector has lanes.
        unsafe {
            let Operands { chunk, block, ends: [first, last], start, x, y, residual } = self.operands(chunk, block, at);
            // Several sums, or each product would wait for the one before.
            let mut sums = [V::splat(0.0); 4];
            for (taps, edge) in &chunk.parts {
                let kept = edge.map_or(f32::from_bits(u32::MAX), |edge| *s.edges.get_unchecked(edge).get_unchecked(at));
                let kept = V::splat(kept);
                let mut weights = s.weights.as_ptr().add((start + taps.start - chunk.taps.start) * R);
                let (fours, rest) = s.offsets.get_unchecked(taps.clone()).as_chunks::<4>();
                for offsets in fours {
                    for (sum, offset) in sums.iter_mut().zip(offsets) {
                        let input = V::splat(*x.byte_add(*offset as usize)).and(kept);
                        *sum = input.mul_add(V::load(weights), *sum);
                        weights = weights.add(R);
                    }
                }
                for (sum, offset) in sums.iter_mut().zip(rest) {
                    let input = V::splat(*x.byte_add(*offset as usize)).and(kept);
                    *sum = input.mul_add(V::load(weights), *sum);
                    weights = weights.add(R);
                }
            }
            let [a, b, c, d] = sums;
            let mut sum = a.add(b).add(c.add(d));
            if first {
                let mut bias = [0.0; ALIGN];
                bias[..R].copy_from_slice(&block.bias);
                sum = sum.add(V::load(bias.as_ptr()));
            } else {
                sum = sum.add(gather(y, s.stride, block.rows));
            }
            if last {
                if let Some(residual) = residual {
                    sum = sum.add(gather(residual, s.stride, block.rows));
                }
                let [low, high] = s.clip.map(|bound| V::splat(bound));
                sum = sum.clamp(low, high);
            }
            let mut lanes = [0.0; ALIGN];
            sum.store(lanes.as_mut_ptr());
            for (r, value) in lanes[..block.rows].iter().enumerate() {
                let mut row = [0.0; ALIGN];
                row[0] = *value;
                V::load(row.as_ptr()).store(y.add(r * s.stride));
            }
        }
    }
}

/// The values at `count` places `stride` apart, a lane each, then 0.
///
/// # Safety
/// They must be readable, and no more than a vector has lanes.
#[inline(always)]
unsafe fn gather<V: Vector>(from: *const f32, stride: usize, count: usize) -> V {
    let mut lanes = [0.0; ALIGN];
    for (i, lane) in lanes[..count].iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *lane = unsafe { *from.add(i * stride) };
    }
    // SAFETY: no vector has more lanes.
    unsafe { V::load(lanes.as_ptr()) }
}

/// `sums[r] += weights[tap][r] * x[offsets[tap]..]` for all taps, of the inputs that `edge` keeps where `EDGE`.
///
/// # Safety
/// `x` must be readable for `P` vectors from every offset on, and so must `edge`.
#[inline(always)]
unsafe fn add_taps<V: Vector, const R: usize, const P: usize, const EDGE: bool>(
    weights: &[f32],
    offsets: &[u32],
    x: *const f32,
    edge: *const f32,
    sums: &mut [[V; P]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut kept = [V::splat(0.0); P];
        if EDGE {
            for (p, kept) in kept.iter_mut().enumerate() {
                *kept = V::load(edge.add(p * V::LANES));
            }
        }
        for (weights, offset) in weights.as_chunks::<R>().0.iter().zip(offsets) {
            V::prefetch(weights.as_ptr().cast::<u8>().wrapping_add(PREFETCH));
            let x = x.byte_add(*offset as usize);
            let mut inputs = [V::splat(0.0); P];
            for (p, input) in inputs.iter_mut().enumerate() {
                *input = V::load(x.add(p * V::LANES));
                if EDGE {
                    *input = input.and(kept[p]);
                }
            }
            for (sums, weight) in sums.iter_mut().zip(weights) {
                let weight = V::splat(*weight);
                for (sum, input) in sums.iter_mut().zip(inputs) {
                    *sum = input.mul_add(weight, *sum);
                }
            }
        }
    }
}
