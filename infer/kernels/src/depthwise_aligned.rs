//! Depthwise 3x3 convolution of one image whose rows, with nothing between, are whole vectors or equal parts of one:
//! every load is aligned, and neighbours are moved within registers. The zeros around the image need not be there.

use crate::depthwise::{dot, splat};
use crate::plane::ALIGN;
use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// As [`crate::depthwise::DepthwiseConv`].
#[derive(Debug)]
pub(crate) struct DepthwiseAligned {
    /// The first value of the first channel, and the values from one channel to the next.
    pub(crate) x: usize,
    pub(crate) x_stride: usize,
    pub(crate) y: usize,
    pub(crate) residual: Option<usize>,
    pub(crate) y_stride: usize,
    /// Rows and columns of `y`.
    pub(crate) size: [usize; 2],
    /// 1 or 2, down and right: `x` has so many times the rows and columns of `y`.
    pub(crate) stride: usize,
    pub(crate) moves: Box<Moves>,
    pub(crate) weights: Vec<[f32; 9]>,
    pub(crate) bias: Vec<f32>,
    pub(crate) clip: [f32; 2],
}

/// Lanes to pick, of one vector and then of another, where rows are parts of a vector.
#[derive(Debug)]
pub(crate) struct Moves {
    /// Of a vector and zeros: the value left and right of each, in its row.
    left: [i32; ALIGN],
    right: [i32; ALIGN],
    /// The row above each: of a vector and the one before; the row below each: of a vector and the next.
    above: [i32; ALIGN],
    below: [i32; ALIGN],
    /// Every second row, from the first and from the second on: of two vectors in turn.
    even: [i32; ALIGN],
    odd: [i32; ALIGN],
}

impl Moves {
    /// For rows of `width` values in vectors of `lanes`; no use where a row is more.
    pub(crate) fn new(width: usize, lanes: usize) -> Self {
        let width = width.min(lanes);
        let table = |from: &dyn Fn(usize) -> usize| {
            let mut table = [0; ALIGN];
            (0..lanes).for_each(|lane| table[lane] = from(lane) as i32);
            table
        };
        Self {
            left: table(&|lane| if lane % width == 0 { lanes } else { lane - 1 }),
            right: table(&|lane| if (lane + 1).is_multiple_of(width) { lanes } else { lane + 1 }),
            above: table(&|lane| if lane < width { 2 * lanes + lane - width } else { lane - width }),
            below: table(&|lane| lane + width),
            even: table(&|lane| lane + lane / width * width),
            odd: table(&|lane| lane + lane / width * width + width),
        }
    }
}

/// [`Moves`] in registers.
#[derive(Clone, Copy)]
struct Lanes<V> {
    zero: V,
    left: V,
    right: V,
    above: V,
    below: V,
    even: V,
    odd: V,
}

/// The inputs left of, at, and right of the middle of the window.
type Row<V> = [V; 3];

impl Kernel for Call<'_, DepthwiseAligned> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        // SAFETY: the program checked that rows are whole vectors or equal parts of one.
        unsafe {
            match (s.size[1] < V::LANES, s.stride) {
                (true, 1) => self.channels::<V, true, 1>(),
                (true, _) => self.channels::<V, true, 2>(),
                (false, 1) => self.channels::<V, false, 1>(),
                (false, _) => self.channels::<V, false, 2>(),
            }
        }
    }
}

