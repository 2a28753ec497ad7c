//! How a window slides over an image, and where a convolution finds its taps.

use crate::arrange::Arrange;
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
            && self.pads.iter().all(|pad| *pad <= x.pad())
    }
}

/// Where the taps of a convolution lie: tap `k` (row-major in the kernel) of input channel `c` of flat output value
/// `i` is `base + c * channel + taps[k] + i`, in values from the start of the arena.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) base: usize,
    pub(crate) channel: usize,
    pub(crate) taps: Vec<usize>,
    /// Values of one channel that a tile of one value reads from its first to its last, in each of `panels` places.
    reach: usize,
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
        let reach = taps[taps.len() - 1];
        Self { base: start + x.head() - origin, channel: x.stride(), taps, reach, panels: 1 }
    }

    /// Reads `scratch`, where the returned step first puts, for every kernel column and every row phase, the input
    /// positions that the outputs need, in the order of the outputs.
    pub(crate) fn arranged(window: &Window, x: &Plane, start: usize, y: &Plane, scratch: usize) -> (Self, Arrange) {
        let [rows, cols] = window.kernel;
        let (stride, dilation) = (window.stride[0], window.dilation[0]);
        let mut phases: Vec<usize> = (0..rows).map(|k| k * dilation % stride).collect();
        phases.sort_unstable();
        phases.dedup();
        let copied = y.height() + (rows - 1) * dilation / stride;
        let row = y.pitch() * y.lanes();
        let panel = copied * row;
        let tap = |k: usize| {
            let (down, right) = (k / cols * dilation, k % cols);
            let phase = phases.binary_search(&(down % stride)).expect("every tap's phase is listed");
            (right * phases.len() + phase) * panel + down / stride * row
        };
        let taps: Vec<usize> = (0..rows * cols).map(tap).collect();
        let channel = odd_lines(cols * phases.len() * panel);
        let (width, pitch, to) = (y.width(), y.pitch(), scratch);
        let arrange =
            Arrange { x: *x, x_start: start, width, pitch, rows: copied, phases, window: *window, to, channel };
        let phases = arrange.phases.len();
        let reach = (copied - y.height()) * row;
        (Self { base: scratch, channel, taps, reach, panels: cols * phases }, arrange)
    }

    /// Values of one channel that a tile of `tile` values reads.
    pub(crate) fn footprint(&self, tile: usize) -> usize {
        (self.panels * (tile + self.reach)).min(self.channel)
    }

    /// Values that `channels` channels take, from `base` to the end of the last vector read.
    pub(crate) fn extent(&self, channels: usize, flat: usize) -> usize {
        let furthest = self.taps.iter().max().expect("a window has a tap");
        (channels - 1) * self.channel + furthest + flat.next_multiple_of(ALIGN)
    }
}
