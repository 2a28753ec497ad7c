use super::*;
use crate::{initialisation, zoo};

fn parts() -> (Graph, TensorMap) {
    let graph = zoo::build("resnet8", 10).unwrap();
    let tensors = initialisation::initialise(&graph, 1);
    (graph, tensors)
}

#[test]
fn a_missing_tensor_is_named_with_its_shape() {
    let (graph, mut tensors) = parts();
    tensors.remove("fc.bias");
    let error = Model::try_new(graph, tensors).unwrap_err();
    assert_eq!(error.to_string(), r#"tensor "fc.bias" of resnet8 is missing; expected shape [10]"#);
}

#[test]
fn another_shape_is_named_with_both() {
    let (graph, mut tensors) = parts();
    tensors.insert("fc.weight".into(), Tensor::full([100, 80], 0.0));
    let error = Model::try_new(graph, tensors).unwrap_err();
    assert_eq!(error.to_string(), r#"tensor "fc.weight" has shape [100, 80], expected [10, 80]"#);
}

#[test]
fn a_tensor_of_no_node_is_named() {
    let (graph, mut tensors) = parts();
    tensors.insert("fc.weight_mask".into(), Tensor::full([10, 80], 1.0));
    let error = Model::try_new(graph, tensors).unwrap_err();
    assert_eq!(error.to_string(), r#"tensor "fc.weight_mask" belongs to no node of resnet8"#);
}

#[test]
fn sparsity_counts_exact_zeros_of_weights_only() {
    let (graph, mut tensors) = parts();
    assert_eq!(Model::try_new(graph.clone(), tensors.clone()).unwrap().sparsity(), 0.0);
    let weight = tensors.get_mut("layer1.0.conv1.weight").unwrap().data_mut();
    weight[..1000].fill(0.0);
    weight[0] = -0.0;
    weight[1000] = f32::MIN_POSITIVE / 2.0;
    let weights = graph.prunable_weights() as f64;
    let model = Model::try_new(graph, tensors).unwrap();
    assert_eq!(model.sparsity(), 1.0 - (weights - 1000.0) / weights);
}

#[test]
fn a_variance_read_from_outside_is_finite_and_not_negative() {
    for bad in [-1e30, f32::NAN, f32::INFINITY] {
        let (graph, mut tensors) = parts();
        tensors.get_mut("bn1.running_var").unwrap().data_mut()[3] = bad;
        let error = Model::try_read(graph, tensors).unwrap_err().to_string();
        assert!(error.starts_with(&format!("tensor \"bn1.running_var\" [3] is {bad:?}, expected")), "{error}");
    }
    let (graph, mut tensors) = parts();
    tensors.get_mut("bn1.running_var").unwrap().data_mut()[3] = 0.0;
    Model::try_read(graph, tensors).unwrap();
}
