//! The vectors of a training on candle's device. A step brings scalars to the host, and the logits, also those of a trial
//! point that is surely tested, in one copy. Only where layers are down to their least number of weights, or a test was
//! not foreseen, there are more.
//!
//! Everything is computed as on the host, in the same precision; only sums are in another order.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use super::rows::{Rows, is_final};
use super::transfer::{download, download_all};
use super::{CandleExecutor, Mode, failed};
use crate::cross_entropy::cross_entropy;
use crate::direction::Direction;
use crate::executor::{Batch, BatchLoss, ExecutorError, Support};
use crate::layout::ParameterLayout;
use crate::metrics::Passes;
use crate::optimizer::{Acting, Averages, Layers, Proposal, Rules, Settings, Vectors, averaging_weight};
use crate::penalty::Penalty;
use crate::pruning::Target;
use crate::regulariser::Regulariser;
use crate::share::{PenalisedLayer, Share, lambdas_for};
use crate::sr2::Tried;

mod composed;
#[cfg(feature = "cudnn")]
mod fused;
mod kernels;
mod model;
#[cfg(test)]
mod tests;

use kernels::{Kernels, Still, Zeros};
use model::{Lambda, Model, Parts, Sums};

/// All vectors, in [`Rows`].
#[derive(Debug)]
pub(super) struct Resident {
    rows: Arc<Rows>,
    kernels: Box<dyn Kernels>,
    /// The number of each penalised layer's parameter.
    penalised: Vec<usize>,
    /// The same of all prunable ones.
    prunable: Vec<usize>,
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
    sequences: Option<[Tensor; 2]>,
    direction: Tensor,
    /// `D` of the metric.
    diagonal: Option<Tensor>,
    trial: Tensor,
    /// What the test needs of it, if that came with the rest.
    tried: Option<Tried>,
    nonzero: Vec<usize>,
}

