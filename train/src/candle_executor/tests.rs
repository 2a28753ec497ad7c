use std::collections::BTreeMap;

use serde::Deserialize;
use sr2_formats::{Tensor, TensorMap};
use sr2_models::initialisation::initialise;
use sr2_models::{Conv, Gemm, Model, Node, zoo};

use super::*;
use crate::layout::{flatten, unflatten};

/// Where the tests compute: `SR2_TEST_DEVICE`, cpu by default. A device that is not there fails them.
pub(crate) fn test_device() -> DeviceKind {
    match std::env::var("SR2_TEST_DEVICE").as_deref() {
        Err(_) | Ok("" | "cpu") => DeviceKind::Cpu,
        Ok("cuda") if cfg!(feature = "cuda") => DeviceKind::Cuda,
        Ok("cuda") => panic!("SR2_TEST_DEVICE is cuda; build the tests with --features cuda"),
        Ok(other) => panic!("SR2_TEST_DEVICE is {other:?}, expected cpu or cuda"),
    }
}

#[derive(Deserialize)]
struct Stored {
    shape: Vec<usize>,
    data: Vec<f32>,
}

/// What PyTorch computes for a network of every operator; see `tests/reference/every_operator.py`.
#[derive(Deserialize)]
pub(super) struct Reference {
    graph: Graph,
    parameters: BTreeMap<String, Stored>,
    images: Vec<f32>,
    labels: Vec<u32>,
    loss: f64,
    correct: usize,
    gradient: BTreeMap<String, Stored>,
    buffers_after: BTreeMap<String, Stored>,
    logits_after: Vec<f32>,
}

fn tensors(stored: BTreeMap<String, Stored>) -> TensorMap {
    stored.into_iter().map(|(name, t)| (name, Tensor::new(t.shape, t.data))).collect()
}

/// Largest difference from PyTorch in double precision, relative to the largest value of the tensor.
const CLOSE: f32 = 2e-5;

fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= CLOSE * scale, "{what}[{i}] is {f}, expected {e}, scale {scale}");
    }
}

pub(super) fn setup() -> (Reference, CandleExecutor, Vec<f32>, Batch) {
    let mut reference: Reference = serde_json::from_str(include_str!("../../tests/reference/every_operator.json"))
        .expect("the reference is valid");
    let parameters = tensors(std::mem::take(&mut reference.parameters));
    let model = Model::try_new(reference.graph.clone(), parameters).unwrap();
    let layout = ParameterLayout::new(model.graph());
    let flat = flatten(layout.trainable(), model.parameters());
    let buffers = flatten(layout.buffers(), model.parameters());
    let executor = CandleExecutor::new(reference.graph.clone(), buffers, test_device()).unwrap();
    let batch = Batch { images: reference.images.clone(), labels: reference.labels.clone(), ..Batch::default() };
    (reference, executor, flat, batch)
}

/// As [`setup`], and the network runs channels last, by the twins of the kernels on the CPU.
fn setup_channels_last() -> (Reference, CandleExecutor, Vec<f32>, Batch) {
    let (reference, mut executor, flat, batch) = setup();
    executor.channels_last = Some(ChannelsLast::new(&executor.graph));
    (reference, executor, flat, batch)
}

#[test]
fn loss_gradient_and_running_statistics_are_pytorchs() {
    assert_pytorchs(setup());
}

#[test]
fn channels_last_too() {
    assert_pytorchs(setup_channels_last());
}

fn assert_pytorchs((reference, mut executor, flat, batch): (Reference, CandleExecutor, Vec<f32>, Batch)) {
    let mut gradient = vec![f32::NAN; flat.len()];
    let result = executor.loss_and_gradient(&flat, &batch, &mut gradient).unwrap();
    assert!((result.loss - reference.loss).abs() < 1e-6 * reference.loss, "{} {}", result.loss, reference.loss);
    assert_eq!(result.correct, reference.correct);
    let expected = tensors(reference.gradient);
    for (name, tensor) in unflatten(executor.layout().trainable(), &gradient) {
        assert_close(&name, tensor.data(), expected[&name].data());
    }
    let expected = tensors(reference.buffers_after);
    for (name, tensor) in unflatten(executor.layout().buffers(), &executor.buffers().unwrap()) {
        assert_close(&name, tensor.data(), expected[&name].data());
    }
    let logits = executor.logits(&flat, &batch.images, batch.labels.len()).unwrap();
    assert_close("logits", &logits, &reference.logits_after);
}

