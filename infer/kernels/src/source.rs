//! Where a convolution finds its taps.

use crate::Isa;
use crate::arrange::{Arrange, runs};
use crate::plane::{ALIGN, Place, Plane, odd_lines};
use crate::registry::Step;
use crate::select::{Moves, Select};
use crate::window::{MASKED, Window};

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
    pub(crate) fn direct(window: &Window, Place { start, plane: x, .. }: &Place) -> Self {
        let [rows, cols] = window.kernel;
        let taps: Vec<usize> = (0..rows * cols)
            .map(|k| (k / cols * window.dilation[0] * x.pitch() + k % cols * window.dilation[1]) * x.lanes())
            .collect();
        let origin = (window.pads[0] * x.pitch() + window.pads[1]) * x.lanes();
        let reach = [(rows - 1) * window.dilation[0], (cols - 1) * window.dilation[1] * x.lanes()];
        let pitch = x.pitch() * x.lanes();
        Self { base: start + x.head() - origin, channel: x.stride(), taps, reach, pitch, panels: 1 }
    }

    /// Reads `x` one position left, at and one position right of each output.
    pub(crate) fn sideways(x: &Place) -> Self {
        let (lanes, pitch) = (x.plane.lanes(), x.plane.pitch() * x.plane.lanes());
        let taps = (0..3).map(|k| k * lanes).collect();
        Self { base: x.row(0, 0) - lanes, channel: x.plane.stride(), taps, reach: [0, 2 * lanes], pitch, panels: 1 }
    }

    /// As [`Source::direct`] where rows of `pitch` values lie behind each other, else from `scratch`, where the returned
    /// step first puts, for every row and column phase of the stride, the positions it reads as such rows, one for every
    /// output row and those around that a tap reaches, and 0 behind the last output. All columns of the kernel that read
    /// one phase lie at one place: for [`crate::row_conv`].
    ///
    /// # Errors
    /// Rows that do not fit the kernels' offsets.
    pub(crate) fn rows(
        window: &Window,
        x: &Place,
        y: &Plane,
        pitch: usize,
        scratch: Scratch,
    ) -> Result<(Self, Option<Step>), TooLarge> {
        let down = |k: usize| window.place(0, k).1;
        let above = (0..window.kernel[0]).map(down).min().unwrap_or(0).min(0).unsigned_abs();
        let below = (0..window.kernel[0]).map(down).max().unwrap_or(0).max(0).unsigned_abs();
        let (plane, reach) = (&x.plane, [above + below, 0]);
        if window.keeps_rows(plane, y) && pitch == y.width() {
            let taps =
                (0..window.kernel[0] * window.kernel[1]).map(|k| k / window.kernel[1] * window.dilation[0] * pitch);
            let base = x.row(0, 0) - window.pads[0] * pitch;
            return Ok((Self { base, channel: plane.stride(), taps: taps.collect(), reach, pitch, panels: 1 }, None));
        }
        let phases = Phases::of(window);
        let (panels, rows) = (phases.panels(), y.height() + above + below);
        let channel = scratch.stride(x, [panels, rows, pitch])?;
        let taps = phases.taps(window, rows * pitch, |[down, _]| (down + above as isize) as usize * pitch);
        let sources = phases.sources(window, plane, [above, rows], pitch);
        let step = scratch.rearrange(x, channel, sources, window.stride[1]);
        Ok((Self { base: scratch.start, channel, taps, reach, pitch, panels }, Some(step)))
    }

    /// As [`Source::rows`], with every column of the kernel at its own place, which for outputs at the edges is in a
    /// neighbouring row.
    ///
    /// # Errors
    /// As [`Source::rows`].
    pub(crate) fn masked(
        window: &Window,
        x: &Place,
        y: &Plane,
        scratch: Scratch,
    ) -> Result<(Self, Option<Step>), TooLarge> {
        let (mut source, step) = Self::rows(window, x, y, y.width(), scratch)?;
        // So that no place is below 0.
        source.base -= MASKED as usize;
        for (k, tap) in source.taps.iter_mut().enumerate() {
            *tap = tap.wrapping_add_signed(MASKED + window.place(1, k % window.kernel[1]).1);
        }
        source.reach[1] = 2 * MASKED as usize;
        Ok((source, step))
    }

    /// Reads `x` itself, whose planes have no padding: the place of a tap that reaches out of a map is that of a
    /// neighbouring row or channel. For [`crate::map_conv`].
    pub(crate) fn maps(window: &Window, x: &Place, y: &Plane) -> Self {
        let (lanes, pitch, stride) = (x.plane.lanes(), x.plane.width() * x.plane.lanes(), window.stride[0]);
        // So that no place is below 0.
        let origin = stride * (pitch + lanes);
        let [rows, columns] = window.kernel;
        let place = |axis: usize, k: usize| {
            let (phase, reach) = window.place(axis, k);
            reach * stride as isize + phase as isize
        };
        let tap = |k: usize| place(0, k / columns) * pitch as isize + place(1, k % columns) * lanes as isize;
        let taps = (0..rows * columns).map(|k| origin.wrapping_add_signed(tap(k))).collect();
        let reach = [2.min(y.height() - 1), 0];
        let base = x.row(0, 0).wrapping_sub(origin);
        Self {
            base,
            channel: x.plane.stride(),
            taps,
            reach,
            pitch: y.width() * lanes,
            panels: Phases::of(window).panels(),
        }
    }

    /// Reads `scratch`, where the returned step first puts the input positions in the order in which the outputs need
    /// them: for every row and column phase of the stride a panel of rows as wide as the output's, so that within a
    /// panel all taps lie at constant distances. Where the output's rows have no gap that the shifts of a phase could
    /// reach into, every kernel column gets panels of its own, and where its map is but one vector, every tap.
    ///
    /// # Errors
    /// Panels that do not fit the kernels' offsets.
    pub(crate) fn arranged(
        window: &Window,
        x: &Place,
        y: &Plane,
        scratch: Scratch,
    ) -> Result<(Self, Option<Step>), TooLarge> {
        let ([kernel_rows, kernel_cols], pitch) = (window.kernel, y.pitch());
        let at = |row: usize, col: usize| {
            let (row, col) = (row.wrapping_sub(window.pads[0]), col.wrapping_sub(window.pads[1]));
            let inside = row < x.plane.height() && col < x.plane.width();
            inside.then(|| x.plane.head() + (row * x.plane.pitch() + col) * x.plane.lanes())
        };
        if y.lanes() == 1 && y.values() <= scratch.isa.lanes() {
            let (panel, panels) = (y.values().next_multiple_of(ALIGN), kernel_rows * kernel_cols);
            let channel = scratch.stride(x, [panels, panel, 1])?;
            let source = |i: usize| {
                let (k, row, col) = (i / panel, i % panel / pitch, i % panel % pitch);
                let row = row * window.stride[0] + k / kernel_cols * window.dilation[0];
                let col = col * window.stride[1] + k % kernel_cols * window.dilation[1];
                at(row, col).filter(|_| i % panel < y.values())
            };
            let step = scratch.rearrange(x, channel, (0..panels * panel).map(source), window.stride[1]);
            let taps = (0..panels).map(|k| k * panel).collect();
            return Ok((Self { base: scratch.start, channel, taps, reach: [0, 0], pitch, panels }, Some(step)));
        }
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

        let panels = row_phases.len() * column_starts.len();
        let channel = scratch.stride(x, [panels, rows, pitch])?;
        let phases = column_starts.iter().flat_map(|start| row_phases.iter().map(move |phase| (*start, *phase)));
        let sources = phases.flat_map(|(start, phase)| {
            let positions = (0..rows).flat_map(move |row| (0..pitch).map(move |col| (row, col)));
            positions.map(move |(row, col)| at(row * window.stride[0] + phase, col * window.stride[1] + start))
        });
        let step = scratch.rearrange(x, channel, sources, window.stride[1]);
        let panel = rows * pitch;
        let tap = |k: usize| {
            let ((phase, down), (start, right)) = (place(0, k / kernel_cols), columns[k % kernel_cols]);
            let row_phase = row_phases.binary_search(&phase).expect("the phase of every row is listed");
            let column = column_starts.binary_search(&start).expect("the start of every column is listed");
            ((column * row_phases.len() + row_phase) * panel + down * pitch + right) * y.lanes()
        };
        let taps = (0..kernel_rows * kernel_cols).map(tap).collect();
        let reach = [rows - y.height(), shifts * y.lanes()];
        Ok((Self { base: scratch.start, channel, taps, reach, pitch: pitch * y.lanes(), panels }, Some(step)))
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

/// Where a convolution may rearrange its input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scratch {
    pub(crate) start: usize,
    pub(crate) isa: Isa,
}

