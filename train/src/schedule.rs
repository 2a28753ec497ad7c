//! Sigma over a run: the floor under SR2's, and the schedules of methods without a test.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// A one-cycle in the step length `1/sigma`: from `start` up to `peak` over the first `warmup` of the steps along half
/// a cosine, then down to `end` along another. With `warmup = 0` it is a plain cosine.
///
/// The sigma of [`Floor::sigma`] is a lower bound: without one, SR2 on single mini-batches lets sigma fall far too low,
/// because the test on the batch that made the step only asks whether the step fits that batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floor {
    /// Smallest sigma of the run, at the peak of the step length.
    pub lowest: f64,
    /// Sigma at the first step.
    pub first: f64,
    /// Sigma at the last step.
    pub last: f64,
    /// Fraction of the steps before the peak, 0 to 1.
    pub warmup: f64,
    /// Number of steps of the run.
    pub steps: u64,
}

impl Floor {
    /// The floor at `step` (from 0; steps past the end stay at `last`).
    pub fn sigma(&self, step: u64) -> f64 {
        let last_step = self.steps.saturating_sub(1).max(1) as f64;
        let progress = (step as f64 / last_step).min(1.0);
        let (from, to, t) = if progress < self.warmup {
            (self.first, self.lowest, progress / self.warmup)
        } else {
            (self.lowest, self.last, (progress - self.warmup) / (1.0 - self.warmup).max(f64::MIN_POSITIVE))
        };
        let length = 1.0 / to + (1.0 / from - 1.0 / to) * (1.0 + (PI * t).cos()) / 2.0;
        1.0 / length
    }
}

/// The sigma of a method that takes every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Schedule {
    /// The one-cycle that is SR2's floor.
    OneCycle(Floor),
    /// Ten times larger after half of the steps and again after five sixths (ProxGEN's schedule).
    Drops {
        /// Sigma at the first step.
        first: f64,
        /// Number of steps of the run.
        steps: u64,
    },
}

impl Schedule {
    /// Sigma at `step`, from 0.
    pub fn sigma(&self, step: u64) -> f64 {
        match *self {
            Self::OneCycle(floor) => floor.sigma(step),
            Self::Drops { first, steps } if 2 * step < steps => first,
            Self::Drops { first, steps } if 6 * step < 5 * steps => 10.0 * first,
            Self::Drops { first, .. } => 100.0 * first,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cycle_passes_its_marks() {
        let floor = Floor { lowest: 0.5, first: 10.0, last: 1000.0, warmup: 0.25, steps: 101 };
        let close = |step, expected: f64| {
            let found = floor.sigma(step);
            assert!((found - expected).abs() < 1e-9 * expected, "step {step}: {found}, expected {expected}");
        };
        close(0, 10.0);
        close(25, 0.5);
        close(100, 1000.0);
        close(500, 1000.0);
        assert!((1..25).all(|s| floor.sigma(s) < floor.sigma(s - 1)));
        assert!((26..101).all(|s| floor.sigma(s) > floor.sigma(s - 1)));
    }

    #[test]
    fn no_warmup_is_a_cosine_from_the_first_step() {
        let floor = Floor { lowest: 1.0, first: 10.0, last: 100.0, warmup: 0.0, steps: 11 };
        assert_eq!(floor.sigma(0), 1.0);
        let middle = 1.0 / (1.0 / 100.0 + (1.0 - 1.0 / 100.0) / 2.0);
        assert!((floor.sigma(5) - middle).abs() < 1e-12);
    }

    #[test]
    fn drops_come_at_half_and_five_sixths() {
        let schedule = Schedule::Drops { first: 2.0, steps: 60 };
        assert_eq!([0, 29, 30, 49, 50, 59].map(|step| schedule.sigma(step)), [2.0, 2.0, 20.0, 20.0, 200.0, 200.0]);
    }

    #[test]
    fn one_step_and_full_warmup_stay_finite() {
        let floor = Floor { lowest: 1.0, first: 10.0, last: 100.0, warmup: 1.0, steps: 1 };
        assert!(floor.sigma(0).is_finite() && floor.sigma(1).is_finite());
    }
}
