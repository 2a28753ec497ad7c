//! The vectors of a training in the host's memory.

use std::ops::Range;

use rayon::prelude::*;

use super::vectors::{Acting, Proposal, Rules, Vectors, averaging_weight};
use super::{Averages, Layers, Objective};
use crate::executor::{ExecutorError, Support};
use crate::penalty::Penalty;
use crate::quasi_cauchy;
use crate::regulariser::Regulariser;
use crate::schedule_free::{ScheduleFree, Sequences};
use crate::share::{PenalisedLayer, lambdas_for, largest_to_go};
use crate::sr2::Tried;
use crate::trial::{Metric, ProximalModel, Trial};

/// Fewest weights that a task takes.
const PIECE: usize = 1 << 15;

/// All vectors but the parameters. Those of a step are kept from one to the next for their memory alone.
#[derive(Debug, Clone, Default)]
pub(super) struct HostVectors {
    pub averages: Averages,
    gradient: Vec<f32>,
    direction: Vec<f32>,
    diagonal: Vec<f32>,
    average: Vec<f32>,
    sequences: Sequences,
    trial: Vec<f32>,
    trial_gradient: Vec<f32>,
    critical: Vec<f64>,
}

/// One step on vectors of the host.
pub(super) struct OnHost<'a> {
    vectors: &'a mut HostVectors,
    parameters: &'a mut Vec<f32>,
    objective: &'a mut dyn Objective,
    loss: f64,
}

impl<'a> OnHost<'a> {
    pub fn new(vectors: &'a mut HostVectors, parameters: &'a mut Vec<f32>, objective: &'a mut dyn Objective) -> Self {
        for buffer in [&mut vectors.gradient, &mut vectors.trial] {
            buffer.resize(parameters.len(), 0.0);
        }
        Self { vectors, parameters, objective, loss: f64::NAN }
    }
}

impl Vectors for OnHost<'_> {
    fn enter(&mut self, rules: Rules) -> Result<(), ExecutorError> {
        if let Some(bounds) = rules.settings.regulariser.bounds.filter(|_| rules.state.step == 0) {
            for layer in &rules.layers.penalised {
                let weights = self.parameters[layer.range.clone()].iter_mut();
                weights.for_each(|x| *x = bounds.clip(f64::from(*x)) as f32);
            }
        }
        if let Some(left) = rules.settings.plan.target_at_freeze(rules.state.step) {
            self.vectors.trim(rules, self.parameters, left);
        }
        Ok(())
    }

    fn direct(&mut self, rules: Rules) -> Result<(), ExecutorError> {
        self.loss = self.objective.gradient(self.parameters, &mut self.vectors.gradient)?;
        add_decay(rules, self.parameters, &mut self.vectors.gradient);
        hold_steep_channels(rules, &mut self.vectors.gradient);
        self.vectors.set_direction(rules, self.parameters);
        Ok(())
    }

    fn propose(&mut self, rules: Rules, regulariser: Regulariser, acting: Acting) -> Result<Proposal, ExecutorError> {
        let lambdas = match acting {
            Acting::Lambdas(lambdas) => lambdas,
            Acting::Left(left) => self.vectors.lambdas(rules, regulariser, self.parameters, left),
        };
        let lambda = lambdas.iter().copied().fold(0.0, f64::max);
        let (trial, guarded) = self.vectors.propose(rules, regulariser, lambdas, self.parameters);
        Ok(Proposal { loss: self.loss, trial, lambda, guarded })
    }

    fn value(&mut self, rules: Rules) -> Result<Tried, ExecutorError> {
        let HostVectors { averages, gradient, trial, trial_gradient, .. } = &mut *self.vectors;
        let decay_decrease = decay_decrease(rules, [self.parameters, trial]);
        if !rules.settings.quasi_cauchy {
            return Ok(Tried { loss: self.objective.value(trial)?, decay_decrease });
        }
        trial_gradient.resize(trial.len(), 0.0);
        let loss = self.objective.gradient(trial, trial_gradient)?;
        add_decay(rules, trial, trial_gradient);
        quasi_cauchy::update(&mut averages.curvature, [self.parameters, trial], [gradient, trial_gradient]);
        Ok(Tried { loss, decay_decrease })
    }

    fn leave(&mut self, rules: Rules, taken: bool) -> Result<(), ExecutorError> {
        if taken {
            self.vectors.take(rules, self.parameters);
        }
        if let Some(beta) = rules.settings.ema {
            average_parameters(beta, rules.state.step, self.parameters, &mut self.vectors.averages.parameters);
        }
        Ok(())
    }
}

