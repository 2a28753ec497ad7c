//! Direct sparse convolution: each non-zero weight is one broadcast and a handful of fused multiply-adds.
//!
//! For one tile of output values held in registers, walk the non-zeros of an output channel; each is a weight and the
//! distance of its tap. The idea is SkimCaffe's direct sparse convolution (Park et al., arXiv 1608.01409); here input
//! channels are cut into blocks so that what one tile reads stays in the first-level cache.

use std::ops::Range;
use std::sync::Arc;

use crate::Isa;
use crate::grid::Tile;
use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// A non-zero weight, its bits in the low half, and the byte distance of its tap: one load for both.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tap(u64);

impl Tap {
    pub(crate) fn new(weight: f32, offset: u32) -> Self {
        Self(u64::from(offset) << 32 | u64::from(weight.to_bits()))
    }

    /// A tap that adds 0 to a finite sum, at the same place.
    pub(crate) fn without_weight(self) -> Self {
        Self(self.0 >> 32 << 32)
    }

    /// The weight in all lanes, and where the tap of the output at `x` lies.
    ///
    /// # Safety
    /// The CPU must have the tier of `V`.
    #[inline(always)]
    pub(crate) unsafe fn splat<V: Vector>(self, x: *const f32) -> (V, *const f32) {
        // SAFETY: the caller's promise.
        unsafe { (V::splat_low(self.0), x.wrapping_byte_add((self.0 >> 32) as usize)) }
    }
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
    /// What to compute of each row, and the distance of the runs of a tile.
    pub(crate) tiles: Vec<Tile>,
    pub(crate) pitch: usize,
    /// Bits of a row to keep.
    pub(crate) mask: Option<Arc<[f32]>>,
    /// Taps by block of input channels, then by row.
    pub(crate) taps: Vec<Tap>,
    /// For each block, where each row's taps start, and where the last ends.
    pub(crate) blocks: Vec<Vec<u32>>,
    pub(crate) bias: Vec<f32>,
    pub(crate) clip: [f32; 2],
    /// Cost of the rows before each row, and of all.
    pub(crate) cumulative: Vec<u64>,
}

/// Most vectors of a tile in one run: as many accumulators as fit 16 registers beside a weight.
pub(crate) const SINGLE: usize = 12;

/// Most runs and vectors of other tiles: a shape that shares many inputs between its outputs, in 16 or 32 registers.
pub(crate) fn most(isa: Isa) -> [usize; 2] {
    if matches!(isa, Isa::Avx512(_)) { [2, 8] } else { [2, 4] }
}

/// Taps that are in flight at once in a tile of this shape, so that short tiles do not wait for their own sums. A block
/// of a row has a multiple of as many.
pub(crate) const fn in_flight(rows: usize, vectors: usize) -> usize {
    match rows * vectors {
        1 => 8,
        2 | 3 => 4,
        4..=6 => 2,
        _ => 1,
    }
}

/// Bytes by which weights are asked for ahead of their use: what memory delivers within its latency.
pub(crate) const PREFETCH: usize = 2 << 10;

/// Taps of a cache line.
const PER_LINE: usize = 64 / size_of::<Tap>();

impl Kernel for Call<'_, SparseConv> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        let (rows, tiles) = self.site.part.rows_or_tiles(&s.cumulative, s.tiles.len());
        for tile in &s.tiles[tiles] {
            for block in 0..s.blocks.len() {
                let (rows, at) = (rows.clone(), tile.at);
                // SAFETY: the tile stays within the vectors of a row.
                unsafe {
                    macro_rules! shapes {
                        ($($runs:literal $vectors:literal,)*) => {
                            match (tile.rows, tile.vectors) {
                                $(($runs, $vectors) => {
                                    self.rows::<V, $runs, $vectors, { in_flight($runs, $vectors) }>(block, rows, at)
                                })*
                                (runs, vectors) => unreachable!("a tile of {runs} x {vectors} vectors"),
                            }
                        };
                    }
                    shapes! {
                        1 1, 1 2, 1 3, 1 4, 1 5, 1 6, 1 7, 1 8, 1 9, 1 10, 1 11, 1 12,
                        2 1, 2 2, 2 3, 2 4, 2 5, 2 6, 2 7, 2 8,
                    }
                }
            }
        }
    }
}

