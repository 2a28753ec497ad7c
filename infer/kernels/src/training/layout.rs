//! Between plain and blocked tensors, and between blocked tensors of different channels.

use super::BLOCK;

/// Channels rounded up to whole blocks.
pub fn blocked_channels(channels: usize) -> usize {
    channels.next_multiple_of(BLOCK)
}

/// `[channels][area]` of one image to `[block][area][16]`, lanes past the last channel zero.
pub fn block_images(channels: usize, area: usize, plain: &[f32], blocked: &mut [f32]) {
    assert_eq!((plain.len(), blocked.len()), (channels * area, blocked_channels(channels) * area));
    blocked.fill(0.0);
    for (channel, values) in plain.chunks_exact(area).enumerate() {
        let block = &mut blocked[channel / BLOCK * area * BLOCK..];
        for (pixel, value) in block.chunks_exact_mut(BLOCK).zip(values) {
            pixel[channel % BLOCK] = *value;
        }
    }
}

/// The first `features` of each blocked row of flat features.
pub fn unblock_rows(features: usize, blocked: &[f32]) -> Vec<f32> {
    let rows = blocked.chunks_exact(blocked_channels(features));
    rows.flat_map(|row| &row[..features]).copied().collect()
}

/// `[channels, area]` to flat features `channel * area + position`, for one image.
pub fn flatten(channels: usize, area: usize, image: &[f32], features: &mut [f32]) {
    features[channels * area..].fill(0.0);
    for (channel, values) in features[..channels * area].chunks_exact_mut(area).enumerate() {
        let block = &image[channel / BLOCK * area * BLOCK..];
        for (value, pixel) in values.iter_mut().zip(block.chunks_exact(BLOCK)) {
            *value = pixel[channel % BLOCK];
        }
    }
}

/// Adds the gradient of [`flatten`]'s output to that of its input.
pub fn flatten_gradient(channels: usize, area: usize, features: &[f32], image: &mut [f32]) {
    for (channel, values) in features[..channels * area].chunks_exact(area).enumerate() {
        let block = &mut image[channel / BLOCK * area * BLOCK..];
        for (value, pixel) in values.iter().zip(block.chunks_exact_mut(BLOCK)) {
            pixel[channel % BLOCK] += *value;
        }
    }
}

/// Copies one image's `part` of `channels` channels to `offset` channels into `whole`.
pub fn concat(channels: usize, area: usize, offset: usize, part: &[f32], whole: &mut [f32]) {
    if offset.is_multiple_of(BLOCK) {
        let start = offset * area;
        whole[start..start + part.len()].copy_from_slice(part);
        return;
    }
    for_each_pair(channels, area, offset, |from, to| whole[to] = part[from]);
}

/// Adds the gradient of [`concat()`]'s whole to that of a part.
pub fn concat_gradient(channels: usize, area: usize, offset: usize, whole: &[f32], part: &mut [f32]) {
    if offset.is_multiple_of(BLOCK) && channels.is_multiple_of(BLOCK) {
        let start = offset * area;
        let whole = &whole[start..start + part.len()];
        part.iter_mut().zip(whole).for_each(|(part, whole)| *part += whole);
        return;
    }
    for_each_pair(channels, area, offset, |to, from| part[to] += whole[from]);
}

/// Indices of each value in a part and in the whole.
fn for_each_pair(channels: usize, area: usize, offset: usize, mut f: impl FnMut(usize, usize)) {
    let index = |channel: usize, pixel: usize| (channel / BLOCK * area + pixel) * BLOCK + channel % BLOCK;
    for channel in 0..channels {
        for pixel in 0..area {
            f(index(channel, pixel), index(offset + channel, pixel));
        }
    }
}

/// Zeros around each plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Border {
    /// Height and width inside.
    pub size: [usize; 2],
    /// Rows above, columns to the left.
    pub before: [usize; 2],
    /// Rows below, columns to the right.
    pub after: [usize; 2],
}

impl Border {
    /// Height and width with the border.
    pub fn padded(&self) -> [usize; 2] {
        std::array::from_fn(|axis| self.before[axis] + self.size[axis] + self.after[axis])
    }
}

/// The planes with their border, in `scratch`; or the planes themselves where the border is empty.
pub(super) fn with_border<'a>(
    border: &Border,
    planes: usize,
    values: &'a [f32],
    scratch: &'a mut Vec<f32>,
) -> &'a [f32] {
    let padded = border.padded();
    if padded == border.size {
        return values;
    }
    let (row, padded_row) = (border.size[1] * BLOCK, padded[1] * BLOCK);
    let (before, area) = (border.before[1] * BLOCK, padded[0] * padded_row);
    assert_eq!(values.len(), planes * border.size[0] * row);
    if scratch.len() < planes * area {
        scratch.resize(planes * area, 0.0);
    }
    let scratch = &mut scratch[..planes * area];
    for (plane, padded) in values.chunks_exact(border.size[0] * row).zip(scratch.chunks_exact_mut(area)) {
        let (above, rest) = padded.split_at_mut(border.before[0] * padded_row);
        let (inside, below) = rest.split_at_mut(border.size[0] * padded_row);
        above.fill(0.0);
        below.fill(0.0);
        for (from, to) in plane.chunks_exact(row).zip(inside.chunks_exact_mut(padded_row)) {
            to[..before].fill(0.0);
            to[before..before + row].copy_from_slice(from);
            to[before + row..].fill(0.0);
        }
    }
    scratch
}
