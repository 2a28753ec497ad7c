//! One step of proximal training on one flat vector of parameters: a direction, a step control and a proximal operator,
//! composed. SR2 and its rivals differ in the parts only.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::executor::{ExecutorError, Support};
use crate::penalty::Penalty;
use crate::pruning::{Pressure, PruningPlan};
use crate::regulariser::Regulariser;
use crate::schedule_free::{ScheduleFree, Sequences};
use crate::share::{PenalisedLayer, lambdas_for, largest_to_go};
use crate::sr2::{Bound, Verdict};
use crate::trial::{Metric, ProximalModel, Trial};

mod settings;
#[cfg(test)]
mod tests;

pub use settings::{Layers, Settings, StepControl};

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
    averages: Averages,
    gradient: Vec<f32>,
    direction: Vec<f32>,
    diagonal: Vec<f32>,
    average: Vec<f32>,
    sequences: Sequences,
    trial: Vec<f32>,
    critical: Vec<f64>,
    guarded: Vec<usize>,
}

/// Fewest weights that a task takes.
const PIECE: usize = 1 << 15;
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
        let (gradient, direction, diagonal, average, sequences, trial, critical, guarded) = Default::default();
        Self {
            settings,
            layers,
            state,
            averages,
            gradient,
            direction,
            diagonal,
            average,
            sequences,
            trial,
            critical,
            guarded,
        }
    }

    /// The state to save.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The averages to save.
    pub fn averages(&self) -> &Averages {
        &self.averages
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
        let mut averaged = self.averages.parameters.clone();
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
    /// Costs one gradient of the objective, and under SR2 one value. On an error nothing has changed but the mean square
    /// of the gradients.
    pub fn step(&mut self, parameters: &mut Vec<f32>, objective: &mut dyn Objective) -> Result<StepReport, StepError> {
        for buffer in [&mut self.gradient, &mut self.trial] {
            buffer.resize(parameters.len(), 0.0);
        }
        self.enter_box(parameters);
        self.trim(parameters);
        let loss = objective.gradient(parameters, &mut self.gradient)?;
        self.finite("loss", loss)?;
        let sigma = self.sigma();
        self.set_direction(parameters, sigma);

        let pressure = self.settings.plan.pressure(self.state.step, self.layers.weights());
        let (regulariser, lambdas) = self.lambdas(pressure, parameters, sigma);
        let lambda = lambdas.iter().copied().fold(0.0, f64::max);
        let trial = self.propose(regulariser, lambdas, parameters, sigma);
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
            lambda,
            stationarity: (sigma * decrease.max(0.0)).sqrt(),
            verdict,
            at_bound,
        })
    }

    /// What acts in this step: the penalty, and its weight in each layer.
    ///
    /// Only a penalty that spares survivors can meet a number of weights in each step: one that shrinks would shrink them
    /// by as much every time, so it is steered towards the number, and in the last step before the support freezes
    /// replaced by the projection.
    fn lambdas(&mut self, pressure: Pressure, x: &[f32], sigma: f64) -> (Regulariser, Vec<f64>) {
        let Self { settings, layers, state, direction, diagonal, critical, .. } = self;
        let Settings { regulariser, plan, share, .. } = settings;
        let metric = Metric { sigma, diagonal };
        let spares = regulariser.penalty.spares_survivors();
        let scaled = |lambda: f64| layers.penalised.iter().map(|layer| lambda * layer.scale).collect();
        match pressure {
            Pressure::None => (*regulariser, scaled(0.0)),
            Pressure::Lambda(lambda) => (*regulariser, scaled(lambda)),
            Pressure::Weights(left) if spares || plan.ends_after(state.step) => {
                let penalty = if spares { regulariser.penalty } else { Penalty::L0Ball };
                let counting = Regulariser { penalty, ..*regulariser };
                critical.clear();
                for layer in &layers.penalised {
                    let place = (layer.range.clone(), layer.groups);
                    counting.critical_lambdas(place, x, direction, metric, critical);
                }
                (counting, lambdas_for(left, &layers.penalised, *share, critical))
            }
            Pressure::Weights(_) => (*regulariser, scaled(state.lambda)),
        }
    }

    /// The trial point, in which no layer falls under its least number of weights.
    fn propose(&mut self, regulariser: Regulariser, lambdas: Vec<f64>, x: &[f32], sigma: f64) -> Trial {
        let Self { layers, gradient, direction, diagonal, trial, critical, guarded, .. } = self;
        let metric = Metric { sigma, diagonal };
        let mut penalised = layers.with(lambdas);
        let sums = ProximalModel { regulariser, penalised: &penalised, metric }.propose(x, gradient, direction, trial);
        guarded.clear();
        for (k, (layer, acting)) in layers.penalised.iter().zip(&mut penalised).enumerate() {
            let weights = trial[layer.range.clone()].par_iter().with_min_len(PIECE);
            let left = weights.filter(|w| **w != 0.0).count();
            // A number of weights is shared so that every layer has its least; only ties take more.
            if left < layer.least && acting.lambda > 0.0 {
                critical.clear();
                regulariser.critical_lambdas((layer.range.clone(), layer.groups), x, direction, metric, critical);
                let lambda = largest_to_go(layer.least, critical);
                if lambda < acting.lambda {
                    acting.lambda = lambda;
                    guarded.push(k);
                }
            }
        }
        if guarded.is_empty() {
            return sums;
        }
        ProximalModel { regulariser, penalised: &penalised, metric }.propose(x, gradient, direction, trial)
    }

    /// Puts the penalised weights into their box before the first step; no step leaves it.
    fn enter_box(&self, parameters: &mut [f32]) {
        let Some(bounds) = self.settings.regulariser.bounds.filter(|_| self.state.step == 0) else { return };
        for layer in &self.layers.penalised {
            parameters[layer.range.clone()].iter_mut().for_each(|x| *x = bounds.clip(f64::from(*x)) as f32);
        }
    }

    /// Cuts the smallest weights where the support freezes with more than the target leaves, since the last step was
    /// rejected.
    fn trim(&mut self, parameters: &mut Vec<f32>) {
        let Some(left) = self.settings.plan.target_at_freeze(self.state.step) else { return };
        let kept = |layer: &PenalisedLayer| parameters[layer.range.clone()].iter().filter(|w| **w != 0.0).count();
        if self.layers.penalised.iter().map(kept).sum::<usize>() <= left {
            return;
        }
        let regulariser = Regulariser { penalty: Penalty::L0Ball, ..self.settings.regulariser };
        let metric = Metric { sigma: 1.0, diagonal: &[] };
        let still = vec![0.0; parameters.len()];
        self.critical.clear();
        for layer in &self.layers.penalised {
            let place = (layer.range.clone(), layer.groups);
            regulariser.critical_lambdas(place, parameters, &still, metric, &mut self.critical);
        }
        let lambdas = lambdas_for(left, &self.layers.penalised, self.settings.share, &mut self.critical);
        let penalised = self.layers.with(lambdas);
        let model = ProximalModel { regulariser, penalised: &penalised, metric };
        model.propose(parameters, &still, &still, &mut self.trial);
        std::mem::swap(parameters, &mut self.trial);
        if self.settings.direction.schedule_free().is_some() {
            for i in
                self.layers.penalised.iter().flat_map(|layer| layer.range.clone()).filter(|i| parameters[*i] == 0.0)
            {
                (self.averages.iterate[i], self.averages.parameters[i]) = (0.0, 0.0);
            }
        }
    }

    /// The new direction into a buffer of its own: the momentum only follows if the step is taken.
    fn set_direction(&mut self, x: &[f32], sigma: f64) {
        match self.settings.direction.schedule_free() {
            Some(method) => self.advance(method, x, sigma),
            None => {
                let Self { settings, averages, gradient, direction, state, .. } = self;
                settings.direction.update(state.step, gradient, &averages.momentum, direction);
            }
        }
        let Self { settings, averages, gradient, direction, diagonal, average, state, .. } = self;
        settings.direction.update_metric(state.step, gradient, &mut averages.mean_square, diagonal);
        let frozen = settings.plan.support(state.step) == Support::Frozen;
        if frozen || (settings.plan.skips_zeros(state.step) && !averages.momentum.is_empty()) {
            for range in &self.layers.prunable {
                let weights = direction[range.clone()].par_iter_mut().with_min_len(PIECE).zip(&x[range.clone()]);
                weights.enumerate().filter(|(_, (_, x))| **x == 0.0).for_each(|(i, (direction, _))| {
                    *direction = if frozen { 0.0 } else { averages.momentum[range.start + i] };
                });
            }
        }
        if settings.direction.looks_ahead() {
            average.clone_from(direction);
            settings.direction.look_ahead(gradient, direction);
        }
        self.hold_empty_channels(x);
    }

    /// Leaves channels without weights where they are, in the layers that say so.
    fn hold_empty_channels(&mut self, x: &[f32]) {
        for layer in &self.layers.penalised {
            let Some(channels) = layer.channels else { continue };
            let size = layer.range.len() / channels;
            let pairs = self.direction[layer.range.clone()].chunks_mut(size).zip(x[layer.range.clone()].chunks(size));
            pairs.filter(|(_, x)| x.iter().all(|x| *x == 0.0)).for_each(|(direction, _)| direction.fill(0.0));
        }
    }

    /// The next sequences of schedule-free averaging into buffers of their own, and the direction to where they lead.
    fn advance(&mut self, method: ScheduleFree, x: &[f32], sigma: f64) {
        let Self { averages, gradient, direction, sequences, state, .. } = self;
        if averages.iterate.is_empty() {
            averages.iterate = x.to_vec();
            averages.parameters = x.to_vec();
        }
        sequences.iterate.clone_from(&averages.iterate);
        sequences.average.clone_from(&averages.parameters);
        direction.resize(x.len(), 0.0);
        method.advance((x, gradient), (sigma, ScheduleFree::part(state.averaged)), sequences, direction);
    }

    /// Predicted decrease, rho and verdict.
    fn judge(
        &self,
        loss: f64,
        trial: &Trial,
        objective: &mut dyn Objective,
    ) -> Result<(f64, Option<f64>, Verdict), ExecutorError> {
        match &self.settings.control {
            StepControl::Sr2(sr2) if sr2.tests(&self.state, loss, trial) => {
                Ok(sr2.judge(loss, objective.value(&self.trial)?, trial))
            }
            _ => Ok((trial.model_decrease(), None, Verdict::Unjudged)),
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
            match self.settings.direction.schedule_free() {
                Some(_) => {
                    let old = &self.trial;
                    self.layers.prunable.iter().for_each(|range| self.sequences.follow(range.clone(), old, parameters));
                    std::mem::swap(&mut self.averages.iterate, &mut self.sequences.iterate);
                    std::mem::swap(&mut self.averages.parameters, &mut self.sequences.average);
                    state.averaged += 1;
                    if self.settings.plan.moves(state.step) {
                        state.averaged = state.averaged.min(ScheduleFree::MOVING);
                    }
                }
                None if self.settings.direction.looks_ahead() => {
                    std::mem::swap(&mut self.averages.momentum, &mut self.average);
                }
                None => std::mem::swap(&mut self.averages.momentum, &mut self.direction),
            }
            state.rejections_in_a_row = 0;
            let kept = (1.0 - self.settings.weight_decay / used_sigma) as f32;
            if kept < 1.0 {
                self.layers.prunable.iter().cloned().for_each(|range| {
                    parameters[range].iter_mut().for_each(|x| *x *= kept);
                });
            }
        }
        if let Some(beta) = self.settings.ema {
            average_parameters(beta, state.step, parameters, &mut self.averages.parameters);
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

/// `average += w (x - average)` with `w = 1 - beta`, at first `1 / (step + 1)`: the plain mean of the first steps.
fn average_parameters(beta: f64, step: u64, parameters: &[f32], average: &mut Vec<f32>) {
    average.resize(parameters.len(), 0.0);
    let w = (1.0 - beta).max(1.0 / (step as f64 + 1.0)) as f32;
    average.iter_mut().zip(parameters).for_each(|(average, x)| *average += w * (x - *average));
}
