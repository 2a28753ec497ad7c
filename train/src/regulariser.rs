//! What a run adds to its loss: a penalty on single weights or on groups of them, within a box.

use std::ops::Range;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::group::Grouping;
use crate::penalty::Penalty;
use crate::trial::{Metric, gradient_step};

#[cfg(test)]
mod tests;

/// Fewest weights that a task takes.
const PIECE: usize = 1 << 15;

/// `h`, as far as it is the same in every layer.
///
/// In groups it acts on their norms, weighted so that groups of different sizes compete fairly and that a group of one
/// weight is that weight: `sum over groups of |g| 1(x_g != 0)` under l0 ("l2,0"), `sum of sqrt(|g|) norm(x_g)` under l1
/// ("l2,1", Yuan and Lin, J. R. Statist. Soc. B 68, 2006).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Regulariser {
    /// The penalty.
    pub penalty: Penalty,
    /// The box that the penalised weights stay in, if any. Not in groups, and with l0 and l1 only.
    pub bounds: Option<Bounds>,
}

/// An interval that holds 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bounds(pub f32, pub f32);

impl Bounds {
    /// The nearest point of the interval; NaN stays NaN.
    pub fn clip(self, z: f64) -> f64 {
        z.clamp(f64::from(self.0), f64::from(self.1))
    }
}

impl From<Penalty> for Regulariser {
    fn from(penalty: Penalty) -> Self {
        Self { penalty, bounds: None }
    }
}

impl Regulariser {
    /// `argmin_u d/2 (u - z)^2 + lambda R(u)` over the box, exactly: the prox without the box if it lies inside, else the
    /// better of the clipped point and 0, which are the only other minimisers since `R` rises away from 0.
    pub fn prox(self, z: f64, lambda: f64, d: f64) -> f64 {
        let Some(bounds) = self.bounds else { return self.penalty.prox(z, lambda, d) };
        if lambda >= self.critical_lambda(z, d) { 0.0 } else { bounds.clip(self.penalty.prox(z, lambda, d)) }
    }

    /// The least `lambda` at which [`Regulariser::prox`] is zero. In the box, under l0, what keeping `clip(z)` gains:
    /// `d/2 (z^2 - (z - clip(z))^2)`.
    pub fn critical_lambda(self, z: f64, d: f64) -> f64 {
        let free = self.penalty.critical_lambda(z, d);
        let Some(bounds) = self.bounds else { return free };
        let clipped = bounds.clip(z);
        match self.penalty {
            _ if clipped == 0.0 => 0.0,
            Penalty::L1 => free,
            _ => free - d / 2.0 * (z - clipped) * (z - clipped),
        }
    }

    /// The least `lambda` at which the prox makes a group with the points `z` zero in the metric `d`, coordinate by
    /// coordinate: `sum d z^2 / (2 |g|)` under l0, `norm(d z) / sqrt(|g|)` under l1.
    ///
    /// # Panics
    /// With a penalty that has no form for groups.
    pub fn critical_lambda_of_group(self, points: &[(f64, f64)]) -> f64 {
        let size = points.len() as f64;
        match self.penalty {
            Penalty::L0 | Penalty::L0Ball => points.iter().map(|(z, d)| d * z * z).sum::<f64>() / (2.0 * size),
            Penalty::L1 => norm(points.iter().map(|(z, d)| d * z)) / size.sqrt(),
            Penalty::LHalf | Penalty::LTwoThirds => panic!("{} has no form for groups", self.penalty.name()),
        }
    }