impl Call<'_, SparseConv> {
    /// One tile of `R` runs of `C` vectors from flat value `at` on, for `rows`, over the taps of one block. `U` taps
    /// are in flight at once.
    ///
    /// # Safety
    /// The tile must lie within a row rounded up to whole vectors.
    #[inline(always)]
    unsafe fn rows<V: Vector, const R: usize, const C: usize, const U: usize>(
        &self,
        block: usize,
        rows: Range<usize>,
        at: usize,
    ) {
        let s = self.step;
        let (first, last) = (block == 0, block + 1 == s.blocks.len());
        let starts = &s.blocks[block];
        // SAFETY: the program checked that every tap, row, residual and mask of a row of whole vectors lies inside
        // its buffer, that `y` overlaps none of the others, and gave this thread rows or tiles of its own.
        unsafe {
            let x = self.site.arena.add(s.x + at).cast_const();
            for row in rows {
                let y = self.site.arena.add(s.y + row * s.stride + at);
                let mut sums = [[[V::splat(0.0); C]; R]; U];
                if first {
                    sums[0] = [[V::splat(*s.bias.get_unchecked(row)); C]; R];
                } else {
                    for (r, sums) in sums[0].iter_mut().enumerate() {
                        for (c, sum) in sums.iter_mut().enumerate() {
                            *sum = V::load(y.add(r * s.pitch + c * V::LANES));
                        }
                    }
                }
                let range = *starts.get_unchecked(row) as usize..*starts.get_unchecked(row + 1) as usize;
                let taps = s.taps.get_unchecked(range);
                // Of a long tile, what the sums will be written to is on its way while two rows are computed.
                if R == 1 && C >= 6 {
                    let later = y.wrapping_add(2 * s.stride).cast::<u8>();
                    (0..C).for_each(|c| V::prefetch(later.wrapping_add(c * V::LANES * size_of::<f32>())));
                }
                if U < PER_LINE {
                    prefetch::<V>(taps);
                }
                for chunk in taps.as_chunks::<U>().0 {
                    if U == PER_LINE {
                        prefetch::<V>(chunk);
                    }
                    for (tap, sums) in chunk.iter().zip(&mut sums) {
                        add_tap(tap, x, s.pitch, sums);
                    }
                }
                let mut tile = total(sums);
                if last {
                    if let Some(residual) = s.residual {
                        tile = add_from(tile, self.site.arena.add(residual + row * s.stride + at), s.pitch);
                    }
                    let [low, high] = s.clip.map(|bound| V::splat(bound));
                    tile = each(tile, |sum, _, _| sum.clamp(low, high));
                    if let Some(mask) = &s.mask {
                        let mask = mask.as_ptr().add(at);
                        tile = each(tile, |sum, r, c| sum.and(V::load(mask.add(r * s.pitch + c * V::LANES))));
                    }
                }
                store(tile, y, s.pitch);
            }
        }
    }
}

/// `change` of every vector of a tile, given its run and place in the run.
#[inline(always)]
pub(crate) fn each<V: Vector, const R: usize, const C: usize>(
    mut tile: [[V; C]; R],
    change: impl Fn(V, usize, usize) -> V,
) -> [[V; C]; R] {
    for (r, run) in tile.iter_mut().enumerate() {
        for (c, vector) in run.iter_mut().enumerate() {
            *vector = change(*vector, r, c);
        }
    }
    tile
}

/// The sum of the tiles.
///
/// # Safety
/// The CPU must have the tier of `V`.
#[inline(always)]
pub(crate) unsafe fn total<V: Vector, const R: usize, const C: usize, const U: usize>(
    tiles: [[[V; C]; R]; U],
) -> [[V; C]; R] {
    let mut tile = tiles[0];
    for more in &tiles[1..] {
        // SAFETY: the caller's promise.
        tile = each(tile, |sum, r, c| unsafe { sum.add(more[r][c]) });
    }
    tile
}

/// A tile plus the values at `from`, its runs `pitch` values apart.
///
/// # Safety
/// `from` must be readable for the tile.
#[inline(always)]
pub(crate) unsafe fn add_from<V: Vector, const R: usize, const C: usize>(
    tile: [[V; C]; R],
    from: *const f32,
    pitch: usize,
) -> [[V; C]; R] {
    // SAFETY: the caller's promise.
    each(tile, |sum, r, c| unsafe { sum.add(V::load(from.add(r * pitch + c * V::LANES))) })
}

/// Writes a tile to `to`, its runs `pitch` values apart.
///
/// # Safety
/// `to` must be writable for the tile.
#[inline(always)]
pub(crate) unsafe fn store<V: Vector, const R: usize, const C: usize>(tile: [[V; C]; R], to: *mut f32, pitch: usize) {
    for (r, run) in tile.into_iter().enumerate() {
        for (c, vector) in run.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { vector.store(to.add(r * pitch + c * V::LANES)) };
        }
    }
}

/// Asks for the taps that come a while after these, once a cache line.
///
/// # Safety
/// The CPU must have the tier of `V`.
#[inline(always)]
pub(crate) unsafe fn prefetch<V: Vector>(taps: &[Tap]) {
    for tap in taps.iter().step_by(PER_LINE) {
        // SAFETY: the caller's promise.
        unsafe { V::prefetch(std::ptr::from_ref(tap).cast::<u8>().wrapping_add(PREFETCH)) };
    }
}

/// `sums += tap.weight * x[tap.offset..]`.
///
/// # Safety
/// `x` must be readable for `R` runs of `C` vectors, `pitch` values apart, from the tap's offset on.
#[inline(always)]
pub(crate) unsafe fn add_tap<V: Vector, const R: usize, const C: usize>(
    tap: &Tap,
    x: *const f32,
    pitch: usize,
    sums: &mut [[V; C]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let (weight, x) = tap.splat::<V>(x);
        for (r, sums) in sums.iter_mut().enumerate() {
            for (c, sum) in sums.iter_mut().enumerate() {
                *sum = V::load(x.add(r * pitch + c * V::LANES)).mul_add(weight, *sum);
            }
        }
    }
}
