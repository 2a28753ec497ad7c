use std::fs;

use proptest::prelude::*;
use safetensors::SafeTensors;

use super::*;
use crate::ErrorKind;

/// `[2, 1, 1, 3]`: rows `[0 1.5 -2]` and `[0 0 0.25]`.
fn example() -> CsrFile {
    let weight = Tensor::new([2, 1, 1, 3], vec![0.0, 1.5, -2.0, -0.0, 0.0, 0.25]);
    let mut file = CsrFile::default();
    file.sparse.insert("a.weight".into(), CsrParameter::from_dense(&weight).unwrap());
    file.dense.insert("a.bias".into(), Tensor::new([2], vec![1.0, -0.0]));
    file.metadata.insert(GRAPH_KEY.into(), "{}".into());
    file
}

/// Reads the example with the arrays that `change` makes of it.
fn read_changed(change: impl FnOnce(&mut BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>)) -> Result<CsrFile> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    write(&path, &example()).unwrap();
    let bytes = fs::read(&path).unwrap();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, t): (String, safetensors::tensor::TensorView)| {
        (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec()))
    };
    let mut arrays = parsed.tensors().into_iter().map(tensor).collect();
    change(&mut arrays);
    let raw =
        arrays.into_iter().map(|(name, (dtype, shape, bytes))| RawTensor { name, dtype, shape, bytes: bytes.to_vec() });
    let metadata = BTreeMap::from([(FORMAT_KEY.to_string(), FORMAT.to_string())]);
    container::write(&path, raw.collect(), metadata).unwrap();
    read(&path)
}

fn set_i32(array: &str, values: &[i32]) -> Result<CsrFile> {
    read_changed(|arrays| {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        arrays.insert(format!("a.weight.{array}"), (Dtype::I32, vec![values.len()], bytes));
    })
}

fn set_shape(values: &[i64]) -> Result<CsrFile> {
    read_changed(|arrays| {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        arrays.insert("a.weight.shape".into(), (Dtype::I64, vec![values.len()], bytes));
    })
}

/// The message names the file, the tensor and `problem`.
#[track_caller]
fn assert_refused(result: Result<CsrFile>, problem: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
    let message = error.to_string();
    assert!(message.contains("m.safetensors: tensor \"a.weight\"") && message.contains(problem), "{message}");
}

#[test]
fn reads_back_what_it_wrote() {
    let back = read_changed(|_| {}).unwrap();
    assert_eq!((&back.sparse, &back.dense), (&example().sparse, &example().dense));
    let weight = &back.sparse["a.weight"];
    assert_eq!(weight.shape(), [2, 1, 1, 3]);
    assert_eq!(weight.matrix().crow_indices(), [0, 2, 3]);
    assert_eq!(weight.matrix().col_indices(), [1, 2, 2]);
    assert_eq!(weight.matrix().values(), [1.5, -2.0, 0.25]);
    assert_eq!(back.dense["a.bias"].data()[1].to_bits(), (-0f32).to_bits());
}

#[test]
fn metadata_round_trips() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    write(&path, &example()).unwrap();
    let expected = [("format", "pt"), (FORMAT_KEY, FORMAT), (GRAPH_KEY, "{}")];
    assert_eq!(read(&path).unwrap().metadata, expected.map(|(k, v)| (k.to_string(), v.to_string())).into());
}

/// The bytes are a contract with files already written: header, padding, order and arrays.
#[test]
fn golden_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    write(&path, &example()).unwrap();
    let header = concat!(
        r#"{"__metadata__":{"format":"pt","sr2.format":"csr.v1","sr2.graph":"{}"},"#,
        r#""a.weight.shape":{"dtype":"I64","shape":[4],"data_offsets":[0,32]},"#,
        r#""a.bias":{"dtype":"F32","shape":[2],"data_offsets":[32,40]},"#,
        r#""a.weight.values":{"dtype":"F32","shape":[3],"data_offsets":[40,52]},"#,
        r#""a.weight.col_indices":{"dtype":"I32","shape":[3],"data_offsets":[52,64]},"#,
        r#""a.weight.crow_indices":{"dtype":"I32","shape":[3],"data_offsets":[64,76]}}"#,
    );
    let mut expected = (header.len().next_multiple_of(8) as u64).to_le_bytes().to_vec();
    expected.extend(header.as_bytes());
    expected.resize(expected.len().next_multiple_of(8), b' ');
    expected.extend([2i64, 1, 1, 3].iter().flat_map(|v| v.to_le_bytes()));
    expected.extend([1.0f32, -0.0, 1.5, -2.0, 0.25].iter().flat_map(|v| v.to_le_bytes()));
    expected.extend([1i32, 2, 2, 0, 2, 3].iter().flat_map(|v| v.to_le_bytes()));
    assert_eq!(fs::read(&path).unwrap(), expected);
}

#[test]
fn crow_indices_one_short() {
    assert_refused(set_i32(CROW_INDICES, &[0, 3]), "crow_indices has 2 entries, expected rows + 1 = 3");
}

#[test]
fn crow_indices_not_from_zero() {
    assert_refused(set_i32(CROW_INDICES, &[1, 2, 3]), "crow_indices runs from 1 to 3");
}

