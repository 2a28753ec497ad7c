//! The executor against PyTorch in f64 (`tests/reference/tape.py`), against itself, and on the whole zoo.

mod central_differences;
mod processes;

use serde::Deserialize;
use sr2_kernels::Isa;
use sr2_models::{Clip, Conv, Gemm, Graph, GraphBuilder, Node, Op, ParameterRole, zoo};

use super::TapeExecutor;
use crate::candle_executor::CandleExecutor;
use crate::candle_executor::tests::test_device;
use crate::executor::{Batch, Executor, Precision, Support};

/// Largest difference of a gradient, relative to the largest value of its parameter, that f32 rounding may cause.
const GRADIENT_TOLERANCE: f64 = 1e-5;

/// The same for losses, logits and running statistics.
const VALUE_TOLERANCE: f64 = 2e-6;

#[derive(Deserialize)]
struct Reference {
    graph: Graph,
    count: usize,
    loss: f64,
    correct: usize,
    gradient: Vec<f64>,
    buffers: Vec<f64>,
    logits: Vec<f64>,
}

/// A value between -1 and 1 that depends only on `index`; the reference program has the same.
fn noise(index: usize) -> f32 {
    let hash = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn parameters(executor: &TapeExecutor, scale: impl Fn(usize) -> f32) -> Vec<f32> {
    let mut flat = vec![0.0; executor.layout().trainable_len()];
    for segment in executor.layout().trainable() {
        let fan_in = segment.spec.shape.iter().skip(1).product();
        for index in segment.range.clone() {
            flat[index] = match segment.spec.role {
                ParameterRole::NormScale => 1.0 + 0.5 * noise(index),
                _ => scale(fan_in) * noise(index),
            };
        }
    }
    flat
}

fn batch(graph: &Graph, count: usize) -> Batch {
    let image: usize = graph.input_shape().iter().product();
    let classes = graph.output_shape()[0];
    let labels = (0..count).map(|i| (i % classes) as u32).collect();
    Batch { images: (0..count * image).map(noise).collect(), labels, ..Batch::default() }
}

#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(f64::MIN_POSITIVE, |m, e| m.max(e.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let distance = (f64::from(*f) - e).abs() / scale;
        assert!(distance <= tolerance, "{what}[{i}]: {f} for {e}, relative distance {distance:e}");
    }
}

#[test]
fn losses_gradients_statistics_and_logits_are_pytorchs() {
    let references: Vec<Reference> =
        serde_json::from_str(include_str!("../../tests/reference/tape.json")).expect("the committed file is valid");
    for r in references {
        let mut executor = TapeExecutor::new(&r.graph, r.count + 1, 2).unwrap();
        let (x, batch) = (parameters(&executor, |_| 0.5), batch(&r.graph, r.count));
        // Twice, so that whatever the first pass leaves in the buffers would show in the second.
        for _ in 0..2 {
            executor.set_buffers(&fresh_buffers(&executor)).unwrap();
            let mut gradient = vec![f32::NAN; x.len()];
            let found = executor.loss_and_gradient(&x, &batch, &mut gradient).unwrap();
            let name = r.graph.name();
            assert_close(&format!("loss of {name}"), &[found.loss as f32], &[r.loss], VALUE_TOLERANCE);
            assert_eq!(found.correct, r.correct, "{name}");
            // The bias of a convolution before a batch norm has no gradient but rounding: compare it to the others.
            let floor = r.gradient.iter().fold(0.0, |m: f64, g| m.max(g.abs())) / 100.0;
            for segment in executor.layout().trainable() {
                let range = segment.range.clone();
                let scale = r.gradient[range.clone()].iter().fold(floor, |m: f64, g| m.max(g.abs()));
                let what = format!("gradient of {name} {}", segment.spec.name);
                let found: Vec<f32> = gradient[range.clone()].iter().copied().chain([scale as f32]).collect();
                let expected: Vec<f64> = r.gradient[range].iter().copied().chain([f64::from(scale as f32)]).collect();
                assert_close(&what, &found, &expected, GRADIENT_TOLERANCE);
            }
            for segment in executor.layout().buffers() {
                let what = format!("{name} {}", segment.spec.name);
                let range = segment.range.clone();
                // Rounding of a mean is relative to the values', which are of size 1, not to the mean.
                let found: Vec<f32> = executor.buffers().unwrap()[range.clone()].iter().copied().chain([0.1]).collect();
                let expected: Vec<f64> = r.buffers[range].iter().copied().chain([0.1f32.into()]).collect();
                assert_close(&what, &found, &expected, VALUE_TOLERANCE);
            }
            let logits = executor.logits(&x, &batch.images, r.count).unwrap();
            assert_close(&format!("logits of {name}"), &logits, &r.logits, 10.0 * VALUE_TOLERANCE);
        }
    }
}

