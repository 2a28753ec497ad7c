//! Schedule-free averaging (Defazio et al., NeurIPS 2024, arXiv 2405.15682): steps whose length does not fall, and an
//! average of the points they lead to in place of a schedule, so that no horizon is needed.

use std::ops::Range;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::trial::Metric;

/// With the gradient `g` at `y`, and `z = x = y` at first,
///
/// `z <- z - g / sigma`, `x <- x + c (z - x)`, `u = (1 - beta) z + beta x`, `y <- prox(u)`.
///
/// What training gives is `x`. With `c = 3 / (k + 3)` at the `k`-th step, from 0, it is the average of the `z` in which the
/// `k`-th weighs as the square of `k`. While the support moves, what is averaged is not one problem's: there `k` stays at
/// [`ScheduleFree::MOVING`], or `x` would lag so far behind that `z` runs away.
///
/// While the prox leaves a given number of weights and does not shrink them, `z` and `x` keep what it takes away and go on
/// moving there, so that a weight comes back as what it has become (Lin et al., ICLR 2020, arXiv 2006.07253). Otherwise zeros
/// of `y` are zeros of all three, and a weight that comes back begins with all three alike ([`Sequences::follow`]).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScheduleFree {
    /// Weight `beta` of the average in `y`, 0 to below 1. Takes the place of momentum.
    pub beta: f64,
}

/// The two sequences behind a point.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sequences {
    /// `z`.
    pub iterate: Vec<f32>,
    /// `x`.
    pub average: Vec<f32>,
}

/// Fewest values that a task takes.
const PIECE: usize = 1 << 15;

impl ScheduleFree {
    /// Most steps that count in the average while the support moves.
    pub const MOVING: u64 = 150;

    /// `c` after `k` steps.
    pub fn part(k: u64) -> f64 {
        3.0 / (k as f64 + 3.0)
    }

    /// One step of the sequences, `c` of which goes into the average, and in `direction` the `v = sigma (y - u)` whose step
    /// from `y` ends at `u`.
    ///
    /// # Panics
    /// If the vectors differ in length.
    pub fn advance(
        self,
        (y, gradient): (&[f32], &[f32]),
        (metric, c): (Metric, f64),
        sequences: &mut Sequences,
        direction: &mut [f32],
    ) {
        let Sequences { iterate, average } = sequences;
        let lengths = [gradient.len(), iterate.len(), average.len(), direction.len()];
        assert_eq!(lengths, [y.len(); 4], "gradient, iterate, average and direction of {} weights", y.len());
        let at = (y.par_iter(), gradient.par_iter()).into_par_iter();
        let moving = (iterate.par_iter_mut(), average.par_iter_mut(), direction.par_iter_mut());
        at.zip(moving.into_par_iter()).enumerate().with_min_len(PIECE).for_each(|(i, ((y, g), (z, x, v)))| {
            let d = metric.at(i);
            let exact_z = f64::from(*z) - f64::from(*g) / d;
            let exact_x = f64::from(*x) + c * (exact_z - f64::from(*x));
            (*z, *x) = (exact_z as f32, exact_x as f32);
            *v = (d * (f64::from(*y) - exact_z - self.beta * (exact_x - exact_z))) as f32;
        });
    }
}

impl Sequences {
    /// Follows the weights in `range` that a step from `y` to `next` took away or brought back.
    pub fn follow(&mut self, range: Range<usize>, y: &[f32], next: &[f32]) {
        for i in range {
            if next[i] == 0.0 || y[i] == 0.0 {
                (self.iterate[i], self.average[i]) = (next[i], next[i]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Algorithm 1 of the paper in f64, with squares of the step's number as weights, on a parabola.
    #[test]
    fn the_sequences_are_those_of_the_paper() {
        const CLOSE: f64 = 1e-5;
        const SIGMA: f64 = 5.0;
        let method = ScheduleFree { beta: 0.9 };
        let gradient = |y: f64| 3.0 * (y - 0.25);
        let mut sequences = Sequences { iterate: vec![2.0], average: vec![2.0] };
        let (mut y, mut v) = ([2.0f32], [0.0f32]);
        let (mut z, mut x, mut exact_y) = (2.0f64, 2.0f64, 2.0f64);
        for k in 0..200 {
            let c = ScheduleFree::part(k);
            z -= gradient(exact_y) / SIGMA;
            x = (1.0 - c) * x + c * z;
            exact_y = 0.1 * z + 0.9 * x;

            let g = [gradient(f64::from(y[0])) as f32];
            method.advance((&y, &g), (Metric::Scalar(SIGMA), c), &mut sequences, &mut v);
            y[0] -= (f64::from(v[0]) / SIGMA) as f32;
            for (found, exact) in [(sequences.iterate[0], z), (sequences.average[0], x), (y[0], exact_y)] {
                assert!((f64::from(found) - exact).abs() < CLOSE, "step {k}: {found}, expected {exact}");
            }
        }
        assert!((x - 0.25).abs() < 0.01, "{x}");
    }

    #[test]
    fn a_step_weighs_as_the_square_of_its_number() {
        let weight_of =
            |step: u64| (step + 1..1000).fold(ScheduleFree::part(step), |w, k| w * (1.0 - ScheduleFree::part(k)));
        assert_eq!(ScheduleFree::part(0), 1.0);
        let ratio = weight_of(900) / weight_of(300);
        assert!((ratio - 9.0).abs() < 0.1, "{ratio}");
    }

    #[test]
    fn zeros_are_zeros_of_all_and_what_comes_back_begins_anew() {
        let mut sequences = Sequences { iterate: vec![1.0, 2.0, 3.0, 4.0], average: vec![5.0, 6.0, 7.0, 8.0] };
        sequences.follow(0..3, &[0.5, 0.0, 0.5, 0.5], &[0.0, 0.25, 0.75, 0.0]);
        assert_eq!(sequences.iterate, [0.0, 0.25, 3.0, 4.0]);
        assert_eq!(sequences.average, [0.0, 0.25, 7.0, 8.0]);
    }
}
