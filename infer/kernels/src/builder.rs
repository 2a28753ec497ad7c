//! Builds programs: every step is checked here, against buffers that are laid out here.

use std::collections::BTreeSet;
use std::ops::Range;

use sr2_formats::{CsrMatrix, Tensor};

use crate::Isa;
use crate::activation::{Activate, Activation};
use crate::border::Border;
use crate::combine::{Combination, Combine};
use crate::dense_conv::{self, DenseConv};
use crate::depthwise::DepthwiseConv;
use crate::depthwise_aligned::{DepthwiseAligned, Moves};
use crate::depthwise_rows::DepthwiseRows;
use crate::dilated_pooling::DilatedPool;
use crate::grid::Grid;
use crate::linear::{Linear, Rows};
use crate::map_conv::{self, MapConv};
use crate::masks::Masks;
use crate::packing::{Blocking, Layer};
use crate::plane::{ALIGN, Place, Plane, odd_lines};
use crate::pointwise::Pointwise;
use crate::pooling::{GlobalAverage, Pool, Pooling};
use crate::program::{Buffer, Program, Weights};
use crate::registry::{self, Step};
use crate::row_conv::{self, RowConv, SHIFTS};
use crate::softmax::Softmax;
use crate::source::{Scratch, Source, TooLarge};
use crate::sparse_conv::{self, SparseConv};
use crate::team::Threads;
use crate::transfer::{Export, Flatten, Import};
use crate::window::Window;
use crate::winograd;

/// Index of a buffer in the list the builder was made with.
pub type BufferId = usize;

/// No limit on a step's results.
pub const NO_CLIP: [f32; 2] = [f32::NEG_INFINITY, f32::INFINITY];

/// What a convolution does beside multiplying with its weights.
#[derive(Debug, Clone, Copy)]
pub struct Conv<'a> {
    /// The window.
    pub window: Window,
    /// Number of groups; as many as input channels for a depthwise convolution.
    pub groups: usize,
    /// Added to each output channel.
    pub bias: Option<&'a [f32]>,
    /// Added to the result, of the same layout.
    pub residual: Option<BufferId>,
    /// The result is limited to `[low, high]`, last.
    pub clip: [f32; 2],
}

impl Conv<'_> {
    /// Whether every output channel reads one input channel of its own, through a window that has a kernel of its own
    /// for dense weights.
    pub fn is_depthwise(&self, in_channels: usize, out_channels: usize) -> bool {
        let Window { kernel, stride, dilation, .. } = self.window;
        (self.groups, self.groups) == (in_channels, out_channels)
            && (kernel, dilation) == ([3, 3], [1, 1])
            && matches!(stride, [1, 1] | [2, 2])
    }
}

/// Collects the steps of a [`Program`]. Every method returns the range of steps it appended.
///
/// Methods panic where a step does not fit its buffers: which steps to run is the caller's choice, never a file's.
#[derive(Debug)]
pub struct ProgramBuilder {
    pub(crate) isa: Isa,
    pub(crate) steps: Vec<Step>,
    pub(crate) lanes: usize,
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) buffers: Vec<Place>,
    scratch: usize,
    scratch_values: usize,
    masks: Masks,
    /// Bytes of the lists of the first `counted` steps.
    lists: usize,
    counted: usize,
}

/// Values that a step may read past its buffers: a pooling of every second column two vectors.
const READ_PAST: usize = 3 * ALIGN;

impl ProgramBuilder {
    /// A builder over these buffers, whose planes all have 1 lane or all as many as the tier's vectors.
    pub fn new(isa: Isa, buffers: &[Buffer]) -> Self {
        let lanes = buffers.first().expect("a program has buffers").plane.lanes();
        assert!(lanes == 1 || lanes == isa.lanes(), "{lanes} lanes a position on {isa}, expected 1 or {}", isa.lanes());
        let mut next = 0;
        let mut laid = Vec::with_capacity(buffers.len());
        for buffer in buffers {
            assert_eq!(buffer.plane.lanes(), lanes, "buffers must agree on the lanes of a position");
            let Buffer { plane, channels } = *buffer;
            laid.push(Place { start: next, plane, channels });
            next += odd_lines(channels * plane.stride() + ALIGN);
        }
        Self {
            isa,
            steps: Vec::new(),
            lanes,
            input: 0,
            output: 0,
            buffers: laid,
            scratch: next,
            scratch_values: 0,
            masks: Masks::default(),
            lists: 0,
            counted: 0,
        }
    }

