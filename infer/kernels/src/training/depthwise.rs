//! Depthwise correlations: every channel with its own window, lane by lane.

use super::BLOCK;
use super::correlate::Correlate;
use super::correlation::{Correlation, Position, Tap};
use super::lanes::{Kernel, Lanes, dispatch, load_each};
use crate::Isa;

/// Computes a depthwise correlation: [`Correlate`] with weights `[block][tap][lane]`.
pub(super) fn correlate_depthwise(isa: Isa, arguments: Correlate) {
    dispatch(isa, Depthwise(arguments));
}

struct Depthwise<'a>(Correlate<'a>);

impl Kernel for Depthwise<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const TILE: usize>(self) {
        let Correlate { correlation: c, images, source, weights, weights_stride, bias, destination, accumulate } =
            self.0;
        let regions = c.regions(images, source.len(), destination.len());
        let blocks = c.destination().blocks();
        assert_eq!(c.source().blocks(), blocks);
        assert!(weights.len() >= (blocks - 1) * weights_stride + c.taps() * BLOCK, "{}", weights.len());
        assert!(bias.is_none_or(|b| b.len() >= blocks * BLOCK));
        for block in 0..blocks {
            let source = &source[block * c.source().plane()..];
            let destination = destination[block * c.destination().plane()..].as_mut_ptr();
            let weights = &weights[block * weights_stride..];
            for region in regions.iter().filter(|r| !(accumulate && r.taps.is_empty())) {
                for tile in region.positions(images).chunks(TILE) {
                    // The last tile repeats the last position: it computes and stores the same value again.
                    let tile: [Position; TILE] = std::array::from_fn(|p| tile[p.min(tile.len() - 1)]);
                    // SAFETY: the CPU has `L` (caller); `regions` has checked that the buffers hold positions and taps,
                    // each in block 0, and both start at `block` of the first image; weights and bias cover every
                    // block (asserted above).
                    unsafe {
                        let to = tile.map(|p| destination.add(p.destination as usize));
                        let mut sums = [L::zero(); TILE];
                        if accumulate {
                            sums = load_each(&to);
                        } else if let Some(bias) = bias {
                            sums = [L::load(bias.as_ptr().add(block * BLOCK)); TILE];
                        }
                        let from = tile.map(|p| source.as_ptr().add(p.source as usize));
                        for tap in &region.taps {
                            let weights = L::load(weights.as_ptr().add(tap.index * BLOCK));
                            for p in 0..TILE {
                                sums[p] = sums[p].add_product(L::load(from[p].add(tap.offset)), weights);
                            }
                        }
                        for p in 0..TILE {
                            sums[p].store(to[p]);
                        }
                    }
                }
            }
        }
    }
}

/// Arguments of [`add_depthwise_weight_gradient`].
pub(super) struct DepthwiseWeightGradient<'a> {
    /// The forward correlation.
    pub correlation: &'a Correlation,
    pub images: usize,
    pub source: &'a [f32],
    pub output_gradient: &'a [f32],
    /// `[block][tap][lane]`; added to.
    pub weight_gradient: &'a mut [f32],
}

/// Adds the depthwise weight gradient of some images.
pub(super) fn add_depthwise_weight_gradient(isa: Isa, arguments: DepthwiseWeightGradient) {
    dispatch(isa, arguments);
}

impl Kernel for DepthwiseWeightGradient<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const TILE: usize>(self) {
        let c = self.correlation;
        let regions = c.regions(self.images, self.source.len(), self.output_gradient.len());
        assert_eq!(self.weight_gradient.len(), c.destination().blocks() * c.taps() * BLOCK);
        for (block, sums) in self.weight_gradient.chunks_exact_mut(c.taps() * BLOCK).enumerate() {
            let source = &self.source[block * c.source().plane()..];
            let gradient = &self.output_gradient[block * c.destination().plane()..];
            for region in regions {
                for taps in region.taps.chunks(TILE) {
                    // Places past the last tap repeat it: they compute and store the same sum again.
                    let taps: [Tap; TILE] = std::array::from_fn(|t| taps[t.min(taps.len() - 1)]);
                    // SAFETY: the CPU has `L` (caller); `regions` has checked that the buffers hold positions and taps,
                    // each in block 0, and both start at `block` of the first image.
                    unsafe {
                        let from = taps.map(|tap| source.as_ptr().add(tap.offset));
                        let to = taps.map(|tap| sums[tap.index * BLOCK..].as_mut_ptr());
                        let mut tile = load_each::<L, TILE>(&to);
                        for position in region.positions(self.images) {
                            let gradient = L::load(gradient.as_ptr().add(position.destination as usize));
                            for t in 0..TILE {
                                let source = L::load(from[t].add(position.source as usize));
                                tile[t] = tile[t].add_product(source, gradient);
                            }
                        }
                        for t in 0..TILE {
                            tile[t].store(to[t]);
                        }
                    }
                }
            }
        }
    }
}
