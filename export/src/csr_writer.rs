//! A network's weights as CSR matrices.

use sprs::{CSR, CsMatI};
use sr2_formats::{CsrError, CsrMatrix, Tensor};

/// The exact non-zeros of a weight, seen as `[shape[0], product of the rest]`.
///
/// Fails on a value that is not finite, and on a weight too large for 32-bit indices.
pub fn compress(weight: &Tensor) -> Result<CsrMatrix, CsrError> {
    let rows = weight.shape()[0];
    let cols = weight.len() / rows;
    if i32::try_from(weight.len()).is_err() {
        return Err(CsrError::TooLarge { rows, cols });
    }
    let mut matrix = CsMatI::<f32, i32>::empty(CSR, cols);
    matrix.reserve_outer_dim_exact(rows);
    matrix.reserve_nnz_exact(weight.nnz());
    for row in weight.data().chunks(cols) {
        matrix = matrix.append_outer(row);
    }
    let (crow_indices, col_indices, values) = matrix.into_raw_storage();
    CsrMatrix::try_new(rows, cols, crow_indices, col_indices, values)
}