fn fresh_buffers(executor: &TapeExecutor) -> Vec<f32> {
    let mut buffers = vec![0.0; executor.layout().buffers_len()];
    for segment in executor.layout().buffers() {
        let variance = segment.spec.role == ParameterRole::RunningVar;
        buffers[segment.range.clone()].fill(if variance { 1.0 } else { 0.0 });
    }
    buffers
}

#[test]
fn bits_do_not_depend_on_threads_or_on_the_planned_batch() {
    let graph = zoo::build("resnet8", 10).unwrap();
    let batch = batch(&graph, 7);
    let results: Vec<_> = [(7, 1), (7, 2), (16, 3)]
        .into_iter()
        .map(|(max_batch, threads)| {
            let mut executor = TapeExecutor::new(&graph, max_batch, threads).unwrap();
            let x = parameters(&executor, he);
            let mut gradient = vec![0.0; x.len()];
            let loss = executor.loss_and_gradient(&x, &batch, &mut gradient).unwrap();
            (loss, gradient, executor.buffers().unwrap(), executor.logits(&x, &batch.images, 7).unwrap())
        })
        .collect();
    assert!(results[0] == results[1], "one and two threads differ");
    assert!(results[0] == results[2], "one and three threads differ");
}

#[test]
fn bits_of_sparse_weights_do_not_depend_on_threads() {
    let graph = zoo::build("resnet8", 10).unwrap();
    let results = [1, 2, 3].map(|threads| {
        let mut executor = TapeExecutor::new(&graph, 40, threads).unwrap();
        let (x, _) = sparse_case(&executor, &graph);
        executor.set_support(Support::Frozen);
        let mut gradient = vec![0.0; x.len()];
        let loss = executor.loss_and_gradient(&x, &batch(&graph, 40), &mut gradient).unwrap();
        (loss, gradient)
    });
    assert!(results[0] == results[1], "one and two threads differ");
    assert!(results[0] == results[2], "one and three threads differ");
}

/// Scale of weights that keeps activations of one size.
fn he(fan_in: usize) -> f32 {
    if fan_in > 1 { (6.0 / fan_in as f32).sqrt() } else { 0.1 }
}

#[test]
fn every_network_of_the_zoo_descends_along_its_gradient() {
    for name in zoo::NAMES {
        let graph = zoo::build(name, 10).unwrap();
        let count = 2;
        let mut executor = TapeExecutor::new(&graph, count, 2).unwrap();
        let (x, batch) = (parameters(&executor, he), batch(&graph, count));
        let mut gradient = vec![0.0; x.len()];
        let at = executor.loss_and_gradient(&x, &batch, &mut gradient).unwrap();
        assert_eq!(executor.loss(&x, &batch).unwrap(), at, "{name}: both give the same loss");
        let square: f64 = gradient.iter().map(|g| f64::from(*g).powi(2)).sum();
        assert!(square.is_finite() && square > 0.0, "{name}: squared norm {square}");
        // A change of the loss small enough for few ReLUs to switch and large against rounding; what it should be
        // follows from where rounding put the parameters.
        let step = 1e-2 / square;
        let moved = |sign: f64| -> Vec<f32> {
            x.iter().zip(&gradient).map(|(x, g)| (f64::from(*x) + sign * step * f64::from(*g)) as f32).collect()
        };
        let (up, down) = (moved(1.0), moved(-1.0));
        let distances = up.iter().zip(&down).map(|(up, down)| f64::from(*up) - f64::from(*down));
        let expected: f64 = distances.zip(&gradient).map(|(distance, g)| distance * f64::from(*g)).sum();
        let mut loss = |x: &[f32]| executor.loss(x, &batch).unwrap().loss;
        let change = loss(&up) - loss(&down);
        assert!((change / expected - 1.0).abs() < 0.1, "{name}: the loss changes by {change}, expected {expected}");
    }
}