    /// Bytes that its steps so far take beside their weights: an arena, the bits that they keep, and the lists of what they
    /// rearrange and in which tiles they compute.
    pub fn bytes(&mut self) -> usize {
        self.lists += self.steps[self.counted..].iter().map(Step::list_bytes).sum::<usize>();
        self.counted = self.steps.len();
        self.arena_values() * size_of::<f32>() + self.masks.bytes() + self.lists
    }

    /// Bytes of weights and indices that a range of its steps reads; weights that steps share count once.
    pub fn weight_bytes(&self, steps: Range<usize>) -> usize {
        registry::weight_bytes(&self.steps[steps])
    }

    /// Makes the program, for these threads and for batches of `batch`.
    pub fn build(self, threads: Threads, batch: usize) -> Program {
        assert!(threads.count > 0, "a program needs a thread");
        Program::new(self, threads, batch)
    }

    /// Values of an arena: all buffers, the scratch, and what may be read past them.
    pub(crate) fn arena_values(&self) -> usize {
        self.scratch + self.scratch_values + READ_PAST
    }

    /// Copies the images into `y`.
    pub fn import(&mut self, y: BufferId) -> Range<usize> {
        let y = self.buffers[y];
        self.input = y.image();
        self.push(Step::Import(Import { y }))
    }

    /// Copies `x` to the outputs.
    pub fn export(&mut self, x: BufferId) -> Range<usize> {
        let x = self.buffers[x];
        self.output = x.image();
        self.push(Step::Export(Export { x }))
    }

