//! Weights of convolutions in the order in which the kernels read them.

use std::ops::Range;

use sr2_formats::CsrMatrix;

use crate::dense_conv::{Block, Chunk};
use crate::grid::Tile;
use crate::plane::ALIGN;
use crate::source::Source;
use crate::sparse_conv::Tap;

/// Into how many blocks of input channels sparse taps are cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blocking {
    /// Bytes of one tile's input that should stay in the first-level cache, which holds 32 KiB or more.
    pub(crate) tile_bytes: usize,
    /// A block must give an output channel this many non-zeros to pay for its pass over the sums.
    pub(crate) taps: usize,
    /// Taps of an output channel are filled up to a multiple of this.
    pub(crate) in_flight: usize,
    /// And each of this many parts of them on its own.
    pub(crate) parts: usize,
}

/// Bytes of one tile's input that a dense convolution keeps in the first-level cache.
const TILE_BYTES: usize = 20 << 10;

/// Cost of starting and storing a row's tile, in taps.
const ROW_COST: u64 = 3;

/// What both kinds of convolution are packed from.
pub(crate) struct Layer {
    pub(crate) source: Source,
    pub(crate) groups: usize,
    pub(crate) rows: usize,
    pub(crate) channels: usize,
    pub(crate) bias: Vec<f32>,
}

impl Layer {
    /// Taps by block of input channels, row and the part to which `part` assigns each tap of the kernel; where each part of each row starts; and the cost of the rows before each.
    pub(crate) fn sparse(
        &self,
        matrix: &CsrMatrix,
        tile: &Tile,
        lanes: usize,
        Blocking { tile_bytes, taps: of_block, in_flight, parts }: Blocking,
        part: impl Fn(usize) -> usize,
    ) -> (Vec<Tap>, Vec<Vec<u32>>, Vec<u64>) {
        let (kernel, group) = (self.source.taps.len(), self.channels / self.groups);
        let bytes = group * self.source.footprint(tile.rows, tile.vectors * lanes) * size_of::<f32>();
        let worthwhile = matrix.nnz() / self.rows / of_block;
        let count = bytes.div_ceil(tile_bytes).min(worthwhile).clamp(1, group);
        let (mut taps, mut blocks) = (Vec::with_capacity(matrix.nnz()), Vec::with_capacity(count));
        for block in 0..count {
            let columns = group * block / count * kernel..group * (block + 1) / count * kernel;
            let mut starts = vec![taps.len() as u32];
            for (row, of_row) in (0..self.rows).flat_map(|row| (0..parts).map(move |of_row| (row, of_row))) {
                let first = row / (self.rows / self.groups) * group;
                let (row_columns, values) = matrix.row(row);
                let start = taps.len();
                for (column, weight) in row_columns.iter().zip(values) {
                    let column = *column as usize;
                    if columns.contains(&column) && part(column % kernel) == of_row {
                        taps.push(Tap::new(*weight, self.offset(first, column)));
                    }
                }
                while (taps.len() - start) % in_flight != 0 {
                    taps.push(taps[taps.len() - 1].without_weight());
                }
                starts.push(taps.len() as u32);
            }
            blocks.push(starts);
        }
        let mut cumulative = vec![0];
        for row in 0..self.rows {
            let cost = matrix.row(row).0.len() as u64 + ROW_COST * count as u64;
            cumulative.push(cumulative[row] + cost);
        }
        (taps, blocks, cumulative)
    }

    /// Byte distance of the tap of a column of a group whose input channels start at `first`.
    pub(crate) fn offset(&self, first: usize, column: usize) -> u32 {
        let (channel, tap) = (column / self.source.taps.len(), column % self.source.taps.len());
        (((first + channel) * self.source.channel + self.source.taps[tap]) * size_of::<f32>()) as u32
    }

    /// Chunks of input channels whose inputs of a tile and weights of a block of `rows` channels fit the first-level
    /// cache, and the columns of the weights in the order of their taps: by chunk, then by the edge that `edge` names
    /// for each tap of the kernel.
    pub(crate) fn chunks(
        &self,
        tile: &Tile,
        lanes: usize,
        rows: usize,
        edge: impl Fn(usize) -> Option<usize>,
    ) -> (Vec<Chunk>, Vec<usize>) {
        let (kernel, group) = (self.source.taps.len(), self.channels / self.groups);
        let values = self.source.footprint(tile.rows, tile.vectors * lanes) + kernel * rows;
        let count = (group * values * size_of::<f32>()).div_ceil(TILE_BYTES).clamp(1, group);
        let mut columns: Vec<usize> = Vec::with_capacity(group * kernel);
        let chunk = |i: usize| {
            let taps = group * i / count * kernel..group * (i + 1) / count * kernel;
            columns.extend(taps.clone());
            columns[taps.clone()].sort_by_key(|column| edge(column % kernel));
            let mut parts: Vec<(Range<usize>, Option<usize>)> = Vec::new();
            for tap in taps.clone() {
                let edge = edge(columns[tap] % kernel);
                match parts.last_mut() {
                    Some((taps, last)) if *last == edge => taps.end += 1,
                    _ => parts.push((tap..tap + 1, edge)),
                }
            }
            Chunk { taps, parts }
        };
        let chunks = (0..count).map(chunk).collect();
        (chunks, columns)
    }

    /// Weights by chunk, block of `rows` output channels and tap, then a vector of zeros, and the blocks; `columns` are those
    /// of the weights in the order of their taps.
    pub(crate) fn dense(
        &self,
        dense: &[f32],
        columns: &[usize],
        chunks: &[Chunk],
        rows_of_block: usize,
    ) -> (Vec<f32>, Vec<Block>) {
        let per_group = self.rows / self.groups;
        let mut blocks = Vec::new();
        for group in 0..self.groups {
            for start in (0..per_group).step_by(rows_of_block) {
                let (row, rows) = (group * per_group + start, rows_of_block.min(per_group - start));
                let bias = (0..rows_of_block).map(|r| if r < rows { self.bias[row + r] } else { 0.0 });
                let x = group * (self.channels / self.groups) * self.source.channel;
                blocks.push(Block { row, rows, bias: bias.collect(), x });
            }
        }
        let mut weights = Vec::with_capacity(blocks.len() * columns.len() * rows_of_block + ALIGN);
        for chunk in chunks {
            for Block { row, rows, .. } in &blocks {
                let value = |r, column| if r < *rows { dense[(row + r) * columns.len() + column] } else { 0.0 };
                let taps = columns[chunk.taps.clone()].iter();
                weights.extend(taps.flat_map(|column| (0..rows_of_block).map(move |r| value(r, column))));
            }
        }
        weights.extend([0.0; ALIGN]);
        (weights, blocks)
    }
}
