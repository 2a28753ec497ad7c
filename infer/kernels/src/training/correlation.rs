//! Sums of products over a window that slides over a padded image: the shape of a convolution's forward pass and of
//! its gradient with respect to the input.

use super::BLOCK;
use super::lanes::{Kernel, Lanes, dispatch};
use crate::Isa;

/// Where one output position reads and writes, in values from the start of a group of images.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// The window's first value in block 0 of the padded source.
    pub source: u32,
    /// The position in block 0 of the destination.
    pub destination: u32,
}

/// The planes of a blocked tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planes {
    pub channels: usize,
    /// Height and width.
    pub size: [usize; 2],
}

impl Planes {
    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(BLOCK)
    }

    /// Values in one block of one image.
    pub fn plane(&self) -> usize {
        self.size[0] * self.size[1] * BLOCK
    }

    /// Values in one image.
    pub fn image(&self) -> usize {
        self.blocks() * self.plane()
    }

    /// Channels of `block` that hold values.
    pub fn channels_of(&self, block: usize) -> usize {
        (self.channels - block * BLOCK).min(BLOCK)
    }
}

/// For each output position, the sum over taps and source channels of source times weight.
#[derive(Debug, Clone)]
pub(super) struct Correlation {
    source: Planes,
    destination: Planes,
    /// Offset of each tap from a position's first value.
    taps: Vec<u32>,
    /// Positions of as many images as a group may have, image by image.
    positions: Vec<Position>,
    positions_per_image: usize,
}

/// One axis of a [`Correlation`]: `count` positions that start at `start` in the padded source and step by `step`, and
/// write to `to`, stepping by `to_step`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub count: usize,
    pub step: usize,
    pub to: usize,
    pub to_step: usize,
}

impl Correlation {
    /// `source` is the padded image; `taps` are places in it, down and right.
    pub fn new(source: Planes, destination: Planes, taps: &[[usize; 2]], axes: [Axis; 2], images: usize) -> Self {
        let at = |planes: Planes, y: usize, x: usize| (y * planes.size[1] + x) * BLOCK;
        for axis in 0..2 {
            let (a, last_tap) = (axes[axis], taps.iter().map(|t| t[axis]).max().unwrap_or(0));
            assert!(a.count > 0 && (a.count - 1) * a.step + last_tap < source.size[axis], "{a:?} {taps:?} {source:?}");
            assert!(a.to + (a.count - 1) * a.to_step < destination.size[axis], "{a:?} {destination:?}");
        }
        assert!(images * source.image().max(destination.image()) <= u32::MAX as usize, "group too large");
        let mut positions = Vec::with_capacity(images * axes[0].count * axes[1].count);
        for image in 0..images {
            for y in 0..axes[0].count {
                for x in 0..axes[1].count {
                    let from = at(source, y * axes[0].step, x * axes[1].step);
                    let to = at(destination, axes[0].to + y * axes[0].to_step, axes[1].to + x * axes[1].to_step);
                    positions.push(Position {
                        source: (image * source.image() + from) as u32,
                        destination: (image * destination.image() + to) as u32,
                    });
                }
            }
        }
        let taps = taps.iter().map(|t| at(source, t[0], t[1]) as u32).collect();
        Self { source, destination, taps, positions, positions_per_image: axes[0].count * axes[1].count }
    }

    pub fn taps(&self) -> &[u32] {
        &self.taps
    }

    pub fn source(&self) -> Planes {
        self.source
    }

    pub fn destination(&self) -> Planes {
        self.destination
    }

    /// Positions of the first `images` images, after checking that the buffers hold them.
    pub fn positions(&self, images: usize, source: &[f32], destination: &[f32]) -> &[Position] {
        assert!(source.len() >= images * self.source.image(), "{} for {images} of {:?}", source.len(), self.source);
        let (found, planes) = (destination.len(), self.destination);
        assert!(found >= images * planes.image(), "{found} for {images} of {planes:?}");
        &self.positions[..images * self.positions_per_image]
    }
}

