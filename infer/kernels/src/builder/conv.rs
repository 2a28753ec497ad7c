//! The steps of a convolution: which kernel, where it reads, and its weights packed.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use sr2_formats::{CsrMatrix, Tensor};

use super::{BufferId, Conv, ProgramBuilder};
use crate::dense_conv::{self, DenseConv};
use crate::depthwise::DepthwiseConv;
use crate::depthwise_aligned::{DepthwiseAligned, Moves};
use crate::depthwise_rows::DepthwiseRows;
use crate::generated_conv::{Functions, GeneratedConv, Reach};
use crate::grid::Grid;
use crate::map_conv::{self, MapConv};
use crate::packing::{Blocking, Layer};
use crate::plane::{ALIGN, Place};
use crate::program::Weights;
use crate::registry::Step;
use crate::row_conv::{self, RowConv, SHIFTS};
use crate::source::{Scratch, Source, TooLarge};
use crate::sparse_conv::{self, SparseConv};
use crate::window::Window;
use crate::winograd;

/// A convolution that fits its buffers.
#[derive(Clone)]
struct Fitting {
    from: Place,
    to: Place,
    window: Window,
    groups: usize,
    bias: Vec<f32>,
    /// Where the residual begins.
    residual: Option<usize>,
    clip: [f32; 2],
}

impl Fitting {
    fn layer(self, source: Source, read: usize) -> Result<Layer, TooLarge> {
        let Self { from, to, groups, bias, .. } = self;
        if source.extent(from.channels, read) * size_of::<f32>() > u32::MAX as usize {
            return Err(TooLarge);
        }
        Ok(Layer { source, groups, rows: to.channels, channels: from.channels, bias })
    }
}