#[test]
fn crow_indices_not_to_nnz() {
    assert_refused(set_i32(CROW_INDICES, &[0, 2, 4]), "crow_indices runs from 0 to 4, expected from 0 to nnz = 3");
}

#[test]
fn crow_indices_decrease() {
    assert_refused(set_i32(CROW_INDICES, &[0, 4, 3]), "crow_indices decreases at row 1");
    assert_refused(set_i32(CROW_INDICES, &[0, -1, 3]), "crow_indices decreases at row 0");
}

#[test]
fn col_index_out_of_range() {
    assert_refused(set_i32(COL_INDICES, &[1, 3, 2]), "col_indices[1] (row 0) is 3, expected 0 to 2");
}

#[test]
fn col_index_negative() {
    assert_refused(set_i32(COL_INDICES, &[-1, 2, 2]), "col_indices[0] (row 0) is -1, expected 0 to 2");
}

#[test]
fn col_indices_unsorted() {
    assert_refused(set_i32(COL_INDICES, &[2, 1, 2]), "col_indices[1] (row 0) is unsorted: 1 after 2");
}

#[test]
fn col_indices_duplicated() {
    assert_refused(set_i32(COL_INDICES, &[2, 2, 2]), "col_indices[1] (row 0) is duplicated: 2 after 2");
}

#[test]
fn col_indices_short() {
    assert_refused(set_i32(COL_INDICES, &[1, 2]), "3 values for 2 col_indices");
}

#[test]
fn value_not_finite() {
    for value in [f32::NAN, f32::INFINITY] {
        let changed = read_changed(|arrays| {
            arrays.get_mut("a.weight.values").unwrap().2[4..8].copy_from_slice(&value.to_le_bytes())
        });
        assert_refused(changed, "values[1] is not finite");
    }
}

#[test]
fn dense_value_not_finite() {
    let changed =
        read_changed(|arrays| arrays.get_mut("a.bias").unwrap().2[4..8].copy_from_slice(&f32::NAN.to_le_bytes()));
    let message = changed.unwrap_err().to_string();
    assert!(message.contains("tensor \"a.bias\" [1] is NaN, expected finite"), "{message}");
}

#[test]
fn shape_of_other_columns() {
    assert_refused(set_shape(&[2, 2]), "col_indices[1] (row 0) is 2, expected 0 to 1");
}

#[test]
fn shape_negative_empty_or_huge() {
    assert_refused(set_shape(&[2, -3]), "shape is [2, -3], expected 1 to 8 positive dimensions");
    assert_refused(set_shape(&[2, 0]), "positive dimensions");
    assert_refused(set_shape(&[]), "positive dimensions");
    assert_refused(set_shape(&[1; 9]), "positive dimensions");
    assert_refused(set_shape(&[2, i64::MAX, i64::MAX]), "overflows");
    assert_refused(set_shape(&[2, i64::MAX]), "does not fit int32 indices");
    assert_refused(set_shape(&[2, 1 << 30]), "does not fit int32 indices");
    assert_refused(set_shape(&[i64::MAX, 1]), "does not fit int32 indices");
}

#[test]
fn a_small_file_may_not_stand_for_a_huge_matrix() {
    let empty = |cols: usize| {
        let matrix = CsrMatrix::try_new(1, cols, vec![0, 0], Vec::new(), Vec::new()).unwrap();
        let mut file = CsrFile::default();
        file.sparse.insert("w".into(), CsrParameter::new(matrix, [1, cols]));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.csr.safetensors");
        write(&path, &file).unwrap();
        read(path)
    };
    empty(FREE_WEIGHTS).unwrap();
    let error = empty(1 << 30).unwrap_err().to_string();
    assert!(error.contains("tensors of 24 bytes stand for 1073741824 weights, at most 8486912 are allowed"), "{error}");
}

#[test]
fn array_missing() {
    for array in [CROW_INDICES, COL_INDICES, VALUES, SHAPE] {
        let changed = read_changed(|arrays| drop(arrays.remove(&format!("a.weight.{array}"))));
        assert_refused(changed, &format!("{array} is missing"));
    }
}

#[test]
fn array_of_another_type() {
    for (array, dtype) in [(CROW_INDICES, Dtype::U32), (COL_INDICES, Dtype::U32), (VALUES, Dtype::I32)] {
        let changed = read_changed(|arrays| arrays.get_mut(&format!("a.weight.{array}")).unwrap().0 = dtype);
        assert_refused(changed, &format!("{array} is {dtype} [3]"));
    }
    let changed = read_changed(|arrays| arrays.get_mut("a.weight.shape").unwrap().0 = Dtype::U64);
    assert_refused(changed, "shape is U64 [4], expected I64 of rank 1");
}

#[test]
fn array_of_another_rank() {
    let changed = read_changed(|arrays| arrays.get_mut("a.weight.values").unwrap().1 = vec![1, 3]);
    assert_refused(changed, "values is F32 [1, 3], expected F32 or F16 or BF16 or I8 of rank 1");
}

