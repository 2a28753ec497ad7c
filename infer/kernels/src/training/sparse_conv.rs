//! A convolution with its two gradients that touches only the non-zeros of the weight.
//!
//! Sixteen images are a vector: a band of the padded source is laid out with the images innermost, and for each
//! destination channel the non-zeros of its row multiply the vectors of a tile of positions, held in registers. Source
//! channels are taken in chunks whose windows fit the first-level cache, for all rows of the weight before the next.

use super::BLOCK;
use super::convolution::ConvShape;
use super::lanes::{Kernel, Lanes, dispatch};
use super::sparse_sweep::Sweep;
use super::sparse_tile::{Destination, Start, Tile};
use super::sparse_weights::SparseWeights;
use super::transposed::{IMAGES, Staging, gather_rectangle};
use crate::Isa;

/// A sparse convolution planned for its shape; activations as for [`super::Convolution`].
#[derive(Debug, Clone)]
pub struct SparseConvolution {
    shape: ConvShape,
    forward: Sweep,
    backward: Sweep,
}

/// Where the gradient of the input goes.
#[derive(Debug)]
pub struct SparseInputGradient<'a> {
    /// Blocked images.
    pub values: &'a mut [f32],
    /// Whether to add to them instead of replacing them.
    pub accumulate: bool,
}

/// What the gradient of the non-zeros is made of besides the output's gradient.
#[derive(Debug)]
pub struct SparseWeightGradient<'a> {
    /// The convolution's input.
    pub input: &'a [f32],
    /// One for each non-zero, in the order of the [`SparseWeights`]; added to.
    pub sums: &'a mut [f32],
}

impl SparseConvolution {
    /// Images that are computed together; fewer cost the same.
    pub const IMAGES: usize = IMAGES;

    /// Plans a convolution; `None` if it is depthwise, where vectors of channels do better, or if sixteen images have
    /// 2^32 values or more.
    pub fn new(shape: ConvShape) -> Option<Self> {
        let depthwise = shape.groups == shape.in_channels && shape.groups == shape.out_channels;
        if depthwise && shape.groups > 1 {
            return None;
        }
        Some(Self { shape, forward: Sweep::forward(&shape)?, backward: Sweep::backward(&shape)? })
    }

    /// Brings the list for [`SparseConvolution::forward`] up to date with the plain `weights`.
    pub fn refresh_forward(&self, list: &mut SparseWeights, weights: &[f32]) {
        list.refresh(&self.shape, &self.forward, weights);
    }

    /// Brings the list for [`SparseConvolution::backward`] up to date with the plain `weights`.
    pub fn refresh_backward(&self, list: &mut SparseWeights, weights: &[f32]) {
        list.refresh(&self.shape, &self.backward, weights);
    }

    /// `output = input * weights + bias` for some images; `bias` is padded to whole blocks, `scratch` is grown as
    /// needed and holds nothing between calls.
    pub fn forward(
        &self,
        isa: Isa,
        input: &[f32],
        weights: &SparseWeights,
        bias: Option<&[f32]>,
        output: &mut [f32],
        scratch: &mut Vec<f32>,
    ) {
        let sweep = &self.forward;
        let (from, to) = (IMAGES * sweep.source.image(), IMAGES * sweep.destination.image());
        for (source, destination) in input.chunks(from).zip(output.chunks_mut(to)) {
            let start = bias.map_or(Start::Zero, Start::Bias);
            let destination = Some(Destination { values: destination, start });
            dispatch(isa, Run { sweep, weights, source, destination, products: None, scratch });
        }
    }

    /// From the output's gradient of some images, that of the input, and of the non-zeros of the weight.
    pub fn backward(
        &self,
        isa: Isa,
        output_gradient: &[f32],
        weights: &SparseWeights,
        mut input: Option<SparseInputGradient>,
        mut weight: Option<SparseWeightGradient>,
        scratch: &mut Vec<f32>,
    ) {
        let sweep = &self.backward;
        let (from, to) = (IMAGES * sweep.source.image(), IMAGES * sweep.destination.image());
        for (group, source) in output_gradient.chunks(from).enumerate() {
            let images = source.len() / sweep.source.image();
            let range = group * to..group * to + images * sweep.destination.image();
            let destination = input.as_mut().map(|gradient| {
                let start = if gradient.accumulate { Start::Present } else { Start::Zero };
                Destination { values: &mut gradient.values[range.clone()], start }
            });
            let products = weight.as_mut().map(|w| Products { values: &w.input[range.clone()], sums: &mut *w.sums });
            dispatch(isa, Run { sweep, weights, source, destination, products, scratch });
        }
    }
}

/// For each non-zero, the sum over positions of the values at the destination's places times the source values.
struct Products<'a> {
    values: &'a [f32],
    sums: &'a mut [f32],
}

/// One sweep over up to sixteen images.
struct Run<'a> {
    sweep: &'a Sweep,
    weights: &'a SparseWeights,
    source: &'a [f32],
    destination: Option<Destination<'a>>,
    products: Option<Products<'a>>,
    scratch: &'a mut Vec<f32>,
}

impl Kernel for Run<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const TILE: usize>(self) {
        let Self { sweep, weights, source, mut destination, mut products, scratch } = self;
        let images = source.len() / sweep.source.image();
        assert!(images <= IMAGES && source.len() == images * sweep.source.image(), "{}", source.len());
        let len = images * sweep.destination.image();
        assert!(destination.as_ref().is_none_or(|d| d.values.len() == len));
        assert!(products.as_ref().is_none_or(|p| p.values.len() == len && p.sums.len() == weights.nnz()));
        let band_len = sweep.source.blocks() * BLOCK * sweep.plane();
        let tile_len = sweep.destination.blocks() * BLOCK * TILE * IMAGES;
        if scratch.len() < BLOCK + band_len + tile_len {
            scratch.resize(BLOCK + band_len + tile_len, 0.0);
        }
        // A vector that crosses a cache line costs two loads.
        let line = scratch.as_ptr().align_offset(size_of::<[f32; BLOCK]>());
        let (planes, rest) = scratch[line..].split_at_mut(band_len);
        let buffer = &mut rest[..tile_len];
        let mut staging = Staging::new();
        for band in 0..sweep.bands {
            let rectangle = sweep.rectangle(band);
            // SAFETY: the CPU has `L` (caller).
            unsafe {
                gather_rectangle::<L>(sweep.source, images, source, rectangle, sweep.plane(), &mut staging, planes)
            };
            let mut first = 0;
            for (phase, list) in sweep.phases.iter().zip(&weights.phases) {
                let sums = first..first + list.taps.len();
                let (positions, offset) = sweep.positions(phase, band);
                for positions in positions.chunks(TILE) {
                    let tile = Tile::<TILE> { sweep, list, planes, positions, offset, images };
                    // SAFETY: the CPU has `L` (caller), and the list was made for this sweep.
                    unsafe {
                        if let Some(destination) = &mut destination {
                            tile.correlate::<L>(destination, buffer, &mut staging);
                        }
                        if let Some(products) = &mut products {
                            tile.add_products::<L>(
                                products.values,
                                &mut products.sums[sums.clone()],
                                buffer,
                                &mut staging,
                            );
                        }
                    }
                }
                first = sums.end;
            }
        }
    }
}
