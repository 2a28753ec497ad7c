//! The proximal model of a step, and what decides on the step, on candle's device.

use candle_core::{DType, Result, Tensor};

use super::{Resident, download, largest_to_go};
use crate::optimizer::Layers;
use crate::penalty::Penalty;
use crate::share::{Share, lambdas_for};
use crate::trial::{HALF_ULP, Trial};

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
}

/// `d z^2 / 2` or, under l1, `d |z|`: the least lambda at which a weight goes.
pub(super) fn critical_lambda(penalty: Penalty, z: &Tensor, d: &Tensor) -> Result<Tensor> {
    match penalty {
        Penalty::L1 => z.abs()?.broadcast_mul(d),
        _ => (z.broadcast_mul(d)? * z)? * 0.5,
    }
}

impl Resident {
    /// The lambda of each penalised layer that leaves `left` weights, as [`crate::share::lambdas_for`] has it.
    pub fn lambdas(&self, layers: &Layers, critical: &Tensor, left: usize) -> Result<Vec<f64>> {
        if self.searches_on_host {
            let all: Vec<f64> = self.rows.download(critical)?;
            let mut own: Vec<f64> =
                layers.penalised.iter().flat_map(|layer| &all[layer.range.clone()]).copied().collect();
            return Ok(lambdas_for(left, &layers.penalised, Share::Global, &mut own));
        }
        let mut own: Vec<Option<f64>> = vec![None; self.penalised.len()];
        loop {
            let mut among = vec![0.0; self.nonzero.len()];
            let mut pinned = 0;
            for ((layer, parameter), own) in layers.penalised.iter().zip(&self.penalised).zip(&own) {
                match own {
                    Some(_) => pinned += layer.least,
                    None => among[*parameter] = 1.0,
                }
            }
            let among = self.rows.spread(&among)?.to_dtype(DType::U8)?.broadcast_as(critical.shape())?;
            let out = Tensor::full(-1f64, critical.shape(), critical.device())?;
            let common = largest_to_go(&among.where_cond(critical, &out)?, left - pinned)?;
            let stay: Vec<f64> = download(&self.rows.sums(&[critical.gt(common)?.to_dtype(DType::F32)?])?)?;
            let mut changed = false;
            for ((layer, parameter), own) in layers.penalised.iter().zip(&self.penalised).zip(&mut own) {
                if own.is_none() && stay[*parameter] < layer.least as f64 {
                    *own = Some(largest_to_go(&self.rows.part(critical, *parameter)?, layer.least)?);
                    changed = true;
                }
            }
            if !changed {
                return Ok(own.into_iter().map(|own| own.unwrap_or(common)).collect());
            }
        }
    }

    /// For each row the lambda of its layer, -1 outside the penalised ones.
    pub fn spread(&self, lambdas: &[f64]) -> Result<Tensor> {
        let mut all = vec![-1.0; self.nonzero.len()];
        self.penalised.iter().zip(lambdas).for_each(|(parameter, lambda)| all[*parameter] = *lambda);
        self.rows.spread(&all)
    }
}

/// The proximal model of a step.
pub(super) struct Model<'a> {
    pub resident: &'a Resident,
    pub penalty: Penalty,
    pub x: Tensor,
    pub v: Tensor,
    pub g: Tensor,
    pub d: Tensor,
    pub z: Tensor,
    pub critical: Tensor,
}

impl Model<'_> {
    /// The trial point with the lambda of each row, `[rows, 1]`, and its sums for each parameter.
    pub fn attempt(&self, lambda: &Tensor) -> Result<(Tensor, Tensor)> {
        let Self { resident, penalty, x, v, g, d, z, critical } = self;
        let moved = match penalty {
            Penalty::L1 => (z - z.sign()?.broadcast_mul(&lambda.relu()?.broadcast_div(d)?)?)?,
            _ => z.clone(),
        };
        let exact = critical.broadcast_le(lambda)?.where_cond(&z.zeros_like()?, &moved)?;
        let trial = exact.to_dtype(DType::F32)?;
        let new = trial.to_dtype(DType::F64)?;
        let s = (&new - x)?;
        let not_zero = |values: &Tensor| values.ne(0f64)?.to_dtype(DType::F64);
        let value = |values: &Tensor| match penalty {
            Penalty::L0 => not_zero(values),
            Penalty::L1 => values.abs(),
            _ => values.zeros_like(),
        };
        let after = value(&new)?;
        let sums = resident.rows.sums(&[
            (v * &s)?,
            (g * &s)?,
            (s.broadcast_mul(d)? * &s)?,
            (exact.abs()?.affine(HALF_ULP, f64::from(f32::MIN_POSITIVE))? * v.abs()?)?,
            not_zero(&new)?,
            (value(x)? - &after)?,
            after,
        ])?;
        Ok((trial, sums))
    }

    pub fn total(&self, lambdas: &[f64], layers: &Layers, sums: &[Sums]) -> Trial {
        let mut trial = Trial::default();
        for sum in sums {
            trial.direction_slope += sum.direction_slope;
            trial.gradient_slope += sum.gradient_slope;
            trial.squared_step += sum.squared_step;
            trial.rounding += sum.rounding;
        }
        for ((parameter, lambda), layer) in self.resident.penalised.iter().zip(lambdas).zip(&layers.penalised) {
            let sum = &sums[*parameter];
            trial.nonzero += sum.nonzero as usize;
            trial.penalty_decrease += lambda * sum.fall;
            trial.rounding += lambda * (HALF_ULP * sum.value + f64::from(f32::MIN_POSITIVE) * layer.range.len() as f64);
        }
        trial
    }
}
