//! One weight in each form.

use prost::Message;
use sr2_formats::Tensor;
use sr2_formats::onnx::float_tensor;
use sr2_formats::onnx::proto::tensor_proto::DataType;
use sr2_formats::onnx::proto::{GraphProto, SparseTensorProto, TensorProto};

use super::Names;
use super::node::{int, plain, sparse_tensor, tensor};
use crate::OnnxForm;

/// Adds `weight` to `graph` under `name`, in `form` if that takes fewer bytes than dense.
///
/// Its zeros come back as +0.0.
pub(super) fn add(graph: &mut GraphProto, names: &mut Names, form: OnnxForm, name: &str, weight: &Tensor) {
    let dense = GraphProto { initializer: vec![float_tensor(name, weight)], ..Default::default() };
    let encoded = match form {
        OnnxForm::Dense => None,
        OnnxForm::Scatter => Some(scatter(names, name, weight)),
        OnnxForm::Gap => Some(gap(names, name, weight)),
        OnnxForm::SparseInit => {
            Some(GraphProto { sparse_initializer: vec![sparse(name, weight)], ..Default::default() })
        }
        OnnxForm::SparseConst => Some(constant(name, weight)),
    };
    let smallest = encoded.filter(|encoded| encoded.encoded_len() < dense.encoded_len()).unwrap_or(dense);
    graph.node.extend(smallest.node);
    graph.initializer.extend(smallest.initializer);
    graph.sparse_initializer.extend(smallest.sparse_initializer);
}

/// Flat places of the non-zeros, ascending, and their values. A weight without any has one stored zero, since an empty
/// tensor is beyond some readers.
fn non_zeros(weight: &Tensor) -> (Vec<usize>, Vec<f32>) {
    let stored = weight.data().iter().copied().enumerate().filter(|(_, value)| *value != 0.0);
    let (places, values): (Vec<_>, Vec<_>) = stored.unzip();
    if places.is_empty() { (vec![0], vec![0.0]) } else { (places, values) }
}

/// `ConstantOfShape` -> `ScatterElements` of the values at int32 places -> `Reshape`.
fn scatter(names: &mut Names, name: &str, weight: &Tensor) -> GraphProto {
    let (places, values) = non_zeros(weight);
    let indices = names.unique(format!("{name}.indices"));
    let places = places.into_iter().map(|place| i32::try_from(place).expect("a graph's weights have 31-bit sizes"));
    let places = int32_tensor(&indices, places.collect());
    let mut graph = scattered(names, name, weight.shape(), &indices, values);
    graph.initializer.push(places);
    graph
}

/// The same, with the places as the running sum of distances of at most 255: where two non-zeros are further apart,
/// zeros are stored between them.
fn gap(names: &mut Names, name: &str, weight: &Tensor) -> GraphProto {
    let (places, stored) = non_zeros(weight);
    let (mut gaps, mut values, mut last) = (Vec::new(), Vec::new(), 0);
    for (place, value) in places.into_iter().zip(stored) {
        while place - last > usize::from(u8::MAX) {
            last += usize::from(u8::MAX);
            gaps.push(u8::MAX);
            values.push(0.0);
        }
        gaps.push((place - last) as u8);
        values.push(value);
        last = place;
    }
    let [gaps_name, axis, wide, indices] =
        ["gaps", "axis", "gaps_int32", "indices"].map(|part| names.unique(format!("{name}.{part}")));
    let mut graph = scattered(names, name, weight.shape(), &indices, values);
    let gaps = TensorProto {
        name: Some(gaps_name.clone()),
        dims: vec![gaps.len() as i64],
        data_type: Some(DataType::Uint8.into()),
        raw_data: Some(gaps),
        ..Default::default()
    };
    // A scalar: the reference evaluator takes no other axis.
    let axis_0 = TensorProto { dims: vec![], ..int64_tensor(&axis, vec![0]) };
    graph.initializer.extend([gaps, axis_0]);
    let cast = plain("Cast", vec![gaps_name], wide.clone(), vec![int("to", DataType::Int32 as i64)]);
    let sum = plain("CumSum", vec![wide, axis], indices, vec![int("exclusive", 0), int("reverse", 0)]);
    graph.node.splice(0..0, [cast, sum]);
    graph
}

/// Zeros of `shape`, and `values` at the flat places `indices`.
fn scattered(names: &mut Names, name: &str, shape: &[usize], indices: &str, values: Vec<f32>) -> GraphProto {
    let [size, zeros, updates, flat, dims] =
        ["size", "zeros", "values", "flat", "shape"].map(|part| names.unique(format!("{name}.{part}")));
    let zero = TensorProto { name: None, ..float_tensor("", &Tensor::full([1], 0.0)) };
    let nodes = [
        plain("ConstantOfShape", vec![size.clone()], zeros.clone(), vec![tensor("value", zero)]),
        plain("ScatterElements", vec![zeros, indices.into(), updates.clone()], flat.clone(), vec![int("axis", 0)]),
        plain("Reshape", vec![flat, dims.clone()], name.into(), vec![int("allowzero", 0)]),
    ];
    let len: usize = shape.iter().product();
    let initializers = [
        int64_tensor(&size, vec![len as i64]),
        float_tensor(&updates, &Tensor::new([values.len()], values)),
        int64_tensor(&dims, shape.iter().map(|d| *d as i64).collect()),
    ];
    GraphProto { node: nodes.into(), initializer: initializers.into(), ..Default::default() }
}

/// `Constant` with a sparse value.
fn constant(name: &str, weight: &Tensor) -> GraphProto {
    // The tensor's own name would clash with the node's output.
    let mut value = sparse(name, weight);
    value.values.iter_mut().for_each(|values| values.name = None);
    let node = plain("Constant", vec![], name.into(), vec![sparse_tensor("sparse_value", value)]);
    GraphProto { node: vec![node], ..Default::default() }
}

/// ONNX's sparse tensor, its places linear and as varints.
fn sparse(name: &str, weight: &Tensor) -> SparseTensorProto {
    let (places, values) = non_zeros(weight);
    let indices = TensorProto { name: None, ..int64_tensor("", places.iter().map(|place| *place as i64).collect()) };
    SparseTensorProto {
        values: Some(float_tensor(name, &Tensor::new([values.len()], values))),
        indices: Some(indices),
        dims: weight.shape().iter().map(|d| *d as i64).collect(),
    }
}

/// In the typed field, where protobuf takes as many bytes as a value needs.
fn int64_tensor(name: &str, values: Vec<i64>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: vec![values.len() as i64],
        data_type: Some(DataType::Int64.into()),
        int64_data: values,
        ..Default::default()
    }
}

/// As [`int64_tensor`].
fn int32_tensor(name: &str, values: Vec<i32>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: vec![values.len() as i64],
        data_type: Some(DataType::Int32.into()),
        int32_data: values,
        ..Default::default()
    }
}
