//! How a window slides over an image, and where a convolution finds its taps.

use crate::Isa;
use crate::arrange::{Arrange, runs};
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

    /// Whether [`crate::row_conv`] can run it from `x` to `y`.
    pub(crate) fn is_by_rows(&self, x: &Plane, y: &Plane, isa: Isa) -> bool {
        let ([_, columns], [top, left, bottom, right]) = (self.kernel, self.pads);
        x == y
            && (self.stride, self.dilation[1]) == ([1, 1], 1)
            && (2..=3).contains(&columns)
            && left.max(right) <= 1
            && top.max(bottom) <= x.pad()
            && x.holds_rows(isa)
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

    /// As [`Source::direct`], with all columns of the kernel at one place: for [`crate::row_conv`].
    pub(crate) fn rows(window: &Window, x: &Plane, start: usize) -> Self {
        let [rows, cols] = window.kernel;
        let taps = (0..rows * cols).map(|k| k / cols * window.dilation[0] * x.pitch()).collect();
        let base = start + x.head() - window.pads[0] * x.pitch();
        let reach = [(rows - 1) * window.dilation[0], 0];
        Self { base, channel: x.stride(), taps, reach, pitch: x.pitch(), panels: 1 }
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

fn distinct(values: impl Iterator<Item = usize>) -> Vec<usize> {
    let values: std::collections::BTreeSet<usize> = values.collect();
    values.into_iter().collect()
}