/// Sixteen images for which most weights of a network are zero: what makes convolutions take the sparse path.
fn sparse_case(executor: &TapeExecutor, graph: &Graph) -> (Vec<f32>, Batch) {
    let mut x = parameters(executor, |fan_in| 3.0 * he(fan_in));
    for segment in executor.layout().trainable().iter().filter(|s| s.spec.role.is_prunable()) {
        segment.range.clone().filter(|i| noise(*i + 7) < 0.8).for_each(|i| x[i] = 0.0);
    }
    (x, batch(graph, 17))
}

#[track_caller]
fn assert_is_candles(case: impl Fn(&TapeExecutor, &Graph) -> (Vec<f32>, Batch)) {
    let graph = zoo::build("resnet8", 10).unwrap();
    let mut tape = TapeExecutor::new(&graph, 17, 2).unwrap();
    let mut candle = CandleExecutor::new(graph.clone(), tape.buffers().unwrap(), test_device()).unwrap();
    let (x, batch) = case(&tape, &graph);
    let (mut found, mut expected) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    let losses = [
        tape.loss_and_gradient(&x, &batch, &mut found).unwrap().loss,
        candle.loss_and_gradient(&x, &batch, &mut expected).unwrap().loss,
    ];
    assert!((losses[0] / losses[1] - 1.0).abs() < VALUE_TOLERANCE, "{losses:?}");
    for segment in tape.layout().trainable() {
        let range = segment.range.clone();
        let expected: Vec<f64> = expected[range.clone()].iter().map(|g| f64::from(*g)).collect();
        // Both round in f32.
        assert_close(&segment.spec.name, &found[range], &expected, 2.0 * GRADIENT_TOLERANCE);
    }
}

#[test]
fn candle_gives_the_same_loss_and_gradient() {
    assert_is_candles(|tape, graph| (parameters(tape, he), batch(graph, 6)));
}

#[test]
fn candle_gives_the_same_loss_and_gradient_of_sparse_weights() {
    assert_is_candles(sparse_case);
}

/// The gradient on a frozen support is the moving one with zeros where weights are zero, and nothing else changes.
#[track_caller]
fn assert_frozen_is_masked(executor: &mut impl Executor, x: &[f32], batch: &Batch) {
    let mut gradient_with = |support| {
        executor.set_support(support);
        let mut gradient = vec![f32::NAN; x.len()];
        let loss = executor.loss_and_gradient(x, batch, &mut gradient).unwrap();
        (loss, gradient)
    };
    let (moving_loss, moving) = gradient_with(Support::Moving);
    let (frozen_loss, frozen) = gradient_with(Support::Frozen);
    assert_eq!(frozen_loss, moving_loss);
    for segment in executor.layout().trainable() {
        let name = &segment.spec.name;
        let range = segment.range.clone();
        let masked = |i: usize| segment.spec.role.is_prunable() && x[i] == 0.0;
        assert!(range.clone().filter(|i| masked(*i)).all(|i| frozen[i].to_bits() == 0), "{name}: zeros move");
        let expected: Vec<f64> = range.clone().map(|i| if masked(i) { 0.0 } else { moving[i].into() }).collect();
        assert_close(name, &frozen[range], &expected, GRADIENT_TOLERANCE);
    }
}

