//! When a run prunes, how much, and which layers: from a dense start over a ramp to a frozen support.

use serde::{Deserialize, Serialize};

use crate::executor::Support;

/// The plan of a run's pruning, by steps. Before `from` the network is dense; then the penalty acts, with a fixed weight
/// or towards a number of weights; from `frozen_from` on the support stands still and only the loss is minimised
/// (debiasing: the survivors lose the penalty's bias).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PruningPlan {
    /// What decides how many weights are left.
    pub target: Target,
    /// Step at which pruning begins.
    pub from: u64,
    /// Step at which the support freezes.
    pub frozen_from: u64,
    /// While the support moves, the gradient of zeros is computed in every `dense_every`-th step only; in the others they
    /// follow the average of earlier ones.
    pub dense_every: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Whether a zero may come back before the support freezes. Gradual magnitude pruning lets none.
    pub regrowth: bool,
}

/// What decides how many weights are left.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Target {
    /// The weight `lambda` of the penalty.
    Lambda(f64),
    /// A number of non-zero weights in the penalised layers, reached along a cubic ramp.
    Weights {
        /// Weights left at the end of the ramp.
        left: usize,
        /// Step at which the ramp ends.
        ramp_until: u64,
    },
}

/// What the penalty is to do in one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pressure {
    /// Nothing.
    None,
    /// Act with this weight.
    Lambda(f64),
    /// Leave this many weights.
    Weights(usize),
}

impl PruningPlan {
    /// One `lambda` from the first step on, and a support that never freezes.
    pub fn constant(lambda: f64) -> Self {
        let target = Target::Lambda(lambda);
        Self { target, from: 0, frozen_from: u64::MAX, dense_every: 1, steps: u64::MAX, regrowth: true }
    }

    /// What the penalty is to do at `step`, in layers of `weights` weights together.
    pub fn pressure(&self, step: u64, weights: usize) -> Pressure {
        if step < self.from || step >= self.frozen_from {
            return Pressure::None;
        }
        match self.target {
            Target::Lambda(lambda) => Pressure::Lambda(lambda),
            Target::Weights { left, ramp_until } => Pressure::Weights(ramp(step, self.from, ramp_until, weights, left)),
        }
    }

    /// Whether the step changes which weights are zero.
    pub fn moves(&self, step: u64) -> bool {
        (self.from..self.frozen_from).contains(&step) && self.target != Target::Lambda(0.0)
    }

    /// The number of weights to which a support that freezes at `step` is cut.
    pub fn target_at_freeze(&self, step: u64) -> Option<usize> {
        match self.target {
            Target::Weights { left, .. } if step == self.frozen_from => Some(left),
            _ => None,
        }
    }

    /// Whether pruning or the run ends with `step`.
    pub fn ends_after(&self, step: u64) -> bool {
        step + 1 == self.frozen_from || step + 1 == self.steps
    }

    /// Whether weights that are zero stay zero at `step`.
    pub fn support(&self, step: u64) -> Support {
        let frozen = step >= self.frozen_from || (!self.regrowth && step >= self.from);
        if frozen { Support::Frozen } else { Support::Moving }
    }

    /// Whether the gradient at `step` leaves zeros out although they may come back.
    pub fn skips_zeros(&self, step: u64) -> bool {
        self.support(step) == Support::Moving && !step.is_multiple_of(self.dense_every)
    }
}

/// Weights left at `step`: sparsity along `1 - (1 - t)^3`, `t` from 0 at `from` to 1 at `until` (Zhu and Gupta,
/// arXiv 1710.01878, section 3).
fn ramp(step: u64, from: u64, until: u64, weights: usize, left: usize) -> usize {
    let t = (step + 1 - from) as f64 / (until.saturating_sub(from) + 1) as f64;
    let removed = (weights - left) as f64 * (1.0 - (1.0 - t.min(1.0)).powi(3));
    weights - removed.round() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(target: Target) -> PruningPlan {
        PruningPlan { target, from: 10, frozen_from: 80, dense_every: 1, steps: 100, regrowth: true }
    }

    #[test]
    fn the_ramp_starts_dense_and_ends_at_its_target() {
        let plan = plan(Target::Weights { left: 50, ramp_until: 70 });
        let left = |step| match plan.pressure(step, 1000) {
            Pressure::Weights(left) => left,
            other => panic!("{other:?} at {step}"),
        };
        assert_eq!(plan.pressure(9, 1000), Pressure::None);
        assert!((10..70).all(|step| left(step + 1) <= left(step)));
        assert!(left(10) < 1000 && left(10) > 900);
        assert_eq!((left(70), left(79)), (50, 50));
        assert_eq!(plan.pressure(80, 1000), Pressure::None);
        assert_eq!([9, 10, 79, 80].map(|step| plan.support(step) == Support::Frozen), [false, false, false, true]);
    }

    #[test]
    fn without_regrowth_the_support_only_shrinks() {
        let plan = PruningPlan { regrowth: false, ..plan(Target::Lambda(0.5)) };
        assert_eq!(plan.pressure(10, 1), Pressure::Lambda(0.5));
        assert_eq!([9, 10, 80].map(|step| plan.support(step) == Support::Frozen), [false, true, true]);
    }

    #[test]
    fn zeros_are_left_out_between_dense_gradients_while_they_may_come_back() {
        let plan = PruningPlan { dense_every: 3, ..plan(Target::Lambda(0.5)) };
        assert_eq!(
            [29, 30, 31, 32, 33, 80].map(|step| plan.skips_zeros(step)),
            [true, false, true, true, false, false]
        );
    }
}