    /// `y = clip(x * weights + bias + residual)`, `x` seen through the window.
    ///
    /// # Errors
    /// If `x`, rearranged for the window, does not fit the kernels' offsets.
    pub fn conv(
        &mut self,
        x: BufferId,
        y: BufferId,
        weights: Weights<'_>,
        conv: &Conv<'_>,
    ) -> Result<Range<usize>, TooLarge> {
        let (from, to) = (self.buffers[x], self.buffers[y]);
        let x_start = from.start;
        let Conv { window, groups, bias, residual, clip } = *conv;
        assert!(
            groups > 0 && from.channels % groups == 0 && to.channels % groups == 0,
            "{groups} groups do not divide"
        );
        let columns = from.channels / groups * window.kernel[0] * window.kernel[1];
        weights.check(to.channels, columns);
        let positions = window.positions([from.plane.height(), from.plane.width()]);
        assert_eq!(positions, Some([to.plane.height(), to.plane.width()]), "positions of {window:?}");
        let flat = to.plane.values();
        let whole = flat.next_multiple_of(self.isa.lanes());
        assert!(to.plane.head() + whole <= to.plane.stride(), "rows of {flat} values overlap: use `linear`");
        let bias = bias.map_or_else(|| vec![0.0; to.channels], <[f32]>::to_vec);
        assert_eq!(bias.len(), to.channels, "biases");
        let residual = residual.map(|r| self.like(r, y).row(0, 0));
        self.distinct(x, y);
        if let Weights::Winograd(dense) = weights {
            let estimate = conv.winograd(&from.plane, &to.plane, [from.channels, to.channels], self.isa);
            assert!(estimate.is_some(), "{conv:?} has no Winograd form");
            let (scratch, masks) = (Scratch { start: self.scratch, isa: self.isa }, &mut self.masks);
            let (steps, values) = winograd::steps([from, to], dense, bias, residual, clip, scratch, masks);
            self.scratch_values = self.scratch_values.max(values);
            let start = self.steps.len();
            self.steps.extend(steps);
            return Ok(start..self.steps.len());
        }
        let all;
        let weights = match weights {
            Weights::Dense(dense) if conv.is_depthwise(from.channels, to.channels) => {
                let [x_size, size] = [from, to].map(|place| [place.plane.height(), place.plane.width()]);
                let has_gaps = (self.lanes, from.plane.gap(), to.plane.gap()) != (1, 0, 0);
                if !has_gaps && window.is_aligned(x_size, size, self.isa) {
                    return Ok(self.push(Step::DepthwiseAligned(DepthwiseAligned {
                        x: from.row(0, 0),
                        x_stride: from.plane.stride(),
                        y: to.row(0, 0),
                        residual,
                        y_stride: to.plane.stride(),
                        size,
                        stride: window.stride[0],
                        moves: Moves::new(size[1], self.isa.lanes()).into(),
                        weights: dense.as_chunks().0.to_vec(),
                        bias,
                        clip,
                    })));
                }
                if window.is_masked(&from.plane, &to.plane) && (window.stride, window.pads) == ([1, 1], [1; 4]) {
                    let edges = [-1, 1].map(|right| self.masks.edge(&to.plane, right));
                    let mask = self.masks.mask(&to.plane);
                    return Ok(self.push(Step::DepthwiseRows(DepthwiseRows {
                        x: from.row(0, 0) - from.plane.pitch() - 1,
                        x_stride: from.plane.stride(),
                        y: to.row(0, 0),
                        residual,
                        y_stride: to.plane.stride(),
                        pitch: from.plane.pitch(),
                        flat: whole,
                        edges,
                        mask,
                        weights: dense.as_chunks().0.to_vec(),
                        bias,
                        clip,
                    })));
                }
                if self.fits_depthwise(&window, &from.plane, &to.plane) {
                    let [top, left, ..] = window.pads;
                    let head = from.plane.head() - (top * from.plane.pitch() + left) * self.lanes;
                    return Ok(self.push(Step::DepthwiseConv(DepthwiseConv {
                        x_start: x_start + head,
                        x: from.plane,
                        y_start: to.row(0, 0),
                        residual,
                        y: to.plane,
                        stride: window.stride[0],
                        weights: dense.as_chunks().0.to_vec(),
                        bias,
                        clip,
                    })));
                }
                // A block of the dense kernel would hold one channel.
                let tensor = Tensor::new([to.channels, columns], dense.to_vec());
                all = CsrMatrix::from_dense(&tensor).expect("a matrix of nine columns");
                Weights::Sparse(&all)
            }
            weights => weights,
        };

        let start = self.steps.len();
        let by_rows = matches!(weights, Weights::Sparse(_)) && window.is_by_rows(&from.plane, &to.plane, self.isa);
        let [of_rows, vectors] = self.isa.rows(to.plane.width()).unwrap_or_default();
        let read = if by_rows { to.plane.height() * of_rows * vectors } else { flat };
        let is_masked = matches!(weights, Weights::Dense(_)) && window.is_masked(&from.plane, &to.plane);
        let by_maps = matches!(weights, Weights::Sparse(_)) && window.is_by_maps(&from.plane, &to.plane, self.isa);
        let source = if by_maps {
            Source::maps(&window, &from, &to.plane)
        } else if !by_rows && !is_masked && window.is_direct(&from.plane, &to.plane) {
            let source = Source::direct(&window, &from);
            let end = x_start + from.channels * from.plane.stride() + ALIGN;
            assert!(
                source.base >= x_start && source.base + source.extent(from.channels, flat) <= end,
                "taps out of range"
            );
            source
        } else {
            let (y, scratch) = (&to.plane, Scratch { start: self.scratch, isa: self.isa });
            let (source, step) = match (by_rows, is_masked) {
                (true, _) => Source::rows(&window, &from, y, of_rows * vectors, scratch)?,
                (_, true) => Source::masked(&window, &from, y, scratch)?,
                _ => Source::arranged(&window, &from, y, scratch)?,
            };
            if let Some(step) = step {
                let (read, written) = (source.extent(from.channels, read), from.channels * source.channel);
                self.scratch_values = self.scratch_values.max(read).max(written);
                self.push(step);
            }
            source
        };
        if source.extent(from.channels, read) * size_of::<f32>() > u32::MAX as usize {
            return Err(TooLarge);
        }
        let layer = Layer { source, groups, rows: to.channels, channels: from.channels, bias };
        let (grid, lanes) = (Grid::of(&to.plane), self.isa.lanes());
        let (x, y) = (layer.source.base, to.row(0, 0));
        // A grid of more than one run leaves the gaps between rows as they are.
        let (stride, mask) = (to.plane.stride(), if self.lanes == 1 { self.masks.mask(&to.plane) } else { None });
        match weights {
            Weights::Sparse(matrix) if by_rows => {
                let grid = Grid::rows(to.plane.height(), of_rows * vectors);
                let (halves, lanes) = (of_rows < lanes, of_rows);
                let tiles = grid.tiles(lanes, vectors, [row_conv::most(self.isa) / vectors, vectors]);
                let shift = |tap| (window.place(1, tap % window.kernel[1]).1 + 1) as usize;
                let blocking = Blocking { tile_bytes: 28 << 10, taps: 20, in_flight: 1, parts: SHIFTS.len() };
                let (taps, blocks, cumulative) = layer.sparse(matrix, &tiles[0], lanes, blocking, shift);
                let bias = layer.bias;
                let (width, pitch) = (to.plane.width(), to.plane.pitch());
                let conv = RowConv {
                    x,
                    y,
                    residual,
                    stride,
                    width,
                    pitch,
                    halves,
                    tiles,
                    taps,
                    blocks,
                    bias,
                    clip,
                    cumulative,
                };
                self.push(Step::RowConv(conv));
            }
            Weights::Sparse(matrix) if by_maps => {
                let size = [to.plane.height(), to.plane.width()];
                let rows = map_conv::rows_of_tile(self.isa, size).expect("there is a kernel for the map");
                let tiles = grid.tiles(lanes, size[1], [rows, size[1]]);
                let columns = window.kernel[1];
                let group = |k| map_conv::group([window.place(0, k / columns).1, window.place(1, k % columns).1]);
                let taps = if window.stride == [1, 1] { 35 } else { 20 };
                let blocking = Blocking { tile_bytes: 48 << 10, taps, in_flight: 1, parts: map_conv::GROUPS };
                let (taps, blocks, cumulative) = layer.sparse(matrix, &tiles[0], lanes, blocking, group);
                let bias = layer.bias;
                let step = window.stride[0];
                let conv = MapConv { x, y, residual, stride, step, tiles, taps, blocks, bias, clip, cumulative };
                self.push(Step::MapConv(conv));
            }
            Weights::Sparse(matrix) => {
                let tiles = grid.tiles(lanes, sparse_conv::SINGLE, sparse_conv::most(self.isa));
                let in_flight = sparse_conv::in_flight(tiles[0].rows, tiles[0].vectors);
                // Of a map of one vector the second-level cache is fast enough.
                let tile_bytes = if self.lanes == 1 && flat <= lanes { 400 << 10 } else { 20 << 10 };
                let blocking = Blocking { tile_bytes, taps: 20, in_flight, parts: 1 };
                let (taps, blocks, cumulative) = layer.sparse(matrix, &tiles[0], lanes, blocking, |_| 0);
                let (pitch, bias) = (grid.pitch(), layer.bias);
                let conv =
                    SparseConv { x, y, residual, stride, tiles, pitch, mask, taps, blocks, bias, clip, cumulative };
                self.push(Step::SparseConv(conv));
            }
            Weights::Dense(dense) | Weights::Winograd(dense) => {
                let [rows, most] = dense_conv::most(self.isa);
                let tiles = grid.tiles(lanes, most, [1, most]);
                let right = |tap| window.place(1, tap % window.kernel[1]).1;
                let reaches: BTreeSet<isize> = match is_masked {
                    true => (0..window.kernel[1]).map(right).filter(|reach| *reach != 0).collect(),
                    false => BTreeSet::new(),
                };
                let edge = |tap| reaches.iter().position(|reach| *reach == right(tap));
                let (chunks, order) = layer.chunks(&tiles[0], lanes, rows, edge);
                let (weights, blocks) = layer.dense(dense, &order, &chunks, rows);
                let edges = reaches.iter().map(|right| self.masks.edge(&to.plane, *right)).collect();
                let offsets = order.iter().map(|column| layer.offset(0, *column)).collect();
                let far = to.values() * size_of::<f32>() > 1 << 20;
                let block_first = to.channels * layer.source.taps.len() > layer.source.channel;
                self.push(Step::DenseConv(DenseConv {
                    x,
                    y,
                    residual,
                    stride,
                    tiles,
                    mask,
                    weights: weights.into(),
                    rows,
                    offsets,
                    chunks,
                    edges,
                    blocks,
                    block_first,
                    far,
                    clip,
                }));
            }
        }
        Ok(start..self.steps.len())
    }

