use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::initialisation::initialise;
use crate::passes::{fold_batch_norm, fold_constant_sums};
use crate::{Graph, ParameterRole, reference, zoo};

/// Largest difference of a logit, relative to the range of the logits: f32 rounding of the folded weights.
const LOGITS_TOLERANCE: f32 = 1e-5;

/// A network with random weights and batch-norm statistics in which filters are zero, and input channels unread, with
/// probability `share`, and whole layers with a quarter of it.
fn with_dead_channels(graph: &Graph, seed: u64, share: f64) -> Model {
    let mut parameters = initialise(graph, seed);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for spec in graph.parameters() {
        let data = parameters.get_mut(&spec.name).unwrap().data_mut();
        match spec.role {
            ParameterRole::Weight => {
                let (rows, columns) = (spec.shape[0], spec.shape[1]);
                let taps = data.len() / (rows * columns);
                let whole = rng.random_bool(share / 4.0);
                let mut draw = |count| (0..count).map(|_| whole || rng.random_bool(share)).collect::<Vec<_>>();
                let (zero, unread) = (draw(rows), draw(columns));
                for (index, weights) in data.chunks_exact_mut(taps).enumerate() {
                    // The classifier keeps its answers apart.
                    if columns > 1 && unread[index % columns] || spec.shape.len() == 4 && zero[index / columns] {
                        weights.fill(0.0);
                    }
                }
            }
            ParameterRole::NormScale | ParameterRole::RunningVar => data.fill_with(|| rng.random_range(0.5..2.0)),
            _ => data.fill_with(|| rng.random_range(-0.5..0.5)),
        }
    }
    Model::try_new(graph.clone(), parameters).unwrap()
}

#[track_caller]
fn assert_same_logits(found: &Model, expected: &Model, what: &str) {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let images: Vec<f32> =
        (0..expected.graph().input_shape().iter().product()).map(|_| rng.random_range(-2.0..2.0)).collect();
    let (expected, found) = (reference::logits(expected, &images, 1), reference::logits(found, &images, 1));
    let (low, high) = expected.iter().fold((0f32, 0f32), |(low, high), v| (low.min(*v), high.max(*v)));
    for (a, b) in found.iter().zip(&expected) {
        assert!((a - b).abs() <= LOGITS_TOLERANCE * (high - low), "{what}: {a}, not {b}, of {low} to {high}");
    }
}

#[test]
fn keeps_outputs_of_the_zoo_and_leaves_less() {
    // Small images, since the reference interpreter takes its time; VGG halves them five times.
    let small =
        [("resnet8", 0..6, 16), ("resnet20", 6..9, 16), ("mobilenet_v2", 9..11, 16), ("densenet121", 11..12, 16)];
    for (name, seeds, size) in small.into_iter().chain([("vgg16_bn", 12..13, 32)]) {
        let nodes = zoo::build(name, 10).unwrap().nodes().to_vec();
        let graph = Graph::try_new(name, &[3, size, size], nodes).unwrap();
        for seed in seeds {
            let model = with_dead_channels(&graph, seed, [0.1, 0.5, 0.9][seed as usize % 3]);
            let model = if seed % 2 == 0 { model } else { fold_batch_norm(&model) };
            let small = remove_dead_channels(&fold_constant_sums(&model));
            assert_same_logits(&small, &model, &format!("{name}, seed {seed}"));
            let (left, all) = (small.graph().prunable_weights(), graph.prunable_weights());
            assert!(left < all, "{name}, seed {seed}: {left} of {all} weights left");
        }
    }
}

/// On a one-channel image a convolution `a` whose filters, after the first, are zero with biases 2, -1 and 0, then a
/// 3x3 convolution `b` of ones.
fn constant_channels(pad: usize) -> Model {
    let conv = |name: &str, out_channels, kernel: usize, pad, bias: bool| {
        let bias = bias.then(|| format!("{name}.bias"));
        let (kernel, weight) = ([kernel; 2], format!("{name}.weight"));
        Op::Conv(Conv {
            weight,
            bias,
            out_channels,
            kernel,
            stride: [1; 2],
            pads: [pad; 4],
            dilation: [1; 2],
            groups: 1,
        })
    };
    let node = |name: &str, op, value| Node { name: name.into(), op, inputs: vec![value] };
    let nodes = vec![node("a", conv("a", 4, 1, 0, true), 0), node("b", conv("b", 2, 3, pad, false), 1)];
    let graph = Graph::try_new("constant channels", &[1, 4, 5], nodes).unwrap();
    let tensors = [
        ("a.weight", Tensor::new([4, 1, 1, 1], vec![1.5, 0.0, 0.0, 0.0])),
        ("a.bias", Tensor::new([4], vec![0.25, 2.0, -1.0, 0.0])),
        ("b.weight", Tensor::full([2, 4, 3, 3], 1.0)),
    ];
    Model::try_new(graph, tensors.map(|(name, tensor)| (name.to_string(), tensor)).into()).unwrap()
}

#[test]
fn constants_go_into_the_bias() {
    let model = constant_channels(0);
    let small = remove_dead_channels(&model);
    assert_eq!(small.parameter("a.weight").shape(), [1, 1, 1, 1]);
    assert_eq!(small.parameter("b.weight").data(), [1.0; 18]);
    assert_eq!(small.parameter("b.bias").data(), [9.0; 2]);
    assert_same_logits(&small, &model, "no padding");
}

#[test]
fn a_padded_convolution_keeps_the_largest_constant() {
    let model = constant_channels(1);
    let small = remove_dead_channels(&model);
    assert_eq!(small.parameter("a.bias").data(), [0.25, 2.0]);
    assert_eq!(small.parameter("b.weight").data(), [[1.0; 9], [0.5; 9]].repeat(2).concat());
    assert!(!small.parameters().contains_key("b.bias"));
    assert_same_logits(&small, &model, "padding");
}

#[test]
fn a_network_without_dead_channels_is_left_alone() {
    let graph = zoo::build("resnet8", 10).unwrap();
    let parameters = initialise(&graph, 3);
    let model = Model::try_new(graph, parameters).unwrap();
    assert_eq!(remove_dead_channels(&model), model);
    assert_eq!(fold_constant_sums(&model), model);
}
