//! The inner loops of a sparse convolution: a few positions of sixteen images, all non-zeros of a phase.

use super::BLOCK;
use super::correlation::Position;
use super::lanes::Lanes;
use super::sparse_sweep::Sweep;
use super::sparse_weights::{Tap, TapList};
use super::transposed::{IMAGES, Staging};

/// What a destination value starts from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start<'a> {
    Zero,
    /// The channel's; padded to whole blocks.
    Bias(&'a [f32]),
    /// What is there.
    Present,
}

/// Blocked images to compute.
#[derive(Debug)]
pub(super) struct Destination<'a> {
    pub values: &'a mut [f32],
    pub start: Start<'a>,
}

/// Up to `SIZE` positions of a phase.
///
/// A buffer holds the tile's values of all destination channels: `[channel][SIZE][16 images]`.
pub(super) struct Tile<'a, const SIZE: usize> {
    pub sweep: &'a Sweep,
    pub list: &'a TapList,
    /// The source band.
    pub planes: &'a [f32],
    pub positions: &'a [Position],
    /// Added to the positions' destinations.
    pub offset: usize,
    pub images: usize,
}

impl<const SIZE: usize> Tile<'_, SIZE> {
    /// Replaces the destination's values by their start and the weighted sums of the source.
    ///
    /// # Safety
    /// The CPU must have `L`; the list must be the sweep's, and the positions those of the phase in a band.
    #[inline(always)]
    pub unsafe fn correlate<L: Lanes>(&self, destination: &mut Destination, buffer: &mut [f32], staging: &mut Staging) {
        match destination.start {
            Start::Zero => buffer.fill(0.0),
            Start::Bias(bias) => {
                for (values, bias) in buffer.chunks_exact_mut(SIZE * IMAGES).zip(bias) {
                    values.fill(*bias);
                }
            }
            // SAFETY: the caller's contract.
            Start::Present => unsafe { self.gather::<L>(destination.values, buffer, staging) },
        }
        let from = self.sources();
        self.for_each_row(|row, taps, _| {
            let values = &mut buffer[row * SIZE * IMAGES..][..SIZE * IMAGES];
            // SAFETY: windows of a band's positions and the offsets of the taps in its planes were planned to lie in
            // the band; the slice holds a vector for each position.
            unsafe {
                let mut sums = load::<L, SIZE>(values);
                for tap in taps {
                    for p in 0..SIZE {
                        sums[p] = sums[p].add_scaled(&tap.value, L::load(from[p].add(tap.offset as usize)));
                    }
                }
                for (p, sum) in sums.into_iter().enumerate() {
                    sum.store(values.as_mut_ptr().add(p * IMAGES));
                }
            }
        });
        // SAFETY: the caller's contract.
        unsafe { self.scatter::<L>(buffer, destination.values, staging) };
    }

    /// For each non-zero, adds the products of the `values` at the destination's places with the source to its sum.
    ///
    /// # Safety
    /// As [`Tile::correlate`].
    #[inline(always)]
    pub unsafe fn add_products<L: Lanes>(
        &self,
        values: &[f32],
        sums: &mut [f32],
        buffer: &mut [f32],
        staging: &mut Staging,
    ) {
        assert_eq!(sums.len(), self.list.taps.len());
        // Places past the last position stay zero, and so do their products.
        buffer.fill(0.0);
        // SAFETY: the caller's contract.
        unsafe { self.gather::<L>(values, buffer, staging) };
        let from = self.sources();
        self.for_each_row(|row, taps, first| {
            let values = &buffer[row * SIZE * IMAGES..][..SIZE * IMAGES];
            // SAFETY: as in `correlate`.
            unsafe {
                let values = load::<L, SIZE>(values);
                for (tap, sum) in taps.iter().zip(&mut sums[first..]) {
                    let mut products = L::zero();
                    for p in 0..SIZE {
                        products = products.add_product(values[p], L::load(from[p].add(tap.offset as usize)));
                    }
                    *sum += products.sum();
                }
            }
        });
    }

    /// First source value of each position; places past the last repeat it.
    #[inline(always)]
    fn sources(&self) -> [*const f32; SIZE] {
        let mut sources = [self.planes.as_ptr(); SIZE];
        for (p, source) in sources.iter_mut().enumerate() {
            let position = self.positions[p.min(self.positions.len() - 1)];
            *source = self.planes[position.source as usize..].as_ptr();
        }
        sources
    }

    /// Calls `f(row, taps, index of the first)` for every row of every chunk that has any.
    #[inline(always)]
    fn for_each_row(&self, mut f: impl FnMut(usize, &[Tap], usize)) {
        let rows = self.sweep.destination.channels;
        let mut first = 0;
        for ends in self.list.starts[1..].chunks_exact(rows) {
            for (row, end) in ends.iter().enumerate() {
                let end = *end as usize;
                if first < end {
                    f(row, &self.list.taps[first..end], first);
                }
                first = end;
            }
        }
    }

    /// # Safety
    /// The CPU must have `L`.
    #[inline(always)]
    unsafe fn gather<L: Lanes>(&self, values: &[f32], buffer: &mut [f32], staging: &mut Staging) {
        let planes = self.sweep.destination;
        for (block, buffer) in buffer.chunks_exact_mut(BLOCK * SIZE * IMAGES).enumerate() {
            let pixels = self.positions.len();
            staging.read(values, planes.image(), self.images, pixels, |p| self.place(block, p));
            // SAFETY: the caller's contract.
            unsafe { staging.transpose_to::<L>(self.images, pixels, SIZE * IMAGES, buffer) };
        }
    }

    /// # Safety
    /// The CPU must have `L`.
    #[inline(always)]
    unsafe fn scatter<L: Lanes>(&self, buffer: &[f32], values: &mut [f32], staging: &mut Staging) {
        let planes = self.sweep.destination;
        for (block, buffer) in buffer.chunks_exact(BLOCK * SIZE * IMAGES).enumerate() {
            let pixels = self.positions.len();
            // SAFETY: the caller's contract.
            unsafe { staging.transpose_from::<L>(buffer, SIZE * IMAGES, pixels) };
            staging.write(values, planes.image(), self.images, pixels, |p| self.place(block, p));
        }
    }

    /// Destination of a position in a block of the first image.
    #[inline(always)]
    fn place(&self, block: usize, position: usize) -> usize {
        block * self.sweep.destination.plane() + self.positions[position].destination as usize + self.offset
    }
}

/// A vector for each position.
///
/// # Safety
/// The CPU must have `L`, `values` hold as many vectors.
#[inline(always)]
unsafe fn load<L: Lanes, const SIZE: usize>(values: &[f32]) -> [L; SIZE] {
    // Not `std::array::from_fn`: a closure is compiled without the tier's instructions unless it is inlined.
    // SAFETY: the caller's contract.
    unsafe {
        let mut vectors = [L::zero(); SIZE];
        for (p, vector) in vectors.iter_mut().enumerate() {
            *vector = L::load(values.as_ptr().add(p * IMAGES));
        }
        vectors
    }
}
