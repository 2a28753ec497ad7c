//! The vectors of a training on candle's device. A step brings scalars to the host, and the logits, also those of a trial
//! point that is surely tested, in one copy. Only where layers are down to their least number of weights, or a test was
//! not foreseen, there are more.
//!
//! Everything is computed as on the host, in the same precision; only sums are in another order.

use candle_core::{DType, Result, Tensor};

use super::rows::{Rows, Search, largest_to_go};
use super::transfer::{download, download_all};
use super::{CandleExecutor, Mode, failed};
use crate::cross_entropy::cross_entropy;
use crate::direction::Direction;
use crate::executor::{Batch, BatchLoss, ExecutorError, Support};
use crate::layout::ParameterLayout;
use crate::metrics::Passes;
use crate::optimizer::{Acting, Averages, Layers, Proposal, Rules, Settings, Vectors};
use crate::penalty::Penalty;
use crate::pruning::Target;
use crate::regulariser::Regulariser;
use crate::schedule_free::ScheduleFree;
use crate::share::{PenalisedLayer, Share};

mod model;
#[cfg(test)]
mod tests;

use model::{Model, Sums, critical_lambda};

/// All vectors, in [`Rows`].
#[derive(Debug)]
pub(super) struct Resident {
    rows: Rows,
    /// The number of each penalised layer's parameter.
    penalised: Vec<usize>,
    /// `[rows, 1]`, 1 in penalised layers.
    penalised_rows: Tensor,
    /// `[rows, ROW]`, 1 in prunable weights.
    prunable: Tensor,
    parameters: Tensor,
    momentum: Option<Tensor>,
    mean_square: Option<Tensor>,
    /// Of the parameters, or of the iterates.
    average: Option<Tensor>,
    iterate: Option<Tensor>,
    /// Weights of each parameter that are not zero.
    pub nonzero: Vec<usize>,
    /// Whether the lambda that leaves a number of weights is found on the host, where the device is the host.
    searches_on_host: bool,
    /// Whether layers were down to their least number of weights in the last step, and had a lambda of their own.
    crowded: bool,
    step: Option<Step>,
}

/// What a step computes.
#[derive(Debug)]
struct Step {
    images: Tensor,
    logits: Tensor,
    gradient: Tensor,
    /// The next momentum, or none with schedule-free averaging.
    momentum: Option<Tensor>,
    /// The next iterate and average of schedule-free averaging.
    sequences: Option<(Tensor, Tensor)>,
    direction: Tensor,
    /// `D` of the metric.
    diagonal: Option<Tensor>,
    trial: Tensor,
    /// Logits there, if they came with the rest.
    trial_logits: Option<Vec<f64>>,
    nonzero: Vec<usize>,
}

/// A trial point, and what came of it to the host.
struct Attempt {
    trial: Tensor,
    sums: Vec<Sums>,
    /// At the old point.
    logits: Vec<f64>,
    trial_logits: Option<Vec<f64>>,
    /// Of a [`Search`].
    answer: Vec<f64>,
}

/// Why the steps of a training are made on the host, if they are.
pub(super) fn unsupported(settings: &Settings, layers: &Layers) -> Option<&'static str> {
    let unscaled = layers.penalised.iter().all(|layer| layer.scale == 1.0);
    let shared = settings.share == Share::Global && unscaled;
    match () {
        () if settings.relaxed => Some("ProxSGD"),
        () if settings.quasi_cauchy => Some("curvature"),
        () if settings.regulariser.bounds.is_some() => Some("a box"),
        () if layers.penalised.iter().any(|layer| layer.groups.is_some()) => Some("groups"),
        () if !matches!(settings.regulariser.penalty, Penalty::L0 | Penalty::L1 | Penalty::L0Ball) => {
            Some("this penalty")
        }
        () if matches!(settings.plan.target, Target::Weights { .. }) && !shared => Some("a share of its own by layer"),
        () => None,
    }
}

