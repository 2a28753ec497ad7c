//! Geometry of a sparse convolution's forward pass and of its gradients: which places of a band of the padded source
//! each position of the destination reads.

use super::BLOCK;
use super::convolution::{ConvShape, GradientAxis};
use super::correlation::{Axis, Planes, Position};
use super::transposed::{IMAGES, Rectangle};

/// Source planes of a band, with its images, that should stay in the second-level cache.
const BAND_BYTES: usize = 256 << 10;

/// Fewest rows of positions in a band: every band reads the rows that windows share with the next one again.
const BAND_ROWS: usize = 4;

/// Windows of one tile in the channels of a chunk, which should stay in the first-level cache.
const CHUNK_BYTES: usize = 20 << 10;

/// Neighbouring positions in a tile, about.
const TILE: usize = 6;

/// One pass over a source: the forward pass reads the input, the gradients read the output's gradient.
#[derive(Debug, Clone)]
pub(super) struct Sweep {
    pub source: Planes,
    pub destination: Planes,
    /// Whether rows of weights are input channels, not output channels.
    pub transposed: bool,
    /// Rows and columns before the first of the source in its padded form.
    before: [usize; 2],
    /// Source rows from one row of positions to the next.
    step: usize,
    /// Rows of positions in a band.
    band_rows: usize,
    /// Height and width of a band's source.
    band: [usize; 2],
    pub bands: usize,
    pub phases: Vec<Phase>,
}

/// Positions whose windows meet the same taps of the kernel.
#[derive(Debug, Clone)]
pub(super) struct Phase {
    /// Place in the kernel, and offset in a plane of the band, of each tap.
    pub taps: Vec<(usize, u32)>,
    /// Source channels whose weights are applied together.
    pub chunk: usize,
    /// Positions of a band; the source place lies in the band's first plane, the destination in block 0.
    positions: Vec<Position>,
    rows: usize,
    columns: usize,
    /// Destination values from a band to the next.
    band_step: usize,
}

/// A row and a column of phases as the constructors give them.
struct PhaseAxes {
    axes: [Axis; 2],
    /// Place in the kernel, and rows and columns in the padded source.
    taps: Vec<(usize, [usize; 2])>,
}

impl Sweep {
    /// The forward pass; `None` if it is too large to plan, as are the gradients then.
    pub fn forward(shape: &ConvShape) -> Option<Self> {
        let axes = [0, 1].map(|a| Axis { count: shape.output[a], step: shape.stride[a], to: 0, to_step: 1 });
        let [height, width] = shape.kernel;
        let taps = (0..height * width).map(|place| {
            let (row, column) = (place / width, place % width);
            (place, [row * shape.dilation[0], column * shape.dilation[1]])
        });
        let phase = PhaseAxes { axes, taps: taps.collect() };
        let source = Planes::new(shape.in_channels, shape.input);
        let destination = Planes::new(shape.out_channels, shape.output);
        Self::new(source, destination, false, [shape.pads[0], shape.pads[1]], shape.stride[0], vec![phase])
    }

    /// The gradients, one phase for each residue of the stride.
    pub fn backward(shape: &ConvShape) -> Option<Self> {
        let [rows, columns] = [0, 1].map(|axis| GradientAxis::new(shape, axis));
        let phases = rows.phases.iter().flat_map(|r| columns.phases.iter().map(move |c| (r, c))).map(|(r, c)| {
            let pairs = r.taps.iter().flat_map(|r| c.taps.iter().map(move |c| (r, c)));
            let taps = pairs.map(|(r, c)| (r.place * shape.kernel[1] + c.place, [r.offset, c.offset]));
            PhaseAxes { axes: [r.axis, c.axis], taps: taps.collect() }
        });
        let source = Planes::new(shape.out_channels, shape.output);
        let destination = Planes::new(shape.in_channels, shape.input);
        Self::new(source, destination, true, [rows.before, columns.before], 1, phases.collect())
    }

    fn new(
        source: Planes,
        destination: Planes,
        transposed: bool,
        before: [usize; 2],
        step: usize,
        phases: Vec<PhaseAxes>,
    ) -> Option<Self> {
        let rows = phases.iter().map(|p| p.axes[0].count).max().unwrap_or(0);
        let last_tap = |axis: usize| phases.iter().flat_map(|p| &p.taps).map(|(_, t)| t[axis]).max().unwrap_or(0);
        let extent = last_tap(0) + 1;
        let width = phases.iter().map(|p| (p.axes[1].count - 1) * p.axes[1].step).max().unwrap_or(0) + last_tap(1) + 1;
        let row_bytes = 4 * source.channels * width * IMAGES;
        let fitting = (BAND_BYTES / row_bytes).saturating_sub(extent) / step + 1;
        let band_rows = fitting.max(BAND_ROWS).min(rows);
        let band = [(band_rows - 1) * step + extent, width];
        let plane = plane_len(band);
        let largest = (source.channels * plane).max(IMAGES * destination.image()).max(IMAGES * source.image());
        if u32::try_from(largest).is_err() {
            return None;
        }
        let phases = phases.iter().map(|p| Phase::new(p, destination, band_rows, band)).collect();
        let bands = rows.div_ceil(band_rows);
        Some(Self { source, destination, transposed, before, step, band_rows, band, bands, phases })
    }

    /// Values from one plane of a band to the next.
    pub fn plane(&self) -> usize {
        plane_len(self.band)
    }

    /// The part of the source that a band reads.
    pub fn rectangle(&self, band: usize) -> Rectangle {
        let top = (band * self.band_rows * self.step) as isize - self.before[0] as isize;
        Rectangle { top, left: -(self.before[1] as isize), size: self.band }
    }

    /// A phase's positions in a band, and what to add to their destinations.
    pub fn positions<'a>(&self, phase: &'a Phase, band: usize) -> (&'a [Position], usize) {
        let rows = phase.rows.saturating_sub(band * self.band_rows).min(self.band_rows);
        (&phase.positions[..rows * phase.columns], band * phase.band_step)
    }
}

/// An odd number of cache lines, so that neighbouring planes do not fall into the same places of the cache.
fn plane_len([height, width]: [usize; 2]) -> usize {
    ((height * width) | 1) * IMAGES
}

impl Phase {
    fn new(p: &PhaseAxes, destination: Planes, band_rows: usize, band: [usize; 2]) -> Self {
        let place = |size: [usize; 2], row: usize, column: usize| (row * size[1] + column) * BLOCK;
        let [rows, columns] = p.axes;
        let positions = (0..band_rows.min(rows.count)).flat_map(|y| {
            (0..columns.count).map(move |x| Position {
                source: place(band, y * rows.step, x * columns.step) as u32,
                destination: place(destination.size, rows.to + y * rows.to_step, columns.to + x * columns.to_step)
                    as u32,
            })
        });
        let spread = |axis: usize| {
            let taps = || p.taps.iter().map(|(_, t)| t[axis]);
            taps().max().zip(taps().min()).map_or(1, |(max, min)| max - min + 1)
        };
        let window = spread(0) * (spread(1) + (TILE - 1) * columns.step) * 4 * IMAGES;
        Self {
            taps: p.taps.iter().map(|(k, [r, c])| (*k, place(band, *r, *c) as u32)).collect(),
            chunk: (CHUNK_BYTES / window).max(1),
            positions: positions.collect(),
            rows: rows.count,
            columns: columns.count,
            band_step: place(destination.size, band_rows * rows.to_step, 0),
        }
    }
}
