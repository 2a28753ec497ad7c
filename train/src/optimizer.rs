//! One step of proximal training on one flat vector of parameters: a direction, a step control and a proximal operator,
//! composed. SR2 and its rivals differ in the parts only.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::direction::Direction;
use crate::executor::{ExecutorError, Support};
use crate::penalty::Penalty;
use crate::pruning::{PenalisedLayer, Pressure, PruningPlan, lambdas_for};
use crate::schedule::Schedule;
use crate::sr2::{Sr2, Verdict};
use crate::trial::{Metric, ProximalModel, Trial, gradient_step};

#[cfg(test)]
mod tests;

/// A smooth function of the flat parameters; in training, the mean loss over one mini-batch, always the same one.
pub trait Objective {
    /// Value at `x`, its gradient written to `gradient`.
    fn gradient(&mut self, x: &[f32], gradient: &mut [f32]) -> Result<f64, ExecutorError>;
    /// Value at `x`.
    fn value(&mut self, x: &[f32]) -> Result<f64, ExecutorError>;
}

/// Everything that an [`Optimizer`] is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The penalty `h`.
    pub penalty: Penalty,
    /// When it acts, and how strongly.
    pub plan: PruningPlan,
    /// What the step follows, and in which metric.
    pub direction: Direction,
    /// How long the step is, and whether it is taken.
    pub control: StepControl,
    /// Whether the point only moves part of the way to the trial point, as in ProxSGD: by `0.06 / (t + 4)^0.5` at step
    /// `t`. A step to the trial point itself ends the pruning and the run, since the mixture has no zeros.
    pub relaxed: bool,
}

/// How long a step is, and whether it is taken.
#[derive(Debug, Clone, PartialEq)]
pub enum StepControl {
    /// SR2: sigma adapts, and a test on the batch decides. Costs a second forward pass.
    Sr2(Sr2),
    /// Sigma follows a schedule, and every step is taken.
    Schedule(Schedule),
}

/// The layers that an [`Optimizer`] prunes, and those in which it keeps zeros on a frozen support.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    /// Under the penalty, ascending in the flat vectors.
    pub penalised: Vec<PenalisedLayer>,
    /// Where a frozen support keeps zeros; holds all penalised ones.
    pub prunable: Vec<Range<usize>>,
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
}

/// Running averages, as long as the parameters; empty before the first step or where a method has none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Averages {
    /// The direction of the last step taken.
    pub momentum: Vec<f32>,
    /// The mean square of the gradients.
    pub mean_square: Vec<f32>,
}

/// One step, for logs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Loss at the old point.
    pub loss: f64,
    /// Predicted decrease.
    pub xi: f64,
    /// Actual over predicted decrease of `f + lambda h`; `None` where unjudged.
    pub rho: Option<f64>,
    /// The sigma used.
    pub sigma: f64,
    /// Largest weight of the penalty in any layer.
    pub lambda: f64,
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

/// Proximal training on one flat vector of parameters.
#[derive(Debug, Clone)]
pub struct Optimizer {
    settings: Settings,
    layers: Layers,
    state: State,
    averages: Averages,
    gradient: Vec<f32>,
    direction: Vec<f32>,
    diagonal: Vec<f32>,
    trial: Vec<f32>,
    importance: Vec<f64>,
}

impl Layers {
    /// One layer, which a target may empty.
    pub fn one(range: Range<usize>) -> Self {
        Self { penalised: vec![PenalisedLayer { range: range.clone(), least: 0 }], prunable: vec![range] }
    }

    /// Number of penalised weights.
    pub fn weights(&self) -> usize {
        self.penalised.iter().map(|layer| layer.range.len()).sum()
    }
}