#[test]
fn trial_losses_equal_training_losses_and_move_nothing() {
    for (_, mut executor, flat, batch) in [setup(), setup_channels_last()] {
        let before = executor.buffers().unwrap();
        let trial = executor.loss(&flat, &batch).unwrap();
        assert_eq!(executor.buffers().unwrap(), before);
        let mut gradient = vec![0.0; flat.len()];
        assert_eq!(executor.loss_and_gradient(&flat, &batch, &mut gradient).unwrap(), trial);
        assert_ne!(executor.buffers().unwrap(), before);
    }
}

/// A convolution whose padding is not the same above and below, and a batch norm that a ReLU and a sum read.
fn odd() -> Graph {
    let conv = |name: &str, input, pads| {
        let weight = format!("{name}.weight");
        // One right before the batch norm would have no gradient but rounding.
        let bias = (input == 0).then(|| format!("{name}.bias"));
        let (out_channels, kernel) = (4, [3, 3]);
        let op = Conv { weight, bias, out_channels, kernel, stride: [1, 1], pads, dilation: [1, 1], groups: 1 };
        Node { name: name.into(), op: Op::Conv(op), inputs: vec![input] }
    };
    let node = |name: &str, op, inputs| Node { name: name.into(), op, inputs };
    let [scale, shift, mean, var] = ["scale", "shift", "mean", "var"].map(String::from);
    let norm = BatchNormalization { scale, shift, mean, var, epsilon: 1e-5, momentum: 0.1 };
    let linear = Gemm { weight: "fc.weight".into(), bias: Some("fc.bias".into()), out_features: 10 };
    let nodes = vec![
        conv("first", 0, [1, 1, 1, 1]),
        conv("second", 1, [2, 1, 0, 1]),
        node("norm", Op::BatchNormalization(norm), vec![2]),
        node("relu", Op::Relu, vec![3]),
        node("sum", Op::Add, vec![4, 3]),
        node("pool", Op::GlobalAveragePool, vec![5]),
        node("flat", Op::Flatten, vec![6]),
        node("fc", Op::Gemm(linear), vec![7]),
    ];
    Graph::try_new("odd", &[3, 32, 32], nodes).unwrap()
}

/// Among them one of residual sums with ReLUs behind them.
#[test]
fn whole_networks_channels_last_are_candles() {
    for graph in [zoo::build("resnet8", 10).unwrap(), odd()] {
        let name = graph.name();
        let layout = ParameterLayout::new(&graph);
        let parameters = initialise(&graph, 1);
        let flat = flatten(layout.trainable(), &parameters);
        let images = (0..3 * 3072).map(|i| (i as f32 * 0.37).sin()).collect();
        let batch = Batch { images, labels: vec![3, 0, 9], ..Batch::default() };
        let [expected, found] = [false, true].map(|channels_last| {
            let buffers = flatten(layout.buffers(), &parameters);
            let mut executor = CandleExecutor::new(graph.clone(), buffers, test_device()).unwrap();
            executor.channels_last = channels_last.then(|| ChannelsLast::new(&graph));
            let mut gradient = vec![0.0; flat.len()];
            let loss = executor.loss_and_gradient(&flat, &batch, &mut gradient).unwrap();
            (loss.loss, gradient, executor.buffers().unwrap())
        });
        assert!((found.0 / expected.0 - 1.0).abs() < 1e-5, "{name}: {} {}", found.0, expected.0);
        for segment in layout.trainable() {
            let own = |gradient: &[f32]| gradient[segment.range.clone()].to_vec();
            assert_near(&format!("{name}, {}", segment.spec.name), &own(&found.1), &own(&expected.1));
        }
        assert_near(&format!("{name}, running statistics"), &found.2, &expected.2);
    }
}

/// Largest distance of gradients that went through many layers of f32, relative to their norm.
const DEEP: f64 = 1e-3;

