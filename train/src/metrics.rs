//! What a run logs: sums over an epoch's steps, sparsity by layer, and the records of `metrics.jsonl`.

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use sr2_formats::Error;

use crate::executor::BatchLoss;
use crate::layout::Segment;
use crate::optimizer::StepReport;
use crate::sr2::{Bound, Verdict};

/// Sums over the steps of an epoch so far; part of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochTotals {
    steps: u64,
    accepted: u64,
    images: u64,
    correct: u64,
    loss: f64,
    at_least_sigma: u64,
    at_greatest_sigma: u64,
}

impl EpochTotals {
    /// Adds a step: the loss and hits at its starting point, and whether it was taken.
    pub fn add(&mut self, report: &StepReport, batch: BatchLoss, images: usize) {
        self.steps += 1;
        self.accepted += u64::from(report.verdict != Verdict::Rejected);
        self.images += images as u64;
        self.correct += batch.correct as u64;
        self.loss += batch.loss;
        self.at_least_sigma += u64::from(report.at_bound == Some(Bound::Least));
        self.at_greatest_sigma += u64::from(report.at_bound == Some(Bound::Greatest));
    }

    /// The bound at which sigma stood in every step.
    pub fn stuck_at(&self) -> Option<Bound> {
        match self.steps {
            0 => None,
            steps if self.at_least_sigma == steps => Some(Bound::Least),
            steps if self.at_greatest_sigma == steps => Some(Bound::Greatest),
            _ => None,
        }
    }

    /// Mean loss of the steps; 0 before the first.
    pub fn loss(&self) -> f64 {
        self.loss / self.steps.max(1) as f64
    }

    /// Fraction of the images classified correctly, augmented as they were.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.images.max(1) as f64
    }

    /// Fraction of the steps taken.
    pub fn acceptance_rate(&self) -> f64 {
        self.accepted as f64 / self.steps.max(1) as f64
    }
}

/// Passes of the network over a mini-batch, in steps whether taken or rejected; those of a teacher, of validation and of
/// the final batch-norm statistics are not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passes {
    /// From images to loss.
    pub forward: u64,
    /// From loss to gradient.
    pub backward: u64,
}

/// Sparsity of one prunable weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerSparsity {
    /// Parameter name.
    pub name: String,
    /// Number of values.
    pub weights: usize,
    /// Number of values that are not zero.
    pub nonzero: usize,
}

/// Sparsity of each prunable weight, in the layout's order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Census {
    /// One entry a layer.
    pub layers: Vec<LayerSparsity>,
}

impl Census {
    /// Counts exact zeros in the prunable weights of the flat parameters.
    pub fn new(trainable: &[Segment], parameters: &[f32]) -> Self {
        Self::of_counts(
            trainable.iter().map(|s| (s, parameters[s.range.clone()].iter().filter(|w| **w != 0.0).count())),
        )
    }

    /// From the number of weights of each parameter that are not zero.
    pub fn of_counts<'a>(trainable: impl Iterator<Item = (&'a Segment, usize)>) -> Self {
        let layer = |(s, nonzero): (&Segment, usize)| LayerSparsity {
            name: s.spec.name.clone(),
            weights: s.range.len(),
            nonzero,
        };
        Self { layers: trainable.filter(|(s, _)| s.spec.role.is_prunable()).map(layer).collect() }
    }

    /// Fraction of zeros among all prunable weights.
    pub fn sparsity(&self) -> f64 {
        let total = self.layers.iter().fold((0, 0), |(n, w), l| (n + l.nonzero, w + l.weights));
        1.0 - total.0 as f64 / total.1.max(1) as f64
    }

    /// Names of the layers without any weight left.
    pub fn empty_layers(&self) -> Vec<String> {
        self.layers.iter().filter(|l| l.nonzero == 0).map(|l| l.name.clone()).collect()
    }
}

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// A step, logged now and then.
    Step(StepRecord),
    /// The end of an epoch.
    Epoch(EpochRecord),
}

/// One step. Losses are means over its batch, in nats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Epoch, from 1.
    pub epoch: u64,
    /// Steps taken so far.
    pub step: u64,
    /// Loss before the step.
    pub loss: f64,
    /// Predicted decrease.
    pub xi: f64,
    /// Actual over predicted decrease; null where not judged.
    pub rho: Option<f64>,
    /// The sigma used.
    pub sigma: f64,
    /// Largest weight of the penalty in any layer.
    pub lambda: f64,
    /// `sqrt(sigma xi)`.
    pub stationarity: f64,
    /// Whether the step was taken.
    pub accepted: bool,
    /// Fraction of zeros among the prunable weights.
    pub sparsity: f64,
}

/// One epoch. What is measured on held-out images is the network that the run would give if it ended here: of a method
/// that averages the weights, their average, with batch-norm statistics of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Epoch, from 1.
    pub epoch: u64,
    /// Steps taken so far.
    pub step: u64,
    /// Mean training loss over the epoch.
    pub loss: f64,
    /// Training accuracy over the epoch, on augmented images.
    pub train_accuracy: f64,
    /// Loss on the held-out images; null where it is not finite.
    #[serde(deserialize_with = "nan_if_null")]
    pub validation_loss: f64,
    /// Accuracy on the held-out images.
    pub validation_accuracy: f64,
    /// Fraction of zeros among the prunable weights.
    pub sparsity: f64,
    /// Layers without any weight left.
    pub empty_layers: Vec<String>,
    /// The sigma of the next step.
    pub sigma: f64,
    /// Fraction of the epoch's steps taken.
    pub acceptance_rate: f64,
    /// Training images a second since the epoch began or was resumed, validation left out.
    pub images_per_s: f64,
}

/// Reads a number that JSON, which has only finite ones, holds as null otherwise.
pub(crate) fn nan_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Reads `metrics.jsonl` of the run in `folder`; a last line that a crash left unfinished is left out.
///
/// # Errors
/// If it cannot be read, or a line is no record.
pub fn read_records(folder: &Path) -> Result<Vec<Record>, Error> {
    let path = folder.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "read", e))?;
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).enumerate();
    let record = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::malformed(&path, format!("line {}: no record: {e}", i + 1)))
    };
    whole.map(record).collect()
}

/// Time of the steps of all epochs, `step_images` images each, from their speeds, so that a run that was resumed has it
/// whole; validation and checkpoints are not in it.
pub fn training_seconds(records: &[Record], step_images: usize) -> f64 {
    let (mut before, mut seconds) = (0, 0.0);
    for record in records {
        if let Record::Epoch(epoch) = record {
            seconds += ((epoch.step - before) * step_images as u64) as f64 / epoch.images_per_s;
            before = epoch.step;
        }
    }
    seconds
}
