//! Depthwise 3x3 convolution of one image whose rows follow each other without gaps: vectors span rows, and inputs that
//! would be those of a neighbouring row are masked out.

use std::sync::Arc;

use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// As [`crate::depthwise::DepthwiseConv`] at stride 1.
#[derive(Debug)]
pub(crate) struct DepthwiseRows {
    /// The place that the first weight of the first output reads, and the distance of the next channel's.
    pub(crate) x: usize,
    pub(crate) x_stride: usize,
    pub(crate) y: usize,
    pub(crate) residual: Option<usize>,
    pub(crate) y_stride: usize,
    /// Values from one row to the next.
    pub(crate) pitch: usize,
    /// Values of a channel, rounded up to whole vectors.
    pub(crate) flat: usize,
    /// Bits to keep of the inputs left and right of each output, and of the outputs.
    pub(crate) edges: [Arc<[f32]>; 2],
    pub(crate) mask: Option<Arc<[f32]>>,
    pub(crate) weights: Vec<[f32; 9]>,
    pub(crate) bias: Vec<f32>,
    pub(crate) clip: [f32; 2],
}

impl Kernel for Call<'_, DepthwiseRows> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        // SAFETY: the program checked that all a row of whole vectors reads and writes lies inside the buffers, and gave
        // this thread channels of its own.
        unsafe {
            let [low, high] = s.clip.map(|bound| V::splat(bound));
            for channel in self.site.part.of(s.bias.len()) {
                let x = self.site.arena.add(s.x + channel * s.x_stride).cast_const();
                let place = channel * s.y_stride;
                let (weights, bias) = (s.weights[channel].map(|weight| V::splat(weight)), V::splat(s.bias[channel]));
                for at in (0..s.flat).step_by(V::LANES) {
                    let [left, right] = [0, 1].map(|side: usize| V::load(s.edges[side].as_ptr().add(at)));
                    let mut columns = [bias, V::splat(0.0), V::splat(0.0)];
                    for row in 0..3 {
                        let x = x.add(at + row * s.pitch);
                        let inputs = [V::load(x).and(left), V::load(x.add(1)), V::load(x.add(2)).and(right)];
                        for (column, input) in inputs.into_iter().enumerate() {
                            columns[column] = input.mul_add(weights[3 * row + column], columns[column]);
                        }
                    }
                    let mut sum = columns[0].add(columns[1]).add(columns[2]);
                    if let Some(residual) = s.residual {
                        sum = sum.add(V::load(self.site.arena.add(residual + place + at)));
                    }
                    sum = sum.clamp(low, high);
                    if let Some(mask) = &s.mask {
                        sum = sum.and(V::load(mask.as_ptr().add(at)));
                    }
                    sum.store(self.site.arena.add(s.y + place + at));
                }
            }
        }
    }
}