impl Resident {
    pub fn new(
        layout: &ParameterLayout,
        layers: &Layers,
        parameters: &[f32],
        averages: &Averages,
        device: &candle_core::Device,
    ) -> Result<Self> {
        let segments = layout.trainable();
        let rows = Rows::new(segments, device)?;
        let number = |range| segments.iter().position(|s| s.range == range).expect("a layer is a parameter");
        let penalised: Vec<usize> = layers.penalised.iter().map(|layer| number(layer.range.clone())).collect();
        let mut penalised_rows = vec![0.0; segments.len()];
        penalised.iter().for_each(|parameter| penalised_rows[*parameter] = 1.0);
        let prunable: Vec<f64> =
            segments.iter().map(|s| f64::from(u8::from(layers.prunable.contains(&s.range)))).collect();
        let saved = |values: &Vec<f32>| (!values.is_empty()).then(|| rows.upload(values)).transpose();
        let uploaded = rows.upload(parameters)?;
        Ok(Self {
            penalised_rows: rows.spread(&penalised_rows)?.to_dtype(DType::U8)?,
            prunable: rows.spread(&prunable)?.to_dtype(DType::U8)?.broadcast_as(uploaded.shape())?.contiguous()?,
            nonzero: (segments.iter())
                .map(|s| parameters[s.range.clone()].iter().filter(|x| **x != 0.0).count())
                .collect(),
            momentum: saved(&averages.momentum)?,
            mean_square: saved(&averages.mean_square)?,
            average: saved(&averages.parameters)?,
            iterate: saved(&averages.iterate)?,
            parameters: uploaded,
            penalised,
            rows,
            searches_on_host: device.is_cpu(),
            crowded: false,
            step: None,
        })
    }

    pub fn fetch(&self) -> Result<(Vec<f32>, Averages)> {
        let saved = |vector: &Option<Tensor>| vector.as_ref().map_or(Ok(Vec::new()), |v| self.rows.download(v));
        let averages = Averages {
            momentum: saved(&self.momentum)?,
            mean_square: saved(&self.mean_square)?,
            parameters: saved(&self.average)?,
            iterate: saved(&self.iterate)?,
            ..Averages::default()
        };
        Ok((self.rows.download(&self.parameters)?, averages))
    }

    /// 1 where a prunable weight is zero.
    fn zeros(&self) -> Result<Tensor> {
        self.parameters.eq(0f32)? * &self.prunable
    }

    /// Direction, iterate and average of [`ScheduleFree::advance`].
    fn advance(
        &mut self,
        method: ScheduleFree,
        averaged: u64,
        sigma: f64,
        gradient: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let c = ScheduleFree::part(averaged);
        let y = &self.parameters;
        let last = self.iterate.get_or_insert_with(|| y.clone());
        let average = self.average.get_or_insert_with(|| y.clone());
        let (y, g) = (self.parameters.to_dtype(DType::F64)?, gradient.to_dtype(DType::F64)?);
        let (last, average) = (last.to_dtype(DType::F64)?, average.to_dtype(DType::F64)?);
        let z = (last - g.broadcast_div(&Tensor::full(sigma, (1, 1), y.device())?)?)?;
        let x = (&average + (&z - &average)?.affine(c, 0.0)?)?;
        let v = ((y - &z)? - (&x - &z)?.affine(method.beta, 0.0)?)?.affine(sigma, 0.0)?;
        let single = |vector: Tensor| vector.to_dtype(DType::F32);
        Ok((single(v)?, single(z)?, single(x)?))
    }

    /// The direction without that of channels that have no weights, in the layers that say so.
    fn hold_empty_channels(&self, layers: &Layers, direction: Tensor) -> Result<Tensor> {
        let can_be_empty = |layer: &PenalisedLayer, parameter: usize| {
            layer
                .channels
                .filter(|channels| self.nonzero[parameter] + layer.range.len() / channels <= layer.range.len())
        };
        let pairs = || layers.penalised.iter().zip(&self.penalised);
        if pairs().all(|(layer, parameter)| can_be_empty(layer, *parameter).is_none()) {
            return Ok(direction);
        }
        let (x, mut held) = (self.rows.tensors(&self.parameters)?, self.rows.tensors(&direction)?);
        for (layer, parameter) in pairs() {
            let Some(channels) = can_be_empty(layer, *parameter) else { continue };
            let direction = held[*parameter].reshape((channels, ()))?;
            let weights = x[*parameter].reshape((channels, ()))?.ne(0f32)?.to_dtype(DType::F32)?.sum_keepdim(1)?;
            let full = weights.gt(0f32)?.broadcast_as(direction.shape())?;
            held[*parameter] = full.where_cond(&direction, &direction.zeros_like()?)?;
        }
        self.rows.gather(&held.into_iter().map(Some).collect::<Vec<_>>())
    }