/// Arguments of [`correlate`].
pub(super) struct Correlate<'a> {
    pub correlation: &'a Correlation,
    pub images: usize,
    /// Padded images.
    pub source: &'a [f32],
    /// `[destination block][source block][tap][source lane][destination lane]`, each destination block
    /// `weights_stride` after the one before.
    pub weights: &'a [f32],
    pub weights_stride: usize,
    /// Start value of each destination channel (padded to blocks) instead of zero.
    pub bias: Option<&'a [f32]>,
    pub destination: &'a mut [f32],
    /// Whether to add to the destination instead of replacing it.
    pub accumulate: bool,
}

/// Computes a dense correlation.
pub(super) fn correlate(isa: Isa, arguments: Correlate) {
    dispatch(isa, arguments);
}

impl Kernel for Correlate<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const TILE: usize>(self) {
        let c = self.correlation;
        let positions = c.positions(self.images, self.source, self.destination);
        let block_weights = c.source.blocks() * c.taps.len() * BLOCK * BLOCK;
        let blocks = c.destination.blocks();
        assert!(self.weights.len() >= (blocks - 1) * self.weights_stride + block_weights, "{}", self.weights.len());
        assert!(self.bias.is_none_or(|b| b.len() >= blocks * BLOCK));
        if positions.is_empty() || (self.accumulate && c.taps.is_empty()) {
            return;
        }
        let destination = self.destination.as_mut_ptr();
        for block in 0..blocks {
            let mut start = 0;
            while start < positions.len() {
                // The last tile repeats the last position: it computes and stores the same value again.
                let tile: [Position; TILE] = std::array::from_fn(|p| positions[(start + p).min(positions.len() - 1)]);
                // SAFETY: a position's destination lies in block 0 of one of the images the assertion above counted,
                // and `block` is one of the destination's.
                let to =
                    tile.map(|p| unsafe { destination.add(p.destination as usize + block * c.destination.plane()) });
                // SAFETY: the CPU has `L` (caller); `to` is valid (above); the bias has a block's lanes; windows lie
                // within the padded source and weights cover all blocks and taps (checked at construction and above).
                unsafe {
                    let mut sums = [L::zero(); TILE];
                    if self.accumulate {
                        sums = to.map(|to| L::load(to));
                    } else if let Some(bias) = self.bias {
                        sums = [L::load(bias.as_ptr().add(block * BLOCK)); TILE];
                    }
                    let from = tile.map(|p| self.source.as_ptr().add(p.source as usize));
                    let weights = self.weights.as_ptr().add(block * self.weights_stride);
                    let sums = tile_sums(c, from, weights, sums);
                    for p in 0..TILE {
                        sums[p].store(to[p]);
                    }
                }
                start += TILE;
            }
        }
    }
}

/// Adds all taps of all source blocks to the sums of one tile of positions.
///
/// # Safety
/// As [`Correlate::run`] states at its call.
#[inline(always)]
unsafe fn tile_sums<L: Lanes, const TILE: usize>(
    c: &Correlation,
    from: [*const f32; TILE],
    mut weights: *const f32,
    mut sums: [L; TILE],
) -> [L; TILE] {
    for block in 0..c.source.blocks() {
        let channels = c.source.channels_of(block);
        for tap in &c.taps {
            let offset = block * c.source.plane() + *tap as usize;
            // A full block in its own branch, so that its loop has a constant length.
            if channels == BLOCK {
                for channel in 0..BLOCK {
                    // SAFETY: see this function's contract.
                    unsafe { sums = add_channel(sums, from, offset + channel, weights.add(channel * BLOCK)) };
                }
            } else {
                for channel in 0..channels {
                    // SAFETY: see this function's contract.
                    unsafe { sums = add_channel(sums, from, offset + channel, weights.add(channel * BLOCK)) };
                }
            }
            // SAFETY: stays within the weights or one past their end.
            weights = unsafe { weights.add(BLOCK * BLOCK) };
        }
    }
    sums
}

/// # Safety
/// `from + offset` and sixteen `weights` must be readable, and the CPU have `L`.
#[inline(always)]
unsafe fn add_channel<L: Lanes, const TILE: usize>(
    mut sums: [L; TILE],
    from: [*const f32; TILE],
    offset: usize,
    weights: *const f32,
) -> [L; TILE] {
    // SAFETY: the caller's contract.
    unsafe {
        let weights = L::load(weights);
        for p in 0..TILE {
            sums[p] = sums[p].add_scaled(from[p].add(offset), weights);
        }
    }
    sums
}