/// First weight of a penalty that is steered towards a number of weights. Only l0, which leaves survivors as they are,
/// can be made to meet a number in each step: one that shrinks would shrink them by the same means every time.
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
        let state = State { step: 0, sigma, rejections_in_a_row: 0, lambda: STEERING_START };
        Self::resume(settings, layers, state, Averages::default())
    }

    /// An optimizer that goes on from a saved state.
    pub fn resume(settings: Settings, layers: Layers, state: State, averages: Averages) -> Self {
        let (gradient, direction, diagonal, trial, importance) = Default::default();
        Self { settings, layers, state, averages, gradient, direction, diagonal, trial, importance }
    }

    /// The state to save.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The averages to save.
    pub fn averages(&self) -> &Averages {
        &self.averages
    }

    /// The layers.
    pub fn layers(&self) -> &Layers {
        &self.layers
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
    /// Costs one gradient of the objective, and under SR2 one value. On an error nothing has changed but the mean square
    /// of the gradients.
    pub fn step(&mut self, parameters: &mut Vec<f32>, objective: &mut dyn Objective) -> Result<StepReport, StepError> {
        for buffer in [&mut self.gradient, &mut self.trial] {
            buffer.resize(parameters.len(), 0.0);
        }
        self.trim(parameters);
        let loss = objective.gradient(parameters, &mut self.gradient)?;
        self.finite("loss", loss)?;
        self.set_direction(parameters);

        let sigma = self.sigma();
        let metric = Metric { sigma, diagonal: &self.diagonal };
        let (penalised, importance) = (&self.layers.penalised, &mut self.importance);
        let pressure = self.settings.plan.pressure(self.state.step, self.layers.weights());
        let lambdas = match pressure {
            Pressure::None => vec![0.0; penalised.len()],
            Pressure::Lambda(lambda) => vec![lambda; penalised.len()],
            Pressure::Weights(left) if self.settings.penalty == Penalty::L0 => {
                measure_importance(penalised, parameters, &self.direction, metric, importance);
                lambdas_for(left, penalised, importance)
            }
            Pressure::Weights(_) => vec![self.state.lambda; penalised.len()],
        };
        let ranges = self.layers.penalised.iter().map(|layer| layer.range.clone());
        let penalised: Vec<_> = ranges.zip(lambdas.iter().copied()).collect();
        let model = ProximalModel { penalty: self.settings.penalty, penalised: &penalised, metric };
        let trial = model.propose(parameters, &self.gradient, &self.direction, &mut self.trial);
        self.finite("gradient", trial.direction_slope + trial.gradient_slope)?;
        let decrease = trial.model_decrease();
        assert!(decrease >= -2.0 * trial.rounding, "the proximal step increases its model: {trial:?}, sigma {sigma}");

        let (xi, rho, verdict) = self.judge(loss, &trial, objective)?;
        if let Pressure::Weights(left) = pressure {
            let surplus = trial.nonzero as f64 - left as f64;
            self.state.lambda *= (STEERING_GAIN * surplus / self.layers.weights() as f64).exp();
        }
        self.apply(verdict, sigma, parameters);
        Ok(StepReport {
            loss,
            xi,
            rho,
            sigma,
            lambda: lambdas.into_iter().fold(0.0, f64::max),
            stationarity: (sigma * decrease.max(0.0)).sqrt(),
            verdict,
        })
    }

    /// Where the support freezes with more weights than the target leaves, as a steered penalty may, cuts the smallest.
    fn trim(&mut self, parameters: &mut [f32]) {
        let Some(left) = self.settings.plan.target_at_freeze(self.state.step) else { return };
        let layers = &self.layers.penalised;
        let unit = Metric { sigma: 1.0, diagonal: &[] };
        measure_importance(layers, parameters, &vec![0.0; parameters.len()], unit, &mut self.importance);
        for (layer, lambda) in layers.iter().zip(lambdas_for(left, layers, &mut self.importance)) {
            for x in &mut parameters[layer.range.clone()] {
                *x = Penalty::L0.prox(f64::from(*x), lambda, 1.0) as f32;
            }
        }
    }

    /// The new direction into a buffer of its own: the momentum only follows if the step is taken.
    fn set_direction(&mut self, x: &[f32]) {
        let Self { settings, averages, gradient, direction, diagonal, state, .. } = self;
        settings.direction.update(state.step, gradient, &averages.momentum, direction);
        settings.direction.update_metric(state.step, gradient, &mut averages.mean_square, diagonal);
        let zeros = || self.layers.prunable.iter().cloned().flatten().filter(|i| x[*i] == 0.0);
        if settings.plan.support(state.step) == Support::Frozen {
            zeros().for_each(|i| direction[i] = 0.0);
        } else if settings.plan.skips_zeros(state.step) && !averages.momentum.is_empty() {
            zeros().for_each(|i| direction[i] = averages.momentum[i]);
        }
    }

    /// Predicted decrease, rho and verdict.
    fn judge(
        &self,
        loss: f64,
        trial: &Trial,
        objective: &mut dyn Objective,
    ) -> Result<(f64, Option<f64>, Verdict), ExecutorError> {
        match &self.settings.control {
            StepControl::Sr2(sr2) => Ok(sr2.judge(loss, objective.value(&self.trial)?, trial)),
            StepControl::Schedule(_) => Ok((trial.model_decrease(), None, Verdict::Unjudged)),
        }
    }

    fn apply(&mut self, verdict: Verdict, used_sigma: f64, parameters: &mut Vec<f32>) {
        let state = &mut self.state;
        if verdict == Verdict::Rejected {
            state.rejections_in_a_row += 1;
        } else {
            let part = 0.06 / (state.step as f32 + 4.0).sqrt();
            if self.settings.relaxed && !self.settings.plan.ends_after(state.step) {
                parameters.iter_mut().zip(&self.trial).for_each(|(x, trial)| *x += part * (trial - *x));
            } else {
                std::mem::swap(parameters, &mut self.trial);
            }
            std::mem::swap(&mut self.averages.momentum, &mut self.direction);
            state.rejections_in_a_row = 0;
        }
        state.sigma = match &self.settings.control {
            StepControl::Sr2(sr2) => sr2.adapt(verdict, state.sigma, used_sigma),
            StepControl::Schedule(_) => used_sigma,
        };
        state.step += 1;
    }

    fn finite(&self, what: &'static str, value: f64) -> Result<(), StepError> {
        if value.is_finite() { Ok(()) } else { Err(StepError::NotFinite { what, value, step: self.state.step }) }
    }
}

/// `d z^2` of each penalised weight at the point `z` to which the prox is applied.
fn measure_importance(
    layers: &[PenalisedLayer],
    x: &[f32],
    direction: &[f32],
    metric: Metric,
    importance: &mut Vec<f64>,
) {
    importance.clear();
    importance.extend(layers.iter().flat_map(|layer| layer.range.clone()).map(|i| {
        let d = metric.at(i);
        let z = gradient_step(x[i], direction[i], d);
        d * z * z
    }));
}
