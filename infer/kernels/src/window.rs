//! How a window slides over an image, and where a convolution finds its taps.

use crate::Isa;
use crate::arrange::{Arrange, runs};
use crate::map_conv;
use crate::plane::{ALIGN, Plane, odd_lines};

/// A sliding window with ONNX semantics (floor mode).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Height and width.
    pub kernel: [usize; 2],
    /// Stride down and right.
    pub stride: [usize; 2],
    /// Zero padding: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Dilation down and right.
    pub dilation: [usize; 2],
}

impl Window {
    /// The 1x1 window of a linear layer.
    pub const POINT: Self = Self { kernel: [1, 1], stride: [1, 1], pads: [0; 4], dilation: [1, 1] };

    /// Number of window positions down and right on an image of `size`, or `None` where none fits.
    pub fn positions(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let axis = |i: usize| {
            let extent = self.dilation[i].checked_mul(self.kernel[i].checked_sub(1)?)?.checked_add(1)?;
            let padded = size[i].checked_add(self.pads[i])?.checked_add(self.pads[i + 2])?;
            Some(padded.checked_sub(extent)?.checked_div(self.stride[i])? + 1)
        };
        Some([axis(0)?, axis(1)?])
    }

    /// Whether every tap of every output position of `y` lies at one constant distance in `x`, zeros included.
    pub fn is_direct(&self, x: &Plane, y: &Plane) -> bool {
        self.stride == [1, 1]
            && (x.height(), x.width(), x.pitch()) == (y.height(), y.width(), y.pitch())
            && x.holds(self.pads)
    }

    /// Whether every tap of every output position of `y`, one image whose rows have no gap, lies at one constant distance
    /// in `x`, but for those left and right of a row, where the neighbouring rows lie instead.
    pub(crate) fn is_masked(&self, x: &Plane, y: &Plane) -> bool {
        let [top, left, bottom, right] = self.pads;
        x.lanes() == 1
            && x.gap() == 0
            && self.stride == [1, 1]
            && x == y
            && top.max(bottom) <= x.pad()
            && left.max(right) <= 1
            && left + right > 0
            && x.pad() > 0
    }

    /// Whether [`crate::row_conv`] can run it from `x` to `y`.
    pub(crate) fn is_by_rows(&self, x: &Plane, y: &Plane, isa: Isa) -> bool {
        let [top, _, bottom, _] = self.pads;
        y.holds_rows(isa)
            && (2..=3).contains(&self.kernel[1])
            && self.reaches_neighbours(1, x.width(), y.width())
            && (self.stride != [1, 1] || x == y && top.max(bottom) <= x.pad())
    }

    /// Whether there is a sparse kernel from `x` to `y`, planes of a vector of images, that leaves out the padding.
    pub fn is_by_maps(&self, x: &Plane, y: &Plane, isa: Isa) -> bool {
        y.lanes() > 1
            && y.pad() == 0
            && self.kernel != [1, 1]
            && (self.stride != [1, 1] || x == y)
            && map_conv::rows_of_tile(isa, [y.height(), y.width()]).is_some()
            && self.reaches_neighbours(0, x.height(), y.height())
            && self.reaches_neighbours(1, x.width(), y.width())
    }

    /// Whether every tap along an axis reads what belongs to its own output position or a neighbour's, or padding.
    fn reaches_neighbours(&self, axis: usize, from: usize, to: usize) -> bool {
        (0..self.kernel[axis]).all(|k| {
            let (phase, reach) = self.place(axis, k);
            // Behind the last output position there must be only padding.
            reach.abs() <= 1 && (reach < 1 || to * self.stride[axis] + phase >= from)
        })
    }

    /// Which of every `stride` input positions the tap `k` of an axis of the kernel reads, and of which output position:
    /// how far it is from its own.
    pub(crate) fn place(&self, axis: usize, k: usize) -> (usize, isize) {
        let (offset, stride) =
            ((k * self.dilation[axis]) as isize - self.pads[axis] as isize, self.stride[axis] as isize);
        (offset.rem_euclid(stride) as usize, offset.div_euclid(stride))
    }
}

/// Where the taps of a convolution lie: tap `k` (row-major in the kernel) of input channel `c` of flat output value
/// `i` is `base + c * channel + taps[k] + i`, in values from the start of the arena.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) base: usize,
    pub(crate) channel: usize,
    pub(crate) taps: Vec<usize>,
    /// Rows, and values of a row, that a tile reads beyond its own, in each of `panels` places.
    reach: [usize; 2],
    pitch: usize,
    panels: usize,
}

