//! Max, average and global average pooling.

use super::{Expected, Twin, edges};
use crate::{Pooling, ProgramBuilder, Window};

pub(super) fn pool_f32() {
    let window = |kernel, stride, pads| Window { kernel, stride, pads, dilation: [1, 1] };
    test(&[
        window([3, 2], [2, 2], [1, 1, 2, 0]),
        window([2, 2], [2, 2], [0; 4]),
        window([3, 3], [2, 2], [1; 4]),
        window([3, 3], [1, 1], [1; 4]),
        window([2, 5], [1, 3], [0, 2, 1, 1]),
    ]);
}

pub(super) fn dilated_pool_f32() {
    test(&[
        Window { kernel: [2, 3], stride: [1, 2], pads: [1, 1, 0, 2], dilation: [2, 1] },
        Window { kernel: [2, 2], stride: [2, 1], pads: [0; 4], dilation: [1, 3] },
    ]);
}

fn test(windows: &[Window]) {
    let halved = [[2, 16], [4, 16], [6, 8], [4, 32], [2, 96], [8, 4]];
    let sizes = edges().chain([70]).map(|width| [7, width]).chain(halved);
    for (size, window) in sizes.flat_map(|size| windows.iter().map(move |window| (size, *window))) {
        let values = size[0] * size[1];
        let Some([rows, cols]) = window.positions(size) else { continue };
        for pooling in [Pooling::Max, Pooling::Average] {
            let steps = |b: &mut ProgramBuilder| _ = b.pool(0, 1, pooling, window);
            let expected = |image: &[f32]| -> Vec<Expected> {
                let outputs = (0..3).flat_map(|c| (0..rows).flat_map(move |r| (0..cols).map(move |col| (c, r, col))));
                outputs.map(|(c, r, col)| pooled(pooling, &window, &image[c * values..], size, [r, col])).collect()
            };
            let buffers: [&[usize]; 2] = [&[3, size[0], size[1]], &[3, rows, cols]];
            let twin = Twin { buffers: &buffers, steps: &steps, expected: &expected, range: 1.0 };
            twin.check(&(size, window, pooling));
        }
    }
}

fn pooled(pooling: Pooling, window: &Window, channel: &[f32], size: [usize; 2], at: [usize; 2]) -> Expected {
    let axis = |axis: usize| {
        let place = move |k: usize| {
            (at[axis] * window.stride[axis] + k * window.dilation[axis]).wrapping_sub(window.pads[axis])
        };
        (0..window.kernel[axis]).map(place).filter(move |place| *place < size[axis])
    };
    let places = axis(0).flat_map(|y| axis(1).map(move |x| channel[y * size[1] + x]));
    match pooling {
        Pooling::Max => Expected::exact(places.fold(f32::NEG_INFINITY, f32::max)),
        Pooling::Average => mean(places),
    }
}

/// A sum, and the product with a rounded reciprocal.
fn mean(values: impl Iterator<Item = f32>) -> Expected {
    let (mut count, mut sum, mut magnitude) = (0.0, 0.0, 0.0);
    for value in values.map(f64::from) {
        (count, sum, magnitude) = (count + 1.0, sum + value, magnitude + value.abs());
    }
    Expected::rounded(sum / count, count + 1.0, magnitude / count)
}

pub(super) fn global_average_f32() {
    for (width, height) in edges().flat_map(|width| [1, 2, 5].map(|height| (width, height))) {
        let shape = [5, height, width];
        let steps = |b: &mut ProgramBuilder| _ = b.global_average(0, 1);
        let expected =
            |image: &[f32]| image.chunks(height * width).map(|channel| mean(channel.iter().copied())).collect();
        for means in [&[5, 1, 1][..], &[5]] {
            let twin = Twin { buffers: &[&shape, means], steps: &steps, expected: &expected, range: 1.0 };
            twin.check(&(shape, means));
        }
    }
}
