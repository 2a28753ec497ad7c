//! Several executors that share a batch against one that has all of it.

use std::sync::Arc;

use super::*;
use crate::collective::{Alone, Collective, part, threads};
use crate::distillation::TEMPERATURE;
use crate::executor::BatchLoss;

/// Images in the batch: processes get unequal parts, and some take the sparse kernels where others do not.
const COUNT: usize = 19;

#[derive(Debug, PartialEq)]
struct Results {
    loss: BatchLoss,
    trial_loss: BatchLoss,
    gradient: Vec<f32>,
    buffers: Vec<f32>,
}

/// What an executor gives for its part of the batch.
fn results(graph: &Graph, team: Arc<dyn Collective>, support: Support, sparse: bool, teacher: bool) -> Results {
    let mut executor = TapeExecutor::new(graph, COUNT, 1).unwrap();
    let images = part(&*team, COUNT);
    executor.set_team(team);
    executor.set_support(support);
    let x = if sparse { sparse_case(&executor, graph).0 } else { parameters(&executor, he) };
    let [len, classes] = [graph.input_shape().iter().product(), graph.output_shape()[0]];
    let whole = batch(graph, COUNT);
    let part_of = |values: &[f32], len: usize| values[images.start * len..images.end * len].to_vec();
    let outputs: Vec<f32> = (0..COUNT * classes).map(|i| TEMPERATURE as f32 * noise(i)).collect();
    let own = Batch {
        images: part_of(&whole.images, len),
        labels: whole.labels[images.clone()].to_vec(),
        teacher: if teacher { part_of(&outputs, classes) } else { Vec::new() },
    };
    let mut gradient = vec![f32::NAN; x.len()];
    let trial_loss = executor.loss(&x, &own).unwrap();
    let loss = executor.loss_and_gradient(&x, &own, &mut gradient).unwrap();
    Results { loss, trial_loss, gradient, buffers: executor.buffers().unwrap() }
}

#[track_caller]
fn assert_processes_are_as_one(graph: &Graph, support: Support, sparse: bool, teacher: bool) {
    let expected = results(graph, Arc::new(Alone), support, sparse, teacher);
    for processes in [2, 3] {
        let found = threads::together(processes, |team| results(graph, team, support, sparse, teacher));
        assert!(found.iter().all(|results| *results == found[0]), "{processes} processes do not hold the same bits");
        let found = &found[0];
        assert_eq!(found.loss, found.trial_loss);
        assert_eq!(found.loss.correct, expected.loss.correct);
        let distance = (found.loss.loss / expected.loss.loss - 1.0).abs();
        assert!(distance < VALUE_TOLERANCE, "{processes} processes: {distance:e}");
        let in_f64 = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        let executor = TapeExecutor::new(graph, 1, 1).unwrap();
        for segment in executor.layout().trainable() {
            let range = segment.range.clone();
            let what = format!("gradient of {} on {processes} processes", segment.spec.name);
            // Both round in f32.
            let tolerance = 2.0 * GRADIENT_TOLERANCE;
            assert_close(&what, &found.gradient[range.clone()], &in_f64(&expected.gradient[range]), tolerance);
        }
        for segment in executor.layout().buffers() {
            let range = segment.range.clone();
            let expected = in_f64(&expected.buffers[range.clone()]);
            assert_close(&segment.spec.name, &found.buffers[range], &expected, 2.0 * VALUE_TOLERANCE);
        }
    }
}

#[test]
fn processes_that_share_a_batch_are_as_one_with_all_of_it() {
    let graph = zoo::build("resnet8", 10).unwrap();
    assert_processes_are_as_one(&graph, Support::Moving, false, false);
    assert_processes_are_as_one(&graph, Support::Frozen, true, false);
    assert_processes_are_as_one(&graph, Support::Moving, true, true);
}
