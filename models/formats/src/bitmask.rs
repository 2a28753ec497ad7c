//! The `sparse-bitmask` layout of compressed-tensors, which vLLM once read. Legacy: it is written for tools that still ask
//! for it, and not read.

use std::path::Path;

use safetensors::Dtype;

use crate::container::{self, RawTensor};
use crate::csr_file::{CsrFile, CsrParameter};
use crate::dense::{self, bytes};
use crate::{CsrMatrix, Result};

/// Writes each sparse parameter `NAME` as a matrix: `NAME.shape` (I64, rows and columns), `NAME.compressed` (F32, its
/// non-zeros), `NAME.bitmask` (U8, `[rows, ceil(cols / 8)]`, the lowest bit first) and `NAME.row_offsets` (I64, where each row
/// begins in the non-zeros); the others dense.
///
/// # Errors
/// Two tensors that would have one name; the operating system's.
pub fn write(path: impl AsRef<Path>, file: &CsrFile) -> Result<()> {
    let mut tensors: Vec<_> = file.dense.iter().map(|(name, tensor)| dense::raw(name, tensor)).collect();
    tensors.extend(file.sparse.iter().flat_map(|(name, parameter)| arrays(name, parameter)));
    container::write(path.as_ref(), tensors, dense::with_format(&file.metadata))
}

fn arrays(name: &str, parameter: &CsrParameter) -> [RawTensor; 4] {
    let matrix = parameter.matrix();
    let (rows, width) = (matrix.rows(), matrix.cols().div_ceil(8));
    let starts = &matrix.crow_indices()[..rows];
    [
        ("shape", Dtype::I64, vec![2], bytes(&[rows, matrix.cols()], |d| (d as i64).to_le_bytes())),
        ("compressed", Dtype::F32, vec![matrix.nnz()], bytes(matrix.values(), f32::to_le_bytes)),
        ("bitmask", Dtype::U8, vec![rows, width], mask(matrix, width)),
        ("row_offsets", Dtype::I64, vec![rows], bytes(starts, |start| i64::from(start).to_le_bytes())),
    ]
    .map(|(array, dtype, shape, bytes)| RawTensor { name: format!("{name}.{array}"), dtype, shape, bytes })
}

fn mask(matrix: &CsrMatrix, width: usize) -> Vec<u8> {
    let mut mask = vec![0; matrix.rows() * width];
    for row in 0..matrix.rows() {
        for col in matrix.row(row).0 {
            mask[row * width + *col as usize / 8] |= 1 << (col % 8);
        }
    }
    mask
}
