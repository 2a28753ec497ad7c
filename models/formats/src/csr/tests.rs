use proptest::prelude::*;

use super::*;

/// `len` values of which about `density` are non-zero.
pub(crate) fn random(len: usize, density: f64, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..len).map(|_| if uniform() < density { uniform() as f32 - 0.5 } else { 0.0 }).collect()
}

/// The rules, written as one brute-force predicate over a dense picture of the entries.
fn satisfies_the_rules(rows: usize, cols: usize, crow: &[i32], col: &[i32], values: &[f32]) -> bool {
    let ends = crow.len() == rows + 1 && crow[0] == 0 && crow[rows] as i64 == col.len() as i64;
    ends && values.len() == col.len()
        && values.iter().all(|v| v.is_finite())
        && (0..rows).all(|r| {
            let (start, end) = (crow[r], crow[r + 1]);
            start <= end
                && start >= 0
                && end as usize <= col.len()
                && (start..end).all(|k| (0..cols as i32).contains(&col[k as usize]))
                && (start + 1..end).all(|k| col[k as usize - 1] < col[k as usize])
        })
}

#[test]
fn sparsities_round_trip_through_csr() {
    for (rows, cols) in [(1, 1), (1, 17), (16, 1), (15, 16), (64, 577)] {
        for density in [0.0, 0.01, 0.1, 1.0] {
            let tensor = Tensor::new([rows, cols], random(rows * cols, density, 7));
            let matrix = CsrMatrix::from_dense(&tensor).unwrap();
            assert_eq!(matrix.nnz(), tensor.nnz());
            assert_eq!(matrix.to_dense(&[rows, cols]), tensor, "{rows} x {cols} at {density}");
        }
    }
}

#[test]
fn empty_and_full_rows() {
    let tensor = Tensor::new([3, 2], vec![0.0, -0.0, 1.0, 2.0, 0.0, 3.0]);
    let matrix = CsrMatrix::from_dense(&tensor).unwrap();
    assert_eq!(matrix.row(0), (&[][..], &[][..]));
    assert_eq!(matrix.row(1), (&[0, 1][..], &[1.0, 2.0][..]));
    assert_eq!(matrix.row(2), (&[1][..], &[3.0][..]));
}

#[test]
fn rank_decides_rows_and_columns() {
    let size = |shape: &[usize]| {
        let matrix = CsrMatrix::from_dense(&Tensor::full(shape, 1.0)).unwrap();
        (matrix.rows(), matrix.cols(), matrix.nnz())
    };
    assert_eq!(size(&[2, 3, 4]), (2, 12, 24));
    assert_eq!(size(&[5]), (5, 1, 5));
    assert_eq!(size(&[]), (1, 1, 1));
    assert_eq!(size(&[0, 3]), (0, 0, 0));
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let tensor = Tensor::new([1, 3], vec![0.0, 1.0, f32::NAN]);
    assert_eq!(CsrMatrix::from_dense(&tensor), Err(CsrError::NotFinite { position: 1 }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..Default::default() })]

    /// Small arrays, mostly broken: accepted exactly when the brute-force predicate holds.
    #[test]
    fn accepts_exactly_what_the_rules_allow(
        rows in 0usize..4,
        cols in 0usize..4,
        crow in prop::collection::vec(-1i32..5, 1..5),
        col in prop::collection::vec(-1i32..5, 0..5),
        values in prop::collection::vec(prop_oneof![9 => -1f32..1.0, 1 => Just(f32::NAN)], 0..5),
    ) {
        let expected = satisfies_the_rules(rows, cols, &crow, &col, &values);
        prop_assert_eq!(CsrMatrix::try_new(rows, cols, crow, col, values).is_ok(), expected);
    }

    /// Valid matrices with one index changed, so that acceptance is common too.
    #[test]
    fn one_changed_index(rows in 1usize..5, cols in 1usize..6, seed: u64, which: prop::sample::Index, to in -1i32..8) {
        let matrix = CsrMatrix::from_dense(&Tensor::new([rows, cols], random(rows * cols, 0.5, seed))).unwrap();
        let CsrMatrix { mut crow_indices, mut col_indices, values, .. } = matrix;
        let k = which.index(crow_indices.len() + col_indices.len());
        match k.checked_sub(crow_indices.len()) {
            None => crow_indices[k] = to,
            Some(k) => col_indices[k] = to,
        }
        let expected = satisfies_the_rules(rows, cols, &crow_indices, &col_indices, &values);
        prop_assert_eq!(CsrMatrix::try_new(rows, cols, crow_indices, col_indices, values).is_ok(), expected);
    }
}
