//! What dense convolutions multiply, and how it lies in memory.

use std::ops::Range;

use super::BLOCK;
use super::bf16::{align, pair_lanes, pair_values};
use super::correlation::{Order, Planes};
use crate::{Bf16, Isa};

/// What a dense convolution multiplies, by which instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32.
    F32(Isa),
    /// Inputs, output gradients and weights rounded to bf16, sums in f32. Weights come as words of two, from
    /// [`super::pair_rows`].
    Bf16(Bf16),
}

impl Arithmetic {
    /// Factors in a word of 32 bits.
    pub fn factors(self) -> usize {
        match self {
            Self::F32(_) => 1,
            Self::Bf16(_) => 2,
        }
    }

    /// Whether images that lie one after another are read as they are.
    pub(super) fn reads(self, planes: Planes) -> bool {
        matches!(self, Self::F32(_)) && planes.order == Order::Images
    }

    /// A group of `images` as correlations from `planes` read it, in words of neighbouring lanes if in bf16.
    pub(super) fn lanes<'a>(self, planes: Planes, images: &'a [f32], scratch: &'a mut Vec<f32>) -> &'a [f32] {
        if self.reads(planes) {
            return images;
        }
        let count = images.len() / planes.image();
        let words = align(scratch, planes.group(count) / self.factors());
        let step = planes.place_step() / self.factors();
        // Block by block, so that one block's words of all images stay in the nearest cache.
        for block in 0..planes.blocks() {
            for (image, values) in images.chunks_exact(planes.image()).enumerate() {
                let values = &values[block * planes.plane()..][..planes.plane()];
                let first = image * planes.image_step() + block * planes.block_step(count);
                let words = &mut words[first / self.factors()..];
                match self {
                    Self::F32(_) => {
                        for (to, place) in words.chunks_mut(step).zip(values.as_chunks::<BLOCK>().0) {
                            to[..BLOCK].copy_from_slice(place);
                        }
                    }
                    Self::Bf16(bf16) => pair_lanes(bf16, values, words, step),
                }
            }
        }
        words
    }

    /// Some blocks of a group of `images` as weight gradients over `planes` read them: in bf16, two images share words, and
    /// an odd last one shares them with zeros.
    pub(super) fn pairs(self, planes: Planes, blocks: Range<usize>, images: &[f32], words: &mut [f32]) {
        let (count, plane) = (words.len() / planes.image(), planes.plane());
        for (pair, images) in images.chunks(self.factors() * planes.image()).enumerate() {
            let (first, second) = images.split_at(planes.image());
            for block in blocks.clone() {
                let words = &mut words[pair * planes.image_step() + block * planes.block_step(count)..][..plane];
                let values = block * plane..(block + 1) * plane;
                match self {
                    Self::F32(_) => words.copy_from_slice(&first[values]),
                    Self::Bf16(bf16) => pair_values(bf16, &first[values.clone()], second.get(values), words),
                }
            }
        }
    }
}