impl Call<'_, DepthwiseAligned> {
    /// This thread's channels, in columns of vectors; with `PARTS` each vector is several rows.
    ///
    /// # Safety
    /// Rows must be equal parts of a vector or whole vectors, as `PARTS` says.
    #[inline(always)]
    unsafe fn channels<V: Vector, const PARTS: bool, const STRIDE: usize>(&self) {
        let s = self.step;
        let [height, width] = s.size;
        let (columns, vectors, pitch) = match PARTS {
            true => (1, height * width / V::LANES, V::LANES),
            false => (width / V::LANES, height, width),
        };
        // SAFETY: all that is read and written are rows of planes, and this thread has channels of its own.
        unsafe {
            let lanes = Lanes::<V>::new(&s.moves);
            let limits = s.clip.map(|bound| V::splat(bound));
            for channel in self.site.part.of(s.bias.len()) {
                let x = self.site.arena.add(s.x + channel * s.x_stride).cast_const();
                let ([top, middle, bottom], bias) = (splat(&s.weights[channel]), V::splat(s.bias[channel]));
                for column in 0..columns {
                    let ends = [column == 0, column + 1 == columns];
                    let x = x.add(STRIDE * column * V::LANES);
                    let place = channel * s.y_stride + column * V::LANES;
                    // The bias and the products of the top row, for the outputs a row below their inputs.
                    let mut started = bias;
                    // At stride 1 the sum that lacks the products of the bottom row, and those for the outputs a row above.
                    let mut waiting = [lanes.zero; 2];
                    for i in 0..vectors {
                        let [inputs, last] = match STRIDE {
                            1 => [lanes.row::<PARTS>(x.add(i * pitch), ends); 2],
                            _ => lanes.rows_by_two::<PARTS>(x.add(4 * i * pitch), 2 * pitch, ends[0]),
                        };
                        let starting = dot(bias, last, top);
                        let moved = if PARTS { starting.pick(started, lanes.above) } else { started };
                        let sum = dot(moved, inputs, middle);
                        started = starting;
                        if STRIDE == 2 {
                            self.finish(dot(sum, last, bottom), place + i * pitch, limits);
                            continue;
                        }
                        let ending = dot(lanes.zero, last, bottom);
                        if i > 0 {
                            let moved = if PARTS { waiting[1].pick(ending, lanes.below) } else { ending };
                            self.finish(waiting[0].add(moved), place + (i - 1) * pitch, limits);
                        }
                        waiting = [sum, ending];
                    }
                    if STRIDE == 1 {
                        let moved = if PARTS { waiting[1].pick(lanes.zero, lanes.below) } else { lanes.zero };
                        self.finish(waiting[0].add(moved), place + (vectors - 1) * pitch, limits);
                    }
                }
            }
        }
    }

    /// Stores one vector of outputs.
    ///
    /// # Safety
    /// It must lie in the rows of `y`.
    #[inline(always)]
    unsafe fn finish<V: Vector>(&self, mut sum: V, place: usize, [low, high]: [V; 2]) {
        let s = self.step;
        // SAFETY: the program checked that `y` and the residual hold such planes; the rest is the caller's promise.
        unsafe {
            if let Some(residual) = s.residual {
                sum = sum.add(V::load(self.site.arena.add(residual + place)));
            }
            sum.clamp(low, high).store(self.site.arena.add(s.y + place));
        }
    }
}

impl<V: Vector> Lanes<V> {
    /// # Safety
    /// The CPU must have the features of `V`.
    #[inline(always)]
    unsafe fn new(Moves { left, right, above, below, even, odd }: &Moves) -> Self {
        // SAFETY: every table holds the lanes of the widest vector; the rest is the caller's promise.
        unsafe {
            let [left, right, above] = [left, right, above].map(|table| V::load(table.as_ptr().cast()));
            let [below, even, odd] = [below, even, odd].map(|table| V::load(table.as_ptr().cast()));
            Self { zero: V::splat(0.0), left, right, above, below, even, odd }
        }
    }

    /// The inputs at stride 1 for the outputs at `x`, a vector that is the first or the last of its row as `ends` says.
    ///
    /// # Safety
    /// `x` must be a vector of a plane whose rows are vectors, or parts of one.
    #[inline(always)]
    unsafe fn row<const PARTS: bool>(&self, x: *const f32, ends: [bool; 2]) -> Row<V> {
        // SAFETY: the caller's promise.
        unsafe {
            let value = V::load(x);
            if PARTS {
                return [value.pick(self.zero, self.left), value, value.pick(self.zero, self.right)];
            }
            let before = if ends[0] { self.zero } else { V::load(x.sub(V::LANES)) };
            let behind = if ends[1] { self.zero } else { V::load(x.add(V::LANES)) };
            [value.shift_up(before), value, value.shift_down(behind)]
        }
    }

    /// The inputs at stride 2 of the middle and of the bottom row of the window: of four vectors at `x`, two and two
    /// `second` values apart, the first of their row as `is_first` says.
    ///
    /// # Safety
    /// As [`Lanes::row`].
    #[inline(always)]
    unsafe fn rows_by_two<const PARTS: bool>(&self, x: *const f32, second: usize, is_first: bool) -> [Row<V>; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b) = (V::load(x), V::load(x.add(V::LANES)));
            let (c, d) = (V::load(x.add(second)), V::load(x.add(second + V::LANES)));
            let (at, right, at_second, right_second) = (a.even(b), a.odd(b), c.even(d), c.odd(d));
            if PARTS {
                let (at, at_second) = (at.pick(at_second, self.even), at.pick(at_second, self.odd));
                let (right, right_second) = (right.pick(right_second, self.even), right.pick(right_second, self.odd));
                let (left, left_second) = (right.pick(self.zero, self.left), right_second.pick(self.zero, self.left));
                return [[left, at, right], [left_second, at_second, right_second]];
            }
            let (before, before_second) = match is_first {
                true => (self.zero, self.zero),
                false => (V::load(x.sub(V::LANES)), V::load(x.add(second).sub(V::LANES))),
            };
            [[right.shift_up(before), at, right], [right_second.shift_up(before_second), at_second, right_second]]
        }
    }
}
