//! What the training loop asks of whatever computes the network: losses, gradients and logits at a flat parameter
//! vector. The optimizers know nothing else of the network, the device or the framework.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::candle_executor::CandleExecutor;
use crate::layout::ParameterLayout;

/// A mini-batch ready for the network.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Normalised images, `[count, channels, height, width]` row-major.
    pub images: Vec<f32>,
    /// Class of each image.
    pub labels: Vec<u32>,
    /// Logits of a teacher for each image, or nothing: what the loss distils ([`crate::distillation`]).
    pub teacher: Vec<f32>,
}

/// Result of a forward pass over a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchLoss {
    /// Mean cross-entropy over the batch, in nats.
    pub loss: f64,
    /// Number of images whose largest logit is their class's.
    pub correct: usize,
}

/// What convolutions and linear layers multiply in training; everything else is f32, weights too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// On a CUDA device: f32 whose factors matrix products may round to TF32, 10 bits after the leading one; in evaluation
    /// too.
    Tf32,
    /// Activations, gradients and weights rounded to bf16. On the tape, depthwise and sparse convolutions stay f32.
    Bf16,
}

/// Which prunable weights may move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Support {
    /// All: the gradient of every weight is computed.
    #[default]
    Moving,
    /// Those that are not zero: the gradient of a prunable weight that is exactly zero in the call's parameters is
    /// written as exactly 0.0 and need not be computed.
    Frozen,
}

impl Support {
    /// Writes 0.0 into the gradient of every weight that may not move.
    pub fn mask(self, layout: &ParameterLayout, parameters: &[f32], gradient: &mut [f32]) {
        if self == Self::Moving {
            return;
        }
        for segment in layout.trainable().iter().filter(|s| s.spec.role.is_prunable()) {
            let weights = &parameters[segment.range.clone()];
            let gradient = gradient[segment.range.clone()].par_iter_mut().with_min_len(1 << 15);
            gradient.zip(weights).filter(|(_, weight)| **weight == 0.0).for_each(|(gradient, _)| *gradient = 0.0);
        }
    }
}

/// An executor could not compute; the message says why.
#[derive(Debug, thiserror::Error)]
#[error("{executor} executor: {message}")]
pub struct ExecutorError {
    /// Name of the executor.
    pub executor: &'static str,
    /// What went wrong.
    pub message: String,
}

/// Computes one network. Trainable parameters come in as one flat vector in the order of [`Executor::layout`];
/// batch-norm running statistics are the executor's own state.
pub trait Executor {
    /// Where each trainable parameter lies in the flat vectors.
    fn layout(&self) -> &ParameterLayout;

    /// Loss at `parameters` on `batch` with its gradient, batch norm in training mode (statistics of the batch).
    /// Moves the running statistics once. `gradient` is overwritten; what it holds for weights that are zero depends on
    /// [`Executor::set_support`].
    fn loss_and_gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch,
        gradient: &mut [f32],
    ) -> Result<BatchLoss, ExecutorError>;

    /// Says which weights move from the next gradient on; all do until this is called. A caller may change it every
    /// step, for example to pay for the gradient of zeros only every k-th.
    fn set_support(&mut self, support: Support);

    /// Loss at `parameters` on `batch`, batch norm in training mode, as [`Executor::loss_and_gradient`] would give it,
    /// but nothing is kept: no gradient, and the running statistics stay.
    fn loss(&mut self, parameters: &[f32], batch: &Batch) -> Result<BatchLoss, ExecutorError>;

    /// Moves the running statistics once, as [`Executor::loss_and_gradient`] would, by a forward pass alone.
    fn move_statistics(&mut self, parameters: &[f32], batch: &Batch) -> Result<(), ExecutorError>;

    /// Logits `[count, classes]` at `parameters`, batch norm with the running statistics.
    fn logits(&mut self, parameters: &[f32], images: &[f32], count: usize) -> Result<Vec<f32>, ExecutorError>;

    /// [`Executor::logits`] of batch after batch; `take` gets each batch with its own.
    fn logits_of_each(
        &mut self,
        parameters: &[f32],
        batches: &mut dyn Iterator<Item = Batch>,
        take: &mut dyn FnMut(&Batch, &[f32]),
    ) -> Result<(), ExecutorError> {
        for batch in batches {
            take(&batch, &self.logits(parameters, &batch.images, batch.labels.len())?);
        }
        Ok(())
    }

    /// The running statistics, in the order of [`ParameterLayout::buffers`].
    fn buffers(&self) -> Result<Vec<f32>, ExecutorError>;

    /// Replaces the running statistics.
    fn set_buffers(&mut self, buffers: &[f32]) -> Result<(), ExecutorError>;

    /// The executor itself if it can keep the vectors of a training where it computes.
    fn candle(&mut self) -> Option<&mut CandleExecutor> {
        None
    }
}
