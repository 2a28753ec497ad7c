use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::initialisation::initialise;
use crate::{ParameterRole, reference, zoo};

fn node(name: &str, op: Op, inputs: &[usize]) -> Node {
    Node { name: name.into(), op, inputs: inputs.to_vec() }
}

/// A 1x1 convolution from 2 to 2 channels.
fn conv(weight: &str, bias: Option<&str>) -> Op {
    Op::Conv(Conv {
        weight: weight.into(),
        bias: bias.map(Into::into),
        out_channels: 2,
        kernel: [1, 1],
        stride: [1, 1],
        pads: [0; 4],
        dilation: [1, 1],
        groups: 1,
    })
}

fn norm(prefix: &str) -> Op {
    let name = |suffix: &str| format!("{prefix}.{suffix}");
    Op::BatchNormalization(BatchNormalization {
        scale: name("weight"),
        shift: name("bias"),
        mean: name("running_mean"),
        var: name("running_var"),
        epsilon: 0.25,
        momentum: 0.1,
    })
}

/// Joins nodes over a `[2, 1, 1]` input with the given weights; batch norm `bn` has factors -2 and 0.5.
fn model(nodes: Vec<Node>, tensors: &[(&str, &[f32])]) -> Model {
    let graph = Graph::try_new("test", &[2, 1, 1], nodes).unwrap();
    let norms: [(&str, &[f32]); 4] = [
        ("bn.weight", &[-4.0, 1.0]),
        ("bn.bias", &[0.5, -0.5]),
        ("bn.running_mean", &[1.0, 2.0]),
        ("bn.running_var", &[3.75, 3.75]),
    ];
    let data: BTreeMap<&str, &[f32]> = norms.iter().chain(tensors).copied().collect();
    let tensor = |p: &crate::ParameterSpec| (p.name.clone(), Tensor::new(p.shape.clone(), data[&*p.name].to_vec()));
    let tensors = graph.parameters().iter().map(tensor).collect();
    Model::try_new(graph, tensors).unwrap()
}

#[test]
fn folds_one_batch_norm_after_another() {
    let nodes = vec![
        node("conv1", conv("conv1.weight", None), &[0]),
        node("bn1", norm("bn"), &[1]),
        node("bn2", norm("bn"), &[2]),
    ];
    let model = model(nodes, &[("conv1.weight", &[1.0, 0.0, 3.0, 0.0])]);
    let folded = fold_batch_norm(&model);
    assert_eq!(folded.graph().nodes(), [node("conv1", conv("conv1.weight", Some("conv1.bias")), &[0])]);
    assert_eq!(reference::logits(&folded, &[1.0, 2.0], 1), reference::logits(&model, &[1.0, 2.0], 1));
}

#[test]
fn folds_into_weight_and_a_new_bias() {
    let nodes = vec![node("conv1", conv("conv1.weight", None), &[0]), node("bn1", norm("bn"), &[1])];
    let folded = fold_batch_norm(&model(nodes, &[("conv1.weight", &[1.0, 0.0, 3.0, -0.0])]));
    assert_eq!(folded.graph().nodes(), [node("conv1", conv("conv1.weight", Some("conv1.bias")), &[0])]);
    assert_eq!(folded.parameter("conv1.weight").data(), [-2.0, 0.0, 1.5, 0.0]);
    assert_eq!(folded.parameter("conv1.bias").data(), [2.5, -1.5]);
    assert_eq!(folded.parameters().len(), 2);
    let zeros = folded.parameter("conv1.weight").data().iter().filter(|w| **w == 0.0);
    assert!(zeros.map(|w| w.to_bits()).all(|bits| bits == 0), "every zero is +0.0");
}

#[test]
fn keeps_an_existing_bias_and_folds_chains() {
    let nodes = vec![
        node("conv", conv("w", Some("b")), &[0]),
        node("bn1", norm("bn"), &[1]),
        node("bn2", norm("bn"), &[2]),
        node("relu", Op::Relu, &[3]),
    ];
    let folded = fold_batch_norm(&model(nodes, &[("w", &[1.0, 2.0, 3.0, 4.0]), ("b", &[1.0, 0.0])]));
    assert_eq!(folded.graph().nodes(), [node("conv", conv("w", Some("b")), &[0]), node("relu", Op::Relu, &[1])]);
    assert_eq!(folded.parameter("w").data(), [4.0, 8.0, 0.75, 1.0]);
    // bn(1) = 0.5, bn(0.5) = 1.5; bn(0) = -1.5, bn(-1.5) = -2.25
    assert_eq!(folded.parameter("b").data(), [1.5, -2.25]);
}

