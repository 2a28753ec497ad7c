//! One step of proximal training on one flat vector of parameters: a direction, a step control and a proximal operator,
//! composed. SR2 and its rivals differ in the parts only.

use serde::{Deserialize, Serialize};

use crate::executor::{ExecutorError, Support};
use crate::penalty::Penalty;
use crate::pruning::{Pressure, PruningPlan};
use crate::regulariser::Regulariser;
use crate::schedule_free::ScheduleFree;
use crate::sr2::{Bound, Verdict};

mod host;
mod settings;
#[cfg(test)]
mod tests;
mod vectors;

use host::{HostVectors, OnHost};
pub use settings::{Layers, Settings, StepControl, WeightDecay};
pub(crate) use vectors::{Acting, Proposal, Rules, Vectors, averaging_weight};

/// A smooth function of the flat parameters; in training, the mean loss over one mini-batch, always the same one.
pub trait Objective {
    /// Value at `x`, its gradient written to `gradient`.
    fn gradient(&mut self, x: &[f32], gradient: &mut [f32]) -> Result<f64, ExecutorError>;
    /// Value at `x`.
    fn value(&mut self, x: &[f32]) -> Result<f64, ExecutorError>;
}

/// State that outlives a step, besides the parameters and the [`Averages`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Steps taken, rejected ones too.
    pub step: u64,
    /// The adapted sigma, before the floor.
    pub sigma: f64,
    /// Steps rejected since the last accepted one.
    pub rejections_in_a_row: u64,
    /// Weight of the penalty, where it is steered towards a number of weights.
    pub lambda: f64,
    /// Steps that count in a schedule-free average.
    #[serde(default)]
    pub averaged: u64,
}

/// Running averages, as long as the parameters; empty before the first step or where a method has none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Averages {
    /// The direction of the last step taken.
    pub momentum: Vec<f32>,
    /// The mean square of the gradients.
    pub mean_square: Vec<f32>,
    /// The average of the parameters, or of the iterates of schedule-free averaging.
    pub parameters: Vec<f32>,
    /// The iterate of schedule-free averaging.
    pub iterate: Vec<f32>,
    /// The diagonal curvature of SR2's model.
    pub curvature: Vec<f32>,
}

/// One step, for logs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Loss at the old point.
    pub loss: f64,
    /// Predicted decrease.
    pub xi: f64,
    /// Actual over predicted decrease of `f + lambda h`, weight decay in `f`; `None` where unjudged.
    pub rho: Option<f64>,
    /// The sigma used.
    pub sigma: f64,
    /// Largest weight of the penalty in any layer.
    pub lambda: f64,
    /// [`crate::trial::Trial::stationarity`] of the step.
    pub stationarity: f64,
    /// What the test said.
    pub verdict: Verdict,
    /// The bound at which an adapted sigma stood, if any.
    pub at_bound: Option<Bound>,
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

/// Proximal training on one flat vector of parameters.
#[derive(Debug, Clone)]
pub struct Optimizer {
    settings: Settings,
    layers: Layers,
    state: State,
    host: HostVectors,
    guarded: Vec<usize>,
}

/// First weight of a penalty that is steered towards a number of weights.
const STEERING_START: f64 = 1e-4;
/// Change of the logarithm of a steered weight of the penalty a step, over the sparsity that is missing.
const STEERING_GAIN: f64 = 1.0;

impl Optimizer {
    /// A fresh optimizer.
    pub fn new(settings: Settings, layers: Layers) -> Self {
        let sigma = match &settings.control {
            StepControl::Sr2(sr2) => sr2.sigma_start,
            StepControl::Schedule(schedule) => schedule.sigma(0),
        };
        let state = State { step: 0, sigma, rejections_in_a_row: 0, lambda: STEERING_START, averaged: 0 };
        Self::resume(settings, layers, state, Averages::default())
    }

    /// An optimizer that goes on from a saved state.
    pub fn resume(settings: Settings, layers: Layers, state: State, averages: Averages) -> Self {
        Self { settings, layers, state, host: HostVectors::new(averages), guarded: Vec::new() }
    }

    /// The state to save.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The averages to save.
    pub fn averages(&self) -> &Averages {
        &self.host.averages
    }

    /// Replaces the averages by those of vectors that were not the optimizer's own.
    pub(crate) fn set_averages(&mut self, averages: Averages) {
        self.host.averages = averages;
    }

    /// What the optimizer was told.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// When pruning acts.
    pub fn plan(&self) -> &PruningPlan {
        &self.settings.plan
    }

    /// The layers.
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Penalised layers in which the last step used a smaller lambda than it was told, since they would have fallen under
    /// their least number of weights.
    pub fn guarded(&self) -> &[usize] {
        &self.guarded
    }

    /// The average of the parameters, where there is one, with the zeros of `parameters` and no others in prunable weights.
    pub fn averaged(&self, parameters: &[f32]) -> Option<Vec<f32>> {
        if self.settings.ema.is_none() && self.settings.direction.schedule_free().is_none() {
            return None;
        }
        let mut averaged = self.host.averages.parameters.clone();
        averaged.resize(parameters.len(), 0.0);
        for i in self.layers.prunable.iter().cloned().flatten() {
            if parameters[i] == 0.0 || averaged[i] == 0.0 {
                averaged[i] = parameters[i];
            }
        }
        Some(averaged)
    }

