//! The step control of SR2, the stochastic proximal method with quadratic regularisation and a trust-region-like test
//! (Lakhmiri, Orban, Lodi: arXiv 2206.06531).

use serde::{Deserialize, Serialize};

use crate::optimizer::State;
use crate::schedule::Floor;
use crate::trial::Trial;

/// Which linear model predicts the decrease that the test compares with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prediction {
    /// The batch's own gradient `g`: what a small step would really do on this batch.
    Gradient,
    /// The direction `v`, as published. With momentum, `v'v` understates `g'v` and the test is too lenient.
    Direction,
}

/// Guards that the published rule lacks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Guards {
    /// A trial whose loss exceeds this and twice the loss at `x` is rejected whatever the penalty gained: under l0 a
    /// large `lambda dh` could buy a blow-up of the loss. 1.5 ln(classes) in training.
    ///
    /// A channel before a batch norm whose own gradient `g` promises more, `g'g / sigma`, has a gradient of 0 in this step:
    /// where a channel hardly varies, as its inputs are all but dead, the batch norm makes its gradient up to
    /// `1 / sqrt(epsilon)` times as large, and the step would move it anywhere.
    pub loss_ceiling: f64,
}

/// Constants of the test, and how sigma adapts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sr2 {
    /// Model of the test.
    pub prediction: Prediction,
    /// A step with `rho` below is rejected.
    pub eta1: f64,
    /// A step with `rho` at least this lowers sigma.
    pub eta2: f64,
    /// Factor on sigma after a rejection, above 1.
    pub raise: f64,
    /// Factor on sigma after a very good step, below 1.
    pub lower: f64,
    /// First sigma.
    pub sigma_start: f64,
    /// Least sigma.
    pub sigma_min: f64,
    /// Greatest sigma.
    pub sigma_max: f64,
    /// Floor under the sigma used, if any.
    pub floor: Option<Floor>,
    /// Guards of the test, if any.
    pub guards: Option<Guards>,
    /// The first and every so many-th step is tested; the others are taken as they are. After a rejection each is tested
    /// until one is taken, and so is each from a point whose loss is over the guards' ceiling, so that sigma rises and the
    /// loss comes down, and each that promises a loss below 0.
    pub test_every: u64,
}

/// What the test needs of a trial point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tried {
    /// The loss.
    pub loss: f64,
    /// `mu / 2 (|w|^2 - |w + s|^2)`, by which the weight decay's part of the smooth function falls.
    pub decay_decrease: f64,
}

/// What the test said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// `rho < eta1`, or the trial blew up: the old point stands, sigma rises.
    Rejected,
    /// The step is taken, sigma stays.
    Accepted,
    /// The step is taken, sigma falls.
    VeryGood,
    /// There is no test, or the predicted decrease is not above the rounding of the loss: taken, sigma stays.
    Unjudged,
}

/// A bound on sigma, at which the step control has no say any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The least sigma: steps may be too short.
    Least,
    /// The greatest: hardly any step is taken.
    Greatest,
}

/// Least predicted decrease worth judging, in units of the loss's rounding.
const RESOLUTION: f64 = 8.0 * f32::EPSILON as f64;

impl Sr2 {
    /// The variant that trains batch-norm networks in few epochs: the batch gradient in the prediction, a floor under
    /// sigma, guards. Where the loss is quadratic along `s`, `rho` is 1/2 at its minimum there and more before it, so
    /// sigma falls after steps that are not too long.
    pub fn robust(floor: Floor, classes: usize) -> Self {
        Self {
            prediction: Prediction::Gradient,
            eta2: 0.5,
            sigma_start: floor.lowest,
            sigma_min: floor.lowest,
            sigma_max: floor.last.max(Self::paper().sigma_max),
            floor: Some(floor),
            guards: Some(Guards { loss_ceiling: 1.5 * (classes as f64).ln() }),
            ..Self::paper()
        }
    }

    /// The constants and the rule of the authors' driver; for reference, since it does not train batch-norm networks
    /// in few epochs: sigma falls far too low.
    pub fn paper() -> Self {
        Self {
            prediction: Prediction::Direction,
            eta1: 7.5e-4,
            eta2: 0.999,
            raise: 5.57,
            lower: 0.79,
            sigma_start: 41.0,
            sigma_min: 1e-6,
            sigma_max: 1e3,
            floor: None,
            guards: None,
            test_every: 1,
        }
    }

    /// The sigma of the next step: the adapted one, but not below the floor. The floored value is not written back, or
    /// sigma could only rise with the floor and never come down with it.
    pub fn sigma(&self, state: &State) -> f64 {
        let floor = self.floor.map_or(0.0, |f| f.sigma(state.step));
        state.sigma.max(floor).min(self.sigma_max)
    }

    /// The bound that the sigma used at `step` stood at. A floor is no bound: its schedule means it to be reached.
    pub fn bound_at(&self, step: u64, sigma: f64) -> Option<Bound> {
        let above_floor = self.floor.is_none_or(|floor| floor.sigma(step) < sigma);
        match sigma {
            _ if sigma >= self.sigma_max && above_floor => Some(Bound::Greatest),
            _ if sigma <= self.sigma_min && self.floor.is_none() => Some(Bound::Least),
            _ => None,
        }
    }

    /// Whether the next step is tested, from whatever point.
    pub fn surely_tests(&self, state: &State) -> bool {
        let turn = state.step == 0 || (state.step + 1).is_multiple_of(self.test_every);
        turn || state.rejections_in_a_row > 0
    }

    /// Whether the next step, from a point with this loss, is tested.
    pub fn tests(&self, state: &State, loss: f64, trial: &Trial) -> bool {
        let high = self.guards.is_some_and(|guards| loss > guards.loss_ceiling);
        self.surely_tests(state) || high || -trial.gradient_slope > loss
    }

    /// The acceptance test: predicted decrease, rho and verdict. Loss differences below `RESOLUTION` times the loss are
    /// rounding.
    pub fn judge(&self, loss: f64, tried: Tried, trial: &Trial) -> (f64, Option<f64>, Verdict) {
        let xi = match self.prediction {
            Prediction::Gradient => trial.batch_decrease(),
            Prediction::Direction => trial.model_decrease(),
        };
        let blown_up = self.guards.is_some_and(|g| tried.loss > (2.0 * loss).max(g.loss_ceiling));
        if !tried.loss.is_finite() || blown_up {
            return (xi, None, Verdict::Rejected);
        }
        if xi <= RESOLUTION * loss.abs().max(1.0) {
            return (xi, None, Verdict::Unjudged);
        }
        let rho = (loss - tried.loss + tried.decay_decrease + trial.penalty_decrease) / xi;
        // Where the penalty makes the prediction, a good rho says nothing about the loss's curvature.
        let uninformative = self.guards.is_some() && trial.penalty_decrease.abs() > trial.gradient_slope.abs();
        let verdict = match rho {
            _ if rho < self.eta1 => Verdict::Rejected,
            _ if rho >= self.eta2 && !uninformative => Verdict::VeryGood,
            _ => Verdict::Accepted,
        };
        (xi, Some(rho), verdict)
    }

    /// The adapted sigma after a step that used `used`, floor and all.
    pub fn adapt(&self, verdict: Verdict, sigma: f64, used: f64) -> f64 {
        let sigma = match verdict {
            // From the sigma used: raising one far under the floor would repeat the rejected step.
            Verdict::Rejected => used * self.raise,
            Verdict::VeryGood => sigma * self.lower,
            Verdict::Accepted | Verdict::Unjudged => sigma,
        };
        sigma.clamp(self.sigma_min, self.sigma_max)
    }
}