#[test]
fn zeros_of_a_frozen_support_have_no_gradient() {
    let graph = zoo::build("resnet8", 10).unwrap();
    let mut tape = TapeExecutor::new(&graph, 17, 2).unwrap();
    let mut candle = CandleExecutor::new(graph.clone(), tape.buffers().unwrap(), test_device()).unwrap();
    let (x, sparse_batch) = sparse_case(&tape, &graph);
    assert_frozen_is_masked(&mut tape, &x, &sparse_batch);
    // Too few images for the sparse kernels.
    assert_frozen_is_masked(&mut tape, &x, &batch(&graph, 2));
    assert_frozen_is_masked(&mut candle, &x, &sparse_batch);
}

/// Relative change of a loss that rounding of the factors to 8 bits causes after a few layers.
const BF16_TOLERANCE: f64 = 0.02;

/// The same for the norm of a gradient, in which some ReLUs switch.
const BF16_GRADIENT_TOLERANCE: f64 = 0.2;

#[test]
fn bf16_gives_the_loss_and_gradient_within_its_rounding() {
    if Isa::best().bf16().is_none() {
        eprintln!("SKIP: this CPU has no AVX512-BF16");
        return;
    }
    let graph = zoo::build("resnet8", 10).unwrap();
    let results = [(Precision::F32, 2), (Precision::Bf16, 2), (Precision::Bf16, 3)].map(|(precision, threads)| {
        let mut executor = TapeExecutor::new(&graph, 17, threads).unwrap();
        executor.set_precision(precision).unwrap();
        let (x, batch) = (parameters(&executor, he), batch(&graph, 17));
        let mut gradient = vec![0.0; x.len()];
        let loss = executor.loss_and_gradient(&x, &batch, &mut gradient).unwrap();
        assert_eq!(executor.loss(&x, &batch).unwrap(), loss);
        (loss, gradient, executor.logits(&x, &batch.images, 17).unwrap())
    });
    let [(f32_loss, f32_gradient, _), (loss, gradient, _), _] = &results;
    assert!(results[1] == results[2], "two and three threads differ");
    assert_ne!(loss, f32_loss, "nothing was rounded");
    assert!((loss.loss / f32_loss.loss - 1.0).abs() < BF16_TOLERANCE, "{loss:?} {f32_loss:?}");
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let difference = square(&mut gradient.iter().zip(f32_gradient).map(|(g, e)| g - e));
    let distance = (difference / square(&mut f32_gradient.iter().copied())).sqrt();
    assert!(distance < BF16_GRADIENT_TOLERANCE, "relative distance of the gradients {distance}");
}

#[test]
fn only_a_gradient_step_moves_the_running_statistics() {
    let graph = zoo::build("resnet8", 10).unwrap();
    let mut executor = TapeExecutor::new(&graph, 4, 1).unwrap();
    let (x, batch) = (parameters(&executor, he), batch(&graph, 4));
    let start = executor.buffers().unwrap();
    assert_eq!(start, fresh_buffers(&executor));
    executor.loss(&x, &batch).unwrap();
    executor.logits(&x, &batch.images, 4).unwrap();
    assert_eq!(executor.buffers().unwrap(), start);
    executor.loss_and_gradient(&x, &batch, &mut vec![0.0; x.len()]).unwrap();
    assert_ne!(executor.buffers().unwrap(), start);
    executor.set_buffers(&start).unwrap();
    assert_eq!(executor.buffers().unwrap(), start);
}

#[test]
fn logits_of_more_images_than_planned_come_in_pieces() {
    let graph = zoo::build("resnet8", 10).unwrap();
    let (mut small, mut large) = (TapeExecutor::new(&graph, 2, 1).unwrap(), TapeExecutor::new(&graph, 5, 1).unwrap());
    let (x, batch) = (parameters(&small, he), batch(&graph, 5));
    assert_eq!(small.logits(&x, &batch.images, 5).unwrap(), large.logits(&x, &batch.images, 5).unwrap());
    assert_eq!(small.logits(&x, &[], 0).unwrap(), Vec::<f32>::new());
}