impl Source {
    /// Reads the buffer at `start` itself.
    pub(crate) fn direct(window: &Window, x: &Plane, start: usize) -> Self {
        let [rows, cols] = window.kernel;
        let taps: Vec<usize> = (0..rows * cols)
            .map(|k| (k / cols * window.dilation[0] * x.pitch() + k % cols * window.dilation[1]) * x.lanes())
            .collect();
        let origin = (window.pads[0] * x.pitch() + window.pads[1]) * x.lanes();
        let reach = [(rows - 1) * window.dilation[0], (cols - 1) * window.dilation[1] * x.lanes()];
        let pitch = x.pitch() * x.lanes();
        Self { base: start + x.head() - origin, channel: x.stride(), taps, reach, pitch, panels: 1 }
    }

    /// As [`Source::direct`], or for a stride of more than 1 from `scratch`, where the returned step first puts, for every
    /// row and column phase of the stride, the positions it reads as rows of the output's width, one for every output row
    /// and those around that a tap reaches. All columns of the kernel that read one phase lie at one place: for
    /// [`crate::row_conv`].
    pub(crate) fn rows(
        window: &Window,
        channels: usize,
        (x, x_start): (&Plane, usize),
        y: &Plane,
        scratch: usize,
    ) -> (Self, Option<Arrange>) {
        let down = |k: usize| window.place(0, k).1;
        let above = (0..window.kernel[0]).map(down).min().unwrap_or(0).min(0).unsigned_abs();
        let below = (0..window.kernel[0]).map(down).max().unwrap_or(0).max(0).unsigned_abs();
        let pitch = y.width();
        let reach = [above + below, 0];
        if window.stride == [1, 1] {
            let taps =
                (0..window.kernel[0] * window.kernel[1]).map(|k| k / window.kernel[1] * window.dilation[0] * pitch);
            let base = x_start + x.head() - window.pads[0] * pitch;
            return (Self { base, channel: x.stride(), taps: taps.collect(), reach, pitch, panels: 1 }, None);
        }
        let phases = Phases::of(window);
        let rows = y.height() + above + below;
        let taps = phases.taps(window, rows * pitch, |[down, _]| (down + above as isize) as usize * pitch);
        let (panels, sources) = (phases.panels(), phases.sources(window, x, [above, rows], pitch));
        let channel = odd_lines(sources.len() + ALIGN);
        let step = window.stride[1];
        let runs = runs(&sources, step);
        let arrange = Arrange { x: *x, x_start, channels, to: scratch, stride: channel, step, runs };
        (Self { base: scratch, channel, taps, reach, pitch, panels }, Some(arrange))
    }

    /// As [`Source::direct`], or for a stride of more than 1 from `scratch`, where the returned step first puts, for every
    /// row and column phase of the stride, the positions it reads as a map of the output's size. The place of a tap that
    /// reaches out of a map is that of a neighbouring row or channel: for [`crate::map_conv`].
    pub(crate) fn maps(
        window: &Window,
        channels: usize,
        (x, x_start): (&Plane, usize),
        y: &Plane,
        scratch: usize,
    ) -> (Self, Option<Arrange>) {
        let (phases, pitch) = (Phases::of(window), y.width() * y.lanes());
        // So that no place is below 0.
        let origin = pitch + y.lanes();
        let taps = phases.taps(window, y.values(), |[down, right]| {
            origin.wrapping_add_signed(down * pitch as isize + right * y.lanes() as isize)
        });
        let source = |start: usize, channel| {
            let (reach, panels) = ([2.min(y.height() - 1), 0], phases.panels());
            Self { base: start.wrapping_sub(origin), channel, taps, reach, pitch, panels }
        };
        if window.stride == [1, 1] {
            return (source(x_start + x.head(), x.stride()), None);
        }
        let sources = phases.sources(window, x, [0, y.height()], y.width());
        let (stride, step) = (odd_lines(sources.len() * y.lanes()), window.stride[1]);
        let runs = runs(&sources, step * x.lanes());
        let arrange = Arrange { x: *x, x_start, channels, to: scratch, stride, step, runs };
        (source(scratch, stride), Some(arrange))
    }

