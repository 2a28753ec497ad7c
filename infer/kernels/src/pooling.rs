//! Max, average and global average pooling.

use crate::plane::Plane;
use crate::simd::{Kernel, Vector};
use crate::step::Call;
use crate::window::Window;

/// Which value of a window a pooling keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The maximum of the places inside the image; NaN if one is NaN.
    Max,
    /// The mean of the places inside the image.
    Average,
}

/// One value a window and channel.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) x: Plane,
    pub(crate) x_start: usize,
    pub(crate) y: Plane,
    pub(crate) y_start: usize,
    pub(crate) channels: usize,
    pub(crate) pooling: Pooling,
    pub(crate) window: Window,
}

impl Kernel for Call<'_, Pool> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        let lanes = s.x.lanes();
        for channel in self.site.part.of(s.channels) {
            // SAFETY: the program checked that every channel's plane lies inside the arena, `x` and `y` in different
            // buffers, and gave this thread channels of its own.
            let (x, y) = unsafe {
                let x = self.site.arena.add(s.x_start + channel * s.x.stride() + s.x.head());
                let y = self.site.arena.add(s.y_start + channel * s.y.stride() + s.y.head());
                (
                    std::slice::from_raw_parts(x.cast_const(), s.x.values()),
                    std::slice::from_raw_parts_mut(y, s.y.values()),
                )
            };
            for row in 0..s.y.height() {
                let out = &mut y[row * s.y.pitch() * lanes..];
                let rows = inside(&s.window, 0, row, s.x.height());
                for col in 0..s.y.width() {
                    let cols = inside(&s.window, 1, col, s.x.width());
                    let out = &mut out[col * lanes..(col + 1) * lanes];
                    out.fill(if s.pooling == Pooling::Max { f32::NEG_INFINITY } else { 0.0 });
                    for r in rows.clone() {
                        for c in cols.clone() {
                            let from = &x[(r * s.x.pitch() + c) * lanes..(r * s.x.pitch() + c + 1) * lanes];
                            match s.pooling {
                                Pooling::Max => out.iter_mut().zip(from).for_each(|(o, x)| *o = maximum(*o, *x)),
                                Pooling::Average => out.iter_mut().zip(from).for_each(|(o, x)| *o += x),
                            }
                        }
                    }
                    if s.pooling == Pooling::Average {
                        let scale = 1.0 / (rows.len() * cols.len()).max(1) as f32;
                        out.iter_mut().for_each(|o| *o *= scale);
                    }
                }
                let row = s.y.width() * lanes..s.y.pitch() * lanes;
                if row.end <= out.len() {
                    out[row].fill(0.0);
                }
            }
        }
    }
}

/// Places of the window at output position `at` that lie inside `size`, along one axis. Pooling has no dilation.
#[inline(always)]
fn inside(window: &Window, axis: usize, at: usize, size: usize) -> std::ops::Range<usize> {
    let start = at * window.stride[axis];
    let end = (start + window.kernel[axis]).saturating_sub(window.pads[axis]).min(size);
    start.saturating_sub(window.pads[axis]).min(end)..end
}

#[inline(always)]
fn maximum(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

/// `y[c] = mean of x[c]`, one feature a channel.
#[derive(Debug)]
pub(crate) struct GlobalAverage {
    pub(crate) x: Plane,
    pub(crate) x_start: usize,
    /// Values from one output to the next, and the first output.
    pub(crate) y_stride: usize,
    pub(crate) y_start: usize,
    pub(crate) channels: usize,
}

impl Kernel for Call<'_, GlobalAverage> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        let lanes = s.x.lanes();
        let scale = 1.0 / (s.x.height() * s.x.width()) as f32;
        for channel in self.site.part.of(s.channels) {
            // SAFETY: as in `Pool`.
            let (x, y) = unsafe {
                let x = self.site.arena.add(s.x_start + channel * s.x.stride() + s.x.head());
                let y = self.site.arena.add(s.y_start + channel * s.y_stride);
                (std::slice::from_raw_parts(x.cast_const(), s.x.values()), std::slice::from_raw_parts_mut(y, lanes))
            };
            y.fill(0.0);
            for row in 0..s.x.height() {
                let start = row * s.x.pitch() * lanes;
                let row = &x[start..start + s.x.width() * lanes];
                if lanes == 1 {
                    y[0] += sum(row);
                } else {
                    for x in row.chunks_exact(lanes) {
                        y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
                    }
                }
            }
            y.iter_mut().for_each(|y| *y *= scale);
        }
    }
}

/// Sum in eight interleaved parts.
#[inline(always)]
fn sum(values: &[f32]) -> f32 {
    let mut sums = [0.0; 8];
    let chunks = values.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x);
    }
    rest + sums.iter().sum::<f32>()
}
