//! What the training loop asks of whatever computes the network: losses, gradients and logits at a flat parameter
//! vector. The optimizers know nothing else of the network, the device or the framework.

use crate::layout::ParameterLayout;

/// A mini-batch ready for the network.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Normalised images, `[count, channels, height, width]` row-major.
    pub images: Vec<f32>,
    /// Class of each image.
    pub labels: Vec<u32>,
}

/// Result of a forward pass over a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchLoss {
    /// Mean cross-entropy over the batch, in nats.
    pub loss: f64,
    /// Number of images whose largest logit is their class's.
    pub correct: usize,
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
    /// Moves the running statistics once. `gradient` is overwritten.
    fn loss_and_gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch,
        gradient: &mut [f32],
    ) -> Result<BatchLoss, ExecutorError>;

    /// Loss at `parameters` on `batch`, batch norm in training mode, as [`Executor::loss_and_gradient`] would give it,
    /// but nothing is kept: no gradient, and the running statistics stay.
    fn loss(&mut self, parameters: &[f32], batch: &Batch) -> Result<BatchLoss, ExecutorError>;

    /// Logits `[count, classes]` at `parameters`, batch norm with the running statistics.
    fn logits(&mut self, parameters: &[f32], images: &[f32], count: usize) -> Result<Vec<f32>, ExecutorError>;

    /// The running statistics, in the order of [`ParameterLayout::buffers`].
    fn buffers(&self) -> Vec<f32>;

    /// Replaces the running statistics.
    fn set_buffers(&mut self, buffers: &[f32]);
}
