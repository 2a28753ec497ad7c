//! The trial step: a proximal step from the current point, and the decrease that the model predicts for it.

use std::ops::Range;

use rayon::prelude::*;

use crate::group::Grouping;
use crate::regulariser::Regulariser;

/// Weights that one task moves.
const PIECE: usize = 1 << 15;
/// Largest relative error of rounding to f32.
pub(crate) const HALF_ULP: f64 = f32::EPSILON as f64 / 2.0;

/// What is minimised around the current point: the penalty on which coordinates, and in which metric.
#[derive(Debug, Clone, Copy)]
pub struct ProximalModel<'a> {
    /// The penalty `h` of a layer.
    pub regulariser: Regulariser,
    /// The layers under the penalty, ascending in the flat vectors; the rest is outside `h`.
    pub penalised: &'a [Penalised],
    /// The metric `d`.
    pub metric: Metric<'a>,
}

/// A layer under the penalty in one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Penalised {
    /// Its weights in the flat vectors.
    pub range: Range<usize>,
    /// Weight of the penalty.
    pub lambda: f64,
    /// The groups that the penalty acts on; single weights without.
    pub groups: Option<Grouping>,
}

/// What the prox of a piece is.
#[derive(Clone, Copy)]
enum Prox<'a> {
    /// The identity, outside `h`.
    Free,
    /// Of single weights, with this `lambda`.
    Single(f64),
    /// Of groups, with the pull of each weight of the piece.
    Groups(&'a [f64]),
}