impl ProgramBuilder {
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
        let Conv { window, groups, bias, residual, clip } = *conv;
        assert!(
            groups > 0 && from.channels % groups == 0 && to.channels % groups == 0,
            "{groups} groups do not divide"
        );
        weights.check(to.channels, from.channels / groups * window.kernel[0] * window.kernel[1]);
        let positions = window.positions([from.plane.height(), from.plane.width()]);
        assert_eq!(positions, Some([to.plane.height(), to.plane.width()]), "positions of {window:?}");
        let flat = to.plane.values();
        let whole = flat.next_multiple_of(self.isa.lanes());
        assert!(to.plane.head() + whole <= to.plane.stride(), "rows of {flat} values overlap: use `linear`");
        let bias = bias.map_or_else(|| vec![0.0; to.channels], <[f32]>::to_vec);
        assert_eq!(bias.len(), to.channels, "biases");
        let residual = residual.map(|r| self.like(r, y).row(0, 0));
        self.distinct(x, y);
        let start = self.steps.len();
        let fitting = Fitting { from, to, window, groups, bias, residual, clip };
        match weights {
            Weights::Winograd(dense) => {
                let estimate = conv.winograd(&from.plane, &to.plane, [from.channels, to.channels], self.isa);
                assert!(estimate.is_some(), "{conv:?} has no Winograd form");
                let Fitting { bias, residual, clip, .. } = fitting;
                let (scratch, masks) = (self.scratch(), &mut self.masks);
                let (steps, values) = winograd::steps([from, to], dense, bias, residual, clip, scratch, masks);
                self.scratch_values = self.scratch_values.max(values);
                self.steps.extend(steps);
            }
            Weights::Dense(dense) if conv.is_depthwise(from.channels, to.channels) => self.depthwise(fitting, dense)?,
            Weights::Dense(dense) => self.dense(fitting, dense)?,
            Weights::Sparse(matrix) => self.sparse(fitting, matrix)?,
            Weights::Generated(matrix) => {
                assert!(conv.is_generated(&from.plane, &to.plane, self.isa), "no code for {conv:?}");
                if !self.generated(fitting.clone(), matrix)? {
                    self.steps.truncate(start);
                    self.sparse(fitting, matrix)?;
                }
            }
        }
        Ok(start..self.steps.len())
    }

    fn depthwise(&mut self, fitting: Fitting, dense: &[f32]) -> Result<(), TooLarge> {
        let Fitting { from, to, window, residual, clip, .. } = fitting;
        let [x_size, size] = [from, to].map(|place| [place.plane.height(), place.plane.width()]);
        let has_gaps = (self.lanes, from.plane.gap(), to.plane.gap()) != (1, 0, 0);
        if !has_gaps && window.is_aligned(x_size, size, self.isa) {
            self.push(Step::DepthwiseAligned(DepthwiseAligned {
                x: from.row(0, 0),
                x_stride: from.plane.stride(),
                y: to.row(0, 0),
                residual,
                y_stride: to.plane.stride(),
                size,
                stride: window.stride[0],
                moves: Moves::new(size[1], self.isa.lanes()).into(),
                weights: dense.as_chunks().0.to_vec(),
                bias: fitting.bias,
                clip,
            }));
        } else if window.is_masked(&from.plane, &to.plane) && (window.stride, window.pads) == ([1, 1], [1; 4]) {
            let edges = [-1, 1].map(|right| self.masks.edge(&to.plane, right));
            let mask = self.masks.mask(&to.plane);
            self.push(Step::DepthwiseRows(DepthwiseRows {
                x: from.row(0, 0) - from.plane.pitch() - 1,
                x_stride: from.plane.stride(),
                y: to.row(0, 0),
                residual,
                y_stride: to.plane.stride(),
                pitch: from.plane.pitch(),
                flat: to.plane.values().next_multiple_of(self.isa.lanes()),
                edges,
                mask,
                weights: dense.as_chunks().0.to_vec(),
                bias: fitting.bias,
                clip,
            }));
        } else if from.plane.holds(window.pads) && (self.lanes > 1 || to.plane.width() >= self.isa.lanes()) {
            // It reads the padding in the plane, and whole vectors within a row.
            let [top, left, ..] = window.pads;
            let head = from.plane.head() - (top * from.plane.pitch() + left) * self.lanes;
            self.push(Step::DepthwiseConv(DepthwiseConv {
                x_start: from.start + head,
                x: from.plane,
                y_start: to.row(0, 0),
                residual,
                y: to.plane,
                stride: window.stride[0],
                weights: dense.as_chunks().0.to_vec(),
                bias: fitting.bias,
                clip,
            }));
        } else {
            // A block of the dense kernel would hold one channel.
            let columns = window.kernel[0] * window.kernel[1];
            let all = CsrMatrix::from_dense(&Tensor::new([to.channels, columns], dense.to_vec()));
            self.sparse(fitting, &all.expect("a matrix of nine columns"))?;
        }
        Ok(())
    }

    fn sparse(&mut self, fitting: Fitting, matrix: &CsrMatrix) -> Result<(), TooLarge> {
        let Fitting { from, to, window, residual, clip, .. } = fitting;
        let (y, stride, lanes) = (to.row(0, 0), to.plane.stride(), self.isa.lanes());
        if window.is_by_rows(&from.plane, &to.plane, self.isa) {
            let [of_rows, vectors] = self.isa.rows(to.plane.width()).unwrap_or_default();
            let read = to.plane.height() * of_rows * vectors;
            let made = Source::rows(&window, &from, &to.plane, of_rows * vectors, self.scratch())?;
            let source = self.rearranged(&from, read, made);
            let layer = fitting.layer(source, read)?;
            let grid = Grid::rows(to.plane.height(), of_rows * vectors);
            let tiles = grid.tiles(of_rows, vectors, [row_conv::most(self.isa) / vectors, vectors]);
            let shift = |tap| (window.place(1, tap % window.kernel[1]).1 + 1) as usize;
            let blocking = Blocking { tile_bytes: 28 << 10, taps: 20, in_flight: 1, parts: SHIFTS.len() };
            let (taps, blocks, cumulative) = layer.sparse(matrix, &tiles[0], of_rows, blocking, shift);
            self.push(Step::RowConv(RowConv {
                x: layer.source.base,
                y,
                residual,
                stride,
                width: to.plane.width(),
                pitch: to.plane.pitch(),
                halves: of_rows < lanes,
                tiles,
                taps,
                blocks,
                bias: layer.bias,
                clip,
                cumulative,
            }));
            return Ok(());
        }
        let (grid, flat) = (Grid::of(&to.plane), to.plane.values());
        if window.is_by_maps(&from.plane, &to.plane, self.isa) {
            let layer = fitting.layer(Source::maps(&window, &from, &to.plane), flat)?;
            let size = [to.plane.height(), to.plane.width()];
            let rows = map_conv::rows_of_tile(self.isa, size).expect("there is a kernel for the map");
            let tiles = grid.tiles(lanes, size[1], [rows, size[1]]);
            let columns = window.kernel[1];
            let group = |k| map_conv::group([window.place(0, k / columns).1, window.place(1, k % columns).1]);
            let taps = if window.stride == [1, 1] { 35 } else { 20 };
            let blocking = Blocking { tile_bytes: 48 << 10, taps, in_flight: 1, parts: map_conv::GROUPS };
            let (taps, blocks, cumulative) = layer.sparse(matrix, &tiles[0], lanes, blocking, group);
            let (x, bias, step) = (layer.source.base, layer.bias, window.stride[0]);
            self.push(Step::MapConv(MapConv {
                x,
                y,
                residual,
                stride,
                step,
                tiles,
                taps,
                blocks,
                bias,
                clip,
                cumulative,
            }));
            return Ok(());
        }
        let source = self.direct_or_arranged(&fitting)?;
        let layer = fitting.layer(source, flat)?;
        let tiles = grid.tiles(lanes, sparse_conv::SINGLE, sparse_conv::most(self.isa));
        let in_flight = sparse_conv::in_flight(tiles[0].rows, tiles[0].vectors);
        // Of a map of one vector the second-level cache is fast enough.
        let tile_bytes = if self.lanes == 1 && flat <= lanes { 400 << 10 } else { 20 << 10 };
        let blocking = Blocking { tile_bytes, taps: 20, in_flight, parts: 1 };
        let (taps, blocks, cumulative) = layer.sparse(matrix, &tiles[0], lanes, blocking, |_| 0);
        let (x, bias, pitch, mask) = (layer.source.base, layer.bias, grid.pitch(), self.mask_of(&to));
        self.push(Step::SparseConv(SparseConv {
            x,
            y,
            residual,
            stride,
            tiles,
            pitch,
            mask,
            taps,
            blocks,
            bias,
            clip,
            cumulative,
        }));
        Ok(())
    }

    /// Appends the steps, unless there can be no code here: see [`Functions::generate`].
    fn generated(&mut self, fitting: Fitting, matrix: &CsrMatrix) -> Result<bool, TooLarge> {
        let Fitting { from, to, window, residual, clip, .. } = fitting;
        let flat = to.plane.values();
        let reach = Reach::of(&window, &from.plane, &to.plane, self.isa).expect("there is code for the convolution");
        let source = match reach {
            Reach::Around => Source::maps(&window, &from, &to.plane),
            Reach::Sideways { .. } if window == Window::POINT => self.direct_or_arranged(&fitting)?,
            Reach::Sideways { .. } => {
                let made = Source::masked(&window, &from, &to.plane, self.scratch())?;
                self.rearranged(&from, flat, made)
            }
        };
        let layer = fitting.layer(source, flat)?;
        let made = Functions::generate(&layer, matrix, (&window, &reach), &to, residual.is_some(), clip);
        let Some(functions) = made else { return Ok(false) };
        self.push(Step::GeneratedConv(GeneratedConv {
            x: layer.source.base,
            y: to.row(0, 0),
            residual,
            stride: to.plane.stride(),
            tiles: reach.tiles(&window, &to.plane),
            functions,
        }));
        Ok(true)
    }

    fn dense(&mut self, fitting: Fitting, dense: &[f32]) -> Result<(), TooLarge> {
        let Fitting { from, to, window, residual, clip, .. } = fitting;
        let (flat, lanes) = (to.plane.values(), self.isa.lanes());
        let is_masked = window.is_masked(&from.plane, &to.plane);
        let source = if is_masked {
            let made = Source::masked(&window, &from, &to.plane, self.scratch())?;
            self.rearranged(&from, flat, made)
        } else {
            self.direct_or_arranged(&fitting)?
        };
        let layer = fitting.layer(source, flat)?;
        let (rows, tiles) = (dense_conv::rows(self.isa), dense_conv::tiles(&to.plane, self.isa));
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
        let mask = self.mask_of(&to);
        self.push(Step::DenseConv(DenseConv {
            x: layer.source.base,
            y: to.row(0, 0),
            residual,
            stride: to.plane.stride(),
            tiles,
            mask,
            weights: weights.into(),
            rows,
            offsets,
            chunks,
            edges,
            blocks,
            block_first: to.channels * layer.source.taps.len() > layer.source.channel,
            far: to.values() * size_of::<f32>() > 1 << 20,
            clip,
        }));
        Ok(())
    }

    fn scratch(&self) -> Scratch {
        Scratch { start: self.scratch, isa: self.isa }
    }

    /// The mask of a plane whose gaps hold zeros. A grid of more than one run leaves the gaps between rows as they are.
    fn mask_of(&mut self, to: &Place) -> Option<Arc<[f32]>> {
        if self.lanes == 1 { self.masks.mask(&to.plane) } else { None }
    }

    /// Reads `x` where it is, or else rearranged.
    fn direct_or_arranged(&mut self, fitting: &Fitting) -> Result<Source, TooLarge> {
        let Fitting { from, to, window, .. } = fitting;
        let flat = to.plane.values();
        if !window.is_direct(&from.plane, &to.plane) {
            let made = Source::arranged(window, from, &to.plane, self.scratch())?;
            return Ok(self.rearranged(from, flat, made));
        }
        let source = Source::direct(window, from);
        let end = from.start + from.channels * from.plane.stride() + ALIGN;
        assert!(
            source.base >= from.start && source.base + source.extent(from.channels, flat) <= end,
            "taps out of range"
        );
        Ok(source)
    }

    /// Appends the step that rearranges `x`, if there is one.
    fn rearranged(&mut self, from: &Place, read: usize, (source, step): (Source, Option<Step>)) -> Source {
        if let Some(step) = step {
            let (read, written) = (source.extent(from.channels, read), from.channels * source.channel);
            self.scratch_values = self.scratch_values.max(read).max(written);
            self.push(step);
        }
        source
    }
}
