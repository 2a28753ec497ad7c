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

/// Writes a rectangle of every channel, zeros outside the image, into planes `plane` values apart. Vectors of fewer than
/// sixteen images are filled with zeros.
///
/// # Safety
/// The CPU must have `L`; `source` holds `images` of `planes`, `to` a plane of the rectangle for each channel.
#[inline(always)]
pub(super) unsafe fn gather_rectangle<L: Lanes>(
    planes: Planes,
    images: usize,
    source: &[f32],
    rectangle: Rectangle,
    plane: usize,
    to: &mut [f32],
) {
    let Rectangle { top, left, size: [rows, columns] } = rectangle;
    let [height, width] = planes.size;
    let inside = |start: isize, len: usize, limit: usize| {
        let first = (-start).clamp(0, len as isize) as usize;
        first..(limit as isize - start).clamp(first as isize, len as isize) as usize
    };
    let (inner_rows, inner_columns) = (inside(top, rows, height), inside(left, columns, width));
    for plane in to.chunks_exact_mut(plane).take(planes.channels) {
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
            let mut from =
                block * planes.plane() + (y * width + (left + inner_columns.start as isize) as usize) * BLOCK;
            let mut place = block * BLOCK * plane + (row * columns + inner_columns.start) * IMAGES;
            for _ in inner_columns.clone() {
                // SAFETY: the pixel lies in the image, the place in the plane of each channel of the block.
                unsafe {
                    let channels = planes.channels_of(block);
                    transpose_in::<L>(planes.image(), images, &source[from..], channels, plane, &mut to[place..]);
                }
                from += BLOCK;
                place += IMAGES;
            }
        }
    }
}

/// One pixel of one block, `from` on in the first image: to `channels` vectors of images, `step` apart.
///
/// # Safety
/// The CPU must have `L`.
#[inline(always)]
pub(super) unsafe fn transpose_in<L: Lanes>(
    image_len: usize,
    images: usize,
    from: &[f32],
    channels: usize,
    step: usize,
    to: &mut [f32],
) {
    assert!(from.len() >= (images - 1) * image_len + BLOCK && to.len() >= (channels - 1) * step + IMAGES);
    let zeros = [0.0f32; BLOCK];
    let mut nowhere = [0.0f32; IMAGES];
    let (from, to) = (from.as_ptr(), to.as_mut_ptr());
    // SAFETY: within the slices, as asserted.
    unsafe {
        let from = std::array::from_fn(|i| if i < images { from.add(i * image_len) } else { zeros.as_ptr() });
        let to = std::array::from_fn(|c| if c < channels { to.add(c * step) } else { nowhere.as_mut_ptr() });
        L::transpose(&from, &to);
    }
}

/// Sixteen vectors of images, `step` apart, to one pixel of one block, `to` on in the first image.
///
/// # Safety
/// The CPU must have `L`.
#[inline(always)]
pub(super) unsafe fn transpose_out<L: Lanes>(
    from: &[f32],
    step: usize,
    image_len: usize,
    images: usize,
    to: &mut [f32],
) {
    assert!(to.len() >= (images - 1) * image_len + BLOCK && from.len() >= (BLOCK - 1) * step + IMAGES);
    let mut nowhere = [0.0f32; BLOCK];
    let (from, to) = (from.as_ptr(), to.as_mut_ptr());
    // SAFETY: within the slices, as asserted.
    unsafe {
        let from = std::array::from_fn(|c| from.add(c * step));
        let to = std::array::from_fn(|i| if i < images { to.add(i * image_len) } else { nowhere.as_mut_ptr() });
        L::transpose(&from, &to);
    }
}