#[test]
fn both_sparse_and_dense() {
    let changed = read_changed(|arrays| drop(arrays.insert("a.weight".into(), (Dtype::F32, vec![1], vec![0; 4]))));
    assert_refused(changed, "is both sparse and dense");
}

#[test]
fn metadata_without_or_of_another_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    dense::write(&path, &example().dense, &BTreeMap::new()).unwrap();
    assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::Malformed);
    dense::write(&path, &example().dense, &BTreeMap::from([(FORMAT_KEY.into(), "csr.v9".into())])).unwrap();
    let error = read(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("\"csr.v9\"; this program reads \"csr.v1\""), "{error}");
}

#[test]
fn a_dense_tensor_may_not_take_an_arrays_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = example();
    file.dense.insert("a.weight.shape".into(), Tensor::new([1], vec![1.0]));
    let error = write(folder.path().join("m.safetensors"), &file).unwrap_err();
    assert!(error.to_string().contains("appears twice"), "{error}");
}

#[test]
fn a_dense_tensor_may_end_like_an_array() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let mut file = example();
    file.dense.insert("b.values".into(), Tensor::new([1], vec![1.0]));
    write(&path, &file).unwrap();
    assert_eq!(read(&path).unwrap().dense, file.dense);
}

/// Half of the last place of each type, of int8 a step, and a non-zero stays one.
#[test]
fn narrower_values_round_to_nearest_and_keep_the_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let mut data = crate::csr::tests::random(8 * 50, 0.3, 3);
    (data[0], data[1], data[150]) = (1e-30, -1e-40, -100.0);
    let tensor = Tensor::new([8, 50], data);
    let mut file = example();
    file.sparse.insert("w".into(), CsrParameter::from_dense(&tensor).unwrap());
    for (values, relative, of_row) in [
        (ValueType::F16, 2f32.powi(-11), 0.0),
        (ValueType::Bf16, 2f32.powi(-8), 0.0),
        (ValueType::Int8, 0.0, 1.01 / 127.0),
    ] {
        write_as(&path, &file, values).unwrap();
        let back = read(&path).unwrap();
        assert_eq!(back.dense, file.dense);
        let (found, exact) = (back.sparse["w"].to_dense(), &tensor);
        for (found, exact) in found.data().chunks(50).zip(exact.data().chunks(50)) {
            let largest = exact.iter().fold(0f32, |max, v| max.max(v.abs()));
            for (a, b) in found.iter().zip(exact) {
                assert_eq!(*a == 0.0, *b == 0.0, "{values:?}: {a} for {b}");
                // A value too small for the type becomes its smallest.
                let smallest = if b.abs() < 1e-6 { 6e-8f32.max(largest / 126.0) } else { 0.0 };
                assert!((a - b).abs() <= relative * b.abs() + of_row * largest + smallest, "{values:?}: {a} for {b}");
            }
        }
    }
    file.sparse.insert("w".into(), CsrParameter::from_dense(&Tensor::new([1, 1], vec![1e5])).unwrap());
    let error = write_as(&path, &file, ValueType::F16).unwrap_err();
    assert!(error.to_string().contains("tensor \"w\" holds 1e5, beyond f16's 6.5504e4"), "{error}");
}

#[test]
fn scales_of_int8_are_checked() {
    let changed = |scale: Option<Vec<f32>>| {
        read_changed(|arrays| {
            arrays.insert("a.weight.values".into(), (Dtype::I8, vec![3], vec![1, 2, 255]));
            if let Some(scale) = scale {
                arrays
                    .insert("a.weight.scale".into(), (Dtype::F32, vec![scale.len()], bytes(&scale, f32::to_le_bytes)));
            }
        })
    };
    assert_eq!(changed(Some(vec![0.5, 2.0])).unwrap().sparse["a.weight"].matrix().values(), [0.5, 1.0, -2.0]);
    assert_refused(changed(None), "scale is missing");
    assert_refused(changed(Some(vec![0.5])), "scale has 1 entries for 2 rows");
    assert_refused(changed(Some(vec![0.5, 0.0])), "scale[1] is 0, expected finite and positive");
    assert_refused(changed(Some(vec![f32::NAN, 1.0])), "scale[0] is NaN, expected finite and positive");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_weights_round_trip(rows in 1usize..20, cols in 1usize..40, density in 0.0f64..1.0, seed: u64) {
        let data = crate::csr::tests::random(rows * cols, density, seed);
        let tensor = Tensor::new([rows, cols], data);
        let mut file = CsrFile::default();
        file.sparse.insert("w".into(), CsrParameter::from_dense(&tensor).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        write(&path, &file).unwrap();
        prop_assert_eq!(read(&path).unwrap().sparse["w"].to_dense(), tensor);
    }

    /// Any single byte of a valid file changed: an error or a file that satisfies the rules, never a panic.
    #[test]
    fn a_changed_byte_never_panics(position: prop::sample::Index, byte: u8) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        write(&path, &example()).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let position = position.index(bytes.len());
        bytes[position] = byte;
        fs::write(&path, &bytes).unwrap();
        let _ = read(&path);
        fs::write(&path, &bytes[..position]).unwrap();
        prop_assert!(read(&path).is_err());
    }
}
