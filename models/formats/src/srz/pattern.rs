//! Which entries of a matrix are stored: one adaptive bit for each, except in rows and channels that are empty.

use super::coder::{Bit, Coder};

/// The stored entries of a matrix, in order: `crow[r]..crow[r + 1]` are the positions of row `r` in `col`.
#[derive(Debug, Default)]
pub(super) struct Pattern {
    pub(super) crow: Vec<i32>,
    pub(super) col: Vec<i32>,
}

/// Size of a matrix whose columns are `channels` groups of `taps`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) channels: usize,
    pub(super) taps: usize,
}

impl Size {
    /// A tensor `[out, in, height, width]` as `[out, in * height * width]`; one of rank 1 as a column if it is sparse,
    /// as the CSR layout has it, and else as one row.
    ///
    /// `None` if it does not fit 32-bit indices.
    pub(super) fn of(shape: &[usize], sparse: bool) -> Option<Self> {
        let product = |dims: &[usize]| dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        product(shape).filter(|len| i32::try_from(*len).is_ok())?;
        Some(match shape {
            [] => Self { rows: 1, channels: 1, taps: 1 },
            [rows] if sparse => Self { rows: *rows, channels: 1, taps: 1 },
            [len] => Self { rows: 1, channels: *len, taps: 1 },
            [rows, channels, taps @ ..] => Self { rows: *rows, channels: *channels, taps: product(taps)? },
        })
    }

    pub(super) fn cols(self) -> usize {
        self.channels * self.taps
    }

    pub(super) fn len(self) -> usize {
        self.rows * self.cols()
    }
}

/// Codes where the `nnz` stored entries of a matrix are; an encoder gets them in `known`.
///
/// Says what is wrong if a decoder finds another number of them.
pub(super) fn code(coder: &mut impl Coder, size: Size, nnz: usize, known: &Pattern) -> Result<Pattern, String> {
    let full = nnz == size.len();
    let mut pattern = reserve(size.rows, nnz)?;
    if full {
        pattern.col.extend((0..size.rows).flat_map(|_| 0..size.cols() as i32));
        pattern.crow.extend((0..=size.rows).map(|row| (row * size.cols()) as i32));
        return Ok(pattern);
    }
    let (mut row_used, mut channel_used, mut used) = (Bit::NEW, Bit::NEW, Bit::NEW);
    let mut is_known = vec![false; size.channels];
    for col in &known.col {
        is_known[*col as usize / size.taps] = true;
    }
    let channels: Vec<bool> = is_known.into_iter().map(|known| coder.bit(&mut channel_used, known)).collect();
    pattern.crow.push(0);
    for row in 0..size.rows {
        let mut next = known.crow.get(row).map_or(0, |start| *start as usize);
        let end = known.crow.get(row + 1).map_or(0, |end| *end as usize);
        if coder.bit(&mut row_used, next < end) {
            for channel in (0..size.channels).filter(|channel| channels[*channel]) {
                let first = (channel * size.taps) as i32;
                for col in first..first + size.taps as i32 {
                    let known = next < end && known.col[next] == col;
                    next += usize::from(known);
                    if coder.bit(&mut used, known) {
                        if pattern.col.len() == nnz {
                            return Err(format!("has more than its {nnz} stored values"));
                        }
                        pattern.col.push(col);
                    }
                }
            }
        }
        pattern.crow.push(pattern.col.len() as i32);
    }
    match pattern.col.len() {
        found if found == nnz => Ok(pattern),
        found => Err(format!("has {found} stored values, expected {nnz}")),
    }
}

fn reserve(rows: usize, nnz: usize) -> Result<Pattern, String> {
    let mut pattern = Pattern::default();
    let reserved = pattern.crow.try_reserve_exact(rows + 1).and_then(|()| pattern.col.try_reserve_exact(nnz));
    reserved.map_err(|e| format!("{nnz} values in {rows} rows: {e}"))?;
    Ok(pattern)
}
