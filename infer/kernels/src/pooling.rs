//! Max, average and global average pooling.

use std::ops::Range;

use crate::plane::{ALIGN, Place};
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
    pub(crate) x: Place,
    pub(crate) y: Place,
    pub(crate) pooling: Pooling,
    pub(crate) window: Window,
}

impl Kernel for Call<'_, Pool> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        let [from, to] = [s.x.plane, s.y.plane].map(|plane| [plane.height(), plane.width()]);
        let has_gaps = [s.x.plane, s.y.plane].iter().any(|plane| (plane.lanes(), plane.gap()) != (1, 0));
        if !has_gaps && s.window.halves(from, to, V::LANES) {
            for channel in self.site.part.of(s.y.channels) {
                // SAFETY: as below.
                unsafe {
                    let x = self.site.arena.add(s.x.row(channel, 0)).cast_const();
                    s.halve::<V>(x, self.site.arena.add(s.y.row(channel, 0)));
                }
            }
            return;
        }
        for (channel, row) in s.y.rows(self.site.part) {
            let rows = inside(&s.window, 0, row, s.x.plane.height());
            // SAFETY: the program checked that every channel's plane lies inside the arena, `x` and `y` in different
            // buffers, and gave this thread channels of its own.
            unsafe {
                let x = self.site.arena.add(s.x.row(channel, rows.start)).cast_const();
                let y = self.site.arena.add(s.y.row(channel, row));
                match (s.x.plane.lanes(), s.window.stride[1]) {
                    (1, 1) => s.row::<V, 1>(x, rows.len(), y),
                    (1, 2) => s.row::<V, 2>(x, rows.len(), y),
                    (1, _) => s.values(x, rows.len(), y, 0..s.y.plane.width()),
                    _ => s.vectors::<V>(x, rows.len(), y),
                }
            }
        }
    }
}

impl Window {
    /// Whether it takes each two by two positions of maps of `from` to maps of `to`, whose outputs fill vectors of `lanes`
    /// values: of one image without gaps there is a faster way then.
    pub fn halves(&self, from: [usize; 2], [height, width]: [usize; 2], lanes: usize) -> bool {
        let Self { kernel, stride, pads, dilation } = *self;
        (kernel, stride, pads, dilation) == ([2, 2], [2, 2], [0; 4], [1, 1])
            && from == [2 * height, 2 * width]
            && (2 * width).is_multiple_of(lanes)
            && (height * width).is_multiple_of(lanes)
    }
}

impl Pool {
    /// All outputs of a channel, for which [`Window::halves`].
    ///
    /// # Safety
    /// `x` and `y` must be channels of their planes.
    #[inline(always)]
    unsafe fn halve<V: Vector>(&self, x: *const f32, y: *mut f32) {
        let (mut row, mut col) = (x, 0);
        // SAFETY: two rows of `x` lie behind each other for each row of outputs, and vectors lie within rows.
        unsafe {
            let scale = V::splat(self.pooling.scale(4));
            for at in (0..self.y.plane.values()).step_by(V::LANES) {
                let a = self.row_pair::<V>(&mut row, &mut col);
                let b = self.row_pair::<V>(&mut row, &mut col);
                self.pooling.take(a.even(b), a.odd(b)).mul_add(scale, V::splat(-0.0)).store(y.add(at));
            }
        }
    }

    /// The next vector of a pair of rows, each value taken together with the one below it.
    ///
    /// # Safety
    /// It must be readable.
    #[inline(always)]
    unsafe fn row_pair<V: Vector>(&self, row: &mut *const f32, col: &mut usize) -> V {
        let width = self.x.plane.width();
        // SAFETY: the caller's promise.
        unsafe {
            let from = row.add(*col);
            *col += V::LANES;
            if *col == width {
                (*row, *col) = (row.wrapping_add(2 * width), 0);
            }
            self.pooling.take(V::load(from), V::load(from.add(width)))
        }
    }

    /// One row of outputs of one image, columns `STEP` apart; `rows` rows of the window lie inside the image, from `x` on.
    ///
    /// # Safety
    /// Rows of `x` and `y` must be those of their planes, in an arena that may be read past its last plane.
    #[inline(always)]
    unsafe fn row<V: Vector, const STEP: usize>(&self, x: *const f32, rows: usize, y: *mut f32) {
        let ([_, kernel], [_, left, ..]) = (self.window.kernel, self.window.pads);
        let whole = (self.x.plane.width() + left).checked_sub(kernel).map_or(0, |last| last / STEP + 1);
        let whole = left.div_ceil(STEP)..whole.min(self.y.plane.width()).max(left.div_ceil(STEP));
        // SAFETY: the windows of `whole` lie inside the image; what is read right of them stays in the arena, and only
        // the values of `whole` are written.
        unsafe {
            self.values(x, rows, y, 0..whole.start.min(self.y.plane.width()));
            for col in whole.clone().step_by(V::LANES) {
                let mut result = V::splat(self.pooling.start());
                for r in 0..rows {
                    for c in 0..kernel {
                        let from = x.add(r * self.x.plane.pitch() + col * STEP + c - left);
                        let value = V::load(from);
                        let value = if STEP == 1 { value } else { value.even(V::load(from.add(V::LANES))) };
                        result = self.pooling.take(result, value);
                    }
                }
                result = result.mul_add(V::splat(self.pooling.scale(rows * kernel)), V::splat(-0.0));
                let values = whole.end - col;
                if values >= V::LANES {
                    result.store(y.add(col));
                } else {
                    let mut part = [0.0f32; ALIGN];
                    result.store(part.as_mut_ptr());
                    std::ptr::copy_nonoverlapping(part.as_ptr(), y.add(col), values);
                }
            }
            self.values(x, rows, y, whole.end.min(self.y.plane.width())..self.y.plane.width());
        }
    }

