//! Direct sparse convolution over rows of whole vectors: every load is aligned.
//!
//! Where a row is a whole number of vectors, or copied to where it is filled up to one, a tap one position to the side starts within a vector, and the unaligned
//! loads it takes cost twice as much: at 512 bits each crosses a cache line. So the non-zeros of an output channel are
//! summed by the column of the kernel they are in, each at its place in the row, and the sums are moved sideways once.

use std::ops::Range;

use crate::Isa;
use crate::grid::Tile;
use crate::map_conv::add_taps;
use crate::simd::{Kernel, Vector};
use crate::sparse_conv::{Tap, add_from, each, store};
use crate::step::Call;

/// The same sum as [`crate::sparse_conv::SparseConv`], for taps at most one position to the side in rows of whole
/// vectors with nothing between.
#[derive(Debug)]
pub(crate) struct RowConv {
    /// Offsets in the arena: taps are relative to `x`; row `o` of `y` and `residual` is `o * stride` further.
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) residual: Option<usize>,
    pub(crate) stride: usize,
    /// Values of a row of `y` and `residual`, which may end within a vector, and from one to the next.
    pub(crate) width: usize,
    pub(crate) pitch: usize,
    /// Whether a row consists of vectors of half the tier's size.
    pub(crate) halves: bool,
    /// What to compute of each output channel: whole rows, which start at `at` in the rows that taps read.
    pub(crate) tiles: Vec<Tile>,
    /// Taps by block of input channels, then by output channel, then by how far right they read.
    pub(crate) taps: Vec<Tap>,
    /// For each block, where the taps of each of [`SHIFTS`] of each output channel start, and where the last end.
    pub(crate) blocks: Vec<Vec<u32>>,
    pub(crate) bias: Vec<f32>,
    pub(crate) clip: [f32; 2],
    /// Cost of the rows before each row, and of all.
    pub(crate) cumulative: Vec<u64>,
}

/// How far right of its output position a tap reads, in the order in which the sums are made.
pub(crate) const SHIFTS: [isize; 3] = [-1, 0, 1];

/// Most vectors of a tile: two sums of each are held in registers, beside a weight.
pub(crate) const fn most(isa: Isa) -> usize {
    if matches!(isa, Isa::Avx512(_)) { 8 } else { 6 }
}

impl Kernel for Call<'_, RowConv> {
    fn halves(&self) -> bool {
        self.step.halves
    }

    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        let (channels, tiles) = self.site.part.rows_or_tiles(&s.cumulative, s.tiles.len());
        for tile in &s.tiles[tiles] {
            for block in 0..s.blocks.len() {
                let (channels, at) = (channels.clone(), tile.at);
                // SAFETY: the tile is whole rows of a channel.
                unsafe {
                    macro_rules! shapes {
                        ($($rows:literal $vectors:literal,)*) => {
                            match (tile.rows, tile.vectors) {
                                $(($rows, $vectors) => self.channels::<V, $rows, $vectors>(block, channels, at),)*
                                (rows, vectors) => unreachable!("a tile of {rows} x {vectors} vectors"),
                            }
                        };
                    }
                    shapes! {
                        1 1, 2 1, 3 1, 4 1, 5 1, 6 1, 7 1, 8 1, 1 2, 2 2, 3 2, 4 2, 1 3, 2 3, 1 4, 2 4,
                        1 5, 1 6, 1 7, 1 8,
                    }
                }
            }
        }
    }
}

impl Call<'_, RowConv> {
    /// One tile of `R` rows of `C` vectors from flat value `at` on, for output `channels`, over the taps of one block.
    ///
    /// # Safety
    /// The tile must be whole rows.
    #[inline(always)]
    unsafe fn channels<V: Vector, const R: usize, const C: usize>(
        &self,
        block: usize,
        channels: Range<usize>,
        at: usize,
    ) {
        let s = self.step;
        let (first, last) = (block == 0, block + 1 == s.blocks.len());
        let starts = &s.blocks[block];
        // SAFETY: the program checked that every tap, row and residual lies inside its buffer, that `y` overlaps none
        // of the others, and gave this thread channels or tiles of its own.
        unsafe {
            let x = self.site.arena.add(s.x + at).cast_const();
            let (zero, at) = (V::splat(0.0), at / (C * V::LANES) * s.pitch);
            for channel in channels {
                let y = self.site.arena.add(s.y + channel * s.stride + at);
                let taps = |shift: usize| {
                    let i = channel * SHIFTS.len() + shift;
                    s.taps.get_unchecked(*starts.get_unchecked(i) as usize..*starts.get_unchecked(i + 1) as usize)
                };
                let left = with_taps(taps(0), x, [[zero; C]; R]);
                let left = each(left, |sum, r, c| sum.shift_up(if c == 0 { zero } else { left[r][c - 1] }));
                let middle = with_taps(taps(1), x, left);
                let right = with_taps(taps(2), x, [[zero; C]; R]);
                let mut tile = each(middle, |sum, r, c| {
                    let next = if c + 1 == C { zero } else { right[r][c + 1] };
                    sum.add(right[r][c].shift_down(next))
                });
                if first {
                    let bias = V::splat(*s.bias.get_unchecked(channel));
                    tile = each(tile, |sum, _, _| sum.add(bias));
                } else {
                    tile = add_from(tile, y, s.pitch);
                }
                if last {
                    if let Some(residual) = s.residual {
                        tile = add_from(tile, self.site.arena.add(residual + channel * s.stride + at), s.pitch);
                    }
                    let [low, high] = s.clip.map(|bound| V::splat(bound));
                    tile = each(tile, |sum, _, _| sum.clamp(low, high));
                }
                if s.width == C * V::LANES {
                    store(tile, y, s.pitch);
                } else {
                    for (r, row) in tile.into_iter().enumerate() {
                        let y = y.add(r * s.pitch);
                        for (c, vector) in row.into_iter().enumerate() {
                            vector.store_first(y.add(c * V::LANES), (s.width - c * V::LANES).min(V::LANES));
                        }
                    }
                }
            }
        }
    }
}

/// `sums` and the products of the taps.
///
/// # Safety
/// `x` must be readable for `R` rows of `C` vectors from every tap's offset on.
#[inline(always)]
unsafe fn with_taps<V: Vector, const R: usize, const C: usize>(
    taps: &[Tap],
    x: *const f32,
    sums: [[V; C]; R],
) -> [[V; C]; R] {
    let mut sums = [sums];
    // SAFETY: the caller's promise.
    unsafe { add_taps::<V, 1, R, C, 1, 0, 0, 0>(taps, x, &mut sums) };
    sums[0]
}
