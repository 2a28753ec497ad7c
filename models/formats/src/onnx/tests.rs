use proptest::prelude::*;

use super::proto::{GraphProto, StringStringEntryProto};
use super::*;
use crate::ErrorKind;

const PATH: &str = "m.onnx";

fn path() -> &'static Path {
    Path::new(PATH)
}

fn tensor(data_type: DataType, dims: &[i64]) -> TensorProto {
    TensorProto { name: Some("w".into()), data_type: Some(data_type.into()), dims: dims.to_vec(), ..Default::default() }
}

fn raw<const N: usize>(data_type: DataType, dims: &[i64], values: &[[u8; N]]) -> TensorProto {
    TensorProto { raw_data: Some(values.concat()), ..tensor(data_type, dims) }
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, problem: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().starts_with(PATH) && error.to_string().contains(problem), "{error}");
}

#[test]
fn every_float_type_raw_and_typed() {
    let expected = Tensor::new([2], vec![1.5, -2.0]);
    let f = [1.5f32, -2.0];
    let half = f.map(|v| f16::from_f32(v).to_bits());
    let brain = f.map(|v| bf16::from_f32(v).to_bits());
    let ints = |bits: [u16; 2]| bits.map(i32::from).to_vec();
    let tensors = [
        raw(DataType::Float, &[2], &f.map(f32::to_le_bytes)),
        TensorProto { float_data: f.to_vec(), ..tensor(DataType::Float, &[2]) },
        raw(DataType::Double, &[2], &f.map(|v| f64::from(v).to_le_bytes())),
        TensorProto { double_data: f.map(f64::from).to_vec(), ..tensor(DataType::Double, &[2]) },
        raw(DataType::Float16, &[2], &half.map(u16::to_le_bytes)),
        TensorProto { int32_data: ints(half), ..tensor(DataType::Float16, &[2]) },
        raw(DataType::Bfloat16, &[2], &brain.map(u16::to_le_bytes)),
        TensorProto { int32_data: ints(brain), ..tensor(DataType::Bfloat16, &[2]) },
    ];
    for tensor in tensors {
        assert_eq!(tensor_f32(path(), &tensor).unwrap(), expected, "{tensor:?}");
    }
}

#[test]
fn a_float_tensor_keeps_its_bits() {
    let bits = [0x7fc1_2345, 0xff81_2345, 0x8000_0000, 0x0000_0001];
    let written = float_tensor("w", &Tensor::new([2, 2], bits.map(f32::from_bits).to_vec()));
    let back = tensor_f32(path(), &written).unwrap();
    assert_eq!((back.shape(), back.data().iter().map(|v| v.to_bits()).collect()), (&[2, 2][..], bits.to_vec()));
}

#[test]
fn integers_raw_and_typed() {
    for tensor in [
        raw(DataType::Int64, &[2], &[1i64, -1].map(i64::to_le_bytes)),
        TensorProto { int64_data: vec![1, -1], ..tensor(DataType::Int64, &[2]) },
        raw(DataType::Int32, &[2], &[1i32, -1].map(i32::to_le_bytes)),
        TensorProto { int32_data: vec![1, -1], ..tensor(DataType::Int32, &[2]) },
    ] {
        assert_eq!(tensor_i64(path(), &tensor).unwrap(), [1, -1], "{tensor:?}");
    }
}

#[test]
fn other_types() {
    let problem = "tensor \"w\" is INT8, expected FLOAT, FLOAT16, BFLOAT16 or DOUBLE";
    assert_refused(tensor_f32(path(), &tensor(DataType::Int8, &[0])), ErrorKind::Unsupported, problem);
    let unknown = TensorProto { data_type: Some(99), ..Default::default() };
    assert_refused(tensor_f32(path(), &unknown), ErrorKind::Unsupported, "is of type 99, expected FLOAT");
    assert_refused(tensor_i64(path(), &tensor(DataType::Float, &[0])), ErrorKind::Unsupported, "expected INT64");
}

#[test]
fn data_that_does_not_fill_the_shape() {
    let short = raw(DataType::Float, &[2, 2], &[[0u8; 4]; 3]);
    assert_refused(tensor_f32(path(), &short), ErrorKind::Malformed, "has 12 bytes, expected 4 values for [2, 2]");
    let typed = TensorProto { float_data: vec![0.0; 5], ..tensor(DataType::Float, &[2, 2]) };
    assert_refused(tensor_f32(path(), &typed), ErrorKind::Malformed, "has 5 values, expected 4 values");
    let huge = raw(DataType::Float, &[i64::MAX], &[[0u8; 4]]);
    assert_refused(tensor_f32(path(), &huge), ErrorKind::Malformed, "has 4 bytes");
}

#[test]
fn shapes_negative_or_overflowing() {
    for dims in [vec![-1], vec![i64::MAX, i64::MAX]] {
        assert_refused(tensor_f32(path(), &tensor(DataType::Float, &dims)), ErrorKind::Malformed, "not to overflow");
    }
}

#[test]
fn a_double_beyond_f32() {
    let wide = TensorProto { double_data: vec![1e300], ..tensor(DataType::Double, &[1]) };
    assert_refused(tensor_f32(path(), &wide), ErrorKind::Malformed, "holds 1e300, beyond f32's range");
}

