//! The dense kernel of a [`Correlation`].

use std::ops::Range;

use super::BLOCK;
use super::arithmetic::Arithmetic;
use super::correlation::{Correlation, Order, Position, Region};
use super::lanes::{Kernel, Lanes, dispatch, dispatch_bf16, dispatch_half, load_each};

/// Arguments of [`correlate`].
pub(super) struct Correlate<'a> {
    pub correlation: &'a Correlation,
    pub images: usize,
    /// The images, or for bf16 words of two neighbouring lanes.
    pub source: &'a [f32],
    /// `[destination block][source block][tap][source lane][destination lane]`, each destination block
    /// `weights_stride` after the one before; for bf16 words of two source lanes.
    pub weights: &'a [f32],
    pub weights_stride: usize,
    /// Start value of each destination channel (padded to blocks) instead of zero.
    pub bias: Option<&'a [f32]>,
    pub destination: &'a mut [f32],
    /// Whether to add to the destination instead of replacing it.
    pub accumulate: bool,
}

/// Taps of source blocks whose weights, for one destination block, pass all positions together, so that they stay in the
/// nearest caches.
const CHUNK: usize = 36;

/// Computes a dense correlation.
pub(super) fn correlate(arithmetic: Arithmetic, arguments: Correlate) {
    let planes = arguments.correlation.destination();
    let mut blocks = Blocks { arguments, blocks: 0..planes.blocks() };
    match arithmetic {
        Arithmetic::Bf16(bf16) => dispatch_bf16(bf16, &mut blocks),
        Arithmetic::F32(isa) => {
            let whole = planes.channels.div_ceil(BLOCK / 2) / 2;
            blocks.blocks = 0..whole;
            dispatch(isa, &mut blocks);
            if whole < planes.blocks() {
                blocks.blocks = whole..planes.blocks();
                dispatch_half(isa, &mut blocks);
            }
        }
    }
}

/// A correlation of some of the destination's blocks.
struct Blocks<'a> {
    arguments: Correlate<'a>,
    blocks: Range<usize>,
}

impl Kernel for &mut Blocks<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const TILE: usize>(self) {
        let Correlate { correlation: c, images, source, weights, weights_stride, bias, .. } = self.arguments;
        let block_weights = c.source().blocks() * c.taps() * BLOCK * BLOCK / L::FACTORS;
        let Range { start, end } = self.blocks;
        assert!(end <= c.destination().blocks() && bias.is_none_or(|b| b.len() >= end * BLOCK));
        assert!(start == end || weights.len() >= (end - 1) * weights_stride + block_weights, "{}", weights.len());
        let regions = c.regions(images, source.len() * L::FACTORS, self.arguments.destination.len());
        let by_places = matches!(c.source().order, Order::Places(_));
        // By places, tiles are few and far between in the destination: each is summed at once.
        let chunk = if by_places { c.source().blocks() } else { (CHUNK / c.taps().max(1)).max(1) };
        let destination = self.arguments.destination.as_mut_ptr();
        for block in start..end {
            for first in (0..c.source().blocks()).step_by(chunk) {
                let chunk = first..(first + chunk).min(c.source().blocks());
                let accumulate = self.arguments.accumulate || first > 0;
                for region in regions.iter().filter(|r| !(accumulate && r.taps.is_empty())) {
                    // SAFETY: the CPU has `L` (caller); `regions` has checked that the buffers hold the positions, taps
                    // and blocks of all images, and weights and bias cover the blocks (asserted above).
                    unsafe {
                        let start = match bias {
                            _ if accumulate => Start::Destination,
                            Some(bias) => Start::Value(L::load(bias.as_ptr().add(block * BLOCK))),
                            None => Start::Value(L::zero()),
                        };
                        let weights = weights.as_ptr().add(block * weights_stride);
                        let destination = destination.add(block * c.destination().block_step(images));
                        let positions = region.positions(if by_places { 1 } else { images });
                        let sweep = Sweep {
                            c,
                            region,
                            chunk: chunk.clone(),
                            source,
                            block_step: c.source().block_step(images),
                            weights,
                        };
                        match region.row {
                            _ if by_places => {
                                let step = c.destination().image_step();
                                sweep.places::<L, TILE>(positions, images, start, destination, step);
                            }
                            // Whole rows or halves, in the registers of AVX-512.
                            row if TILE == 16 && row % 16 == 0 => sweep.rows::<L, 16>(positions, start, destination),
                            row if TILE == 16 && row % 15 == 0 => sweep.rows::<L, 15>(positions, start, destination),
                            row if TILE == 16 && row % 14 == 0 => sweep.rows::<L, 14>(positions, start, destination),
                            _ => sweep.run::<L, TILE>(positions, start, destination),
                        }
                    }
                }
            }
        }
    }
}