#[track_caller]
fn assert_near(what: &str, found: &[f32], expected: &[f32]) {
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let difference = square(&mut found.iter().zip(expected).map(|(f, e)| f - e));
    let distance = (difference / square(&mut expected.iter().copied())).sqrt();
    assert!(distance < DEEP, "{what}: relative distance {distance:e}");
}

/// Relative change of a loss that rounding of the factors to 8 bits causes after a few layers.
const BF16_TOLERANCE: f64 = 0.02;

/// The same for the norm of a gradient, in which some ReLUs switch.
const BF16_GRADIENT_TOLERANCE: f64 = 0.2;

#[test]
fn bf16_gives_the_loss_and_gradient_within_its_rounding() {
    [setup, setup_channels_last].into_iter().for_each(assert_bf16);
}

fn assert_bf16(setup: fn() -> (Reference, CandleExecutor, Vec<f32>, Batch)) {
    let [(f32_loss, f32_gradient, f32_logits), (loss, gradient, logits)] =
        [Precision::F32, Precision::Bf16].map(|precision| {
            let (_, mut executor, flat, batch) = setup();
            executor.set_precision(precision).unwrap();
            let mut gradient = vec![0.0; flat.len()];
            let logits = executor.logits(&flat, &batch.images, batch.labels.len()).unwrap();
            let trial = executor.loss(&flat, &batch).unwrap();
            assert_eq!(executor.loss_and_gradient(&flat, &batch, &mut gradient).unwrap(), trial);
            (trial.loss, gradient, logits)
        });
    assert_eq!(logits, f32_logits, "evaluation is f32");
    assert!(loss != f32_loss && (loss / f32_loss - 1.0).abs() < BF16_TOLERANCE, "{loss} {f32_loss}");
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let difference = square(&mut gradient.iter().zip(&f32_gradient).map(|(g, e)| g - e));
    let distance = (difference / square(&mut f32_gradient.iter().copied())).sqrt();
    assert!(distance > 1e-4 && distance < BF16_GRADIENT_TOLERANCE, "relative distance of the gradients {distance}");
}

#[test]
fn tf32_is_refused_on_the_cpu() {
    let (reference, executor, ..) = setup();
    let mut executor = CandleExecutor::new(reference.graph, executor.buffers().unwrap(), DeviceKind::Cpu).unwrap();
    let error = executor.set_precision(Precision::Tf32).unwrap_err().to_string();
    assert_eq!(error, "candle executor: tf32 needs device cuda; use f32");
}

#[test]
fn the_same_call_gives_the_same_bits() {
    let (_, mut executor, flat, batch) = setup();
    let mut gradients = [vec![0.0; flat.len()], vec![0.0; flat.len()]];
    for gradient in &mut gradients {
        executor.loss_and_gradient(&flat, &batch, gradient).unwrap();
    }
    assert_eq!(gradients[0], gradients[1]);
}

#[test]
fn relu_has_gradient_zero_at_zero() {
    let x = Var::from_slice(&[-1f32, 0.0, 2.0], 3, &open(test_device()).unwrap()).unwrap();
    let y = ops::apply(&Op::Relu, &[x.as_tensor().clone()], &HashMap::new(), false).unwrap();
    assert_eq!(y.to_vec1::<f32>().unwrap(), [0.0, 0.0, 2.0]);
    let gradients = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(gradients.get(&x).unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0, 1.0]);
}

#[test]
fn graphs_that_cannot_be_trained_are_refused_by_node() {
    let node = |op| Node { name: "last".into(), op, inputs: vec![1] };
    let flat = Node { name: "flat".into(), op: Op::Flatten, inputs: vec![0] };
    let graph = Graph::try_new("odd", &[3, 2, 2], vec![flat, node(Op::Softmax)]).unwrap();
    let error = CandleExecutor::new(graph, vec![], DeviceKind::Cpu).unwrap_err().to_string();
    assert_eq!(
        error,
        "candle executor: node \"last\" (Softmax): the loss takes logits; end the network before Softmax"
    );
}

#[cfg(not(feature = "cuda"))]
#[test]
fn cuda_without_the_feature_is_an_error() {
    let (reference, executor, ..) = setup();
    let error =
        CandleExecutor::new(reference.graph, executor.buffers().unwrap(), DeviceKind::Cuda).unwrap_err().to_string();
    assert!(error.contains("feature `cuda`"), "{error}");
}
