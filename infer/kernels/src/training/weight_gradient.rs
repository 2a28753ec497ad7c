//! Gradient of a convolution's weights: for each weight, the sum over positions of input times output gradient.

use super::BLOCK;
use super::arithmetic::Arithmetic;
use super::correlation::{Correlation, Position, Tap};
use super::lanes::{Kernel, Lanes, dispatch, dispatch_bf16, dispatch_half, load_each};

/// Positions taken at a time, so that input and gradient stay in the first-level cache while all weights of a pair of
/// blocks pass.
const STRIP: usize = 128;

/// Arguments of [`add_weight_gradient`].
pub(super) struct WeightGradient<'a> {
    /// The forward correlation.
    pub correlation: &'a Correlation,
    /// Output block to compute.
    pub block: usize,
    /// Images, or for bf16 pairs of images, whose values share a word.
    pub images: usize,
    pub source: &'a [f32],
    pub output_gradient: &'a [f32],
    /// `[input block][tap][input lane][output lane]` of the block; added to.
    pub weight_gradient: &'a mut [f32],
}

/// Adds the dense weight gradient of some images.
pub(super) fn add_weight_gradient(arithmetic: Arithmetic, arguments: WeightGradient) {
    let channels = arguments.correlation.destination().channels_of(arguments.block);
    match arithmetic {
        Arithmetic::F32(isa) if channels > BLOCK / 2 => dispatch(isa, arguments),
        Arithmetic::F32(isa) => dispatch_half(isa, arguments),
        Arithmetic::Bf16(bf16) => dispatch_bf16(bf16, arguments),
    }
}

impl Kernel for WeightGradient<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const TILE: usize>(self) {
        let Self { correlation: c, images, source, output_gradient, .. } = self;
        let pair = c.taps() * BLOCK * BLOCK;
        assert_eq!(self.weight_gradient.len(), c.source().blocks() * pair);
        let regions = c.regions(images, source.len(), output_gradient.len());
        let gradient = &output_gradient[self.block * c.destination().block_step(images)..];
        for (source_block, sums) in self.weight_gradient.chunks_exact_mut(pair).enumerate() {
            let channels = c.source().channels_of(source_block);
            let source = &source[source_block * c.source().block_step(images)..];
            for region in regions {
                let rows = Rows { taps: &region.taps, channels };
                for strip in region.positions(images).chunks(STRIP) {
                    // SAFETY: the CPU has `L` (caller). `regions` has checked that the buffers hold positions and taps,
                    // each in block 0, and both slices start at a block of the first image; taps are the pair's.
                    unsafe { rows.add_strip::<L, TILE>(strip, source, gradient, sums) };
                }
            }
        }
    }
}

/// Rows of the gradient of one pair of blocks, one for each tap of a region and channel of the input block.
struct Rows<'a> {
    taps: &'a [Tap],
    channels: usize,
}

impl Rows<'_> {
    /// Adds the products of some positions.
    ///
    /// # Safety
    /// Each tap of each position must lie in `source`, its destination in `gradient`; the taps must have a place in
    /// `sums`; the CPU must have `L`.
    #[inline(always)]
    unsafe fn add_strip<L: Lanes, const TILE: usize>(
        &self,
        strip: &[Position],
        source: &[f32],
        gradient: &[f32],
        sums: &mut [f32],
    ) {
        if self.channels.is_multiple_of(TILE) {
            // SAFETY: this function's contract.
            unsafe { self.add_strip_in_order::<L, TILE>(strip, source, gradient, sums) };
            return;
        }
        let mut rows = self.taps.iter().flat_map(|tap| (0..self.channels).map(move |channel| (tap, channel)));
        while let Some(mut row) = rows.next() {
            // The last tile repeats the last row: it computes and stores the same value again.
            let row: [(&Tap, usize); TILE] = std::array::from_fn(|r| {
                if r > 0 {
                    row = rows.next().unwrap_or(row);
                }
                row
            });
            let sums = sums.as_mut_ptr();
            // SAFETY: this function's contract; channels are fewer than the lanes of a block.
            unsafe {
                let from = row.map(|(tap, channel)| source.as_ptr().add(tap.offset + channel));
                let to = row.map(|(tap, channel)| sums.add((tap.index * BLOCK + channel) * BLOCK));
                let mut tile = load_each::<L, TILE>(&to);
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
        }
    }
    /// [`Rows::add_strip`] where each tile is some channels of one tap: their places then follow one another, and the
    /// compiler needs no pointer for each.
    ///
    /// # Safety
    /// As for [`Rows::add_strip`].
    #[inline(always)]
    unsafe fn add_strip_in_order<L: Lanes, const TILE: usize>(
        &self,
        strip: &[Position],
        source: &[f32],
        gradient: &[f32],
        sums: &mut [f32],
    ) {
        for tap in self.taps {
            for first in (0..self.channels).step_by(TILE) {
                // SAFETY: this function's contract; channels are fewer than the lanes of a block.
                unsafe {
                    let to = sums.as_mut_ptr().add((tap.index * BLOCK + first) * BLOCK);
                    let mut tile = [L::zero(); TILE];
                    for (r, sum) in tile.iter_mut().enumerate() {
                        *sum = L::load(to.add(r * BLOCK));
                    }
                    let source = source.as_ptr().add(tap.offset + first);
                    for position in strip {
                        let gradient = L::load(gradient.as_ptr().add(position.destination as usize));
                        let from = source.add(position.source as usize);
                        for (r, sum) in tile.iter_mut().enumerate() {
                            *sum = sum.add_scaled(from.add(r), gradient);
                        }
                    }
                    for (r, sum) in tile.iter().enumerate() {
                        sum.store(to.add(r * BLOCK));
                    }
                }
            }
        }
    }
}