    /// The `mu` with which the prox of a group is `u_i = z_i / (1 + mu / d_i)`: infinite where the group goes, 0 where it
    /// stays as it is. Under l1, with `w = lambda sqrt(|g|)`, it is `w / norm(u)`.
    ///
    /// Exact under l0 in any metric and under l1 in a scalar one, where `norm(u) = norm(z) - w / d`. In a diagonal metric
    /// `t = norm(u)` is the root of `sum (d_i z_i / (d_i t + w))^2 = 1`, found by Newton's method to rounding.
    pub fn pull(self, points: &[(f64, f64)], lambda: f64) -> f64 {
        if lambda >= self.critical_lambda_of_group(points) {
            return f64::INFINITY;
        }
        if self.penalty != Penalty::L1 || lambda == 0.0 {
            return 0.0;
        }
        let weight = lambda * (points.len() as f64).sqrt();
        let first = points[0].1;
        let norm_of_prox = if points.iter().all(|(_, d)| *d == first) {
            norm(points.iter().map(|(z, _)| *z)) - weight / first
        } else {
            norm_in_diagonal_metric(points, weight)
        };
        weight / norm_of_prox
    }

    /// `h` of one layer.
    pub fn value(self, layer: &[f32], groups: Option<Grouping>) -> f64 {
        let Some(groups) = groups else {
            return layer.iter().map(|x| self.penalty.value(f64::from(*x))).sum();
        };
        let mut sum = 0.0;
        groups.for_each(|places| {
            let norm = norm(places.iter().map(|i| f64::from(layer[*i])));
            let size = places.len() as f64;
            sum += self.penalty.value(norm) * if self.penalty == Penalty::L1 { size.sqrt() } else { size };
        });
        sum
    }

    /// [`Regulariser::pull`] for each weight of the layer at `range`, in the order of the weights, at the points to which
    /// the prox is applied.
    pub fn pulls(
        self,
        groups: Grouping,
        range: Range<usize>,
        lambda: f64,
        x: &[f32],
        direction: &[f32],
        metric: Metric,
    ) -> Vec<f64> {
        let mut pulls = vec![0.0; range.len()];
        self.for_each_group(groups, range.start, x, direction, metric, |places, points| {
            let pull = self.pull(points, lambda);
            places.iter().for_each(|i| pulls[*i] = pull);
        });
        pulls
    }

    /// The critical lambda of each weight of a layer, that of its group where there are groups, appended to `to`.
    pub fn critical_lambdas(
        self,
        layer: (Range<usize>, Option<Grouping>),
        x: &[f32],
        direction: &[f32],
        metric: Metric,
        to: &mut Vec<f64>,
    ) {
        let (range, groups) = layer;
        let start = to.len();
        match groups {
            None => to.par_extend(range.into_par_iter().with_min_len(PIECE).map(|i| {
                let d = metric.at(i);
                self.critical_lambda(gradient_step(x[i], direction[i], d), d)
            })),
            Some(groups) => {
                to.resize(start + range.len(), 0.0);
                self.for_each_group(groups, range.start, x, direction, metric, |places, points| {
                    let critical = self.critical_lambda_of_group(points);
                    places.iter().for_each(|i| to[start + i] = critical);
                });
            }
        }
    }

    fn for_each_group(
        self,
        groups: Grouping,
        start: usize,
        x: &[f32],
        direction: &[f32],
        metric: Metric,
        mut visit: impl FnMut(&[usize], &[(f64, f64)]),
    ) {
        let mut points = Vec::with_capacity(groups.size());
        groups.for_each(|places| {
            points.clear();
            points.extend(places.iter().map(|i| {
                let d = metric.at(start + i);
                (gradient_step(x[start + i], direction[start + i], d), d)
            }));
            visit(places, &points);
        });
    }
}

/// The root `t > 0` of `sum (d z / (d t + w))^2 = 1`. Newton's method on `1 / sqrt(sum) - 1`, which is concave and nearly
/// linear, rises to the root from 0 (Moré and Sorensen, SIAM J. Sci. Stat. Comput. 4, 1983).
fn norm_in_diagonal_metric(points: &[(f64, f64)], weight: f64) -> f64 {
    let (mut t, mut step) = (0.0, f64::INFINITY);
    while step > 4.0 * f64::EPSILON * t {
        let (sum, slope) = points.iter().fold((0.0, 0.0), |(sum, slope), (z, d)| {
            let below = d * t + weight;
            let square = (d * z / below).powi(2);
            (sum + square, slope + square * d / below)
        });
        step = sum / slope * (sum.sqrt() - 1.0);
        t += step;
    }
    t
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}