impl HostVectors {
    pub fn new(averages: Averages) -> Self {
        Self { averages, ..Self::default() }
    }

    /// Cuts the smallest weights where the support freezes with more than `left`, since the last step was rejected.
    fn trim(&mut self, rules: Rules, parameters: &mut Vec<f32>, left: usize) {
        let Rules { settings, layers, .. } = rules;
        let kept = |layer: &PenalisedLayer| parameters[layer.range.clone()].iter().filter(|w| **w != 0.0).count();
        if layers.penalised.iter().map(kept).sum::<usize>() <= left {
            return;
        }
        let regulariser = Regulariser { penalty: Penalty::L0Ball, ..settings.regulariser };
        let metric = Metric::Scalar(1.0);
        let still = vec![0.0; parameters.len()];
        self.critical.clear();
        for layer in &layers.penalised {
            let place = (layer.range.clone(), layer.groups);
            regulariser.critical_lambdas(place, parameters, &still, metric, &mut self.critical);
        }
        let lambdas = lambdas_for(left, &layers.penalised, settings.share, &mut self.critical);
        let penalised = layers.with(lambdas);
        let model = ProximalModel { regulariser, penalised: &penalised, metric };
        model.propose(parameters, &still, &still, &mut self.trial);
        std::mem::swap(parameters, &mut self.trial);
    }