    fn model(&self, rules: Rules, regulariser: Regulariser) -> Result<Model<'_>> {
        let step = self.step.as_ref().expect("a direction comes before a trial point");
        let [x, v, g] = [&self.parameters, &step.direction, &step.gradient].map(|vector| vector.to_dtype(DType::F64));
        let (x, v, g) = (x?, v?, g?);
        let d = match &step.diagonal {
            Some(diagonal) => (diagonal.to_dtype(DType::F64)? * rules.sigma)?,
            None => Tensor::full(rules.sigma, (1, 1), x.device())?,
        };
        let z = (&x - v.broadcast_div(&d)?)?;
        let critical = critical_lambda(regulariser.penalty, &z, &d)?;
        Ok(Model { resident: self, penalty: regulariser.penalty, x, v, g, d, z, critical })
    }

    /// Cuts the smallest weights where there are more than `left`.
    fn trim(&mut self, layers: &Layers, left: usize) -> Result<()> {
        if self.penalised.iter().map(|parameter| self.nonzero[*parameter]).sum::<usize>() <= left {
            return Ok(());
        }
        let x = self.parameters.to_dtype(DType::F64)?;
        let critical = critical_lambda(Penalty::L0Ball, &x, &Tensor::full(1f64, (1, 1), x.device())?)?;
        let lambdas = self.lambdas(layers, &critical, left)?;
        let gone = critical.broadcast_le(&self.spread(&lambdas)?)?;
        let nothing = self.parameters.zeros_like()?;
        self.parameters = gone.where_cond(&nothing, &self.parameters)?;
        let zeros = self.parameters.eq(0f32)?.broadcast_mul(&self.penalised_rows)?;
        if let Some(iterate) = &mut self.iterate {
            *iterate = zeros.where_cond(&nothing, iterate)?;
            self.average = self.average.as_ref().map(|average| zeros.where_cond(&nothing, average)).transpose()?;
        }
        let counts = self.rows.sums(&[self.parameters.ne(0f32)?.to_dtype(DType::F32)?])?;
        self.nonzero = download::<f64>(&counts)?.into_iter().map(|count| count as usize).collect();
        Ok(())
    }
}

/// One step of a training whose vectors are on the device.
pub(super) struct OnDevice<'a> {
    pub executor: &'a mut CandleExecutor,
    pub resident: &'a mut Resident,
    pub batch: &'a Batch,
    /// The loss at the old point.
    pub at_point: Option<BatchLoss>,
    pub passes: &'a mut Passes,
}