    /// `y = clip(weights x + bias)` over features.
    ///
    /// # Errors
    /// As [`ProgramBuilder::conv`].
    pub fn linear(
        &mut self,
        x: BufferId,
        y: BufferId,
        weights: Weights<'_>,
        bias: Option<&[f32]>,
        clip: [f32; 2],
    ) -> Result<Range<usize>, TooLarge> {
        if self.lanes > 1 {
            return self.conv(x, y, weights, &Conv { window: Window::POINT, groups: 1, bias, residual: None, clip });
        }
        let (from, to) = (self.features(x, y), self.features(y, x));
        weights.check(to.channels, from.channels);
        let bias = bias.map_or_else(|| vec![0.0; to.channels], <[f32]>::to_vec);
        assert_eq!(bias.len(), to.channels, "biases");
        let (x, y, features) = (from.start, to.start, from.channels);
        Ok(self.push(match weights {
            Weights::Dense(dense) | Weights::Winograd(dense) => {
                Step::DenseLinear(Linear { x, y, features, weights: dense.to_vec(), bias, clip })
            }
            Weights::Sparse(matrix) => {
                let starts = matrix.crow_indices().iter().map(|i| *i as u32).collect();
                let columns = matrix.col_indices().iter().map(|c| *c as u32);
                let entries = columns.zip(matrix.values().iter().copied()).collect();
                Step::SparseLinear(Linear { x, y, features, weights: Rows { starts, entries }, bias, clip })
            }
        }))
    }

