//! Pooling of blocked images, one image at a time.

use std::ops::Range;

use super::BLOCK;
use super::tiered::tiered;

/// Windows of a pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolShape {
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Height and width of the output.
    pub output: [usize; 2],
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Stride down and right.
    pub stride: [usize; 2],
    /// Rows above and columns to the left that lie outside the image.
    pub before: [usize; 2],
}

type Lane = [f32; BLOCK];

impl PoolShape {
    /// The part of a window inside the image, along one axis.
    fn window(&self, axis: usize, position: usize) -> Range<usize> {
        let start = position * self.stride[axis];
        let end = (start + self.kernel[axis]).saturating_sub(self.before[axis]).min(self.input[axis]);
        start.saturating_sub(self.before[axis])..end
    }

    /// All windows of a plane in the output's order, each the places of the input it covers.
    fn windows(&self) -> impl Iterator<Item = impl Iterator<Item = usize> + Clone> {
        let width = self.input[1];
        let positions = (0..self.output[0]).flat_map(|y| (0..self.output[1]).map(move |x| (y, x)));
        positions.map(move |(y, x)| {
            let columns = self.window(1, x);
            self.window(0, y).flat_map(move |row| columns.clone().map(move |column| row * width + column))
        })
    }

    fn areas(&self) -> [usize; 2] {
        [self.input, self.output].map(|size| size[0] * size[1])
    }
}

tiered! {
    /// Maximum over each window; NaN if the window holds one.
    pub fn max_pool(shape: &PoolShape, input: &[f32], output: &mut [f32]) {
        let [area, output_area] = shape.areas();
        let (input, output) = (input.as_chunks::<BLOCK>().0, output.as_chunks_mut::<BLOCK>().0);
        for (input, output) in input.chunks_exact(area).zip(output.chunks_exact_mut(output_area)) {
            for (window, y) in shape.windows().zip(output) {
                *y = maximum(input, window).0;
            }
        }
    }
}

/// The maximum of a window, lane by lane, and its first place.
#[inline(always)]
fn maximum(input: &[Lane], window: impl Iterator<Item = usize>) -> (Lane, [u32; BLOCK]) {
    let (mut best, mut places) = ([f32::NEG_INFINITY; BLOCK], [u32::MAX; BLOCK]);
    for place in window {
        let x = &input[place];
        for i in 0..BLOCK {
            let better = x[i] > best[i] || x[i].is_nan() || places[i] == u32::MAX;
            best[i] = if better { x[i] } else { best[i] };
            places[i] = if better { place as u32 } else { places[i] };
        }
    }
    (best, places)
}

tiered! {
    /// Adds the gradient of [`max_pool`]'s output to the first maximum of each window, as PyTorch does.
    pub fn max_pool_gradient(shape: &PoolShape, input: &[f32], gradient: &[f32], input_gradient: &mut [f32]) {
        let [area, output_area] = shape.areas();
        let (input, gradient) = (input.as_chunks::<BLOCK>().0, gradient.as_chunks::<BLOCK>().0);
        let planes = input_gradient.as_chunks_mut::<BLOCK>().0.chunks_exact_mut(area);
        for ((input, gradient), dx) in input.chunks_exact(area).zip(gradient.chunks_exact(output_area)).zip(planes) {
            for (window, g) in shape.windows().zip(gradient) {
                let (_, places) = maximum(input, window);
                for i in 0..BLOCK {
                    dx[places[i] as usize][i] += g[i];
                }
            }
        }
    }
}

tiered! {
    /// Mean over the part of each window that lies inside the image.
    pub fn average_pool(shape: &PoolShape, input: &[f32], output: &mut [f32]) {
        let [area, output_area] = shape.areas();
        let (input, output) = (input.as_chunks::<BLOCK>().0, output.as_chunks_mut::<BLOCK>().0);
        for (input, output) in input.chunks_exact(area).zip(output.chunks_exact_mut(output_area)) {
            for (window, y) in shape.windows().zip(output) {
                let (mut sum, mut count) = ([0.0; BLOCK], 0);
                for place in window {
                    let x = &input[place];
                    (0..BLOCK).for_each(|i| sum[i] += x[i]);
                    count += 1;
                }
                *y = sum.map(|sum| sum / count as f32);
            }
        }
    }
}

tiered! {
    /// Adds the gradient of [`average_pool`]'s output to that of its input.
    pub fn average_pool_gradient(shape: &PoolShape, gradient: &[f32], input_gradient: &mut [f32]) {
        let [area, output_area] = shape.areas();
        let gradient = gradient.as_chunks::<BLOCK>().0;
        let planes = input_gradient.as_chunks_mut::<BLOCK>().0.chunks_exact_mut(area);
        for (gradient, dx) in gradient.chunks_exact(output_area).zip(planes) {
            for (window, g) in shape.windows().zip(gradient) {
                let count = window.clone().count() as f32;
                for place in window {
                    (0..BLOCK).for_each(|i| dx[place][i] += g[i] / count);
                }
            }
        }
    }
}