    /// Reads `scratch`, where the returned step first puts the input positions in the order in which the outputs need
    /// them: for every row and column phase of the stride a panel of rows as wide as the output's, so that within a
    /// panel all taps lie at constant distances. Where the output's rows have no gap that the shifts of a phase could
    /// reach into, every kernel column gets panels of its own.
    pub(crate) fn arranged(
        window: &Window,
        channels: usize,
        (x, x_start): (&Plane, usize),
        y: &Plane,
        scratch: usize,
    ) -> (Self, Arrange) {
        let ([kernel_rows, kernel_cols], pitch) = (window.kernel, y.pitch());
        let place = |axis: usize, k: usize| {
            let offset = k * window.dilation[axis];
            (offset % window.stride[axis], offset / window.stride[axis])
        };
        let shifts = place(1, kernel_cols - 1).1;
        let columns: Vec<(usize, usize)> = (0..kernel_cols)
            .map(|k| if y.width() + shifts <= pitch { place(1, k) } else { (k * window.dilation[1], 0) })
            .collect();
        let row_phases = distinct((0..kernel_rows).map(|k| place(0, k).0));
        let column_starts = distinct(columns.iter().map(|(start, _)| *start));
        let rows = y.height() + place(0, kernel_rows - 1).1;

        let mut sources = Vec::new();
        for start in &column_starts {
            for phase in &row_phases {
                for (row, col) in (0..rows).flat_map(|row| (0..pitch).map(move |col| (row, col))) {
                    let row = (row * window.stride[0] + phase).wrapping_sub(window.pads[0]);
                    let col = (col * window.stride[1] + start).wrapping_sub(window.pads[1]);
                    let inside = row < x.height() && col < x.width();
                    let source = x.head() + row.wrapping_mul(x.pitch()).wrapping_add(col).wrapping_mul(x.lanes());
                    sources.push(inside.then_some(source));
                }
            }
        }
        let panel = rows * pitch;
        let tap = |k: usize| {
            let ((phase, down), (start, right)) = (place(0, k / kernel_cols), columns[k % kernel_cols]);
            let row_phase = row_phases.binary_search(&phase).expect("the phase of every row is listed");
            let column = column_starts.binary_search(&start).expect("the start of every column is listed");
            ((column * row_phases.len() + row_phase) * panel + down * pitch + right) * y.lanes()
        };
        let taps = (0..kernel_rows * kernel_cols).map(tap).collect();
        let room = if y.lanes() == 1 { ALIGN } else { 0 };
        let stride = odd_lines(sources.len() * y.lanes() + room);
        let panels = row_phases.len() * column_starts.len();
        let reach = [rows - y.height(), shifts * y.lanes()];
        let step = window.stride[1];
        let runs = runs(&sources, step * x.lanes());
        let arrange = Arrange { x: *x, x_start, channels, to: scratch, stride, step, runs };
        let pitch = pitch * y.lanes();
        (Self { base: scratch, channel: stride, taps, reach, pitch, panels }, arrange)
    }

    /// Values of one channel that a tile of `rows` runs of `values` values reads.
    pub(crate) fn footprint(&self, rows: usize, values: usize) -> usize {
        let (rows, run) = (rows + self.reach[0], values + self.reach[1]);
        (self.panels * ((rows - 1) * self.pitch + run).min(rows * run)).min(self.channel)
    }

    /// Values that `channels` channels take, from `base` to the end of the last vector read.
    pub(crate) fn extent(&self, channels: usize, flat: usize) -> usize {
        let furthest = self.taps.iter().max().expect("a window has a tap");
        (channels - 1) * self.channel + furthest + flat.next_multiple_of(ALIGN)
    }
}

/// The row and column phases of a stride that some tap of a window reads.
struct Phases {
    rows: Vec<usize>,
    columns: Vec<usize>,
}

impl Phases {
    fn of(window: &Window) -> Self {
        let [rows, columns] = [0, 1].map(|axis| distinct((0..window.kernel[axis]).map(|k| window.place(axis, k).0)));
        Self { rows, columns }
    }

    fn panels(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// For each tap of the window the place of its panel, all of which are `panel` values, and in it the place that it
    /// has for how far it reaches down and right.
    fn taps(&self, window: &Window, panel: usize, place: impl Fn([isize; 2]) -> usize) -> Vec<usize> {
        let [rows, columns] = window.kernel;
        let tap = |k: usize| {
            let ((row, down), (column, right)) = (window.place(0, k / columns), window.place(1, k % columns));
            let row = self.rows.binary_search(&row).expect("the phase of every row is listed");
            let column = self.columns.binary_search(&column).expect("the phase of every column is listed");
            (row * self.columns.len() + column) * panel + place([down, right])
        };
        (0..rows * columns).map(tap).collect()
    }

    /// For each position of the panels where in a channel of `x` it comes from, if not from the padding: panels of `rows`
    /// rows, the first of which is `above` the first output row, and `columns` columns.
    fn sources(&self, window: &Window, x: &Plane, [above, rows]: [usize; 2], columns: usize) -> Vec<Option<usize>> {
        let mut sources = Vec::with_capacity(self.panels() * rows * columns);
        for (phase, start) in self.rows.iter().flat_map(|row| self.columns.iter().map(move |column| (row, column))) {
            for (row, col) in (0..rows).flat_map(|row| (0..columns).map(move |col| (row, col))) {
                let row = (row * window.stride[0] + phase).wrapping_sub(above * window.stride[0]);
                let col = col * window.stride[1] + start;
                let inside = row < x.height() && col < x.width();
                sources.push(inside.then(|| x.head() + (row * x.pitch() + col) * x.lanes()));
            }
        }
        sources
    }
}

fn distinct(values: impl Iterator<Item = usize>) -> Vec<usize> {
    let values: std::collections::BTreeSet<usize> = values.collect();
    values.into_iter().collect()
}
