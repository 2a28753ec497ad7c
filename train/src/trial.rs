//! The trial step: a proximal step from the current point, and the decrease that the model predicts for it.

use std::ops::Range;

use rayon::prelude::*;

use crate::penalty::Penalty;

/// Weights that one task moves.
const PIECE: usize = 1 << 15;

/// What is minimised around the current point: the penalty on which coordinates, and in which metric.
#[derive(Debug, Clone, Copy)]
pub struct ProximalModel<'a> {
    /// The penalty `h`.
    pub penalty: Penalty,
    /// The layers under the penalty, ascending in the flat vectors, with its weight in each; the rest is outside `h`.
    pub penalised: &'a [(Range<usize>, f64)],
    /// The metric `d`.
    pub metric: Metric<'a>,
}

/// The metric of a proximal step: `d_i = sigma` or `sigma D_i`.
#[derive(Debug, Clone, Copy)]
pub struct Metric<'a> {
    /// The scalar.
    pub sigma: f64,
    /// The diagonal `D`, all above 0; empty for a scalar metric.
    pub diagonal: &'a [f32],
}

impl Metric<'_> {
    /// `d_i`.
    pub fn at(&self, i: usize) -> f64 {
        self.diagonal.get(i).map_or(self.sigma, |d| self.sigma * f64::from(*d))
    }
}

/// The point `x_i - v_i / d` to which the prox is applied.
pub fn gradient_step(x: f32, v: f32, d: f64) -> f64 {
    f64::from(x) - f64::from(v) / d
}

/// Sums over the step `s` of a trial.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Trial {
    /// `v's` with the direction `v`.
    pub direction_slope: f64,
    /// `g's` with the gradient `g`.
    pub gradient_slope: f64,
    /// `lambda (h(x) - h(x+s))`.
    pub penalty_decrease: f64,
    /// `s'ds` in the metric `d`.
    pub squared_step: f64,
    /// Penalised weights that are not zero at the trial point.
    pub nonzero: usize,
    /// Most that rounding the trial point to f32 can change the predicted decrease by.
    pub rounding: f64,
}

impl Trial {
    fn plus(self, other: Self) -> Self {
        Self {
            direction_slope: self.direction_slope + other.direction_slope,
            gradient_slope: self.gradient_slope + other.gradient_slope,
            penalty_decrease: self.penalty_decrease + other.penalty_decrease,
            squared_step: self.squared_step + other.squared_step,
            nonzero: self.nonzero + other.nonzero,
            rounding: self.rounding + other.rounding,
        }
    }

    /// Predicted decrease `-v's + lambda (h(x) - h(x+s))` of the model that made the step. At an exact prox it is at
    /// least `s'ds/2` (the step is no worse than standing still).
    pub fn model_decrease(&self) -> f64 {
        self.penalty_decrease - self.direction_slope
    }

    /// Predicted decrease `-g's + lambda (h(x) - h(x+s))` with the batch's own gradient; of either sign.
    pub fn batch_decrease(&self) -> f64 {
        self.penalty_decrease - self.gradient_slope
    }
}

