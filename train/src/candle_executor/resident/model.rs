//! The proximal model of a step, and what decides on the step, on candle's device.

use candle_core::{Result, Tensor};

use crate::candle_executor::transfer::download;
use crate::optimizer::Layers;
use crate::penalty::Penalty;
use crate::trial::{HALF_ULP, Trial};

/// What the model of a step is made of: the point, the direction, the gradient, and the metric `d`, which is sigma, times
/// the diagonal if there is one.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub x: &'a Tensor,
    pub v: &'a Tensor,
    pub g: &'a Tensor,
    pub diagonal: Option<&'a Tensor>,
    pub sigma: f64,
    pub penalty: Penalty,
}

/// The weight of the penalty.
#[derive(Clone, Copy)]
pub(super) enum Lambda<'a> {
    /// Of each penalised layer.
    Own(&'a [f64]),
    /// The first value of an answer of [`Model::search`], for all layers.
    Common(&'a Tensor),
}

/// The proximal model of a step. The critical lambda of a weight, at which it goes, is `d z^2 / 2` or, under l1, `d |z|`.
pub(super) trait Model {
    /// The trial point, and its [`Sums`] for each parameter.
    fn attempt(&self, lambda: Lambda) -> Result<(Tensor, Tensor)>;

    /// First the critical lambda that leaves `left` penalised weights if all layers have it, then how many are above it, and
    /// not below it; whether the search has come to its end is for [`super::is_final`] to say.
    fn search(&self, left: usize) -> Result<Tensor>;

    /// The critical lambda that leaves `left` weights of these parameters.
    fn largest_to_go(&self, among: &[usize], left: usize) -> Result<f64>;

    /// `[1, parameters]`: weights whose critical lambda is above `lambda`.
    fn count_above(&self, lambda: f64) -> Result<Tensor>;

    /// All critical lambdas, if they are kept.
    fn critical(&self) -> Option<&Tensor> {
        None
    }
}

/// Sums over the parameters that a step is decided by; the order of [`Model::attempt`]'s.
pub(super) struct Sums {
    direction_slope: f64,
    gradient_slope: f64,
    squared_step: f64,
    rounding: f64,
    pub nonzero: f64,
    /// Of the penalty, by how much it falls.
    fall: f64,
    /// Of the penalty at the trial point.
    value: f64,
}

impl Sums {
    /// Of each parameter, from [`Model::attempt`]'s.
    pub fn of_each(all: &[f64]) -> Vec<Self> {
        let count = all.len() / 7;
        let at = |sum: usize, parameter: usize| all[sum * count + parameter];
        let sums = (0..count).map(|parameter| Self {
            direction_slope: at(0, parameter),
            gradient_slope: at(1, parameter),
            squared_step: at(2, parameter),
            rounding: at(3, parameter),
            nonzero: at(4, parameter),
            fall: at(5, parameter),
            value: at(6, parameter),
        });
        sums.collect()
    }

    /// Of all, with the lambda of each penalised layer, whose parameters' numbers are `penalised`.
    pub fn total(sums: &[Self], penalised: &[usize], lambdas: &[f64], layers: &Layers) -> Trial {
        let mut trial = Trial::default();
        for sum in sums {
            trial.direction_slope += sum.direction_slope;
            trial.gradient_slope += sum.gradient_slope;
            trial.squared_step += sum.squared_step;
            trial.rounding += sum.rounding;
        }
        for ((parameter, lambda), layer) in penalised.iter().zip(lambdas).zip(&layers.penalised) {
            let sum = &sums[*parameter];
            trial.nonzero += sum.nonzero as usize;
            trial.penalty_decrease += lambda * sum.fall;
            trial.rounding += lambda * (HALF_ULP * sum.value + f64::from(f32::MIN_POSITIVE) * layer.range.len() as f64);
        }
        trial
    }
}

/// The lambda of each penalised layer that leaves `left` weights, as [`crate::share::lambdas_for`] has it.
pub(super) fn lambdas(model: &dyn Model, penalised: &[usize], layers: &Layers, left: usize) -> Result<Vec<f64>> {
    let mut own: Vec<Option<f64>> = vec![None; penalised.len()];
    loop {
        let pinned: usize =
            layers.penalised.iter().zip(&own).filter(|(_, own)| own.is_some()).map(|(l, _)| l.least).sum();
        let among: Vec<usize> = penalised.iter().zip(&own).filter(|(_, own)| own.is_none()).map(|(p, _)| *p).collect();
        let common = model.largest_to_go(&among, left - pinned)?;
        let stay: Vec<f64> = download(&model.count_above(common)?)?;
        let mut changed = false;
        for ((layer, parameter), own) in layers.penalised.iter().zip(penalised).zip(&mut own) {
            if own.is_none() && stay[*parameter] < layer.least as f64 {
                *own = Some(model.largest_to_go(&[*parameter], layer.least)?);
                changed = true;
            }
        }
        if !changed {
            return Ok(own.into_iter().map(|own| own.unwrap_or(common)).collect());
        }
    }
}
