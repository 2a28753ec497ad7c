//! The proximal model of a step, and what decides on the step, on candle's device.

use candle_core::{DType, Result, Tensor};

use super::Resident;
use super::download;
use crate::optimizer::Layers;
use crate::penalty::Penalty;
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

/// `d z^2 / 2` or, under l1, `d |z|`: the least lambda at which a weight goes.
pub(super) fn critical_lambda(penalty: Penalty, z: &Tensor, d: &Tensor) -> Result<Tensor> {
    match penalty {
        Penalty::L1 => z.abs()?.broadcast_mul(d),
        _ => (z.broadcast_mul(d)? * z)? * 0.5,
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
    /// The trial point and, for each parameter, its sums; and `extra`, brought along.
    pub fn attempt(&self, lambdas: &[f64], extra: &Tensor) -> Result<(Tensor, Vec<Sums>, Vec<f32>)> {
        let Self { resident, penalty, x, v, g, d, z, critical } = self;
        let lambda = resident.spread(lambdas)?;
        let moved = match penalty {
            Penalty::L1 => (z - z.sign()?.broadcast_mul(&lambda.relu()?.broadcast_div(d)?)?)?,
            _ => z.clone(),
        };
        let exact = critical.broadcast_le(&lambda)?.where_cond(&z.zeros_like()?, &moved)?;
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
        let all: Vec<f64> =
            download(&Tensor::cat(&[sums.flatten_all()?, extra.flatten_all()?.to_dtype(DType::F64)?], 0)?)?;
        let count = resident.nonzero.len();
        let at = |sum: usize, parameter: usize| all[sum * count + parameter];
        let sums = (0..count).map(|parameter| Sums {
            direction_slope: at(0, parameter),
            gradient_slope: at(1, parameter),
            squared_step: at(2, parameter),
            rounding: at(3, parameter),
            nonzero: at(4, parameter),
            fall: at(5, parameter),
            value: at(6, parameter),
        });
        Ok((trial, sums.collect(), all[7 * count..].iter().map(|value| *value as f32).collect()))
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
