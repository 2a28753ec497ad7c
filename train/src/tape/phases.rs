//! Where the time of a pass goes.

use std::ops::AddAssign;
use std::time::{Duration, Instant};

/// Time that the executor has spent, by kind of work. "Convolutions" include linear layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PhaseTimes {
    /// Convolutions, forward, with the packing of their weights.
    pub conv_forward: Duration,
    /// Gradients of convolutions with respect to their inputs, and to the non-zeros of weights that the sparse kernels
    /// compute along with them.
    pub conv_input_gradient: Duration,
    /// Gradients of convolutions with respect to weights and biases.
    pub conv_weight_gradient: Duration,
    /// Batch norm with the sum and the activation fused into it, forward and backward.
    pub norm: Duration,
    /// Everything else: blocking of the images, pooling, unfused sums and activations, the loss.
    pub rest: Duration,
}

impl PhaseTimes {
    /// Sum of all phases.
    pub fn total(&self) -> Duration {
        self.conv_forward + self.conv_input_gradient + self.conv_weight_gradient + self.norm + self.rest
    }
}

/// Runs `work` and adds the time it takes to `phase`.
pub(super) fn timed<T>(phase: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    phase.add_assign(start.elapsed());
    result
}