impl ProximalModel<'_> {
    /// Writes `x + s = prox_{lambda h / d}(x - v/d)` into `trial`; coordinates outside `h` take `s = -v/d`.
    ///
    /// Computed in f64 and rounded once, so a zero of the prox is an exact zero; all sums are f64, in pieces of fixed
    /// length that threads share, so that the number of threads does not show.
    ///
    /// # Panics
    /// If the four vectors differ in length.
    pub fn propose(&self, x: &[f32], gradient: &[f32], direction: &[f32], trial: &mut [f32]) -> Trial {
        let lengths = [gradient.len(), direction.len(), trial.len()];
        assert_eq!(lengths, [x.len(); 3], "gradient, direction and trial for {} parameters", x.len());
        let mut pieces = Vec::new();
        let mut rest = trial;
        let mut cut = |range: Range<usize>, lambda: Option<f64>| {
            for start in range.clone().step_by(PIECE) {
                let piece = start..range.end.min(start + PIECE);
                let to = rest.split_off_mut(..piece.len()).expect("the ranges are those of the vectors");
                pieces.push((piece, lambda, to));
            }
        };
        let mut free = 0;
        for (range, lambda) in self.penalised {
            cut(free..range.start, None);
            cut(range.clone(), Some(*lambda));
            free = range.end;
        }
        cut(free..x.len(), None);
        let move_piece =
            |(range, lambda, to): (Range<usize>, _, _)| self.move_range(range, lambda, x, gradient, direction, to);
        let sums: Vec<Trial> = pieces.into_par_iter().map(move_piece).collect();
        sums.into_iter().fold(Trial::default(), Trial::plus)
    }

    /// The part of [`ProximalModel::propose`] at `range`, whose trial point goes to `to`.
    fn move_range(
        &self,
        range: Range<usize>,
        lambda: Option<f64>,
        x: &[f32],
        gradient: &[f32],
        direction: &[f32],
        to: &mut [f32],
    ) -> Trial {
        let mut sums = Trial::default();
        let half_ulp = f64::from(f32::EPSILON) / 2.0;
        let mut penalty_sum = 0.0;
        for (i, to) in range.zip(to) {
            let d = self.metric.at(i);
            let z = gradient_step(x[i], direction[i], d);
            let exact = lambda.map_or(z, |lambda| self.penalty.prox(z, lambda, d));
            let moved = exact as f32;
            *to = moved;
            let v = f64::from(direction[i]);
            let s = f64::from(moved) - f64::from(x[i]);
            sums.direction_slope += v * s;
            sums.gradient_slope += f64::from(gradient[i]) * s;
            sums.squared_step += d * s * s;
            sums.rounding +=
                (half_ulp * exact.abs() + f64::from(f32::MIN_POSITIVE)) * (v.abs() + lambda.unwrap_or(0.0));
            if lambda.is_some() {
                sums.nonzero += usize::from(moved != 0.0);
                penalty_sum += self.penalty.value(x[i]) - self.penalty.value(moved);
            }
        }
        sums.penalty_decrease = lambda.unwrap_or(0.0) * penalty_sum;
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNIT: Metric = Metric { sigma: 1.0, diagonal: &[] };

    fn point() -> impl Strategy<Value = Vec<(f32, f32)>> {
        let weight = prop_oneof![Just(0.0f32), -1.0..1.0f32, -1e-3..1e-3f32];
        prop::collection::vec((weight, -2.0..2.0f32), 1..40)
    }

    proptest! {
        /// xi >= s'ds/2 up to the stated rounding, for both penalties, scalar and diagonal metrics, sigma from tiny to huge.
        #[test]
        fn step_is_no_worse_than_none(
            point in point(), l1: bool, diagonal: bool,
            lambda in prop_oneof![Just(0.0), 1e-6..1.0f64], exponent in -3.0..4.0f64
        ) {
            let (x, v): (Vec<f32>, Vec<f32>) = point.into_iter().unzip();
            let penalty = if l1 { Penalty::L1 } else { Penalty::L0 };
            let penalised = [(0..x.len() / 2, lambda), (x.len() / 2 + 1..x.len(), lambda / 3.0)];
            let diagonal: Vec<f32> = if diagonal { v.iter().map(|v| v.abs() + 0.1).collect() } else { Vec::new() };
            let metric = Metric { sigma: 10f64.powf(exponent), diagonal: &diagonal };
            let model = ProximalModel { penalty, penalised: &penalised, metric };
            let mut moved = vec![0.0; x.len()];
            let trial = model.propose(&x, &v, &v, &mut moved);
            let bound = trial.squared_step / 2.0;
            let slack = 2.0 * trial.rounding + 1e-12 * bound;
            prop_assert!(trial.model_decrease() >= bound - slack, "{trial:?} {bound} {slack}");
            prop_assert!(slack <= 1e-5 * (1.0 + bound), "the bound says something: {slack}");
        }
    }

    #[test]
    fn only_prunable_ranges_are_pruned() {
        let model = ProximalModel { penalty: Penalty::L0, penalised: &[(1..2, 1.0), (3..4, 1.0)], metric: UNIT };
        let x = [0.5f32; 5];
        let mut moved = [9.0f32; 5];
        let trial = model.propose(&x, &[0.0; 5], &[0.0; 5], &mut moved);
        assert_eq!(moved, [0.5, 0.0, 0.5, 0.0, 0.5]);
        assert_eq!(trial.penalty_decrease, 2.0);
        assert_eq!(trial.squared_step, 0.5);
    }

    #[test]
    fn a_nan_gradient_shows_in_the_sums() {
        let model = ProximalModel { penalty: Penalty::L0, penalised: &[(0..1, 1.0), (1..2, 1.0)], metric: UNIT };
        let trial = model.propose(&[0.5; 2], &[f32::NAN, 0.0], &[f32::NAN, 0.0], &mut [0.0; 2]);
        assert!(trial.model_decrease().is_nan());
    }
}