    /// `y[first..first + channels of x] = clip(scale x + shift + residual)`; scale and shift come as one pair a
    /// channel, and all three may be left out. The rest of `y` stays as it is.
    pub fn pointwise(
        &mut self,
        x: BufferId,
        y: BufferId,
        first: usize,
        affine: Option<Vec<[f32; 2]>>,
        residual: Option<BufferId>,
        clip: [f32; 2],
    ) -> Range<usize> {
        let (from, to) = (self.buffers[x], self.buffers[y]);
        self.distinct(x, y);
        assert_eq!(from.plane, to.plane, "planes of a pointwise step");
        assert!(first + from.channels <= to.channels, "{} channels from {first} of {}", from.channels, to.channels);
        assert!(affine.as_ref().is_none_or(|affine| affine.len() == from.channels), "scales");
        let residual = residual.map(|r| {
            assert!(r != y, "a residual must not be the output");
            self.like(r, x).row(0, 0)
        });
        let (plane, mask) = (from.plane, self.masks.mask(&from.plane));
        self.push(Step::Pointwise(Pointwise {
            x: from.row(0, 0),
            y: to.row(first, 0),
            residual,
            stride: plane.stride(),
            flat: plane.values(),
            mask,
            channels: from.channels,
            affine,
            clip,
        }))
    }

    /// `y = activation(x)`.
    pub fn activate(&mut self, x: BufferId, y: BufferId, activation: Activation) -> Range<usize> {
        self.distinct(x, y);
        let (x, y) = (self.buffers[x], self.like(y, x));
        self.push(Step::Activate(Activate { x, y, activation }))
    }

    /// `y = a combined with b`, where `b` has the layout of `a`, or one position a channel.
    pub fn combine(&mut self, a: BufferId, b: BufferId, y: BufferId, combination: Combination) -> Range<usize> {
        self.distinct(a, y);
        self.distinct(b, y);
        let (a, b, y) = (self.buffers[a], self.buffers[b], self.like(y, a));
        assert_eq!(a.channels, b.channels, "channels to combine");
        assert!(b.plane == a.plane || (b.plane.height(), b.plane.width()) == (1, 1), "{:?}", b.plane);
        self.push(Step::Combine(Combine { a, b, y, combination }))
    }

