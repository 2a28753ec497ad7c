//! Blocked activations of sixteen images to planes with the images innermost, and back: `[channel][height][width][16]`.
//!
//! There a weight of one pair of channels meets whole vectors, wherever it stands.

use super::BLOCK;
use super::correlation::Planes;
use super::lanes::Lanes;

/// Images in a vector.
pub(super) const IMAGES: usize = BLOCK;

/// A rectangle of a padded image, in the coordinates of the image without its padding.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rectangle {
    pub top: isize,
    pub left: isize,
    /// Height and width.
    pub size: [usize; 2],
}

/// Writes a rectangle of every channel of whole blocks, zeros outside the image, into planes `plane` values apart. Vectors
/// of fewer than sixteen images are filled with zeros.
///
/// # Safety
/// The CPU must have `L`.
#[inline(always)]
pub(super) unsafe fn gather_rectangle<L: Lanes>(
    planes: Planes,
    images: usize,
    source: &[f32],
    rectangle: Rectangle,
    plane: usize,
    staging: &mut Staging,
    to: &mut [f32],
) {
    let Rectangle { top, left, size: [rows, columns] } = rectangle;
    let [height, width] = planes.size;
    let inside = |start: isize, len: usize, limit: usize| {
        let first = (-start).clamp(0, len as isize) as usize;
        first..(limit as isize - start).clamp(first as isize, len as isize) as usize
    };
    let (inner_rows, inner_columns) = (inside(top, rows, height), inside(left, columns, width));
    for plane in to.chunks_exact_mut(plane) {
        for (row, values) in plane.chunks_exact_mut(columns * IMAGES).take(rows).enumerate() {
            if inner_rows.contains(&row) {
                values[..inner_columns.start * IMAGES].fill(0.0);
                values[inner_columns.end * IMAGES..].fill(0.0);
            } else {
                values.fill(0.0);
            }
        }
    }
    for block in 0..planes.blocks() {
        for row in inner_rows.clone() {
            let y = (top + row as isize) as usize;
            let pixel = block * planes.plane() + (y * width + (left + inner_columns.start as isize) as usize) * BLOCK;
            let place = block * BLOCK * plane + (row * columns + inner_columns.start) * IMAGES;
            for start in (0..inner_columns.len()).step_by(RUN) {
                let pixels = (inner_columns.len() - start).min(RUN);
                let places = |p: usize| pixel + (start + p) * BLOCK;
                let to = &mut to[place + start * IMAGES..];
                // SAFETY: the CPU has `L` (caller).
                unsafe {
                    staging.read(source, planes.image(), images, pixels, places);
                    staging.transpose_to::<L>(images, pixels, plane, to);
                }
            }
        }
    }
}

/// Most pixels that [`Staging`] holds.
const RUN: usize = 16;

/// Values from one image's pixels to the next's: no power of two.
const STAGED: usize = (RUN + 1) * BLOCK;

/// Blocks of a few pixels of sixteen images, image by image.
///
/// Images often lie a power of two apart, where as many lines of the cache as images would compete for one place:
/// reading (and writing) runs of pixels image by image keeps one image's at a time.
#[derive(Debug)]
pub(super) struct Staging(Box<Staged>);

/// On the boundary of a cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Staged([[f32; STAGED]; IMAGES]);

impl Staging {
    pub fn new() -> Self {
        Self(Box::new(Staged([[0.0; STAGED]; IMAGES])))
    }

    /// Reads one block of pixels, the first image's at `places`.
    #[inline(always)]
    pub fn read(
        &mut self,
        from: &[f32],
        image_len: usize,
        images: usize,
        pixels: usize,
        places: impl Fn(usize) -> usize,
    ) {
        for (image, staged) in self.0.0[..images].iter_mut().enumerate() {
            let from = &from[image * image_len..];
            for (p, staged) in staged.as_chunks_mut::<BLOCK>().0[..pixels].iter_mut().enumerate() {
                *staged = *from[places(p)..].first_chunk().expect("a whole block");
            }
        }
    }

    /// Writes what [`Staging::read`] reads.
    #[inline(always)]
    pub fn write(
        &self,
        to: &mut [f32],
        image_len: usize,
        images: usize,
        pixels: usize,
        places: impl Fn(usize) -> usize,
    ) {
        for (image, staged) in self.0.0[..images].iter().enumerate() {
            let to = &mut to[image * image_len..];
            for (p, staged) in staged.as_chunks::<BLOCK>().0[..pixels].iter().enumerate() {
                *to[places(p)..].first_chunk_mut().expect("a whole block") = *staged;
            }
        }
    }

    /// Writes vectors of images, pixel by pixel for each of the block's channels, which are `step` apart; zeros for the
    /// images past the last.
    ///
    /// # Safety
    /// The CPU must have `L`.
    #[inline(always)]
    pub unsafe fn transpose_to<L: Lanes>(&mut self, images: usize, pixels: usize, step: usize, to: &mut [f32]) {
        assert!(pixels <= RUN && to.len() >= (BLOCK - 1) * step + pixels * IMAGES);
        self.0.0[images..].iter_mut().for_each(|staged| staged[..pixels * BLOCK].fill(0.0));
        let (from, to) = (self.0.0.as_ptr().cast::<f32>(), to.as_mut_ptr());
        for p in 0..pixels {
            // SAFETY: within the slice and the staged pixels, as asserted.
            unsafe { L::transpose(from.add(p * BLOCK), STAGED, to.add(p * IMAGES), step) };
        }
    }

    /// Takes vectors of images as [`Staging::transpose_to`] writes them.
    ///
    /// # Safety
    /// The CPU must have `L`.
    #[inline(always)]
    pub unsafe fn transpose_from<L: Lanes>(&mut self, from: &[f32], step: usize, pixels: usize) {
        assert!(pixels <= RUN && from.len() >= (BLOCK - 1) * step + pixels * IMAGES);
        let (from, to) = (from.as_ptr(), self.0.0.as_mut_ptr().cast::<f32>());
        for p in 0..pixels {
            // SAFETY: within the slice and the staged pixels, as asserted.
            unsafe { L::transpose(from.add(p * IMAGES), step, to.add(p * BLOCK), STAGED) };
        }
    }
}
