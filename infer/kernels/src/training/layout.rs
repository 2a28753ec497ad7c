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