/// Most vectors that are put together for a channel: what they consist of is read again for each.
const PICKS: usize = 256;

/// A convolution whose input, rearranged for its window, is beyond the kernels' 32-bit byte offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

/// Values that all channels may take; a little less than 32-bit byte offsets reach, as a step reads some past them.
const MOST: usize = (1 << 30) - (1 << 10);

impl Scratch {
    /// Values from one channel of `x` to the next where each takes as many positions as the product of `sizes`.
    fn stride(self, x: &Place, sizes: [usize; 3]) -> Result<usize, TooLarge> {
        // With one image the last vector may reach past the last position.
        let lanes = x.plane.lanes();
        let room = if lanes == 1 { ALIGN } else { 0 };
        let values = sizes.iter().fold(lanes, |n, size| n.saturating_mul(*size));
        let stride = if values <= MOST { odd_lines(values + room) } else { return Err(TooLarge) };
        if x.channels.saturating_mul(stride) <= MOST { Ok(stride) } else { Err(TooLarge) }
    }

    /// The step that puts the positions of each channel of `x` in the order of `sources`, which say where in a channel
    /// each lies, if it is not a zero; most of those that follow each other lie `step` positions apart. The next channel's
    /// are `stride` values further.
    fn rearrange(
        self,
        x: &Place,
        stride: usize,
        sources: impl Iterator<Item = Option<usize>> + Clone,
        step: usize,
    ) -> Step {
        let (Place { start: x_start, plane, channels }, to) = (*x, self.start);
        if plane.lanes() == 1
            && let Some(moves) = Moves::new(sources.clone(), self.isa.lanes(), PICKS)
        {
            return Step::Select(Select { x_start, x_stride: plane.stride(), channels, to, stride, moves });
        }
        let runs = runs(sources, step * plane.lanes());
        Step::Arrange(Arrange { x: plane, x_start, channels, to, stride, step, runs })
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
    fn sources<'a>(
        &'a self,
        window: &'a Window,
        x: &'a Plane,
        [above, rows]: [usize; 2],
        columns: usize,
    ) -> impl Iterator<Item = Option<usize>> + Clone + 'a {
        let phases = self.rows.iter().flat_map(move |row| self.columns.iter().map(move |column| (*row, *column)));
        phases.flat_map(move |(phase, start)| {
            let positions = (0..rows).flat_map(move |row| (0..columns).map(move |col| (row, col)));
            positions.map(move |(row, col)| {
                let row = (row * window.stride[0] + phase).wrapping_sub(above * window.stride[0]);
                let col = col * window.stride[1] + start;
                let inside = row < x.height() && col < x.width();
                inside.then(|| x.head() + (row * x.pitch() + col) * x.lanes())
            })
        })
    }
}

fn distinct(values: impl Iterator<Item = usize>) -> Vec<usize> {
    let values: std::collections::BTreeSet<usize> = values.collect();
    values.into_iter().collect()
}
