//! What is computed on whole datasets: loss and accuracy, and the final batch-norm statistics.

use sr2_models::{Graph, Op};

use crate::collective::Collective;
use crate::cross_entropy::cross_entropy;
use crate::data::{BatchLoader, Dataset, EvaluationBatches};
use crate::executor::{Executor, ExecutorError};

/// Mean loss and accuracy over a dataset.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Fraction of the images classified correctly.
    pub accuracy: f64,
}

/// Runs the network, batch norm with its running statistics, over all images; several processes share the batches.
pub fn evaluate(
    executor: &mut dyn Executor,
    parameters: &[f32],
    dataset: &Dataset,
    batch_size: usize,
    team: &dyn Collective,
) -> Result<Evaluation, ExecutorError> {
    let (mut loss, mut correct) = (0.0, 0);
    let mut batches = EvaluationBatches::new(dataset, batch_size).skip(team.rank()).step_by(team.size());
    executor.logits_of_each(parameters, &mut batches, &mut |batch, logits| {
        let count = batch.labels.len();
        let result = cross_entropy(logits, &batch.labels, logits.len() / count, None);
        loss += result.loss * count as f64;
        correct += result.correct;
    })?;
    let mut sums = [loss, correct as f64];
    team.sum_f64(&mut sums);
    let [loss, accuracy] = sums.map(|sum| sum / dataset.len() as f64);
    Ok(Evaluation { loss, accuracy })
}

/// Replaces the running statistics by the plain average over `batches` training batches at `parameters`: during
/// training they lag behind weights that moved, and that the penalty zeroed.
pub fn recalibrate(
    executor: &mut dyn Executor,
    graph: &Graph,
    parameters: &[f32],
    loader: &mut BatchLoader,
    batches: usize,
) -> Result<(), ExecutorError> {
    let momenta = momenta(executor, graph);
    let zeros = vec![0.0; momenta.len()];
    let mut sums = vec![0.0f64; momenta.len()];
    for _ in 0..batches {
        let loaded = loader.next_batch();
        // From zero, the running statistics become `momentum` times the batch's.
        executor.set_buffers(&zeros)?;
        executor.move_statistics(parameters, &loaded.batch)?;
        for ((sum, buffer), momentum) in sums.iter_mut().zip(executor.buffers()?).zip(&momenta) {
            *sum += f64::from(buffer) / f64::from(*momentum);
        }
        loader.recycle(loaded.batch);
    }
    let means: Vec<f32> = sums.iter().map(|sum| (sum / batches as f64) as f32).collect();
    executor.set_buffers(&means)
}

/// The momentum of each running statistic, in the order of the buffers.
fn momenta(executor: &dyn Executor, graph: &Graph) -> Vec<f32> {
    let layout = executor.layout();
    let mut momenta = vec![1.0; layout.buffers_len()];
    for node in graph.nodes() {
        if let Op::BatchNormalization(norm) = &node.op {
            for segment in layout.buffers().iter().filter(|s| [&norm.mean, &norm.var].contains(&&s.spec.name)) {
                momenta[segment.range.clone()].fill(norm.momentum);
            }
        }
    }
    momenta
}