    /// One row of outputs of a vector of images.
    ///
    /// # Safety
    /// As [`Pool::row`].
    #[inline(always)]
    unsafe fn vectors<V: Vector>(&self, x: *const f32, rows: usize, y: *mut f32) {
        for col in 0..self.y.plane.width() {
            let cols = inside(&self.window, 1, col, self.x.plane.width());
            // SAFETY: the places lie inside the image.
            unsafe {
                let mut result = V::splat(self.pooling.start());
                for r in 0..rows {
                    for c in cols.clone() {
                        result = self.pooling.take(result, V::load(x.add((r * self.x.plane.pitch() + c) * V::LANES)));
                    }
                }
                let scale = V::splat(self.pooling.scale(rows * cols.len()));
                result.mul_add(scale, V::splat(-0.0)).store(y.add(col * V::LANES));
            }
        }
    }

    /// Some outputs of a row of one image, one by one.
    ///
    /// # Safety
    /// As [`Pool::row`].
    #[inline(always)]
    unsafe fn values(&self, x: *const f32, rows: usize, y: *mut f32, cols: Range<usize>) {
        for col in cols {
            let places = inside(&self.window, 1, col, self.x.plane.width());
            let mut result = self.pooling.start();
            for r in 0..rows {
                for c in places.clone() {
                    // SAFETY: the place lies inside the image.
                    let value = unsafe { *x.add(r * self.x.plane.pitch() + c) };
                    result = match self.pooling {
                        Pooling::Max => maximum(result, value),
                        Pooling::Average => result + value,
                    };
                }
            }
            // SAFETY: as above.
            unsafe { *y.add(col) = result * self.pooling.scale(rows * places.len()) };
        }
    }
}

impl Pooling {
    /// What a window's result starts from.
    #[inline(always)]
    fn start(self) -> f32 {
        match self {
            Self::Max => f32::NEG_INFINITY,
            Self::Average => 0.0,
        }
    }

    /// What the result of a window with `places` values inside the image is multiplied with.
    #[inline(always)]
    fn scale(self, places: usize) -> f32 {
        match self {
            Self::Max => 1.0,
            Self::Average => 1.0 / places as f32,
        }
    }

    /// # Safety
    /// The CPU must have the features of `V`.
    #[inline(always)]
    unsafe fn take<V: Vector>(self, result: V, value: V) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::Max => result.max(value),
                Self::Average => result.add(value),
            }
        }
    }
}

/// Places of the window at output position `at` that lie inside `size`, along one axis, of one without dilation.
#[inline(always)]
fn inside(window: &Window, axis: usize, at: usize, size: usize) -> Range<usize> {
    let start = at * window.stride[axis];
    let end = (start + window.kernel[axis]).saturating_sub(window.pads[axis]).min(size);
    start.saturating_sub(window.pads[axis]).min(end)..end
}

#[inline(always)]
pub(crate) fn maximum(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

/// `y[c] = mean of x[c]`, one feature a channel.
#[derive(Debug)]
pub(crate) struct GlobalAverage {
    pub(crate) x: Place,
    pub(crate) y: Place,
}

/// Vectors whose sum is a term of the sum of a channel, so that one of millions of values has few roundings.
const STRETCH: usize = 1024;

impl Kernel for Call<'_, GlobalAverage> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let (s, plane) = (self.step, &self.step.x.plane);
        let lanes = plane.lanes();
        let scale = 1.0 / (plane.height() * plane.width()) as f32;
        let whole = plane.values() / V::LANES * V::LANES;
        for channel in self.site.part.of(s.x.channels) {
            // SAFETY: as in `Pool`; the gaps between rows are zero, and with more than one lane there are as many as
            // `V` has.
            unsafe {
                let x = self.site.arena.add(s.x.row(channel, 0)).cast_const();
                let y = self.site.arena.add(s.y.row(channel, 0));
                let mut sum = V::splat(0.0);
                for start in (0..whole).step_by(STRETCH * V::LANES) {
                    let mut sums = [V::splat(0.0); 2];
                    let end = whole.min(start + STRETCH * V::LANES);
                    for (i, at) in (start..end).step_by(V::LANES).enumerate() {
                        sums[i % 2] = sums[i % 2].add(V::load(x.add(at)));
                    }
                    sum = sum.add(sums[0].add(sums[1]));
                }
                if lanes > 1 {
                    sum.mul_add(V::splat(scale), V::splat(-0.0)).store(y);
                } else {
                    let mut parts = [0.0f32; ALIGN];
                    sum.store(parts.as_mut_ptr());
                    let rest = (whole..plane.values()).map(|i| *x.add(i)).sum::<f32>();
                    *y = (parts.iter().sum::<f32>() + rest) * scale;
                }
            }
        }
    }
}