impl OnDevice<'_> {
    fn try_direct(&mut self, rules: Rules) -> Result<()> {
        let Rules { settings, state, .. } = rules;
        let (executor, resident) = (&mut *self.executor, &mut *self.resident);
        let images = executor.images(&self.batch.images, self.batch.labels.len())?;
        let (gradients, logits) =
            executor.differentiate(resident.rows.tensors(&resident.parameters)?, &images, &self.batch.labels)?;
        let mut gradient = resident.rows.gather(&gradients)?;
        let zeros = resident.zeros()?;
        let nothing = gradient.zeros_like()?;
        if executor.support == Support::Frozen {
            gradient = zeros.where_cond(&nothing, &gradient)?;
        }
        let sequences = match settings.direction.schedule_free() {
            Some(method) => Some(resident.advance(method, state.averaged, rules.sigma, &gradient)?),
            None => None,
        };
        let w = settings.direction.weight(state.step, resident.momentum.is_none()) as f32;
        let new = gradient.affine(f64::from(w), 0.0)?;
        let mut direction = match (&sequences, &resident.momentum) {
            (Some((direction, ..)), _) => direction.clone(),
            (None, Some(momentum)) => (momentum.affine(f64::from(1.0 - w), 0.0)? + new)?,
            (None, None) => new,
        };
        let sequences = sequences.map(|(_, iterate, average)| (iterate, average));
        let diagonal = match settings.direction.metric_weight(state.step) {
            Some(w) => {
                let last = resident.mean_square.take().unwrap_or(nothing.clone());
                let next = (&last + (gradient.sqr()? - &last)?.affine(f64::from(w), 0.0)?)?;
                let diagonal = next.sqrt()?.affine(1.0, f64::from(Direction::DELTA))?;
                resident.mean_square = Some(next);
                Some(diagonal)
            }
            None => None,
        };
        let frozen = settings.plan.support(state.step) == Support::Frozen;
        if frozen {
            direction = zeros.where_cond(&nothing, &direction)?;
        } else if let Some(momentum) = resident.momentum.as_ref().filter(|_| settings.plan.skips_zeros(state.step)) {
            direction = zeros.where_cond(momentum, &direction)?;
        }
        let average = direction.clone();
        if let Direction::Momentum { beta, nesterov: true } = settings.direction {
            let beta = beta as f32;
            let ahead = gradient.affine(f64::from(1.0 - beta), 0.0)?;
            direction = (direction.affine(f64::from(beta), 0.0)? + ahead)?;
        }
        if !frozen {
            direction = resident.hold_empty_channels(rules.layers, direction)?;
        }
        let momentum = match &sequences {
            Some(_) => None,
            None if settings.direction.looks_ahead() => Some(average),
            None => Some(direction.clone()),
        };
        let (trial, trial_logits, nonzero) = (nothing, None, Vec::new());
        let step =
            Step { images, logits, gradient, momentum, sequences, direction, diagonal, trial, trial_logits, nonzero };
        resident.step = Some(step);
        Ok(())
    }

    fn step(&self) -> &Step {
        self.resident.step.as_ref().expect("a direction comes before a trial point")
    }

    fn trial_logits(&self, trial: &Tensor) -> Result<Tensor> {
        let tensors = self.executor.named(self.resident.rows.tensors(trial)?);
        self.executor.output(&tensors, self.step().images.clone(), Mode::Training)
    }

    /// The trial point with these lambdas by row; what comes of it, and the answer of a search, in one copy.
    fn attempt(&self, model: &Model, lambda: &Tensor, answer: Option<&Tensor>, tested: bool) -> Result<Attempt> {
        let (trial, sums) = model.attempt(lambda)?;
        let trial_logits = if tested { Some(self.trial_logits(&trial)?) } else { None };
        let parts: Vec<&Tensor> =
            [Some(&sums), Some(&self.step().logits), trial_logits.as_ref(), answer].into_iter().flatten().collect();
        let mut parts = download_all(&parts)?.into_iter();
        let mut next = || parts.next().unwrap_or_default();
        let (sums, logits) = (Sums::of_each(&next()), next());
        Ok(Attempt { trial, sums, logits, trial_logits: trial_logits.map(|_| next()), answer: next() })
    }

    /// The trial point with one lambda for all layers that leaves `left` weights, found on the device; nothing if it needs
    /// a longer search, or layers need one of their own.
    fn guess(&self, model: &Model, layers: &Layers, left: usize, tested: bool) -> Result<Option<(Vec<f64>, Attempt)>> {
        let critical = &model.critical;
        let (rows, out) = (&self.resident.penalised_rows, Tensor::full(-1f64, (1, 1), critical.device())?);
        let values = rows.broadcast_as(critical.shape())?.where_cond(critical, &out.broadcast_as(critical.shape())?)?;
        let mut search = Search::new(&values, left)?;
        search.go_on()?;
        let common = search.answer.narrow(0, 0, 1)?.broadcast_as(rows.shape())?;
        let lambda = rows.where_cond(&common, &out.broadcast_as(rows.shape())?)?;
        let attempt = self.attempt(model, &lambda, Some(&search.answer), tested)?;
        let mut layers = layers.penalised.iter().zip(&self.resident.penalised);
        let fits = layers.all(|(layer, parameter)| attempt.sums[*parameter].nonzero >= layer.least as f64);
        let found = fits && search.ends(&attempt.answer);
        Ok(found.then(|| (vec![attempt.answer[0]; self.resident.penalised.len()], attempt)))
    }

    fn try_propose(&mut self, rules: Rules, regulariser: Regulariser, acting: Acting) -> Result<Proposal> {
        let (layers, tested) = (rules.layers, rules.surely_tests());
        let resident = &*self.resident;
        let model = resident.model(rules, regulariser)?;
        let guessed = match acting {
            Acting::Left(left) if !resident.searches_on_host && !resident.crowded => {
                self.guess(&model, layers, left, tested)?
            }
            _ => None,
        };
        let (mut lambdas, mut attempt) = match guessed {
            Some(guessed) => guessed,
            None => {
                let lambdas = match acting {
                    Acting::Lambdas(lambdas) => lambdas,
                    Acting::Left(left) => resident.lambdas(layers, &model.critical, left)?,
                };
                let attempt = self.attempt(&model, &resident.spread(&lambdas)?, None, tested)?;
                (lambdas, attempt)
            }
        };
        let crowded = lambdas.iter().any(|lambda| *lambda != lambdas[0]);
        let lambda = lambdas.iter().copied().fold(0.0, f64::max);
        let mut guarded = Vec::new();
        for (k, (layer, lambda)) in layers.penalised.iter().zip(&mut lambdas).enumerate() {
            let parameter = resident.penalised[k];
            if attempt.sums[parameter].nonzero < layer.least as f64 && *lambda > 0.0 {
                let largest = largest_to_go(&resident.rows.part(&model.critical, parameter)?, layer.least)?;
                if largest < *lambda {
                    *lambda = largest;
                    guarded.push(k);
                }
            }
        }
        if !guarded.is_empty() {
            attempt = self.attempt(&model, &resident.spread(&lambdas)?, None, tested)?;
        }
        let total = model.total(&lambdas, layers, &attempt.sums);
        let point = self.cross_entropy(&attempt.logits);
        self.at_point = Some(point);
        self.resident.crowded = crowded;
        let step = self.resident.step.as_mut().expect("it was there above");
        step.trial = attempt.trial;
        step.trial_logits = attempt.trial_logits;
        step.nonzero = attempt.sums.iter().map(|sum| sum.nonzero as usize).collect();
        Ok(Proposal { loss: point.loss, trial: total, lambda, guarded })
    }

    fn try_value(&mut self) -> Result<f64> {
        let logits = match &self.step().trial_logits {
            Some(logits) => logits.clone(),
            None => download_all(&[&self.trial_logits(&self.step().trial)?])?.remove(0),
        };
        Ok(self.cross_entropy(&logits).loss)
    }

    fn cross_entropy(&self, logits: &[f64]) -> BatchLoss {
        let logits: Vec<f32> = logits.iter().map(|logit| *logit as f32).collect();
        cross_entropy(&logits, &self.batch.labels, logits.len() / self.batch.labels.len(), None)
    }

    fn try_leave(&mut self, rules: Rules, taken: bool) -> Result<()> {
        let resident = &mut *self.resident;
        let step = resident.step.take().expect("a trial point comes before its end");
        if taken {
            let old = std::mem::replace(&mut resident.parameters, step.trial);
            resident.nonzero = step.nonzero;
            resident.momentum = step.momentum;
            if let Some((iterate, average)) = step.sequences {
                // They follow the weights that the step took away or brought back.
                let next = &resident.parameters;
                let anew = ((next.eq(0f32)? + old.eq(0f32)?)?.gt(0u8)? * &resident.prunable)?;
                resident.iterate = Some(anew.where_cond(next, &iterate)?);
                resident.average = Some(anew.where_cond(next, &average)?);
            }
            let kept = (1.0 - rules.settings.weight_decay / rules.sigma) as f32;
            if kept < 1.0 {
                let shrunk = resident.parameters.affine(f64::from(kept), 0.0)?;
                resident.parameters = resident.prunable.where_cond(&shrunk, &resident.parameters)?;
            }
        }
        if let Some(beta) = rules.settings.ema {
            let last = resident.average.take().map_or_else(|| resident.parameters.zeros_like(), Ok)?;
            let w = f64::from(crate::optimizer::averaging_weight(beta, rules.state.step));
            resident.average = Some((&last + (&resident.parameters - &last)?.affine(w, 0.0)?)?);
        }
        Ok(())
    }
}

impl Vectors for OnDevice<'_> {
    fn enter(&mut self, rules: Rules) -> std::result::Result<(), ExecutorError> {
        match rules.settings.plan.target_at_freeze(rules.state.step) {
            Some(left) => self.resident.trim(rules.layers, left).map_err(failed),
            None => Ok(()),
        }
    }

    fn direct(&mut self, rules: Rules) -> std::result::Result<(), ExecutorError> {
        self.passes.forward += 1;
        self.passes.backward += 1;
        self.try_direct(rules).map_err(failed)
    }

    fn propose(
        &mut self,
        rules: Rules,
        regulariser: Regulariser,
        acting: Acting,
    ) -> std::result::Result<Proposal, ExecutorError> {
        self.try_propose(rules, regulariser, acting).map_err(failed)
    }

    fn value(&mut self, _: Rules) -> std::result::Result<f64, ExecutorError> {
        self.passes.forward += 1;
        self.try_value().map_err(failed)
    }

    fn leave(&mut self, rules: Rules, taken: bool) -> std::result::Result<(), ExecutorError> {
        self.try_leave(rules, taken).map_err(failed)
    }
}
