//! SR2, the stochastic proximal method with quadratic regularisation and a trust-region-like test (Lakhmiri, Orban,
//! Lodi: arXiv 2206.06531): a direction, a step control and a proximal operator, composed.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::executor::ExecutorError;
use crate::penalty::Penalty;
use crate::schedule::Floor;
use crate::trial::{ProximalModel, Trial};

#[cfg(test)]
mod tests;

/// A smooth function of the flat parameters; in training, the mean loss over one mini-batch, always the same one.
pub trait Objective {
    /// Value at `x`, its gradient written to `gradient`.
    fn gradient(&mut self, x: &[f32], gradient: &mut [f32]) -> Result<f64, ExecutorError>;
    /// Value at `x`.
    fn value(&mut self, x: &[f32]) -> Result<f64, ExecutorError>;
}

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
    pub loss_ceiling: f64,
}

/// Everything that [`Sr2`] is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sr2Settings {
    /// The penalty `h`.
    pub penalty: Penalty,
    /// Its weight.
    pub lambda: f64,
    /// `beta` of the direction `v = beta v + (1 - beta) g`; 0 gives `v = g`.
    pub momentum: f64,
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
}

impl Sr2Settings {
    /// The variant that trains batch-norm networks in few epochs: the batch gradient in the prediction, a floor under
    /// sigma, guards.
    pub fn robust(penalty: Penalty, lambda: f64, momentum: f64, floor: Floor, classes: usize) -> Self {
        let guards = Guards { loss_ceiling: 1.5 * (classes as f64).ln() };
        let published = Self::paper(penalty, lambda, momentum);
        Self {
            prediction: Prediction::Gradient,
            eta2: 0.9,
            sigma_start: floor.lowest,
            sigma_min: floor.lowest,
            floor: Some(floor),
            guards: Some(guards),
            ..published
        }
    }

    /// The constants and the rule of the authors' driver; for reference, since it does not train batch-norm networks
    /// in few epochs: sigma falls far too low.
    pub fn paper(penalty: Penalty, lambda: f64, momentum: f64) -> Self {
        Self {
            penalty,
            lambda,
            momentum,
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
        }
    }
}

/// State that outlives a step, besides the parameters and the [`Sr2::momentum`] vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sr2State {
    /// Steps taken, rejected ones too.
    pub step: u64,
    /// The adapted sigma, before the floor.
    pub sigma: f64,
    /// Steps rejected since the last accepted one.
    pub rejections_in_a_row: u64,
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
    /// The predicted decrease is not above the rounding of the loss, so there is nothing to judge: taken, sigma stays.
    Unjudged,
}

/// One step, for logs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Loss at the old point.
    pub loss: f64,
    /// Loss at the trial point, on the same batch.
    pub trial_loss: f64,
    /// Predicted decrease that the test used.
    pub xi: f64,
    /// Actual over predicted decrease of `f + lambda h`; `None` where unjudged.
    pub rho: Option<f64>,
    /// The sigma used.
    pub sigma: f64,
    /// `sqrt(sigma xi)` of the model that made the step: the measure of stationarity (without a penalty, the norm of the
    /// direction up to a constant factor).
    pub stationarity: f64,
    /// What the test said.
    pub verdict: Verdict,
}

/// Why no step could be made.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The network could not be computed.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// The loss or the gradient at an accepted point is NaN or infinite.
    #[error("{what} is {value} at step {step}")]
    NotFinite {
        /// "loss" or "gradient".
        what: &'static str,
        /// The value; for a gradient, of its product with the step.
        value: f64,
        /// The step, from 0.
        step: u64,
    },
}

/// SR2 on one flat vector of parameters.
#[derive(Debug, Clone)]
pub struct Sr2 {
    settings: Sr2Settings,
    prunable: Vec<Range<usize>>,
    state: Sr2State,
    /// Empty before the first step.
    momentum: Vec<f32>,
    gradient: Vec<f32>,
    direction: Vec<f32>,
    trial: Vec<f32>,
}

/// Least predicted decrease worth judging, in units of the loss's rounding.
const RESOLUTION: f64 = 8.0 * f32::EPSILON as f64;

impl Sr2 {
    /// A fresh SR2; `prunable` are the ascending ranges of the flat vectors on which the penalty acts.
    pub fn new(settings: Sr2Settings, prunable: Vec<Range<usize>>) -> Self {
        let state = Sr2State { step: 0, sigma: settings.sigma_start, rejections_in_a_row: 0 };
        Self::resume(settings, prunable, state, Vec::new())
    }

    /// An SR2 that goes on from a saved state and momentum vector.
    pub fn resume(settings: Sr2Settings, prunable: Vec<Range<usize>>, state: Sr2State, momentum: Vec<f32>) -> Self {
        let (gradient, direction, trial) = Default::default();
        Self { settings, prunable, state, momentum, gradient, direction, trial }
    }

