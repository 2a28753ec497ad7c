//! The operations of a step by candle's operators.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use super::kernels::{Kernels, Still, Zeros};
use super::model::{Lambda, Model, Parts};
use crate::candle_executor::rows::{Rows, Search, largest_to_go};
use crate::direction::Direction;
use crate::executor::Support;
use crate::layout::Segment;
use crate::optimizer::Layers;
use crate::penalty::Penalty;
use crate::trial::HALF_ULP;

/// On any device.
#[derive(Debug)]
pub(super) struct Composed {
    rows: Arc<Rows>,
    /// Number of parameters.
    parameters: usize,
    /// The number of each penalised layer's parameter.
    penalised: Vec<usize>,
    /// `[rows, 1]`, 1 in penalised layers.
    penalised_rows: Tensor,
    /// `[rows, ROW]`, 1 in prunable weights.
    prunable: Tensor,
    /// The parameters that have channels, and the number of these.
    channels: Vec<(usize, usize)>,
}

impl Composed {
    pub fn new(rows: Arc<Rows>, segments: &[Segment], layers: &Layers, penalised: &[usize]) -> Result<Self> {
        let mut flags = vec![0.0; segments.len()];
        penalised.iter().for_each(|parameter| flags[*parameter] = 1.0);
        let penalised_rows = rows.spread(&flags)?.to_dtype(DType::U8)?;
        let prunable: Vec<f64> =
            segments.iter().map(|s| f64::from(u8::from(layers.prunable.contains(&s.range)))).collect();
        let prunable = rows.broadcast(&rows.spread(&prunable)?.to_dtype(DType::U8)?)?.contiguous()?;
        let pairs = penalised.iter().zip(&layers.penalised);
        let channels = pairs.filter_map(|(parameter, layer)| Some((*parameter, layer.channels?))).collect();
        let (parameters, penalised) = (segments.len(), penalised.to_vec());
        Ok(Self { rows, parameters, penalised, penalised_rows, prunable, channels })
    }

    /// 1 where a prunable weight is zero.
    fn zeros(&self, x: &Tensor) -> Result<Tensor> {
        x.eq(0f32)? * &self.prunable
    }

    /// The direction without that of channels that have no weights.
    fn hold_empty_channels(&self, still: &Still, x: &Tensor, direction: Tensor) -> Result<Tensor> {
        if still.empty.is_empty() {
            return Ok(direction);
        }
        let x = self.rows.tensors(x)?;
        self.hold_channels(&still.empty, direction, |parameter, direction| {
            x[parameter].reshape(direction.shape())?.ne(0f32)?.to_dtype(DType::F32)?.sum_keepdim(1)?.gt(0f32)
        })
    }

    /// The vector with zeros in the channels of these parameters that do not move: `moves` gives `[channels, 1]` for the
    /// `[channels, values]` of a parameter.
    fn hold_channels(
        &self,
        of: &[(usize, usize)],
        vector: Tensor,
        moves: impl Fn(usize, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut held = self.rows.tensors(&vector)?;
        for (parameter, channels) in of {
            let values = held[*parameter].reshape((*channels, ()))?;
            let moves = moves(*parameter, &values)?.broadcast_as(values.shape())?;
            held[*parameter] = moves.where_cond(&values, &values.zeros_like()?)?;
        }
        self.rows.gather(&held.into_iter().map(Some).collect::<Vec<_>>())
    }
}

impl Kernels for Composed {
    fn gather(
        &self,
        gradients: &[Option<Tensor>],
        x: &Tensor,
        mu: f32,
        support: Support,
        steepest: Option<f64>,
    ) -> Result<Tensor> {
        let mut gradient = self.rows.gather(gradients)?;
        if support == Support::Frozen {
            gradient = self.zeros(x)?.where_cond(&gradient.zeros_like()?, &gradient)?;
        }
        if mu > 0.0 {
            let decayed = (&gradient + x.affine(f64::from(mu), 0.0)?)?;
            gradient = self.prunable.where_cond(&decayed, &gradient)?;
        }
        match steepest {
            Some(steepest) => self.hold_channels(&self.channels, gradient, |_, gradient| {
                gradient.to_dtype(DType::F64)?.sqr()?.sum_keepdim(1)?.le(steepest)
            }),
            None => Ok(gradient),
        }
    }

    fn advance(&self, vectors: [&Tensor; 4], [sigma, c, beta]: [f64; 3], still: &Still) -> Result<[Tensor; 3]> {
        let [y, g, z, x] = vectors.map(|vector| vector.to_dtype(DType::F64));
        let (y, g, z, x) = (y?, g?, z?, x?);
        let z = (z - g.broadcast_div(&Tensor::full(sigma, (1, 1), y.device())?)?)?;
        let x = (&x + (&z - &x)?.affine(c, 0.0)?)?;
        let v = ((y - &z)? - (&x - &z)?.affine(beta, 0.0)?)?.affine(sigma, 0.0)?;
        let single = |vector: Tensor| vector.to_dtype(DType::F32);
        let (mut v, z, x) = (single(v)?, single(z)?, single(x)?);
        if still.zeros == Zeros::Stay {
            v = self.zeros(vectors[0])?.where_cond(&v.zeros_like()?, &v)?;
        }
        Ok([self.hold_empty_channels(still, vectors[0], v)?, z, x])
    }

