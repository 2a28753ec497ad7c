//! Compressed sparse row matrices, validated once and then trusted.

use std::fmt;

use crate::Tensor;

/// A CSR matrix of f32 values with i32 indices, the layout PyTorch and SciPy share.
///
/// Row `r` holds the values `values[crow_indices[r]..crow_indices[r + 1]]` at the columns of the same range of
/// `col_indices`, strictly ascending. The fields are private: a value of this type satisfies every rule of
/// [`CsrMatrix::try_new`], and kernels may rely on it.
#[derive(Debug, Clone, PartialEq)]
pub struct CsrMatrix {
    rows: usize,
    cols: usize,
    crow_indices: Vec<i32>,
    col_indices: Vec<i32>,
    values: Vec<f32>,
}

/// The rule that a would-be CSR matrix breaks, and where.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum CsrError {
    /// Rows, columns or their product do not fit the index type.
    TooLarge {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },
    /// `crow_indices` must have one entry more than there are rows.
    RowPointerCount {
        /// Entries found.
        found: usize,
        /// Entries expected.
        expected: usize,
    },
    /// `crow_indices[0]` must be 0 and the last entry must be nnz.
    RowPointerEnds {
        /// First and last entry found.
        found: (i32, i32),
        /// Number of values.
        nnz: usize,
    },
    /// `crow_indices` must not decrease.
    RowPointerOrder {
        /// Row whose end lies before its start.
        row: usize,
    },
    /// `col_indices` and `values` must have the same length.
    ValueCount {
        /// Values found.
        values: usize,
        /// Column indices found.
        col_indices: usize,
    },
    /// A column index is negative or not below the number of columns.
    ColumnOutOfRange {
        /// Its row.
        row: usize,
        /// Position in `col_indices`.
        position: usize,
        /// The index found.
        found: i32,
        /// The number of columns.
        cols: usize,
    },
    /// Column indices of a row must be strictly ascending.
    ColumnOrder {
        /// The row.
        row: usize,
        /// Position in `col_indices`.
        position: usize,
        /// The index before it.
        previous: i32,
        /// The index found.
        found: i32,
    },
    /// Values must be finite.
    NotFinite {
        /// Position in `values`.
        position: usize,
    },
}

impl fmt::Display for CsrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { rows, cols } => write!(f, "{rows} x {cols} does not fit int32 indices"),
            Self::RowPointerCount { found, expected } => {
                write!(f, "crow_indices has {found} entries, expected rows + 1 = {expected}")
            }
            Self::RowPointerEnds { found, nnz } => {
                write!(f, "crow_indices runs from {} to {}, expected from 0 to nnz = {nnz}", found.0, found.1)
            }
            Self::RowPointerOrder { row } => write!(f, "crow_indices decreases at row {row}"),
            Self::ValueCount { values, col_indices } => {
                write!(f, "{values} values for {col_indices} col_indices, expected as many")
            }
            Self::ColumnOutOfRange { row, position, found, cols } => {
                write!(f, "col_indices[{position}] (row {row}) is {found}, expected 0 to {}", cols.saturating_sub(1))
            }
            Self::ColumnOrder { row, position, previous, found } => {
                let what = if found == previous { "duplicated" } else { "unsorted" };
                write!(f, "col_indices[{position}] (row {row}) is {what}: {found} after {previous}, expected ascending")
            }
            Self::NotFinite { position } => write!(f, "values[{position}] is not finite"),
        }
    }
}

impl std::error::Error for CsrError {}

impl CsrMatrix {
    /// Checks the whole CSR predicate and takes ownership of the arrays.
    pub fn try_new(
        rows: usize,
        cols: usize,
        crow_indices: Vec<i32>,
        col_indices: Vec<i32>,
        values: Vec<f32>,
    ) -> Result<Self, CsrError> {
        let max = i32::MAX as usize;
        if rows >= max || cols > max || rows.checked_mul(cols).is_none_or(|size| size > max) {
            return Err(CsrError::TooLarge { rows, cols });
        }
        if crow_indices.len() != rows + 1 {
            return Err(CsrError::RowPointerCount { found: crow_indices.len(), expected: rows + 1 });
        }
        if values.len() != col_indices.len() {
            return Err(CsrError::ValueCount { values: values.len(), col_indices: col_indices.len() });
        }
        let nnz = values.len();
        let ends = (crow_indices[0], crow_indices[rows]);
        if ends.0 != 0 || usize::try_from(ends.1) != Ok(nnz) {
            return Err(CsrError::RowPointerEnds { found: ends, nnz });
        }
        if let Some(row) = crow_indices.windows(2).position(|w| w[1] < w[0]) {
            return Err(CsrError::RowPointerOrder { row });
        }
        for row in 0..rows {
            let range = crow_indices[row] as usize..crow_indices[row + 1] as usize;
            let mut previous = -1;
            for position in range {
                let found = col_indices[position];
                if found < 0 || found as usize >= cols {
                    return Err(CsrError::ColumnOutOfRange { row, position, found, cols });
                }
                if found <= previous {
                    return Err(CsrError::ColumnOrder { row, position, previous, found });
                }
                previous = found;
            }
        }
        if let Some(position) = values.iter().position(|v| !v.is_finite()) {
            return Err(CsrError::NotFinite { position });
        }
        Ok(Self { rows, cols, crow_indices, col_indices, values })
    }

    /// Compresses a dense tensor, seen as `[shape[0], product of the rest]`; exact zeros (of either sign) are dropped.
    pub fn from_dense(tensor: &Tensor) -> Result<Self, CsrError> {
        let rows = tensor.shape().first().copied().unwrap_or(1);
        let cols = tensor.len().checked_div(rows).unwrap_or(0);
        if i32::try_from(tensor.len()).is_err() {
            return Err(CsrError::TooLarge { rows, cols });
        }
        let mut crow_indices = Vec::with_capacity(rows + 1);
        crow_indices.push(0);
        let (mut col_indices, mut values) = (Vec::new(), Vec::new());
        for row in 0..rows {
            for (col, &value) in tensor.data()[row * cols..(row + 1) * cols].iter().enumerate() {
                if value != 0.0 {
                    col_indices.push(col as i32);
                    values.push(value);
                }
            }
            crow_indices.push(values.len() as i32);
        }
        Self::try_new(rows, cols, crow_indices, col_indices, values)
    }

    /// The dense tensor of `shape`, whose size must be `rows * cols`.
    pub fn to_dense(&self, shape: &[usize]) -> Tensor {
        let mut tensor = Tensor::full(shape, 0.0);
        assert_eq!(tensor.len(), self.rows * self.cols, "shape {shape:?} for {} x {}", self.rows, self.cols);
        let data = tensor.data_mut();
        for row in 0..self.rows {
            let (columns, values) = self.row(row);
            for (&column, &value) in columns.iter().zip(values) {
                data[row * self.cols + column as usize] = value;
            }
        }
        tensor
    }

    /// Column indices and values of one row.
    pub fn row(&self, row: usize) -> (&[i32], &[f32]) {
        let range = self.crow_indices[row] as usize..self.crow_indices[row + 1] as usize;
        (&self.col_indices[range.clone()], &self.values[range])
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of stored values.
    pub fn nnz(&self) -> usize {
        self.values.len()
    }

    /// Start of each row in `col_indices` and `values`, and the end of the last.
    pub fn crow_indices(&self) -> &[i32] {
        &self.crow_indices
    }

    /// Column of each stored value.
    pub fn col_indices(&self) -> &[i32] {
        &self.col_indices
    }

    /// The stored values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

#[cfg(test)]
pub(crate) mod tests;
