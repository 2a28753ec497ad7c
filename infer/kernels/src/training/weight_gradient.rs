//! Gradient of a convolution's weights: for each weight, the sum over positions of input times output gradient.

use std::ops::Range;

use super::BLOCK;
use super::correlation::{Correlation, Position};
use super::lanes::{Kernel, Lanes, dispatch};
use crate::Isa;

/// Positions taken at a time, so that input and gradient stay in the first-level cache while all weights pass.
const STRIP: usize = 128;

/// Arguments of [`add_weight_gradient`].
pub(super) struct WeightGradient<'a> {
    /// The forward correlation.
    pub correlation: &'a Correlation,
    /// Output blocks to compute.
    pub blocks: Range<usize>,
    pub images: usize,
    /// Padded images.
    pub source: &'a [f32],
    pub output_gradient: &'a [f32],
    /// `[output block][input block][tap][input lane][output lane]` of the `blocks`; added to.
    pub weight_gradient: &'a mut [f32],
}

/// Adds the dense weight gradient of some images.
pub(super) fn add_weight_gradient(isa: Isa, arguments: WeightGradient) {
    dispatch(isa, arguments);
}

impl Kernel for WeightGradient<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const TILE: usize>(self) {
        let c = self.correlation;
        let positions = c.positions(self.images, self.source, self.output_gradient);
        let pair = c.taps().len() * BLOCK * BLOCK;
        assert!(self.blocks.end <= c.destination().blocks());
        assert_eq!(self.weight_gradient.len(), self.blocks.len() * c.source().blocks() * pair);
        for strip in positions.chunks(STRIP) {
            let mut pairs = self.weight_gradient.chunks_exact_mut(pair);
            for block in self.blocks.clone() {
                let gradient = &self.output_gradient[block * c.destination().plane()..];
                for source_block in 0..c.source().blocks() {
                    let source = &self.source[source_block * c.source().plane()..];
                    let sums = pairs.next().expect("as many pairs as blocks times source blocks");
                    // SAFETY: the CPU has `L` (caller). Positions lie within the images counted above, each in block 0,
                    // and both slices start at a block of the first image.
                    unsafe { add_strip::<L, TILE>(c, source_block, strip, source, gradient, sums) };
                }
            }
        }
    }
}

/// Adds the products of one strip for one pair of blocks.
///
/// # Safety
/// Each position's window must lie in `source`, its destination in `gradient`; the CPU must have `L`.
#[inline(always)]
unsafe fn add_strip<L: Lanes, const TILE: usize>(
    c: &Correlation,
    source_block: usize,
    strip: &[Position],
    source: &[f32],
    gradient: &[f32],
    sums: &mut [f32],
) {
    let channels = c.source().channels_of(source_block);
    let rows = c.taps().len() * channels;
    let mut start = 0;
    while start < rows {
        // The last tile repeats the last row: it computes and stores the same value again.
        let row = |r: usize| (start + r).min(rows - 1);
        // SAFETY: taps and channels stay within a position's window, rows within the pair's sums.
        let from: [*const f32; TILE] = std::array::from_fn(|r| unsafe {
            source.as_ptr().add(c.taps()[row(r) / channels] as usize + row(r) % channels)
        });
        let sums = sums.as_mut_ptr();
        // SAFETY: as above.
        let to: [*mut f32; TILE] =
            std::array::from_fn(|r| unsafe { sums.add((row(r) / channels * BLOCK + row(r) % channels) * BLOCK) });
        // SAFETY: the caller's contract.
        unsafe {
            let mut tile = to.map(|to| L::load(to));
            for position in strip {
                let gradient = L::load(gradient.as_ptr().add(position.destination as usize));
                for r in 0..TILE {
                    tile[r] = tile[r].add_scaled(from[r].add(position.source as usize), gradient);
                }
            }
            for r in 0..TILE {
                tile[r].store(to[r]);
            }
        }
        start += TILE;
    }
}