#[test]
fn avoids_a_parameter_that_has_the_new_bias_name() {
    let nodes = vec![
        node("conv1", conv("conv1.weight", None), &[0]),
        node("bn1", norm("bn"), &[1]),
        node("conv2", conv("other.weight", Some("conv1.bias")), &[2]),
    ];
    let tensors: [(&str, &[f32]); 3] =
        [("conv1.weight", &[1.0; 4]), ("other.weight", &[1.0; 4]), ("conv1.bias", &[7.0, 8.0])];
    let folded = fold_batch_norm(&model(nodes, &tensors));
    assert_eq!(folded.graph().nodes()[0].op, conv("conv1.weight", Some("conv1.bias_")));
    assert_eq!(folded.parameter("conv1.bias").data(), [7.0, 8.0]);
}

/// Each of these must come back as it was.
#[test]
fn leaves_what_cannot_be_folded() {
    let w: (&str, &[f32]) = ("w", &[1.0, 2.0, 3.0, 4.0]);
    let read_twice =
        vec![node("conv", conv("w", None), &[0]), node("bn", norm("bn"), &[1]), node("add", Op::Add, &[1, 2])];
    let after_relu =
        vec![node("conv", conv("w", None), &[0]), node("relu", Op::Relu, &[1]), node("bn", norm("bn"), &[2])];
    let on_input = vec![node("bn", norm("bn"), &[0]), node("conv", conv("w", None), &[1])];
    let shared_weight =
        vec![node("conv1", conv("w", None), &[0]), node("bn", norm("bn"), &[1]), node("conv2", conv("w", None), &[2])];
    let output_behind_another_node =
        vec![node("conv", conv("w", None), &[0]), node("unused", Op::Relu, &[0]), node("bn", norm("bn"), &[1])];
    for nodes in [read_twice, after_relu, on_input, shared_weight, output_behind_another_node] {
        let model = model(nodes, &[w]);
        assert_eq!(fold_batch_norm(&model), model);
    }
}

#[test]
fn leaves_a_batch_norm_whose_factor_is_not_finite() {
    let nodes = vec![node("conv", conv("w", None), &[0]), node("bn", norm("bn"), &[1])];
    let model = model(nodes, &[("w", &[1.0; 4]), ("bn.running_var", &[-1.0, 1.0])]);
    assert_eq!(fold_batch_norm(&model), model);
}

/// Largest difference of a logit, relative to the largest logit: f32 rounding of the folded weights.
const LOGITS_TOLERANCE: f64 = 1e-5;

/// A zoo network whose batch norms have statistics as training leaves them, every third weight zero.
fn trained(name: &str) -> Model {
    let graph = zoo::build(name, 10).unwrap();
    let mut parameters = initialise(&graph, 3);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for spec in graph.parameters() {
        let data = parameters.get_mut(&spec.name).unwrap().data_mut();
        match spec.role {
            ParameterRole::Weight => data.iter_mut().step_by(3).for_each(|w| *w = -0.0),
            ParameterRole::NormScale => data.fill_with(|| rng.random_range(-1.5..1.5)),
            ParameterRole::RunningVar => data.fill_with(|| rng.random_range(0.5..2.0)),
            _ => data.fill_with(|| rng.random_range(-0.5..0.5)),
        }
    }
    Model::try_new(graph, parameters).unwrap()
}

#[test]
fn keeps_outputs_and_zeros_of_the_zoo() {
    // Batch norms that follow a concatenation, a sum or a pool: the pre-activation networks keep some.
    for (name, left) in [("resnet8", 0), ("mobilenet_v2", 0), ("wrn_22_2", 9), ("densenet121", 62)] {
        let model = trained(name);
        let folded = fold_batch_norm(&model);
        let norms = folded.graph().nodes().iter().filter(|n| matches!(n.op, Op::BatchNormalization(_))).count();
        assert_eq!(norms, left, "{name}");
        for spec in folded.graph().parameters().iter().filter(|p| p.role.is_prunable()) {
            let pairs = folded.parameter(&spec.name).data().iter().zip(model.parameter(&spec.name).data());
            assert!(pairs.clone().all(|(a, b)| (*a == 0.0) == (*b == 0.0)), "{name} {}", spec.name);
        }

        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let images: Vec<f32> = (0..3 * 32 * 32).map(|_| rng.random_range(-2.0..2.0)).collect();
        let (expected, found) = (reference::logits(&model, &images, 1), reference::logits(&folded, &images, 1));
        let largest = expected.iter().fold(0.0, |max: f32, v| max.max(v.abs()));
        for (a, b) in found.iter().zip(&expected) {
            let difference = f64::from((a - b).abs() / largest);
            assert!(difference <= LOGITS_TOLERANCE, "{name}: {a} and {b}, of at most {largest}");
        }
    }
}