    /// The new direction into a buffer of its own: the momentum only follows if the step is taken.
    fn set_direction(&mut self, rules: Rules, x: &[f32]) {
        let Rules { settings, layers, state, .. } = rules;
        match settings.direction.schedule_free() {
            Some(method) => self.advance(rules, method, x),
            None => {
                settings.direction.update(state.step, &self.gradient, &self.averages.momentum, &mut self.direction);
            }
        }
        let Self { averages, gradient, direction, diagonal, average, .. } = self;
        settings.direction.update_metric(state.step, gradient, &mut averages.mean_square, diagonal);
        let frozen = settings.plan.support(state.step) == Support::Frozen;
        if frozen || (settings.plan.skips_zeros(state.step) && !averages.momentum.is_empty()) {
            for range in &layers.prunable {
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
        self.hold_empty_channels(layers, x);
    }

    /// Leaves channels without weights where they are, in the layers that say so.
    fn hold_empty_channels(&mut self, layers: &Layers, x: &[f32]) {
        for layer in &layers.penalised {
            let Some(channels) = layer.channels else { continue };
            let size = layer.range.len() / channels;
            let pairs = self.direction[layer.range.clone()].chunks_mut(size).zip(x[layer.range.clone()].chunks(size));
            pairs.filter(|(_, x)| x.iter().all(|x| *x == 0.0)).for_each(|(direction, _)| direction.fill(0.0));
        }
    }

    /// The next sequences of schedule-free averaging into buffers of their own, and the direction to where they lead.
    fn advance(&mut self, rules: Rules, method: ScheduleFree, x: &[f32]) {
        let Self { averages, gradient, direction, sequences, .. } = self;
        if averages.iterate.is_empty() {
            averages.iterate = x.to_vec();
            averages.parameters = x.to_vec();
        }
        sequences.iterate.clone_from(&averages.iterate);
        sequences.average.clone_from(&averages.parameters);
        direction.resize(x.len(), 0.0);
        let metric = metric(rules, &[], &averages.curvature);
        method.advance((x, gradient), (metric, rules.averaged_part()), sequences, direction);
    }

    /// The weights of the penalty with which `left` weights are left.
    fn lambdas(&mut self, rules: Rules, regulariser: Regulariser, x: &[f32], left: usize) -> Vec<f64> {
        let Self { averages, direction, diagonal, critical, .. } = self;
        let metric = metric(rules, diagonal, &averages.curvature);
        critical.clear();
        for layer in &rules.layers.penalised {
            let place = (layer.range.clone(), layer.groups);
            regulariser.critical_lambdas(place, x, direction, metric, critical);
        }
        lambdas_for(left, &rules.layers.penalised, rules.settings.share, critical)
    }

    /// The trial point, and the layers that keep their least number of weights by a smaller lambda than theirs.
    fn propose(&mut self, rules: Rules, regulariser: Regulariser, lambdas: Vec<f64>, x: &[f32]) -> (Trial, Vec<usize>) {
        let Self { averages, gradient, direction, diagonal, trial, critical, .. } = self;
        let metric = metric(rules, diagonal, &averages.curvature);
        let mut penalised = rules.layers.with(lambdas);
        let sums = ProximalModel { regulariser, penalised: &penalised, metric }.propose(x, gradient, direction, trial);
        let mut guarded = Vec::new();
        for (k, (layer, acting)) in rules.layers.penalised.iter().zip(&mut penalised).enumerate() {
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
            return (sums, guarded);
        }
        let model = ProximalModel { regulariser, penalised: &penalised, metric };
        (model.propose(x, gradient, direction, trial), guarded)
    }

    /// Moves to the trial point, and the averages with it.
    fn take(&mut self, rules: Rules, parameters: &mut Vec<f32>) {
        let Rules { settings, layers, state, sigma } = rules;
        let part = 0.06 / (state.step as f32 + 4.0).sqrt();
        if settings.relaxed && !settings.plan.ends_after(state.step) {
            parameters.iter_mut().zip(&self.trial).for_each(|(x, trial)| *x += part * (trial - *x));
        } else {
            std::mem::swap(parameters, &mut self.trial);
        }
        match settings.direction.schedule_free() {
            Some(_) => {
                if !settings.keeps_what_is_taken(state.step) {
                    let old = &self.trial;
                    layers.prunable.iter().for_each(|range| self.sequences.follow(range.clone(), old, parameters));
                }
                std::mem::swap(&mut self.averages.iterate, &mut self.sequences.iterate);
                std::mem::swap(&mut self.averages.parameters, &mut self.sequences.average);
            }
            None if settings.direction.looks_ahead() => {
                std::mem::swap(&mut self.averages.momentum, &mut self.average);
            }
            None => std::mem::swap(&mut self.averages.momentum, &mut self.direction),
        }
        if let Some(kept) = settings.weight_decay.kept(sigma) {
            layers.prunable.iter().cloned().for_each(|range| parameters[range].iter_mut().for_each(|x| *x *= kept));
        }
    }
}

/// Adds the gradient `mu w` of the weight decay at `x`.
fn add_decay(rules: Rules, x: &[f32], gradient: &mut [f32]) {
    let mu = rules.settings.weight_decay.coupled() as f32;
    if mu > 0.0 {
        for range in &rules.layers.prunable {
            gradient[range.clone()].iter_mut().zip(&x[range.clone()]).for_each(|(g, x)| *g += mu * x);
        }
    }
}

/// Makes the gradient 0 in channels where it is steeper than [`Rules::steepest`].
fn hold_steep_channels(rules: Rules, gradient: &mut [f32]) {
    let Some(steepest) = rules.steepest() else { return };
    for layer in &rules.layers.penalised {
        let Some(channels) = layer.channels else { continue };
        let channels = gradient[layer.range.clone()].par_chunks_mut(layer.range.len() / channels);
        let square = |channel: &[f32]| channel.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
        channels.filter(|channel| square(channel) > steepest).for_each(|channel| channel.fill(0.0));
    }
}

/// [`Tried::decay_decrease`] of the step from the first to the second point.
fn decay_decrease(rules: Rules, [from, to]: [&[f32]; 2]) -> f64 {
    let mu = rules.settings.weight_decay.coupled();
    let fall = |(from, to): (&f32, &f32)| {
        let (from, to) = (f64::from(*from), f64::from(*to));
        (from - to) * (from + to)
    };
    let of = |range: &Range<usize>| from[range.clone()].iter().zip(&to[range.clone()]).map(fall).sum::<f64>();
    if mu > 0.0 { mu / 2.0 * rules.layers.prunable.iter().map(of).sum::<f64>() } else { 0.0 }
}

/// The metric of a step: that of a direction with one, or SR2's with or without curvature.
fn metric<'a>(rules: Rules, diagonal: &'a [f32], curvature: &'a [f32]) -> Metric<'a> {
    match rules.sigma {
        sigma if !curvature.is_empty() => Metric::Shifted(sigma, curvature),
        sigma if !diagonal.is_empty() => Metric::Scaled(sigma, diagonal),
        sigma => Metric::Scalar(sigma),
    }
}

/// `average += w (x - average)`.
fn average_parameters(beta: f64, step: u64, parameters: &[f32], average: &mut Vec<f32>) {
    average.resize(parameters.len(), 0.0);
    let w = averaging_weight(beta, step);
    average.iter_mut().zip(parameters).for_each(|(average, x)| *average += w * (x - *average));
}