/// The metric `d` of a proximal step.
#[derive(Debug, Clone, Copy)]
pub enum Metric<'a> {
    /// `d_i = sigma`.
    Scalar(f64),
    /// `d_i = sigma D_i`, all `D_i` above 0.
    Scaled(f64, &'a [f32]),
    /// `d_i = sigma + D_i`, where the model has the curvature `D >= 0` and `sigma` regularises it.
    Shifted(f64, &'a [f32]),
}

impl Metric<'_> {
    /// `d_i`.
    pub fn at(&self, i: usize) -> f64 {
        let (regularisation, curvature) = self.parts(i);
        regularisation + curvature
    }

    /// The parts of `d_i`: the regularisation, and the curvature of the model.
    fn parts(&self, i: usize) -> (f64, f64) {
        match self {
            Self::Scalar(sigma) => (*sigma, 0.0),
            Self::Scaled(sigma, diagonal) => (sigma * f64::from(diagonal[i]), 0.0),
            Self::Shifted(sigma, diagonal) => (*sigma, f64::from(diagonal[i])),
        }
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
    /// `s'rs` with the regularisation `r` of the metric: all of it but the curvature `D`.
    pub squared_step: f64,
    /// `s'Ds / 2`.
    pub curvature: f64,
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
            curvature: self.curvature + other.curvature,
            nonzero: self.nonzero + other.nonzero,
            rounding: self.rounding + other.rounding,
        }
    }

    /// Predicted decrease `-v's - s'Ds/2 + lambda (h(x) - h(x+s))` of the model that made the step, without its
    /// regularisation. At an exact prox it is at least `s'rs/2`: the step is no worse than standing still.
    pub fn model_decrease(&self) -> f64 {
        self.penalty_decrease - self.direction_slope - self.curvature
    }

    /// Predicted decrease `-g's - s'Ds/2 + lambda (h(x) - h(x+s))` with the batch's own gradient; of either sign.
    pub fn batch_decrease(&self) -> f64 {
        self.penalty_decrease - self.gradient_slope - self.curvature
    }

    /// The measure of stationarity `sqrt(e (lambda (h(x) - h(x+s)) - v's))`, `e = s'ds / s's` the metric along the step, whose
    /// scalar part is `sigma`: without a penalty and a diagonal the norm of the direction, 0 where the step is 0.
    ///
    /// With a metric `sigma D`, whose norm of the step is not known, `e = sigma`.
    pub fn stationarity(&self, sigma: f64) -> f64 {
        let bend = if self.curvature > 0.0 { 2.0 * self.curvature / self.squared_step } else { 0.0 };
        let along = sigma * (1.0 + bend);
        (along * (self.penalty_decrease - self.direction_slope).max(0.0)).sqrt()
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
        let pulls: Vec<Vec<f64>> = self.penalised.iter().map(|layer| self.pulls(layer, x, direction)).collect();
        let mut ranges = Vec::new();
        let mut free = 0;
        for (layer, pulls) in self.penalised.iter().zip(&pulls) {
            let prox = if layer.groups.is_some() { Prox::Groups(pulls) } else { Prox::Single(layer.lambda) };
            ranges.extend([(free..layer.range.start, Prox::Free), (layer.range.clone(), prox)]);
            free = layer.range.end;
        }
        ranges.push((free..x.len(), Prox::Free));
        let mut pieces = Vec::new();
        let mut rest = &mut *trial;
        for (range, prox) in ranges {
            for start in range.clone().step_by(PIECE) {
                let piece = start..range.end.min(start + PIECE);
                let to = rest.split_off_mut(..piece.len()).expect("the ranges are those of the vectors");
                let prox = match prox {
                    Prox::Groups(pulls) => Prox::Groups(&pulls[start - range.start..][..piece.len()]),
                    other => other,
                };
                pieces.push((piece, prox, to));
            }
        }
        let move_piece =
            |(range, prox, to): (Range<usize>, _, _)| self.move_range(range, prox, x, gradient, direction, to);
        let sums: Vec<Trial> = pieces.into_par_iter().map(move_piece).collect();
        let sum = sums.into_iter().fold(Trial::default(), Trial::plus);
        self.penalised.iter().filter(|layer| layer.groups.is_some()).fold(sum, |sum, layer| {
            sum.plus(self.penalty_of_groups(layer, &x[layer.range.clone()], &trial[layer.range.clone()]))
        })
    }

    fn pulls(&self, layer: &Penalised, x: &[f32], direction: &[f32]) -> Vec<f64> {
        let Some(groups) = layer.groups else { return Vec::new() };
        self.regulariser.pulls(groups, layer.range.clone(), layer.lambda, x, direction, self.metric)
    }

    /// What the groups of a layer add to the sums.
    fn penalty_of_groups(&self, layer: &Penalised, x: &[f32], trial: &[f32]) -> Trial {
        let [before, after] = [x, trial].map(|weights| layer.lambda * self.regulariser.value(weights, layer.groups));
        Trial { penalty_decrease: before - after, rounding: HALF_ULP * after, ..Trial::default() }
    }

    /// The part of [`ProximalModel::propose`] at `range`, whose trial point goes to `to`.
    fn move_range(
        &self,
        range: Range<usize>,
        prox: Prox,
        x: &[f32],
        gradient: &[f32],
        direction: &[f32],
        to: &mut [f32],
    ) -> Trial {
        let mut sums = Trial::default();
        let penalty = self.regulariser.penalty;
        let mut penalty_sum = 0.0;
        for (k, (i, to)) in range.zip(to).enumerate() {
            let (regularisation, curvature) = self.metric.parts(i);
            let d = regularisation + curvature;
            let z = gradient_step(x[i], direction[i], d);
            let exact = match prox {
                Prox::Free => z,
                Prox::Single(lambda) => self.regulariser.prox(z, lambda, d),
                Prox::Groups(pulls) if pulls[k] == f64::INFINITY => 0.0,
                Prox::Groups(pulls) => z / (1.0 + pulls[k] / d),
            };
            let moved = exact as f32;
            *to = moved;
            let v = f64::from(direction[i]);
            let s = f64::from(moved) - f64::from(x[i]);
            sums.direction_slope += v * s;
            sums.gradient_slope += f64::from(gradient[i]) * s;
            sums.squared_step += regularisation * s * s;
            sums.curvature += curvature * s * s / 2.0;
            let tiny = f64::from(f32::MIN_POSITIVE);
            sums.rounding += (HALF_ULP * exact.abs() + tiny) * (v.abs() + curvature * s.abs());
            if !matches!(prox, Prox::Free) {
                sums.nonzero += usize::from(moved != 0.0);
            }
            if let Prox::Single(lambda) = prox {
                let value = penalty.value(f64::from(moved));
                penalty_sum += penalty.value(f64::from(x[i])) - value;
                sums.rounding += lambda * (HALF_ULP * value + tiny);
            }
        }
        if let Prox::Single(lambda) = prox {
            sums.penalty_decrease = lambda * penalty_sum;
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::group::Group;
    use crate::penalty::Penalty;
    use crate::regulariser::Bounds;

    const UNIT: Metric = Metric::Scalar(1.0);

    fn point() -> impl Strategy<Value = Vec<(f32, f32)>> {
        let weight = prop_oneof![Just(0.0f32), -1.0..1.0f32, -1e-3..1e-3f32];
        prop::collection::vec((weight, -2.0..2.0f32), 1..40)
    }

    const PENALTIES: [Penalty; 4] = [Penalty::L0, Penalty::L1, Penalty::LHalf, Penalty::LTwoThirds];

    fn layer(range: Range<usize>, lambda: f64) -> Penalised {
        Penalised { range, lambda, groups: None }
    }

    /// A metric of each kind.
    fn metric(kind: usize, sigma: f64, diagonal: &[f32]) -> Metric<'_> {
        [Metric::Scalar(sigma), Metric::Scaled(sigma, diagonal), Metric::Shifted(sigma, diagonal)][kind]
    }

    /// That `xi >= s'rs/2` up to the stated rounding, on coordinates whose direction is the gradient.
    fn check_decrease(model: &ProximalModel, x: &[f32], v: &[f32]) -> Result<(), TestCaseError> {
        let mut moved = vec![0.0; x.len()];
        let trial = model.propose(x, v, v, &mut moved);
        let bound = trial.squared_step / 2.0;
        if let Metric::Scalar(sigma) | Metric::Shifted(sigma, _) = model.metric {
            let squares = moved.iter().zip(x).map(|(to, x)| (f64::from(*to) - f64::from(*x)).powi(2));
            let expected = sigma / 2.0 * squares.sum::<f64>();
            prop_assert!((bound - expected).abs() <= 1e-12 * expected, "{trial:?}: {bound}, expected {expected}");
        }
        let slack = 2.0 * trial.rounding + 1e-12 * (bound + trial.curvature);
        prop_assert!(trial.model_decrease() >= bound - slack, "{trial:?} {bound} {slack}");
        prop_assert!(slack <= 1e-5 * (1.0 + bound), "the bound says something: {slack}");
        Ok(())
    }

    proptest! {
        /// Every penalty, scalar and diagonal metrics, with and without a box that holds the point, sigma from tiny to huge.
        #[test]
        fn step_is_no_worse_than_none(
            point in point(), penalty in prop::sample::select(&PENALTIES[..]), kind in 0..3usize, boxed: bool,
            lambda in prop_oneof![Just(0.0), 1e-6..1.0f64], exponent in -3.0..4.0f64
        ) {
            let (x, v): (Vec<f32>, Vec<f32>) = point.into_iter().unzip();
            let bounds = (boxed && matches!(penalty, Penalty::L0 | Penalty::L1)).then_some(Bounds(-1.0, 1.0));
            let penalised = [layer(0..x.len() / 2, lambda), layer(x.len() / 2 + 1..x.len(), lambda / 3.0)];
            let diagonal: Vec<f32> = v.iter().map(|v| v.abs() + if kind == 1 { 0.1 } else { 0.0 }).collect();
            let metric = metric(kind, 10f64.powf(exponent), &diagonal);
            let regulariser = Regulariser { penalty, bounds };
            check_decrease(&ProximalModel { regulariser, penalised: &penalised, metric }, &x, &v)?;
        }

        #[test]
        fn step_of_groups_is_no_worse_than_none(
            point in prop::collection::vec((-1.0..1.0f32, -2.0..2.0f32), 24..25), l1: bool, kind in 0..3usize,
            group in prop::sample::select(&[Group::Kernel, Group::InputChannel, Group::Block1x4][..]),
            lambda in prop_oneof![Just(0.0), 1e-6..1.0f64], exponent in -3.0..4.0f64
        ) {
            let (x, v): (Vec<f32>, Vec<f32>) = point.into_iter().unzip();
            let penalised = [Penalised { range: 3..23, lambda, groups: Some(Grouping::new(group, [2, 5, 2])) }];
            let diagonal: Vec<f32> = v.iter().map(|v| v.abs() + if kind == 1 { 0.1 } else { 0.0 }).collect();
            let metric = metric(kind, 10f64.powf(exponent), &diagonal);
            let regulariser = Regulariser::from(if l1 { Penalty::L1 } else { Penalty::L0 });
            check_decrease(&ProximalModel { regulariser, penalised: &penalised, metric }, &x, &v)?;
        }
    }

    fn l0<'a>(penalised: &'a [Penalised]) -> ProximalModel<'a> {
        ProximalModel { regulariser: Penalty::L0.into(), penalised, metric: UNIT }
    }

    proptest! {
        /// With curvature the trial point is as good as any of a grid under
        /// `v's + s'Ds/2 + sigma/2 s's + lambda h(x+s)`, and `xi` is what that falls by without the term in `sigma`.
        #[test]
        fn the_step_with_curvature_minimises_its_model(
            x in -1.0..1.0f32, v in -2.0..2.0f32, curvature in prop_oneof![Just(0.0), 0.0..20.0f32],
            penalty in prop::sample::select(&PENALTIES[..]), lambda in 1e-3..1.0f64, exponent in -1.0..2.0f64
        ) {
            let sigma = 10f64.powf(exponent);
            let (point, slope, bend) = (f64::from(x), f64::from(v), f64::from(curvature));
            let model = |u: f64| {
                let s = u - point;
                slope * s + bend / 2.0 * s * s + lambda * penalty.value(u)
            };
            let regularised = |u: f64| model(u) + sigma / 2.0 * (u - point).powi(2);
            let penalised = [layer(0..1, lambda)];
            let (diagonal, mut moved) = ([curvature], [9.0]);
            let metric = Metric::Shifted(sigma, &diagonal);
            let proposal = ProximalModel { regulariser: penalty.into(), penalised: &penalised, metric };
            let trial = proposal.propose(&[x], &[v], &[v], &mut moved);
            let found = f64::from(moved[0]);
            let best = (-4000..=4000).map(|k| regularised(f64::from(k) / 200.0)).fold(regularised(0.0), f64::min);
            prop_assert!(regularised(found) <= best + 1e-6, "{found}: {} and {best}", regularised(found));
            let fall = model(point) - model(found);
            prop_assert!((trial.model_decrease() - fall).abs() <= 1e-12 * (1.0 + fall.abs()), "{trial:?}: {fall}");
            prop_assert_eq!(trial.batch_decrease(), trial.model_decrease());
        }
    }

    #[test]
    fn only_prunable_ranges_are_pruned() {
        let x = [0.5f32; 5];
        let mut moved = [9.0f32; 5];
        let trial = l0(&[layer(1..2, 1.0), layer(3..4, 1.0)]).propose(&x, &[0.0; 5], &[0.0; 5], &mut moved);
        assert_eq!(moved, [0.5, 0.0, 0.5, 0.0, 0.5]);
        assert_eq!(trial.penalty_decrease, 2.0);
        assert_eq!(trial.squared_step, 0.5);
    }

    #[test]
    fn a_group_goes_as_one_and_its_zeros_are_exact() {
        let groups = Some(Grouping::new(Group::Kernel, [2, 1, 2]));
        let x = [0.5, -0.4, -0.5, 0.8, -0.1];
        let mut moved = [9.0f32; 5];
        let penalised = [Penalised { range: 0..4, lambda: 0.15, groups }];
        let trial = l0(&penalised).propose(&x, &[0.0; 5], &[0.0; 5], &mut moved);
        // Squares add up to 0.41 and 0.89; a pair goes up to 2 * 2 * 0.15.
        assert_eq!(moved.map(f32::to_bits), [0.0, 0.0, -0.5, 0.8, -0.1].map(f32::to_bits));
        assert_eq!((trial.nonzero, trial.penalty_decrease), (2, 0.15 * 2.0));
    }

    #[test]
    fn a_nan_gradient_shows_in_the_sums() {
        let penalised = [layer(0..1, 1.0), layer(1..2, 1.0)];
        let trial = l0(&penalised).propose(&[0.5; 2], &[f32::NAN, 0.0], &[f32::NAN, 0.0], &mut [0.0; 2]);
        assert!(trial.model_decrease().is_nan());
    }
}