/// What the sums of a tile start from.
#[derive(Clone, Copy)]
enum Start<L> {
    Value(L),
    Destination,
}

/// A region's products with some of the source's blocks, for one destination block.
struct Sweep<'a> {
    c: &'a Correlation,
    region: &'a Region,
    chunk: Range<usize>,
    source: &'a [f32],
    block_step: usize,
    /// Of the destination block.
    weights: *const f32,
}

impl Sweep<'_> {
    /// # Safety
    /// The CPU must have `L`; `positions` must be the region's, in images that the source holds and that `destination`
    /// points into; the weights must cover all source blocks and taps.
    #[inline(always)]
    unsafe fn run<L: Lanes, const TILE: usize>(&self, positions: &[Position], start: Start<L>, destination: *mut f32) {
        for tile in positions.chunks(TILE) {
            // SAFETY: this function's contract.
            unsafe {
                if TILE > 8 && tile.len() <= 8 {
                    self.tile::<L, 8>(tile, start, destination);
                } else {
                    self.tile::<L, TILE>(tile, start, destination);
                }
            }
        }
    }

    /// Up to `TILE` positions, wherever they are.
    ///
    /// # Safety
    /// As for [`Sweep::run`].
    #[inline(always)]
    unsafe fn tile<L: Lanes, const TILE: usize>(&self, tile: &[Position], start: Start<L>, destination: *mut f32) {
        // If they are fewer, the last is repeated: that computes and stores the same value again.
        let tile: [Position; TILE] = std::array::from_fn(|p| tile[p.min(tile.len() - 1)]);
        // SAFETY: this function's contract.
        unsafe {
            let to = tile.map(|p| destination.add(p.destination as usize));
            let sums = match start {
                Start::Value(value) => [value; TILE],
                Start::Destination => load_each(&to),
            };
            let from = tile.map(|p| self.source.as_ptr().add(p.source as usize / L::FACTORS));
            let sums = self.add_products(|p| from[p], sums);
            for p in 0..TILE {
                sums[p].store(to[p]);
            }
        }
    }

    /// [`Sweep::run`] where the source lies by places: the positions are the first image's, and images follow after
    /// `step` in the destination.
    ///
    /// # Safety
    /// As for [`Sweep::run`].
    #[inline(always)]
    unsafe fn places<L: Lanes, const TILE: usize>(
        &self,
        positions: &[Position],
        images: usize,
        start: Start<L>,
        destination: *mut f32,
        step: usize,
    ) {
        for position in positions {
            for first in (0..images).step_by(TILE) {
                let last = (images - first).min(TILE) - 1;
                // SAFETY: this function's contract.
                unsafe {
                    let to = destination.add(position.destination as usize + first * step);
                    let from = self.source.as_ptr().add((position.source as usize + first * BLOCK) / L::FACTORS);
                    if TILE > 8 && last < 8 {
                        self.images::<L, 8>(from, last, start, to, step);
                    } else {
                        self.images::<L, TILE>(from, last, start, to, step);
                    }
                }
            }
        }
    }

    /// One place of the images up to `last`, `TILE` or fewer.
    ///
    /// # Safety
    /// As for [`Sweep::run`].
    #[inline(always)]
    unsafe fn images<L: Lanes, const TILE: usize>(
        &self,
        from: *const f32,
        last: usize,
        start: Start<L>,
        destination: *mut f32,
        step: usize,
    ) {
        // SAFETY: this function's contract.
        unsafe {
            // Past the last image, its value is computed and stored again.
            let mut to = [destination; TILE];
            for (p, to) in to.iter_mut().enumerate() {
                *to = destination.add(p.min(last) * step);
            }
            let sums = match start {
                Start::Value(value) => [value; TILE],
                Start::Destination => load_each(&to),
            };
            let sums = if last == TILE - 1 {
                self.add_products(|p| from.add(p * (BLOCK / L::FACTORS)), sums)
            } else {
                self.add_products(|p| from.add(p.min(last) * (BLOCK / L::FACTORS)), sums)
            };
            for p in 0..TILE {
                sums[p].store(to[p]);
            }
        }
    }

    /// [`Sweep::run`] where the sources of `TILE` positions follow one another: the compiler then needs no pointer for
    /// each.
    ///
    /// # Safety
    /// As for [`Sweep::run`]; the region's rows must be whole tiles.
    #[inline(always)]
    unsafe fn rows<L: Lanes, const TILE: usize>(&self, positions: &[Position], start: Start<L>, destination: *mut f32) {
        for tile in positions.as_chunks::<TILE>().0 {
            // SAFETY: this function's contract.
            unsafe {
                let mut to = [destination; TILE];
                for p in 0..TILE {
                    to[p] = destination.add(tile[p].destination as usize);
                }
                let sums = match start {
                    Start::Value(value) => [value; TILE],
                    Start::Destination => load_each(&to),
                };
                let from = self.source.as_ptr().add(tile[0].source as usize / L::FACTORS);
                let sums = self.add_products(|p| from.add(p * (BLOCK / L::FACTORS)), sums);
                for p in 0..TILE {
                    sums[p].store(to[p]);
                }
            }
        }
    }

    /// Adds the products of the positions `p` that read `from(p)` to their sums.
    ///
    /// # Safety
    /// As for [`Sweep::run`].
    #[inline(always)]
    unsafe fn add_products<L: Lanes, const TILE: usize>(
        &self,
        from: impl Fn(usize) -> *const f32,
        mut sums: [L; TILE],
    ) -> [L; TILE] {
        let source = self.c.source();
        for block in self.chunk.clone() {
            let words = source.channels_of(block).div_ceil(L::FACTORS);
            for tap in &self.region.taps {
                let offset = (block * self.block_step + tap.offset) / L::FACTORS;
                // SAFETY: the weights cover all source blocks and taps, and windows lie within the source.
                unsafe {
                    let weights = self.weights.add((block * self.c.taps() + tap.index) * BLOCK * BLOCK / L::FACTORS);
                    // A full block in its own branch, so that its loop has a constant length.
                    if words == BLOCK / L::FACTORS {
                        for word in 0..BLOCK / L::FACTORS {
                            sums = add_word(sums, &from, offset + word, weights.add(word * BLOCK));
                        }
                    } else {
                        for word in 0..words {
                            sums = add_word(sums, &from, offset + word, weights.add(word * BLOCK));
                        }
                    }
                }
            }
        }
        sums
    }
}

/// # Safety
/// `from(p) + offset` and sixteen `weights` must be readable, and the CPU have `L`.
#[inline(always)]
unsafe fn add_word<L: Lanes, const TILE: usize>(
    mut sums: [L; TILE],
    from: &impl Fn(usize) -> *const f32,
    offset: usize,
    weights: *const f32,
) -> [L; TILE] {
    // SAFETY: the caller's contract.
    unsafe {
        let weights = L::load(weights);
        for (p, sum) in sums.iter_mut().enumerate() {
            *sum = sum.add_scaled(from(p).add(offset), weights);
        }
    }
    sums
}