/// A trial point, and what came of it to the host.
struct Attempt {
    trial: Tensor,
    sums: Vec<Sums>,
    /// At the old point.
    logits: Vec<f64>,
    tried: Option<Tried>,
    /// Of [`Model::search`].
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
        let rows = Arc::new(Rows::new(segments, device)?);
        let number = |range| segments.iter().position(|s| s.range == range).expect("a layer is a parameter");
        let penalised: Vec<usize> = layers.penalised.iter().map(|layer| number(layer.range.clone())).collect();
        let prunable = layers.prunable.iter().cloned().map(number).collect();
        let saved = |values: &Vec<f32>| (!values.is_empty()).then(|| rows.upload(values)).transpose();
        let uploaded = rows.upload(parameters)?;
        Ok(Self {
            kernels: kernels::of_device(&rows, segments, layers, &penalised, device)?,
            nonzero: (segments.iter())
                .map(|s| parameters[s.range.clone()].iter().filter(|x| **x != 0.0).count())
                .collect(),
            momentum: saved(&averages.momentum)?,
            mean_square: saved(&averages.mean_square)?,
            average: saved(&averages.parameters)?,
            iterate: saved(&averages.iterate)?,
            parameters: uploaded,
            penalised,
            prunable,
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

    /// What does not move in the direction of this step.
    fn still(&self, rules: Rules) -> Still {
        let Rules { settings: Settings { plan, .. }, layers, state, .. } = rules;
        if plan.support(state.step) == Support::Frozen {
            return Still { zeros: Zeros::Stay, empty: Vec::new() };
        }
        let coast = self.momentum.is_some() && plan.skips_zeros(state.step);
        let pairs = layers.penalised.iter().zip(&self.penalised);
        let can_be_empty = |(layer, parameter): (&PenalisedLayer, &usize)| {
            let channels = layer.channels?;
            let nonzero = self.nonzero[*parameter] + layer.range.len() / channels <= layer.range.len();
            nonzero.then_some((*parameter, channels))
        };
        Still { zeros: if coast { Zeros::Coast } else { Zeros::Move }, empty: pairs.filter_map(can_be_empty).collect() }
    }

    fn model(&self, rules: Rules, penalty: Penalty) -> Result<Box<dyn Model + '_>> {
        let step = self.step.as_ref().expect("a direction comes before a trial point");
        self.kernels.model(Parts {
            x: &self.parameters,
            v: &step.direction,
            g: &step.gradient,
            diagonal: step.diagonal.as_ref(),
            sigma: rules.sigma,
            penalty,
        })
    }

    /// The lambda of each penalised layer that leaves `left` weights.
    fn lambdas(&self, model: &dyn Model, layers: &Layers, left: usize) -> Result<Vec<f64>> {
        let Some(critical) = model.critical().filter(|_| self.searches_on_host) else {
            return model::lambdas(model, &self.penalised, layers, left);
        };
        let all: Vec<f64> = self.rows.download(critical)?;
        let mut own: Vec<f64> = layers.penalised.iter().flat_map(|layer| &all[layer.range.clone()]).copied().collect();
        Ok(lambdas_for(left, &layers.penalised, Share::Global, &mut own))
    }

    /// Cuts the smallest weights where there are more than `left`.
    fn trim(&mut self, layers: &Layers, left: usize) -> Result<()> {
        if self.penalised.iter().map(|parameter| self.nonzero[*parameter]).sum::<usize>() <= left {
            return Ok(());
        }
        let (x, still) = (&self.parameters, self.parameters.zeros_like()?);
        let parts = Parts { x, v: &still, g: &still, diagonal: None, sigma: 1.0, penalty: Penalty::L0Ball };
        let model = self.kernels.model(parts)?;
        let (next, sums) = model.attempt(Lambda::Own(&self.lambdas(&*model, layers, left)?))?;
        let sums = Sums::of_each(&download::<f64>(&sums)?);
        drop(model);
        self.nonzero = sums.iter().map(|sum| sum.nonzero as usize).collect();
        self.parameters = next;
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
        let mu = settings.weight_decay.coupled() as f32;
        let (support, steepest) = (executor.support, rules.steepest());
        let gradient = resident.kernels.gather(&gradients, &resident.parameters, mu, support, steepest)?;
        let (kernels, x, still) = (&resident.kernels, &resident.parameters, resident.still(rules));
        let (direction, momentum, sequences) = match settings.direction.schedule_free() {
            Some(method) => {
                let iterate = resident.iterate.get_or_insert_with(|| x.clone());
                let average = resident.average.get_or_insert_with(|| x.clone());
                let factors = [rules.sigma, rules.averaged_part(), method.beta];
                let [direction, iterate, average] =
                    kernels.advance([x, &gradient, iterate, average], factors, &still)?;
                (direction, None, Some([iterate, average]))
            }
            None => {
                let momentum = resident.momentum.as_ref();
                let w = settings.direction.weight(state.step, momentum.is_none()) as f32;
                let ahead = match settings.direction {
                    Direction::Momentum { beta, nesterov: true } => Some(beta as f32),
                    _ => None,
                };
                let (average, direction) = kernels.average_gradient([x, &gradient], momentum, w, ahead, &still)?;
                (direction.unwrap_or_else(|| average.clone()), Some(average), None)
            }
        };
        let mut diagonal = None;
        if let Some(w) = settings.direction.metric_weight(state.step) {
            let [next, root] = kernels.average_square(&gradient, resident.mean_square.as_ref(), w)?;
            (resident.mean_square, diagonal) = (Some(next), Some(root));
        }
        let trial = resident.parameters.clone();
        let (tried, nonzero) = (None, Vec::new());
        let step = Step { images, logits, gradient, momentum, sequences, direction, diagonal, trial, tried, nonzero };
        resident.step = Some(step);
        Ok(())
    }

    fn step(&self) -> &Step {
        self.resident.step.as_ref().expect("a direction comes before a trial point")
    }

    /// The logits at a trial point, and with weight decay by how much each parameter's square falls there.
    fn test(&self, rules: Rules, trial: &Tensor) -> Result<Vec<Tensor>> {
        let rows = &self.resident.rows;
        let tensors = self.executor.named(rows.tensors(trial)?);
        let logits = self.executor.output(&tensors, self.step().images.clone(), Mode::Training)?;
        if rules.settings.weight_decay.coupled() == 0.0 {
            return Ok(vec![logits]);
        }
        let [from, to] = [&self.resident.parameters, trial].map(|point| point.to_dtype(DType::F64));
        let (from, to) = (from?, to?);
        Ok(vec![logits, rows.sums(&[((&from - &to)? * (from + to)?)?])?])
    }

    /// From what [`Self::test`] gives.
    fn tried(&self, rules: Rules, logits: &[f64], falls: &[f64]) -> Tried {
        let weights = self.resident.prunable.iter().map(|parameter| falls.get(*parameter).unwrap_or(&0.0));
        let decay_decrease = rules.settings.weight_decay.coupled() / 2.0 * weights.sum::<f64>();
        Tried { loss: self.cross_entropy(logits).loss, decay_decrease }
    }

    /// The trial point; what comes of it, and the answer of the search for its lambda, in one copy.
    fn attempt(&self, rules: Rules, model: &dyn Model, lambda: Lambda) -> Result<Attempt> {
        let answer = match lambda {
            Lambda::Own(_) => None,
            Lambda::Common(answer) => Some(answer),
        };
        let (trial, sums) = model.attempt(lambda)?;
        let test = if rules.surely_tests() { self.test(rules, &trial)? } else { Vec::new() };
        let parts: Vec<&Tensor> = [&sums, &self.step().logits].into_iter().chain(answer).chain(&test).collect();
        let mut parts = download_all(&parts)?.into_iter();
        let mut next = || parts.next().unwrap_or_default();
        let (sums, logits) = (Sums::of_each(&next()), next());
        let answer = if answer.is_some() { next() } else { Vec::new() };
        let tried = (!test.is_empty()).then(|| self.tried(rules, &next(), &next()));
        Ok(Attempt { trial, sums, logits, tried, answer })
    }

    /// The trial point with one lambda for all layers that leaves `left` weights, found on the device; nothing if it needs
    /// a longer search, or layers need one of their own.
    fn guess(&self, rules: Rules, model: &dyn Model, left: usize) -> Result<Option<(Vec<f64>, Attempt)>> {
        let attempt = self.attempt(rules, model, Lambda::Common(&model.search(left)?))?;
        let mut layers = rules.layers.penalised.iter().zip(&self.resident.penalised);
        let fits = layers.all(|(layer, parameter)| attempt.sums[*parameter].nonzero >= layer.least as f64);
        let found = fits && is_final(&attempt.answer, left);
        Ok(found.then(|| (vec![attempt.answer[0]; self.resident.penalised.len()], attempt)))
    }

    fn try_propose(&mut self, rules: Rules, regulariser: Regulariser, acting: Acting) -> Result<Proposal> {
        let layers = rules.layers;
        let resident = &*self.resident;
        let model = resident.model(rules, regulariser.penalty)?;
        let guessed = match acting {
            Acting::Left(left) if !resident.searches_on_host && !resident.crowded => {
                self.guess(rules, &*model, left)?
            }
            _ => None,
        };
        let (mut lambdas, mut attempt) = match guessed {
            Some(guessed) => guessed,
            None => {
                let lambdas = match acting {
                    Acting::Lambdas(lambdas) => lambdas,
                    Acting::Left(left) => resident.lambdas(&*model, layers, left)?,
                };
                let attempt = self.attempt(rules, &*model, Lambda::Own(&lambdas))?;
                (lambdas, attempt)
            }
        };
        let crowded = lambdas.iter().any(|lambda| *lambda != lambdas[0]);
        let lambda = lambdas.iter().copied().fold(0.0, f64::max);
        let mut guarded = Vec::new();
        for (k, (layer, lambda)) in layers.penalised.iter().zip(&mut lambdas).enumerate() {
            let parameter = resident.penalised[k];
            if attempt.sums[parameter].nonzero < layer.least as f64 && *lambda > 0.0 {
                let largest = model.largest_to_go(&[parameter], layer.least)?;
                if largest < *lambda {
                    *lambda = largest;
                    guarded.push(k);
                }
            }
        }
        if !guarded.is_empty() {
            attempt = self.attempt(rules, &*model, Lambda::Own(&lambdas))?;
        }
        drop(model);
        let total = Sums::total(&attempt.sums, &resident.penalised, &lambdas, layers);
        let point = self.cross_entropy(&attempt.logits);
        self.at_point = Some(point);
        self.resident.crowded = crowded;
        let step = self.resident.step.as_mut().expect("it was there above");
        step.trial = attempt.trial;
        step.tried = attempt.tried;
        step.nonzero = attempt.sums.iter().map(|sum| sum.nonzero as usize).collect();
        Ok(Proposal { loss: point.loss, trial: total, lambda, guarded })
    }

    fn try_value(&mut self, rules: Rules) -> Result<Tried> {
        if let Some(tried) = self.step().tried {
            return Ok(tried);
        }
        let test = self.test(rules, &self.step().trial)?;
        let mut parts = download_all(&test.iter().collect::<Vec<_>>())?.into_iter();
        let mut next = || parts.next().unwrap_or_default();
        Ok(self.tried(rules, &next(), &next()))
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
            if let Some([mut iterate, mut average]) = step.sequences {
                if !rules.settings.keeps_what_is_taken(rules.state.step) {
                    [iterate, average] = resident.kernels.follow([&old, &resident.parameters, &iterate, &average])?;
                }
                (resident.iterate, resident.average) = (Some(iterate), Some(average));
            }
            if let Some(kept) = rules.settings.weight_decay.kept(rules.sigma) {
                resident.parameters = resident.kernels.decay(&resident.parameters, kept)?;
            }
        }
        if let Some(beta) = rules.settings.ema {
            let w = averaging_weight(beta, rules.state.step);
            let average = resident.kernels.average_point(&resident.parameters, resident.average.as_ref(), w)?;
            resident.average = Some(average);
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

    fn value(&mut self, rules: Rules) -> std::result::Result<Tried, ExecutorError> {
        self.passes.forward += 1;
        self.try_value(rules).map_err(failed)
    }

    fn leave(&mut self, rules: Rules, taken: bool) -> std::result::Result<(), ExecutorError> {
        self.try_leave(rules, taken).map_err(failed)
    }
}
