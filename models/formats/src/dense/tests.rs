use std::fs;

use proptest::prelude::*;

use super::*;
use crate::{ErrorKind, csr_file};

fn testdata(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.data().iter().map(|v| v.to_bits()).collect()
}

/// `tests/data/make_foreign.py` wrote the file and names its values.
#[test]
fn reads_a_foreign_file() {
    let DenseFile { tensors, metadata } = read(testdata("foreign.safetensors")).unwrap();
    assert!(metadata.is_empty());
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["double", "empty", "flag", "half", "scalar", "special"]);
    assert_eq!(tensors["double"].data(), [0.1, -0.0, 3.4e38]);
    assert_eq!(tensors["empty"].shape(), [0, 3]);
    assert_eq!(tensors["flag"].data(), [1.0, -2.5, f32::from_bits(0x7f61_0000)]);
    assert_eq!(tensors["half"], Tensor::new([2, 2], vec![1.5, -0.0, 65504.0, 2f32.powi(-24)]));
    assert_eq!(tensors["scalar"], Tensor::new([], vec![7.0]));
    assert_eq!(bits(&tensors["special"]), [0x7fc1_2345, 0xff81_2345, 0x8000_0000, 0x0000_0001, 0xff80_0000]);
}

#[test]
fn reads_a_foreign_csr_file() {
    let file = csr_file::read(testdata("foreign.csr.safetensors")).unwrap();
    let weight = file.sparse["conv.weight"].to_dense();
    assert_eq!(weight.shape(), [6, 2, 3, 3]);
    assert_eq!(weight.data(), file.dense["dense"].data());
    assert_eq!(file.sparse["conv.weight"].matrix().row(2), (&[][..], &[][..]));
    assert_eq!(file.dense["conv.bias"].data(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn golden_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let tensors = TensorMap::from([("w".into(), Tensor::new([1, 2], vec![1.0, -0.0]))]);
    write(&path, &tensors, &BTreeMap::from([("sr2.step".into(), "3".into())])).unwrap();
    let header = concat!(
        r#"{"__metadata__":{"format":"pt","sr2.step":"3"},"#,
        r#""w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#
    );
    let padded = format!("{header:width$}", width = header.len().next_multiple_of(8));
    let mut expected = (padded.len() as u64).to_le_bytes().to_vec();
    expected.extend(padded.as_bytes());
    expected.extend([0, 0, 0x80, 0x3f, 0, 0, 0, 0x80]);
    assert_eq!(fs::read(&path).unwrap(), expected);
}

/// Writes a file of one tensor of this type and bytes, and reads it.
fn read_one(name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Result<DenseFile> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let raw = RawTensor { name: name.into(), dtype, shape: shape.to_vec(), bytes: bytes.to_vec() };
    container::write(&path, vec![raw], BTreeMap::new()).unwrap();
    read(&path)
}

#[test]
fn another_type_names_the_tensor() {
    let error = read_one("a.b", Dtype::I32, &[1], &[0; 4]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().ends_with("tensor \"a.b\" is I32; supported are F32, F16, BF16 and F64"), "{error}");
    assert!(read_one("a.b", Dtype::I64, &[], &[0; 8]).is_err());
}

#[test]
fn f64_beyond_f32_names_the_position() {
    let bytes = [1.0, 1e39f64].map(f64::to_le_bytes).concat();
    let error = read_one("a", Dtype::F64, &[2], &bytes).unwrap_err();
    assert!(error.to_string().ends_with("tensor \"a\" [1] is 1e39, beyond f32's range"), "{error}");
    let infinite = read_one("a", Dtype::F64, &[1], &f64::INFINITY.to_le_bytes()).unwrap();
    assert_eq!(infinite.tensors["a"].data(), [f32::INFINITY]);
}

#[test]
fn files_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(read(folder.path()).unwrap_err().kind(), ErrorKind::Malformed);
    let cases: [(&[u8], &str); 4] = [
        (b"", "0 bytes are too short"),
        (b"1234567", "7 bytes are too short"),
        (&100u64.to_le_bytes(), "header of 100 bytes in 0 bytes"),
        (&u64::MAX.to_le_bytes(), "at most 16777216 are allowed"),
    ];
    for (bytes, problem) in cases {
        fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[test]
fn every_truncation_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let whole = fs::read(testdata("foreign.safetensors")).unwrap();
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::Malformed, "{len} bytes");
    }
}

#[test]
fn what_could_not_be_read_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let tensors = TensorMap::from([("n".repeat(300), Tensor::new([1], vec![1.0]))]);
    let error = write(&path, &tensors, &BTreeMap::new()).unwrap_err();
    assert!(error.to_string().contains("not written, because it could not be read: "), "{error}");
    let long = BTreeMap::from([("sr2.long".to_string(), "x".repeat(17 << 20))]);
    assert!(write(&path, &TensorMap::new(), &long).unwrap_err().to_string().contains("header of 178"));
    assert!(!path.exists());
}

fn tensors() -> impl Strategy<Value = TensorMap> {
    let shape = prop::collection::vec(0usize..5, 0..4);
    let tensor = shape.prop_flat_map(|shape| {
        let len = shape.iter().product::<usize>();
        let bits = prop::collection::vec(any::<u32>(), len);
        bits.prop_map(move |bits| Tensor::new(shape.clone(), bits.into_iter().map(f32::from_bits).collect()))
    });
    prop::collection::btree_map("[a-z.\"\\\\é]{1,8}", tensor, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    /// Any bits, NaN payloads included, come back; and the `safetensors` crate reads the same bytes.
    #[test]
    fn every_bit_round_trips(tensors in tensors()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        write(&path, &tensors, &BTreeMap::new()).unwrap();
        let back = read(&path).unwrap();
        prop_assert_eq!(back.metadata, BTreeMap::from([("format".to_string(), "pt".to_string())]));
        prop_assert_eq!(back.tensors.len(), tensors.len());
        let bytes = fs::read(&path).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, tensor) in &tensors {
            prop_assert_eq!(back.tensors[name].shape(), tensor.shape());
            prop_assert_eq!(bits(&back.tensors[name]), bits(tensor));
            let view = theirs.tensor(name).unwrap();
            prop_assert_eq!(view.shape(), tensor.shape());
            prop_assert_eq!(view.data(), tensor.data().iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
        }
    }
}