/// A linear layer on one value an image, after `ops`.
fn tiny(ops: impl IntoIterator<Item = Op>) -> Graph {
    let mut builder = GraphBuilder::new("tiny", &[1, 1, 1]);
    let head = [Op::Flatten, Op::Gemm(Gemm { weight: "fc.weight".into(), bias: None, out_features: 2 })];
    for (i, op) in ops.into_iter().chain(head).enumerate() {
        builder.push(Node { name: format!("n{i}"), op, inputs: vec![i] }).unwrap();
    }
    builder.finish().unwrap()
}

fn scalar_conv() -> Op {
    Op::Conv(Conv {
        weight: "conv.weight".into(),
        bias: None,
        out_channels: 1,
        kernel: [1, 1],
        stride: [1, 1],
        pads: [0; 4],
        dilation: [1, 1],
        groups: 1,
    })
}

#[test]
fn the_gradient_of_relu_at_zero_and_of_relu6_at_six_is_zero() {
    for (op, weight, expected_zero) in [
        (Op::Relu, 0.0, true),
        (Op::Relu, 1.0, false),
        (Op::Clip(Clip { min: 0.0, max: 6.0 }), 6.0, true),
        (Op::Clip(Clip { min: 0.0, max: 6.0 }), 5.0, false),
    ] {
        let graph = tiny([scalar_conv(), op]);
        let mut executor = TapeExecutor::new(&graph, 1, 1).unwrap();
        let mut gradient = [f32::NAN; 3];
        let batch = Batch { images: vec![1.0], labels: vec![0], ..Batch::default() };
        executor.loss_and_gradient(&[weight, 1.0, -1.0], &batch, &mut gradient).unwrap();
        assert_eq!(gradient[0] == 0.0, expected_zero, "{gradient:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_a_reason() {
    let graph = tiny([scalar_conv()]);
    let mut executor = TapeExecutor::new(&graph, 2, 1).unwrap();
    let mut fails = |parameters: usize, images: usize, labels: &[u32], reason: &str| {
        let batch = Batch { images: vec![0.0; images], labels: labels.to_vec(), ..Batch::default() };
        let message = executor.loss(&vec![0.0; parameters], &batch).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    };
    fails(2, 1, &[0], "2 parameters, expected 3");
    fails(3, 2, &[0], "2 image values, expected 1: 1 images of 1 x 1 x 1");
    fails(3, 1, &[2], "label 2 of image 0; the network has 2 classes");
    fails(3, 0, &[], "a batch of 0 images; it was planned for 1 to 2");
    fails(3, 3, &[0, 0, 0], "a batch of 3 images; it was planned for 1 to 2");

    let reason = |graph: &Graph| TapeExecutor::new(graph, 1, 1).err().expect("it is refused").to_string();
    assert!(reason(&tiny([Op::Flatten, Op::Softmax])).contains("Softmax is not supported; use --executor candle"));
    let unfinished =
        Graph::try_new("image", &[1, 2, 2], vec![Node { name: "r".into(), op: Op::Relu, inputs: vec![0] }]);
    assert!(reason(&unfinished.unwrap()).contains("ends in shape [1, 2, 2]"));

    let norm = sr2_models::BatchNormalization {
        scale: "bn.weight".into(),
        shift: "bn.bias".into(),
        mean: "bn.running_mean".into(),
        var: "bn.running_var".into(),
        epsilon: 1e-5,
        momentum: 0.1,
    };
    let mut executor = TapeExecutor::new(&tiny([Op::BatchNormalization(norm)]), 1, 1).unwrap();
    let batch = Batch { images: vec![1.0], labels: vec![0], ..Batch::default() };
    let message = executor.loss(&[1.0, 0.0, 1.0, 1.0], &batch).unwrap_err().to_string();
    assert!(message.contains("more than one value a channel"), "{message}");
}
