//! Direct sparse convolution over small maps of a vector of images: what lies in the padding is neither stored nor
//! computed.
//!
//! Of a map of 4x4 positions a 3x3 window multiplies 100 positions with a weight where a padded map has 144, and the
//! padding takes more than half of what a tile reads. So the non-zeros of an output channel are grouped by how far their
//! taps reach up or down and to the sides, and each group adds to the outputs whose tap is inside the map.

use std::ops::Range;

use crate::Isa;
use crate::grid::Tile;
use crate::simd::{Kernel, Vector};
use crate::sparse_conv::{Tap, add_from, each, in_flight, prefetch, store, total};
use crate::step::Call;

/// The same sum as [`crate::sparse_conv::SparseConv`], for taps at most one position around in planes without padding, that
/// of `x` `step` times as high and wide as that of `y`.
#[derive(Debug)]
pub(crate) struct MapConv {
    /// Offsets in the arena: taps are relative to `x`, which wraps around below 0, as taps reach up to a row and a
    /// position before their plane; channel `o` of `y` and `residual` is `o * stride` further.
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) residual: Option<usize>,
    pub(crate) stride: usize,
    /// Positions of `x` from one output to the next: 1 or 2, down and right.
    pub(crate) step: usize,
    /// Whole rows of a map, from its top to its bottom.
    pub(crate) tiles: Vec<Tile>,
    /// Taps by block of input channels, then by output channel, then by group.
    pub(crate) taps: Vec<Tap>,
    /// For each block, where the taps of each of [`GROUPS`] of each output channel start, and where the last end.
    pub(crate) blocks: Vec<Vec<u32>>,
    pub(crate) bias: Vec<f32>,
    pub(crate) clip: [f32; 2],
    /// Cost of the rows before each row, and of all.
    pub(crate) cumulative: Vec<u64>,
}

/// Groups of an output channel's taps: for each reach to the side, -1 to 1, those that reach -1, 0 and 1 down.
pub(crate) const GROUPS: usize = 9;

/// The group of taps that reach so far down and right.
pub(crate) fn group([down, right]: [isize; 2]) -> usize {
    ((right + 1) * 3 + down + 1) as usize
}

/// Rows of a tile of a map of this size, where there is a kernel for it.
pub(crate) fn rows_of_tile(isa: Isa, [height, width]: [usize; 2]) -> Option<usize> {
    let wide = matches!(isa, Isa::Avx512(_));
    let rows = match (width, wide) {
        (8, false) => 1,
        (8, true) | (4, false) | (2, _) => 2,
        (4, true) => 4,
        _ => return None,
    };
    height.is_multiple_of(rows).then_some(rows)
}

impl Kernel for Call<'_, MapConv> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        let (channels, tiles) = self.site.part.rows_or_tiles(&s.cumulative, s.tiles.len());
        for tile in tiles {
            for block in 0..s.blocks.len() {
                let channels = channels.clone();
                // SAFETY: the tile is whole rows of the map.
                unsafe {
                    macro_rules! shapes {
                        ($($step:literal $rows:literal $width:literal,)*) => {
                            match (s.step, s.tiles[tile].rows, s.tiles[tile].vectors) {
                                $(($step, $rows, $width) => {
                                    const U: usize = in_flight($rows, $width);
                                    self.channels::<V, $step, $rows, $width, U>(block, channels, tile)
                                })*
                                (step, rows, width) => unreachable!("a tile of {rows} x {width} vectors, step {step}"),
                            }
                        };
                    }
                    shapes! { 1 1 8, 1 2 8, 1 2 4, 1 4 4, 1 2 2, 2 1 8, 2 2 8, 2 2 4, 2 4 4, 2 2 2, }
                }
            }
        }
    }
}