    /// `x` with a border of `value` around it: as wide as `top` and `left` say, and to the end of `y` behind.
    pub fn border(&mut self, x: BufferId, y: BufferId, [top, left]: [usize; 2], value: f32) -> Range<usize> {
        self.distinct(x, y);
        let (x, y) = (self.buffers[x], self.buffers[y]);
        assert_eq!(x.channels, y.channels, "channels of a border");
        let fits = |from: usize, before: usize, to: usize| from + before <= to;
        assert!(
            fits(x.plane.height(), top, y.plane.height()) && fits(x.plane.width(), left, y.plane.width()),
            "{x:?} does not fit {y:?} at {top}, {left}"
        );
        self.push(Step::Border(Border { x, y, top, left, value }))
    }

    /// Max or average pooling.
    pub fn pool(&mut self, x: BufferId, y: BufferId, pooling: Pooling, window: Window) -> Range<usize> {
        self.distinct(x, y);
        let (x, y) = (self.buffers[x], self.buffers[y]);
        let positions = window.positions([x.plane.height(), x.plane.width()]);
        assert_eq!(positions, Some([y.plane.height(), y.plane.width()]), "positions of {window:?}");
        assert_eq!(x.channels, y.channels, "channels of a pooling");
        let pool = Pool { x, y, pooling, window };
        self.push(if window.dilation == [1, 1] { Step::Pool(pool) } else { Step::DilatedPool(DilatedPool(pool)) })
    }

    /// Mean over each plane; `y` holds one position a channel.
    pub fn global_average(&mut self, x: BufferId, y: BufferId) -> Range<usize> {
        self.distinct(x, y);
        let (x, y) = (self.buffers[x], self.buffers[y]);
        assert_eq!((y.channels, y.plane.height(), y.plane.width()), (x.channels, 1, 1), "means");
        self.push(Step::GlobalAverage(GlobalAverage { x, y }))
    }

    /// Planes to features.
    pub fn flatten(&mut self, x: BufferId, y: BufferId) -> Range<usize> {
        let (to, x) = (self.features(y, x), self.buffers[x]);
        assert_eq!(to.channels, x.image(), "features");
        self.push(Step::Flatten(Flatten { x, y: to.start }))
    }

    /// Softmax over features.
    pub fn softmax(&mut self, x: BufferId, y: BufferId) -> Range<usize> {
        let (x, y) = (self.features(x, y), self.features(y, x));
        assert_eq!(x.channels, y.channels, "features");
        self.push(Step::Softmax(Softmax { x: x.start, y: y.start, features: x.channels, lanes: self.lanes }))
    }

    /// Whether the depthwise kernel can run: it reads the padding in the plane, and whole vectors within a row.
    fn fits_depthwise(&self, window: &Window, x: &Plane, y: &Plane) -> bool {
        x.holds(window.pads) && (self.lanes > 1 || y.width() >= self.isa.lanes())
    }

    fn push(&mut self, step: Step) -> Range<usize> {
        self.steps.push(step);
        self.steps.len() - 1..self.steps.len()
    }

    /// A buffer that must have the layout of another.
    fn like(&self, buffer: BufferId, other: BufferId) -> Place {
        let (a, b) = (self.buffers[buffer], self.buffers[other]);
        assert_eq!((a.plane, a.channels), (b.plane, b.channels), "two layouts that must be one");
        a
    }

    /// A buffer of features, distinct from `other`.
    fn features(&self, buffer: BufferId, other: BufferId) -> Place {
        self.distinct(buffer, other);
        let features = self.buffers[buffer];
        assert_eq!(features.plane.stride(), self.lanes, "features must be contiguous");
        features
    }

    fn distinct(&self, x: BufferId, y: BufferId) {
        assert_ne!(x, y, "a step must not read the buffer it writes");
    }
}
