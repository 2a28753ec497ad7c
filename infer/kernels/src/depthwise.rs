//! Depthwise 3x3 convolution: every channel with nine weights of its own, all held in registers.

use crate::plane::Plane;
use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// Rows and columns of the window.
const SIDE: usize = 3;

/// `y[c][i][j] = clip(bias[c] + sum over h, w of weight[c][h][w] * x[c][s i + h][s j + w] + residual[c][i][j])`.
#[derive(Debug)]
pub(crate) struct DepthwiseConv {
    /// The place that the first weight of the first output reads, and the planes around it; the padding is in them.
    pub(crate) x_start: usize,
    pub(crate) x: Plane,
    /// The first output.
    pub(crate) y_start: usize,
    pub(crate) residual: Option<usize>,
    pub(crate) y: Plane,
    /// 1 or 2, down and right.
    pub(crate) stride: usize,
    pub(crate) weights: Vec<[f32; SIDE * SIDE]>,
    pub(crate) bias: Vec<f32>,
    pub(crate) clip: [f32; 2],
}

impl Kernel for Call<'_, DepthwiseConv> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        // With one image a vector is neighbouring columns; the last overlaps the one before it.
        let (count, width) = if s.y.lanes() == 1 { (s.y.width(), V::LANES) } else { (s.y.width(), 1) };
        for channel in self.site.part.of(s.bias.len()) {
            for strip in 0..count.div_ceil(width) {
                let col = (strip * width).min(count - width);
                // SAFETY: the column and `width - 1` more lie inside the rows of `y`.
                unsafe {
                    match (s.y.lanes(), s.stride) {
                        (_, 1) => self.strip::<V>(channel, col),
                        (1, _) => self.strip_by_two::<V, true>(channel, col),
                        _ => self.strip_by_two::<V, false>(channel, col),
                    }
                }
            }
        }
    }
}

impl Call<'_, DepthwiseConv> {
    /// One vector of every row, at stride 1. Each row of inputs is read once, for the three rows of outputs it is
    /// part of.
    ///
    /// # Safety
    /// A vector from column `col` on must lie inside the rows of `y`.
    #[inline(always)]
    unsafe fn strip<V: Vector>(&self, channel: usize, col: usize) {
        let s = self.step;
        let (lanes, pitch) = (s.x.lanes(), s.x.pitch() * s.x.lanes());
        // SAFETY: the program checked that all rows that the window reads lie inside the padded planes of `x`.
        unsafe {
            let mut x = self.site.arena.add(s.x_start + channel * s.x.stride() + col * lanes).cast_const();
            let [above, middle, below] = splat(&s.weights[channel]);
            let bias = V::splat(s.bias[channel]);
            let row = |x| -> [V; SIDE] { [V::load(x), V::load(x.add(lanes)), V::load(x.add(2 * lanes))] };
            let first = row(x);
            let second = row(x.add(pitch));
            let mut finishing = dot(dot(bias, first, above), second, middle);
            let mut started = dot(bias, second, above);
            x = x.add(2 * pitch);
            for i in 0..s.y.height() {
                let inputs = row(x);
                self.finish(dot(finishing, inputs, below), channel, i, col);
                finishing = dot(started, inputs, middle);
                started = dot(bias, inputs, above);
                x = x.add(pitch);
            }
        }
    }

    /// One vector of every row, at stride 2.
    ///
    /// # Safety
    /// As [`Call::strip`].
    #[inline(always)]
    unsafe fn strip_by_two<V: Vector, const ONE_IMAGE: bool>(&self, channel: usize, col: usize) {
        let s = self.step;
        let (lanes, pitch) = (s.x.lanes(), s.x.pitch() * s.x.lanes());
        // SAFETY: as in `strip`; of a single image every second value is taken, and the last vector read may reach
        // past the row but not out of the arena.
        unsafe {
            let weights = splat(&s.weights[channel]);
            let x = self.site.arena.add(s.x_start + channel * s.x.stride() + 2 * col * lanes).cast_const();
            for i in 0..s.y.height() {
                let mut sum = V::splat(s.bias[channel]);
                for (h, weights) in weights.into_iter().enumerate() {
                    let x = x.add((2 * i + h) * pitch);
                    let mut inputs = [V::splat(0.0); SIDE];
                    for (w, input) in inputs.iter_mut().enumerate() {
                        let x = x.add(w * lanes);
                        *input = if ONE_IMAGE { V::load(x).even(V::load(x.add(V::LANES))) } else { V::load(x) };
                    }
                    sum = dot(sum, inputs, weights);
                }
                self.finish(sum, channel, i, col);
            }
        }
    }

    /// Stores one vector of outputs.
    ///
    /// # Safety
    /// As [`Call::strip`]; `row` must be one of `y`.
    #[inline(always)]
    unsafe fn finish<V: Vector>(&self, mut sum: V, channel: usize, row: usize, col: usize) {
        let s = self.step;
        let place = channel * s.y.stride() + (row * s.y.pitch() + col) * s.y.lanes();
        // SAFETY: the program checked that `y` and the residual hold such planes; the rest is the caller's promise.
        unsafe {
            if let Some(residual) = s.residual {
                sum = sum.add(V::load(self.site.arena.add(residual + place)));
            }
            let [low, high] = s.clip;
            sum.clamp(V::splat(low), V::splat(high)).store(self.site.arena.add(s.y_start + place));
        }
    }
}

/// # Safety
/// The CPU must have the features of `V`.
#[inline(always)]
pub(crate) unsafe fn splat<V: Vector>(weights: &[f32; SIDE * SIDE]) -> [[V; SIDE]; SIDE] {
    // SAFETY: the caller's promise.
    let mut rows = [[unsafe { V::splat(0.0) }; SIDE]; SIDE];
    for (row, weights) in rows.iter_mut().zip(weights.chunks_exact(SIDE)) {
        for (splat, weight) in row.iter_mut().zip(weights) {
            // SAFETY: the caller's promise.
            *splat = unsafe { V::splat(*weight) };
        }
    }
    rows
}

/// `sum + inputs . weights`, lane by lane.
///
/// # Safety
/// The CPU must have the features of `V`.
#[inline(always)]
pub(crate) unsafe fn dot<V: Vector>(sum: V, [a, b, c]: [V; SIDE], [u, v, w]: [V; SIDE]) -> V {
    // SAFETY: the caller's promise.
    unsafe { c.mul_add(w, b.mul_add(v, a.mul_add(u, sum))) }
}