impl Call<'_, MapConv> {
    /// One tile of `R` rows of `W` positions, for output `channels`, over the taps of one block. `U` taps are in flight
    /// at once.
    ///
    /// # Safety
    /// The tile must be whole rows of the map.
    #[inline(always)]
    unsafe fn channels<V: Vector, const S: usize, const R: usize, const W: usize, const U: usize>(
        &self,
        block: usize,
        channels: Range<usize>,
        tile: usize,
    ) {
        let s = self.step;
        let (first, last) = (block == 0, block + 1 == s.blocks.len());
        let (top, bottom) = (tile == 0, tile + 1 == s.tiles.len());
        let (starts, at, pitch) = (&s.blocks[block], s.tiles[tile].at, W * V::LANES);
        // SAFETY: the program checked that every tap of an output inside the map, every row and residual lies inside its
        // buffer, that `y` overlaps none of the others, and gave this thread channels or tiles of its own.
        unsafe {
            let x = self.site.arena.cast_const().wrapping_add(s.x).wrapping_add(S * S * at);
            for channel in channels {
                let y = self.site.arena.add(s.y + channel * s.stride + at);
                let mut sums = [[[V::splat(0.0); W]; R]; U];
                macro_rules! side {
                    ($right:literal) => {
                        let from = channel * GROUPS + group([-1, $right]);
                        let [up, level, down, end] = std::array::from_fn(|i| *starts.get_unchecked(from + i) as usize);
                        let (inside, outside) = (if top { level } else { up }, if bottom { down } else { end });
                        add_taps::<V, S, R, W, U, $right, 1, 0>(s.taps.get_unchecked(up..inside), x, &mut sums);
                        add_taps::<V, S, R, W, U, $right, 0, 0>(s.taps.get_unchecked(inside..outside), x, &mut sums);
                        add_taps::<V, S, R, W, U, $right, 0, 1>(s.taps.get_unchecked(outside..end), x, &mut sums);
                    };
                }
                side!(-1);
                side!(0);
                side!(1);
                let mut tile = total(sums);
                if first {
                    let bias = V::splat(*s.bias.get_unchecked(channel));
                    tile = each(tile, |sum, _, _| sum.add(bias));
                } else {
                    tile = add_from(tile, y, pitch);
                }
                if last {
                    if let Some(residual) = s.residual {
                        tile = add_from(tile, self.site.arena.add(residual + channel * s.stride + at), pitch);
                    }
                    let [low, high] = s.clip.map(|bound| V::splat(bound));
                    tile = each(tile, |sum, _, _| sum.clamp(low, high));
                }
                store(tile, y, pitch);
            }
        }
    }
}

/// Adds the products of taps, `S` positions down and right from one output to the next, that reach `RIGHT` positions to the side, to the outputs whose tap is inside: all rows of
/// the tile but the first `TOP` and the last `BOTTOM`.
///
/// # Safety
/// The taps of those outputs must be readable.
#[inline(always)]
pub(crate) unsafe fn add_taps<
    V: Vector,
    const S: usize,
    const R: usize,
    const W: usize,
    const U: usize,
    const RIGHT: isize,
    const TOP: usize,
    const BOTTOM: usize,
>(
    taps: &[Tap],
    x: *const f32,
    sums: &mut [[[V; W]; R]; U],
) {
    // SAFETY: the caller's promise.
    unsafe {
        prefetch::<V>(taps);
        let (chunks, rest) = taps.as_chunks::<U>();
        for chunk in chunks {
            for (tap, sums) in chunk.iter().zip(sums.iter_mut()) {
                add_tap::<V, S, R, W, RIGHT, TOP, BOTTOM>(tap, x, sums);
            }
        }
        for tap in rest {
            add_tap::<V, S, R, W, RIGHT, TOP, BOTTOM>(tap, x, &mut sums[0]);
        }
    }
}

/// As [`add_taps`], of one tap.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn add_tap<
    V: Vector,
    const S: usize,
    const R: usize,
    const W: usize,
    const RIGHT: isize,
    const TOP: usize,
    const BOTTOM: usize,
>(
    tap: &Tap,
    x: *const f32,
    sums: &mut [[V; W]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let (weight, x) = tap.splat::<V>(x);
        for (r, sums) in sums.iter_mut().enumerate().take(R - BOTTOM).skip(TOP) {
            for (c, sum) in sums.iter_mut().enumerate() {
                if (0..W as isize).contains(&(c as isize + RIGHT)) {
                    *sum = V::load(x.wrapping_add(S * (r * S * W + c) * V::LANES)).mul_add(weight, *sum);
                }
            }
        }
    }
}