    /// The state to save.
    pub fn state(&self) -> &Sr2State {
        &self.state
    }

    /// The momentum vector to save; empty before the first step.
    pub fn momentum(&self) -> &[f32] {
        &self.momentum
    }

    /// The sigma that the next step uses: the adapted one, but not below the floor. The floored value is not written
    /// back, or sigma could only rise with the floor and never come down with it.
    pub fn sigma(&self) -> f64 {
        let floor = self.settings.floor.map_or(0.0, |f| f.sigma(self.state.step));
        self.state.sigma.max(floor).min(self.settings.sigma_max)
    }

    /// One step on one mini-batch: moves `parameters`, or leaves them where they are if the test rejects.
    ///
    /// Costs one gradient and one value of the objective. On an error nothing has changed.
    pub fn step(&mut self, parameters: &mut Vec<f32>, objective: &mut dyn Objective) -> Result<StepReport, StepError> {
        for buffer in [&mut self.gradient, &mut self.trial] {
            buffer.resize(parameters.len(), 0.0);
        }
        let loss = objective.gradient(parameters, &mut self.gradient)?;
        self.finite("loss", loss)?;
        self.set_direction();

        let Sr2Settings { penalty, lambda, .. } = self.settings;
        let sigma = self.sigma();
        let model = ProximalModel { penalty, lambda, sigma, prunable: &self.prunable };
        let trial = model.propose(parameters, &self.gradient, &self.direction, &mut self.trial);
        self.finite("gradient", trial.direction_slope + trial.gradient_slope)?;
        let decrease = trial.model_decrease();
        assert!(decrease >= -2.0 * trial.rounding, "the proximal step increases its model: {trial:?}, sigma {sigma}");

        let trial_loss = objective.value(&self.trial)?;
        let xi = match self.settings.prediction {
            Prediction::Gradient => trial.batch_decrease(),
            Prediction::Direction => decrease,
        };
        let (verdict, rho) = self.settings.judge(loss, trial_loss, xi, &trial);
        self.apply(verdict, sigma, parameters);
        let stationarity = (sigma * decrease.max(0.0)).sqrt();
        Ok(StepReport { loss, trial_loss, xi, rho, sigma, stationarity, verdict })
    }

    /// `v = beta m + (1 - beta) g` into a buffer of its own: the momentum `m` only follows if the step is taken.
    fn set_direction(&mut self) {
        let beta = self.settings.momentum as f32;
        self.direction.clear();
        if self.momentum.is_empty() {
            self.direction.extend_from_slice(&self.gradient);
        } else {
            let average = self.momentum.iter().zip(&self.gradient).map(|(m, g)| beta * m + (1.0 - beta) * g);
            self.direction.extend(average);
        }
    }

    fn apply(&mut self, verdict: Verdict, used_sigma: f64, parameters: &mut Vec<f32>) {
        let settings = &self.settings;
        let state = &mut self.state;
        if verdict == Verdict::Rejected {
            // From the sigma used, floor and all: raising a sigma far under the floor would repeat the rejected step.
            state.sigma = used_sigma * settings.raise;
            state.rejections_in_a_row += 1;
        } else {
            std::mem::swap(parameters, &mut self.trial);
            std::mem::swap(&mut self.momentum, &mut self.direction);
            state.rejections_in_a_row = 0;
        }
        if verdict == Verdict::VeryGood {
            state.sigma *= settings.lower;
        }
        state.sigma = state.sigma.clamp(settings.sigma_min, settings.sigma_max);
        state.step += 1;
    }

    fn finite(&self, what: &'static str, value: f64) -> Result<(), StepError> {
        if value.is_finite() { Ok(()) } else { Err(StepError::NotFinite { what, value, step: self.state.step }) }
    }
}

impl Sr2Settings {
    /// The acceptance test. Loss differences below `RESOLUTION` times the loss are rounding.
    fn judge(&self, loss: f64, trial_loss: f64, xi: f64, trial: &Trial) -> (Verdict, Option<f64>) {
        let blown_up = self.guards.is_some_and(|g| trial_loss > (2.0 * loss).max(g.loss_ceiling));
        if !trial_loss.is_finite() || blown_up {
            return (Verdict::Rejected, None);
        }
        if xi <= RESOLUTION * loss.abs().max(1.0) {
            return (Verdict::Unjudged, None);
        }
        let rho = (loss - trial_loss + trial.penalty_decrease) / xi;
        // Where the penalty makes the prediction, a good rho says nothing about the loss's curvature.
        let uninformative = self.guards.is_some() && trial.penalty_decrease.abs() > trial.gradient_slope.abs();
        let verdict = match rho {
            _ if rho < self.eta1 => Verdict::Rejected,
            _ if rho >= self.eta2 && !uninformative => Verdict::VeryGood,
            _ => Verdict::Accepted,
        };
        (verdict, Some(rho))
    }
}
