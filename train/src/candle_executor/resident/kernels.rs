//! What a step does to whole vectors: by candle's operators, or on CUDA by own kernels in a pass over them each.

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use super::composed::Composed;
use super::model::{Model, Parts};
use crate::candle_executor::rows::Rows;
use crate::executor::Support;
use crate::layout::Segment;
use crate::optimizer::Layers;

/// What a prunable weight that is zero does in a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zeros {
    /// It moves as the others.
    Move,
    /// It stays.
    Stay,
    /// It follows the momentum.
    Coast,
}

/// What does not move in a direction.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Still {
    pub zeros: Zeros,
    /// Parameters that may have empty channels, which are held empty, and the number of their channels.
    pub empty: Vec<(usize, usize)>,
}

/// Operations on vectors in [`Rows`]. A result has the host's precision, value by value; sums are in another order.
pub(super) trait Kernels: Debug + Send + Sync {
    /// The vector of the parameters' gradients at `x`, zeros where one is missing, plus `mu x` in prunable weights, of which
    /// zeros have none if the support is frozen. Then zeros in channels whose squares add up to more than `steepest`.
    fn gather(
        &self,
        gradients: &[Option<Tensor>],
        x: &Tensor,
        mu: f32,
        support: Support,
        steepest: Option<f64>,
    ) -> Result<Tensor>;

    /// The direction and the next `z` and `x` of [`crate::schedule_free::ScheduleFree::advance`] with sigma, `c` and `beta`,
    /// from `[y, g, z, x]`.
    fn advance(&self, vectors: [&Tensor; 4], factors: [f64; 3], still: &Still) -> Result<[Tensor; 3]>;

    /// The next momentum `(1 - w) m + w g` at `[x, g]`, and with `ahead`, Nesterov's beta, the direction
    /// `beta momentum + (1 - beta) g`; without, the momentum is the direction, whose empty channels are held.
    fn average_gradient(
        &self,
        at: [&Tensor; 2],
        momentum: Option<&Tensor>,
        w: f32,
        ahead: Option<f32>,
        still: &Still,
    ) -> Result<(Tensor, Option<Tensor>)>;

    /// The next mean square, and the diagonal of [`crate::direction::Direction::update_metric`].
    fn average_square(&self, g: &Tensor, last: Option<&Tensor>, w: f32) -> Result<[Tensor; 2]>;

    /// The proximal model of a step.
    fn model<'a>(&'a self, parts: Parts<'a>) -> Result<Box<dyn Model + 'a>>;

    /// The next `z` and `x` of schedule-free averaging after the step from `old` to `next`, from `[old, next, z, x]`:
    /// [`crate::schedule_free::Sequences::follow`].
    fn follow(&self, vectors: [&Tensor; 4]) -> Result<[Tensor; 2]>;

    /// Prunable weights times `kept`.
    fn decay(&self, x: &Tensor, kept: f32) -> Result<Tensor>;

    /// `average + w (x - average)`, from 0 without an average.
    fn average_point(&self, x: &Tensor, average: Option<&Tensor>, w: f32) -> Result<Tensor>;
}

/// The kernels of a device; `penalised` holds the number of each penalised layer's parameter.
pub(super) fn of_device(
    rows: &Arc<Rows>,
    segments: &[Segment],
    layers: &Layers,
    penalised: &[usize],
    device: &Device,
) -> Result<Box<dyn Kernels>> {
    #[cfg(feature = "cudnn")]
    if device.is_cuda() {
        return Ok(Box::new(super::fused::Fused::new(segments, layers, penalised, device)?));
    }
    let _ = device;
    Ok(Box::new(Composed::new(rows.clone(), segments, layers, penalised)?))
}
