//! Gradient of a convolution's weights: for each weight, the sum over positions of input times output gradient.

use std::ops::Range;

use super::BLOCK;
use super::arithmetic::Arithmetic;
use super::correlation::{Correlation, Inside, Position, Tap};
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
            if channels.is_multiple_of(TILE) {
                let taps = Taps { c, channels, source, gradient };
                // SAFETY: the CPU has `L` (caller); `regions` has checked that the buffers hold all positions and taps,
                // and both slices start at a block of the first image.
                unsafe { taps.add::<L, TILE>(images, sums) };
                continue;
            }
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

/// The gradient of one pair of blocks where the channels are whole tiles: tap by tap, over the rectangle of the positions
/// whose windows hold it.
struct Taps<'a> {
    c: &'a Correlation,
    channels: usize,
    source: &'a [f32],
    gradient: &'a [f32],
}

/// One of the nested loops over positions: how often, and from one to the next how far in source and gradient.
#[derive(Clone, Copy)]
struct Loop {
    count: usize,
    source: usize,
    gradient: usize,
}

impl Taps<'_> {
    /// Adds the products of all positions of some images.
    ///
    /// # Safety
    /// The CPU must have `L`; source and gradient, from a block of the first image on, must hold all positions and taps;
    /// `sums` must hold the pair's taps.
    #[inline(always)]
    unsafe fn add<L: Lanes, const TILE: usize>(&self, images: usize, sums: &mut [f32]) {
        let [height, width] = self.c.destination().size;
        let strip_rows = (STRIP / width).clamp(1, height);
        let strip_images = if strip_rows < height { 1 } else { (STRIP / (height * width)).max(1) };
        for image in (0..images).step_by(strip_images) {
            for row in (0..height).step_by(strip_rows) {
                let rows = row..(row + strip_rows).min(height);
                for (tap, inside) in self.c.inside().enumerate() {
                    let sums = &mut sums[tap * BLOCK * BLOCK..(tap + 1) * BLOCK * BLOCK];
                    // SAFETY: this function's contract.
                    unsafe { self.add_tap::<L, TILE>(inside, image..(image + strip_images).min(images), &rows, sums) };
                }
            }
        }
    }

    /// Adds the products with one tap in some rows of some images.
    ///
    /// # Safety
    /// As for [`Taps::add`].
    #[inline(always)]
    unsafe fn add_tap<L: Lanes, const TILE: usize>(
        &self,
        inside: [&Inside; 2],
        images: Range<usize>,
        rows: &Range<usize>,
        sums: &mut [f32],
    ) {
        let [down, right] = inside.map(|i| i.positions.clone());
        let rows = rows.start.max(down.start)..rows.end.min(down.end);
        if rows.is_empty() || right.is_empty() {
            return;
        }
        let (from, to) = (self.c.source(), self.c.destination());
        let source = images.start * from.image_step() + self.c.source_of(inside, rows.start);
        let gradient = images.start * to.image_step() + to.at(rows.start, right.start);
        let [row_step, column_step] = self.c.source_steps();
        let image = Loop { count: images.len(), source: from.image_step(), gradient: to.image_step() };
        let row = Loop { count: rows.len(), source: row_step, gradient: to.at(1, 0) };
        let column = Loop { count: right.len(), source: column_step, gradient: to.at(0, 1) };
        for first in (0..self.channels).step_by(TILE) {
            // SAFETY: this function's contract: all positions of the loops lie within source and gradient.
            unsafe {
                let to = sums[first * BLOCK..].as_mut_ptr();
                let mut tile = [L::zero(); TILE];
                for (r, sum) in tile.iter_mut().enumerate() {
                    *sum = L::load(to.add(r * BLOCK));
                }
                let start = [self.source.as_ptr().add(source + first), self.gradient.as_ptr().add(gradient)];
                for i in 0..image.count {
                    let start = [start[0].add(i * image.source), start[1].add(i * image.gradient)];
                    for y in 0..row.count {
                        let [mut source, mut gradient] = [start[0].add(y * row.source), start[1].add(y * row.gradient)];
                        for _ in 0..column.count {
                            let values = L::load(gradient);
                            for (r, sum) in tile.iter_mut().enumerate() {
                                *sum = sum.add_scaled(source.add(r), values);
                            }
                            source = source.wrapping_add(column.source);
                            gradient = gradient.wrapping_add(column.gradient);
                        }
                    }
                }
                for (r, sum) in tile.iter().enumerate() {
                    sum.store(to.add(r * BLOCK));
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
}