    fn average_gradient(
        &self,
        [x, g]: [&Tensor; 2],
        momentum: Option<&Tensor>,
        w: f32,
        ahead: Option<f32>,
        still: &Still,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let new = g.affine(f64::from(w), 0.0)?;
        let mut average = match momentum {
            Some(momentum) => (momentum.affine(f64::from(1.0 - w), 0.0)? + new)?,
            None => new,
        };
        match (still.zeros, momentum) {
            (Zeros::Stay, _) => average = self.zeros(x)?.where_cond(&average.zeros_like()?, &average)?,
            (Zeros::Coast, Some(momentum)) => average = self.zeros(x)?.where_cond(momentum, &average)?,
            _ => {}
        }
        match ahead {
            Some(beta) => {
                let ahead = g.affine(f64::from(1.0 - beta), 0.0)?;
                let direction = (average.affine(f64::from(beta), 0.0)? + ahead)?;
                Ok((average, Some(self.hold_empty_channels(still, x, direction)?)))
            }
            None => Ok((self.hold_empty_channels(still, x, average)?, None)),
        }
    }

    fn average_square(&self, g: &Tensor, last: Option<&Tensor>, w: f32) -> Result<[Tensor; 2]> {
        let last = last.map_or_else(|| g.zeros_like(), |last| Ok(last.clone()))?;
        let next = (&last + (g.sqr()? - &last)?.affine(f64::from(w), 0.0)?)?;
        let diagonal = next.sqrt()?.affine(1.0, f64::from(Direction::DELTA))?;
        Ok([next, diagonal])
    }

    fn model<'a>(&'a self, parts: Parts<'a>) -> Result<Box<dyn Model + 'a>> {
        let [x, v, g] = [parts.x, parts.v, parts.g].map(|vector| vector.to_dtype(DType::F64));
        let (x, v, g) = (x?, v?, g?);
        let d = match parts.diagonal {
            Some(diagonal) => (diagonal.to_dtype(DType::F64)? * parts.sigma)?,
            None => Tensor::full(parts.sigma, (1, 1), x.device())?,
        };
        let z = (&x - v.broadcast_div(&d)?)?;
        let critical = match parts.penalty {
            Penalty::L1 => z.abs()?.broadcast_mul(&d)?,
            _ => ((z.broadcast_mul(&d)? * &z)? * 0.5)?,
        };
        Ok(Box::new(ComposedModel { kernels: self, penalty: parts.penalty, x, v, g, d, z, critical }))
    }

    fn follow(&self, [old, next, z, x]: [&Tensor; 4]) -> Result<[Tensor; 2]> {
        let anew = ((next.eq(0f32)? + old.eq(0f32)?)?.gt(0u8)? * &self.prunable)?;
        Ok([anew.where_cond(next, z)?, anew.where_cond(next, x)?])
    }

    fn decay(&self, x: &Tensor, kept: f32) -> Result<Tensor> {
        self.prunable.where_cond(&x.affine(f64::from(kept), 0.0)?, x)
    }

    fn average_point(&self, x: &Tensor, average: Option<&Tensor>, w: f32) -> Result<Tensor> {
        let last = average.map_or_else(|| x.zeros_like(), |last| Ok(last.clone()))?;
        &last + (x - &last)?.affine(f64::from(w), 0.0)?
    }
}

/// Vectors in f64.
struct ComposedModel<'a> {
    kernels: &'a Composed,
    penalty: Penalty,
    x: Tensor,
    v: Tensor,
    g: Tensor,
    d: Tensor,
    z: Tensor,
    critical: Tensor,
}

impl ComposedModel<'_> {
    /// The critical lambdas in rows that are 1 in `among`, `[rows, 1]`; -1 elsewhere.
    fn among(&self, among: &Tensor) -> Result<Tensor> {
        let shape = self.critical.shape();
        let out = Tensor::full(-1f64, shape, self.critical.device())?;
        among.broadcast_as(shape)?.where_cond(&self.critical, &out)
    }
}

impl Model for ComposedModel<'_> {
    fn attempt(&self, lambda: Lambda) -> Result<(Tensor, Tensor)> {
        let Self { kernels, penalty, x, v, g, d, z, critical } = self;
        let lambda = &match lambda {
            Lambda::Own(lambdas) => {
                let mut all = vec![-1.0; kernels.parameters];
                kernels.penalised.iter().zip(lambdas).for_each(|(parameter, lambda)| all[*parameter] = *lambda);
                kernels.rows.spread(&all)?
            }
            Lambda::Common(answer) => {
                let rows = &kernels.penalised_rows;
                let out = Tensor::full(-1f64, (1, 1), z.device())?.broadcast_as(rows.shape())?;
                rows.where_cond(&answer.narrow(0, 0, 1)?.broadcast_as(rows.shape())?, &out)?
            }
        };
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
        let sums = kernels.rows.sums(&[
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

    fn search(&self, left: usize) -> Result<Tensor> {
        let values = self.among(&self.kernels.penalised_rows)?;
        let mut search = Search::new(&values, left)?;
        search.go_on()?;
        Ok(search.answer)
    }

    fn largest_to_go(&self, among: &[usize], left: usize) -> Result<f64> {
        let rows = &self.kernels.rows;
        if let [parameter] = among {
            return largest_to_go(&rows.part(&self.critical, *parameter)?, left);
        }
        let mut flags = vec![0.0; self.kernels.parameters];
        among.iter().for_each(|parameter| flags[*parameter] = 1.0);
        largest_to_go(&self.among(&rows.spread(&flags)?.to_dtype(DType::U8)?)?, left)
    }

    fn count_above(&self, lambda: f64) -> Result<Tensor> {
        self.kernels.rows.sums(&[self.critical.gt(lambda)?.to_dtype(DType::F32)?])
    }

    fn critical(&self) -> Option<&Tensor> {
        Some(&self.critical)
    }
}