    /// The sigma that the next step uses.
    pub fn sigma(&self) -> f64 {
        match &self.settings.control {
            StepControl::Sr2(sr2) => sr2.sigma(&self.state),
            StepControl::Schedule(schedule) => schedule.sigma(self.state.step),
        }
    }

    /// The weights whose gradient the next step uses: the objective may leave out zeros on a frozen support.
    pub fn gradient_support(&self) -> Support {
        let plan = &self.settings.plan;
        if plan.skips_zeros(self.state.step) { Support::Frozen } else { plan.support(self.state.step) }
    }

    /// One step on one mini-batch: moves `parameters`, or leaves them where they are if the test rejects.
    ///
    /// Costs one gradient of the objective, and under SR2, where it tests, one value, or with curvature a second gradient.
    /// On an error nothing has changed but the mean square of the gradients.
    pub fn step(&mut self, parameters: &mut Vec<f32>, objective: &mut dyn Objective) -> Result<StepReport, StepError> {
        let mut host = std::mem::take(&mut self.host);
        let report = self.step_with(&mut OnHost::new(&mut host, parameters, objective));
        self.host = host;
        report
    }

    /// [`Optimizer::step`] on vectors wherever they lie.
    pub(crate) fn step_with(&mut self, vectors: &mut dyn Vectors) -> Result<StepReport, StepError> {
        let sigma = self.sigma();
        let rules = Rules { settings: &self.settings, layers: &self.layers, state: &self.state, sigma };
        vectors.enter(rules)?;
        vectors.direct(rules)?;
        let pressure = self.settings.plan.pressure(self.state.step, self.layers.weights());
        let (regulariser, acting) = self.acting(pressure);
        let Proposal { loss, trial, lambda, guarded } = vectors.propose(rules, regulariser, acting)?;
        self.guarded = guarded;
        self.finite("loss", loss)?;
        self.finite("gradient", trial.direction_slope + trial.gradient_slope)?;
        let decrease = trial.model_decrease();
        assert!(
            decrease >= -2.0 * trial.rounding || regulariser.penalty == Penalty::L0Ball,
            "the proximal step increases its model: {trial:?}, sigma {sigma}"
        );

        let at_bound = match &self.settings.control {
            StepControl::Sr2(sr2) => sr2.bound_at(self.state.step, sigma),
            StepControl::Schedule(_) => None,
        };
        let (xi, rho, verdict) = match &self.settings.control {
            StepControl::Sr2(sr2) if sr2.tests(&self.state, loss, &trial) => {
                sr2.judge(loss, vectors.value(rules)?, &trial)
            }
            _ => (decrease, None, Verdict::Unjudged),
        };
        if let Pressure::Weights(left) = pressure {
            let surplus = trial.nonzero as f64 - left as f64;
            self.state.lambda *= (STEERING_GAIN * surplus / self.layers.weights() as f64).exp();
        }
        let rules = Rules { settings: &self.settings, layers: &self.layers, state: &self.state, sigma };
        vectors.leave(rules, verdict != Verdict::Rejected)?;
        self.count(verdict, sigma);
        Ok(StepReport { loss, xi, rho, sigma, lambda, stationarity: trial.stationarity(sigma), verdict, at_bound })
    }

    /// What acts in this step: the penalty, and its weight in each layer.
    ///
    /// Only a penalty that spares survivors can meet a number of weights in each step: one that shrinks would shrink them
    /// by as much every time, so it is steered towards the number, and in the last step before the support freezes
    /// replaced by the projection.
    fn acting(&self, pressure: Pressure) -> (Regulariser, Acting) {
        let Settings { regulariser, plan, .. } = &self.settings;
        let spares = regulariser.penalty.spares_survivors();
        let scaled = |lambda: f64| Acting::Lambdas(self.layers.penalised.iter().map(|l| lambda * l.scale).collect());
        match pressure {
            Pressure::None => (*regulariser, scaled(0.0)),
            Pressure::Lambda(lambda) => (*regulariser, scaled(lambda)),
            Pressure::Weights(left) if spares || plan.ends_after(self.state.step) => {
                let penalty = if spares { regulariser.penalty } else { Penalty::L0Ball };
                (Regulariser { penalty, ..*regulariser }, Acting::Left(left))
            }
            Pressure::Weights(_) => (*regulariser, scaled(self.state.lambda)),
        }
    }

    /// The state after a step that used `sigma`.
    fn count(&mut self, verdict: Verdict, sigma: f64) {
        let state = &mut self.state;
        if verdict == Verdict::Rejected {
            state.rejections_in_a_row += 1;
        } else {
            state.rejections_in_a_row = 0;
            if self.settings.direction.schedule_free().is_some() {
                state.averaged += 1;
                if self.settings.plan.moves(state.step) {
                    state.averaged = state.averaged.min(ScheduleFree::MOVING);
                }
            }
        }
        state.sigma = match &self.settings.control {
            StepControl::Sr2(sr2) => sr2.adapt(verdict, state.sigma, sigma),
            StepControl::Schedule(_) => sigma,
        };
        state.step += 1;
    }

    fn finite(&self, what: &'static str, value: f64) -> Result<(), StepError> {
        if value.is_finite() { Ok(()) } else { Err(StepError::NotFinite { what, value, step: self.state.step }) }
    }
}