#[test]
fn external_data() {
    let external = TensorProto {
        external_data: vec![StringStringEntryProto { key: Some("location".into()), value: Some("x".into()) }],
        data_location: Some(DataLocation::External.into()),
        ..tensor(DataType::Float, &[2])
    };
    assert_refused(tensor_f32(path(), &external), ErrorKind::Unsupported, "external data, which is not read; save");
}

fn sparse(dims: &[i64], index_dims: &[i64], indices: &[i64], values: &[f32]) -> Result<Tensor> {
    let values = TensorProto { float_data: values.to_vec(), ..tensor(DataType::Float, &[values.len() as i64]) };
    let indices = TensorProto { int64_data: indices.to_vec(), ..tensor(DataType::Int64, index_dims) };
    let sparse = SparseTensorProto { values: Some(values), indices: Some(indices), dims: dims.to_vec() };
    sparse_tensor_f32(path(), &sparse)
}

#[test]
fn sparse_tensors_linear_and_by_coordinates() {
    let expected = Tensor::new([2, 3], vec![0.0, 5.0, 0.0, 0.0, 0.0, 7.0]);
    assert_eq!(sparse(&[2, 3], &[2], &[1, 5], &[5.0, 7.0]).unwrap(), expected);
    assert_eq!(sparse(&[2, 3], &[2, 2], &[0, 1, 1, 2], &[5.0, 7.0]).unwrap(), expected);
    assert_eq!(sparse(&[2, 3], &[0], &[], &[]).unwrap(), Tensor::full([2, 3], 0.0));
    assert_eq!(sparse(&[3], &[1, 1], &[2], &[4.0]).unwrap().data(), [0.0, 0.0, 4.0]);
}

#[test]
fn sparse_tensors_that_break_a_rule() {
    let malformed = ErrorKind::Malformed;
    assert_refused(sparse(&[2, 3], &[1], &[6], &[1.0]), malformed, "index 0 is [6], expected below [6]");
    assert_refused(sparse(&[2, 3], &[1], &[-1], &[1.0]), malformed, "index 0 is [-1]");
    assert_refused(sparse(&[2, 3], &[1, 2], &[0, 3], &[1.0]), malformed, "index 0 is [0, 3], expected below [2, 3]");
    assert_refused(sparse(&[2, 3], &[2], &[1, 1], &[1.0, 2.0]), malformed, "index 1, [1], is not after");
    assert_refused(sparse(&[2, 3], &[2], &[3, 1], &[1.0, 2.0]), malformed, "index 1, [1], is not after");
    assert_refused(sparse(&[2, 3], &[1], &[1], &[1.0, 2.0]), malformed, "indices have shape [1] for 2 values");
    assert_refused(sparse(&[2, 3], &[1, 3], &[0, 0, 0], &[1.0]), malformed, "indices have shape [1, 3]");
    assert_refused(sparse(&[1 << 20, 1 << 20], &[0], &[], &[]), malformed, "at most 268435456 values");
    assert_refused(sparse(&[-2], &[0], &[], &[]), malformed, "expected non-negative");
}

#[test]
fn files_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let initializer = vec![float_tensor("w", &Tensor::new([2], vec![1.0, 2.0]))];
    let graph = Some(GraphProto { name: Some("g".into()), initializer, ..Default::default() });
    let model = ModelProto { ir_version: Some(8), graph, ..Default::default() };
    write(&path, &model).unwrap();
    assert_eq!(read(&path).unwrap(), model);
}

#[test]
fn files_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(read(folder.path()).unwrap_err().kind(), ErrorKind::Malformed);
    for (bytes, problem) in [(&b""[..], "it has no graph"), (b"PK\x03\x04 not one", "is not an ONNX file")] {
        std::fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[test]
fn a_deeply_nested_graph_is_an_error() {
    // model.graph.node.attribute.g.node.attribute.g ... far beyond prost's recursion limit
    let mut bytes = Vec::new();
    for tag in [0x32u8, 0x2a, 0x0a].iter().cycle().take(3000) {
        let mut outer = vec![*tag];
        prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
        outer.append(&mut bytes);
        bytes = outer;
    }
    let mut file = vec![0x3a];
    prost::encoding::encode_varint(bytes.len() as u64, &mut file);
    file.append(&mut bytes);
    assert!(ModelProto::decode(file.as_slice()).unwrap_err().to_string().contains("recursion"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        if let Ok(model) = ModelProto::decode(bytes.as_slice()) {
            for tensor in model.graph.iter().flat_map(|g| &g.initializer) {
                let _ = tensor_f32(path(), tensor);
            }
        }
        if let Ok(tensor) = TensorProto::decode(bytes.as_slice()) {
            let _ = (tensor_f32(path(), &tensor), tensor_i64(path(), &tensor));
        }
    }

    #[test]
    fn arbitrary_sparse_tensors_never_panic(
        dims in prop::collection::vec(-1i64..4, 0..3),
        index_dims in prop::collection::vec(0i64..4, 0..3),
        indices in prop::collection::vec(-1i64..6, 0..6),
        values in prop::collection::vec(-1f32..1.0, 0..4),
    ) {
        if let Ok(dense) = sparse(&dims, &index_dims, &indices, &values) {
            let stored: f32 = values.iter().sum();
            prop_assert!((dense.data().iter().sum::<f32>() - stored).abs() < 1e-5);
        }
    }
}
