//! Depthwise correlations: every channel with its own window, lane by lane.

use super::BLOCK;
use super::correlation::{Correlate, Correlation, Position};
use super::lanes::{Kernel, Lanes, dispatch};
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
        let positions = c.positions(images, source, destination);
        let blocks = c.destination().blocks();
        assert_eq!(c.source().blocks(), blocks);
        assert!(weights.len() >= (blocks - 1) * weights_stride + c.taps().len() * BLOCK, "{}", weights.len());
        assert!(bias.is_none_or(|b| b.len() >= blocks * BLOCK));
        if positions.is_empty() || (accumulate && c.taps().is_empty()) {
            return;
        }
        for block in 0..blocks {
            let source = &source[block * c.source().plane()..];
            let destination = destination[block * c.destination().plane()..].as_mut_ptr();
            let weights = &weights[block * weights_stride..];
            let mut start = 0;
            while start < positions.len() {
                // The last tile repeats the last position: it computes and stores the same value again.
                let tile: [Position; TILE] = std::array::from_fn(|p| positions[(start + p).min(positions.len() - 1)]);
                // SAFETY: the CPU has `L` (caller); positions lie in block 0 of the images counted above, both buffers
                // start at `block` of the first; weights and bias cover every block (asserted above).
                unsafe {
                    let to = tile.map(|p| destination.add(p.destination as usize));
                    let mut sums = [L::zero(); TILE];
                    if accumulate {
                        sums = to.map(|to| L::load(to));
                    } else if let Some(bias) = bias {
                        sums = [L::load(bias.as_ptr().add(block * BLOCK)); TILE];
                    }
                    let from = tile.map(|p| source.as_ptr().add(p.source as usize));
                    for (t, tap) in c.taps().iter().enumerate() {
                        let weights = L::load(weights.as_ptr().add(t * BLOCK));
                        for p in 0..TILE {
                            sums[p] = sums[p].add_product(L::load(from[p].add(*tap as usize)), weights);
                        }
                    }
                    for p in 0..TILE {
                        sums[p].store(to[p]);
                    }
                }
                start += TILE;
            }
        }
    }
}

/// Arguments of [`add_depthwise_weight_gradient`].
pub(super) struct DepthwiseWeightGradient<'a> {
    /// The forward correlation.
    pub correlation: &'a Correlation,
    pub images: usize,
    /// Padded images.
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
        let positions = c.positions(self.images, self.source, self.output_gradient);
        assert_eq!(self.weight_gradient.len(), c.destination().blocks() * c.taps().len() * BLOCK);
        for (block, sums) in self.weight_gradient.chunks_exact_mut(c.taps().len() * BLOCK).enumerate() {
            let source = &self.source[block * c.source().plane()..];
            let gradient = &self.output_gradient[block * c.destination().plane()..];
            for (taps, sums) in c.taps().chunks(TILE).zip(sums.chunks_mut(TILE * BLOCK)) {
                // SAFETY: the CPU has `L` (caller); positions lie in block 0 of the images counted above, both buffers
                // start at `block` of the first.
                unsafe {
                    // Places past the last tap repeat it: they compute and store the same sum again.
                    let tap = |t: usize| t.min(taps.len() - 1);
                    let from: [*const f32; TILE] = std::array::from_fn(|t| source.as_ptr().add(taps[tap(t)] as usize));
                    let to: [*mut f32; TILE] = std::array::from_fn(|t| sums[tap(t) * BLOCK..].as_mut_ptr());
                    let mut tile = to.map(|to| L::load(to));
                    for position in positions {
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
