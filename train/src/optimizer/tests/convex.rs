//! Convex problems with known solutions, and what must hold in every step on the way there.

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::sr2::Prediction;

/// `1/(2 rows) |A x - b|^2 + ridge/2 |x|^2`, in f64 inside.
#[derive(Deserialize)]
pub(super) struct LeastSquares {
    rows: usize,
    cols: usize,
    ridge: f64,
    pub(super) lambda: f64,
    a: Vec<f64>,
    b: Vec<f64>,
    /// The minimiser with `lambda |x|_1` added.
    x: Vec<f64>,
}

impl LeastSquares {
    pub(super) fn elastic_net() -> Self {
        serde_json::from_str(include_str!("../../../tests/reference/elastic_net.json")).expect("the reference is valid")
    }

    fn lasso() -> Self {
        serde_json::from_str(include_str!("../../../tests/reference/lasso.json")).expect("the reference is valid")
    }

    fn residual(&self, x: &[f32]) -> Vec<f64> {
        let row = |r: usize| {
            let a = &self.a[r * self.cols..(r + 1) * self.cols];
            a.iter().zip(x).map(|(a, x)| a * f64::from(*x)).sum::<f64>() - self.b[r]
        };
        (0..self.rows).map(row).collect()
    }
}

impl Objective for LeastSquares {
    fn gradient(&mut self, x: &[f32], gradient: &mut [f32]) -> Result<f64, ExecutorError> {
        let residual = self.residual(x);
        for (c, g) in gradient.iter_mut().enumerate() {
            let product: f64 = residual.iter().enumerate().map(|(r, e)| self.a[r * self.cols + c] * e).sum();
            *g = (product / self.rows as f64 + self.ridge * f64::from(x[c])) as f32;
        }
        self.value(x)
    }

    fn value(&mut self, x: &[f32]) -> Result<f64, ExecutorError> {
        let squares: f64 = self.residual(x).iter().map(|e| e * e).sum();
        let norm: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
        Ok(squares / (2.0 * self.rows as f64) + self.ridge / 2.0 * norm)
    }
}

/// Distance to the reference in the largest norm; f32 parameters and the resolution rule leave about 1e-4.
const SOLVED: f64 = 5e-4;

fn solve(settings: Settings, steps: usize) -> (Vec<f32>, LeastSquares) {
    let mut problem = LeastSquares::elastic_net();
    let mut sr2 = Optimizer::new(settings, Layers::one(0..problem.cols));
    let mut x = vec![1.0; problem.cols];
    for _ in 0..steps {
        sr2.step(&mut x, &mut problem).unwrap();
    }
    (x, problem)
}

fn assert_solved(x: &[f32], problem: &LeastSquares) {
    for (i, (found, expected)) in x.iter().zip(&problem.x).enumerate() {
        assert!((f64::from(*found) - expected).abs() < SOLVED, "x[{i}] = {found}, expected {expected}");
        assert_eq!(*found == 0.0, *expected == 0.0, "zero pattern at {i}: {found}, expected {expected}");
    }
}

#[test]
fn published_rule_solves_a_strongly_convex_l1_problem() {
    let lambda = LeastSquares::elastic_net().lambda;
    let (x, problem) = solve(settings(Penalty::L1, lambda, 0.0, Sr2::paper()), 4000);
    assert_solved(&x, &problem);
}

#[test]
fn robust_preset_solves_it_too() {
    let lambda = LeastSquares::elastic_net().lambda;
    let floor = Floor { lowest: 0.1, first: 0.1, last: 0.1, warmup: 0.0, steps: 400 };
    let (x, problem) = solve(settings(Penalty::L1, lambda, 0.0, Sr2::robust(floor, 10)), 400);
    assert_solved(&x, &problem);
    let (x, problem) = solve(settings(Penalty::L1, lambda, 0.9, Sr2::robust(floor, 10)), 800);
    assert_solved(&x, &problem);
}

const MOST_STEPS: usize = 1000;
/// Stationarity to reach, in units of the gradient.
const STATIONARY: f64 = 1e-6;
/// Distance to the reference at that stationarity: over the least eigenvalue, 0.1, with what f32 parameters round.
const AT_STATIONARITY: f64 = 1e-5;

/// The lasso by SR2 without a floor, whatever the first sigma, with curvature in its model and without.
#[test]
fn the_lasso_is_solved_to_stationarity() {
    let problem = LeastSquares::lasso();
    let layers = Layers::one(0..problem.cols);
    for (sigma_start, prediction) in
        [(1e-2, Prediction::Gradient), (1.0, Prediction::Direction), (1e3, Prediction::Gradient)]
    {
        for quasi_cauchy in [false, true] {
            let sr2 = Sr2 { sigma_start, prediction, eta2: 0.9, ..Sr2::paper() };
            let settings = Settings { quasi_cauchy, ..settings(Penalty::L1, problem.lambda, 0.0, sr2) };
            let (steps, x) = until_stationary(settings, layers.clone(), &mut LeastSquares::lasso());
            assert!(steps < MOST_STEPS, "sigma {sigma_start}: not stationary");
            assert_is_the_solution(&x, &problem);
        }
    }
}

/// Steps until the measure of stationarity is small, and the point.
fn until_stationary(settings: Settings, layers: Layers, problem: &mut dyn Objective) -> (usize, Vec<f32>) {
    let mut x = vec![1.0; layers.prunable.iter().map(|range| range.len()).sum()];
    let mut optimizer = Optimizer::new(settings, layers);
    let mut step = |_| optimizer.step(&mut x, problem).unwrap().stationarity;
    let steps = (0..MOST_STEPS).map(&mut step).take_while(|stationarity| *stationarity > STATIONARY).count();
    (steps, x)
}

fn assert_is_the_solution(x: &[f32], problem: &LeastSquares) {
    for (i, (found, expected)) in x.iter().zip(&problem.x).enumerate() {
        assert!((f64::from(*found) - expected).abs() < AT_STATIONARITY, "x[{i}] = {found}, expected {expected}");
        assert_eq!(*found == 0.0, *expected == 0.0, "zero pattern at {i}: {found}, expected {expected}");
    }
}

/// The lasso in units of its own for each weight: the same problem in `u`, where `x_i = units_i u_i`.
struct InUnits {
    problem: LeastSquares,
    units: Vec<f32>,
}

impl InUnits {
    fn in_old(&self, u: &[f32]) -> Vec<f32> {
        u.iter().zip(&self.units).map(|(u, unit)| u * unit).collect()
    }
}

impl Objective for InUnits {
    fn gradient(&mut self, u: &[f32], gradient: &mut [f32]) -> Result<f64, ExecutorError> {
        let value = self.problem.gradient(&self.in_old(u), gradient)?;
        gradient.iter_mut().zip(&self.units).for_each(|(g, unit)| *g *= unit);
        Ok(value)
    }

    fn value(&mut self, u: &[f32]) -> Result<f64, ExecutorError> {
        self.problem.value(&self.in_old(u))
    }
}

#[test]
fn curvature_makes_up_for_bad_units() {
    let problem = LeastSquares::lasso();
    let units: Vec<f32> = (0..problem.cols).map(|i| 10f32.powf((i * 7 % problem.cols) as f32 / 10.0 - 1.0)).collect();
    let penalised = units
        .iter()
        .enumerate()
        .map(|(i, unit)| PenalisedLayer { scale: f64::from(*unit), ..PenalisedLayer::plain(i..i + 1) });
    let layers = Layers { penalised: penalised.collect(), ..Layers::one(0..problem.cols) };
    let steps_with = |quasi_cauchy| {
        let sr2 = Sr2 { sigma_start: 1.0, prediction: Prediction::Gradient, eta2: 0.9, ..Sr2::paper() };
        let settings = Settings { quasi_cauchy, ..settings(Penalty::L1, problem.lambda, 0.0, sr2) };
        let mut in_units = InUnits { problem: LeastSquares::lasso(), units: units.clone() };
        let (steps, u) = until_stationary(settings, layers.clone(), &mut in_units);
        (steps, in_units.in_old(&u))
    };
    let (without, (with, x)) = (steps_with(false).0, steps_with(true));
    assert!(without == MOST_STEPS && with < MOST_STEPS / 2, "{without} steps without, {with} with");
    assert_is_the_solution(&x, &problem);
}

proptest! {
    /// On the batch of the test, a step that was judged good lowers `f + lambda h` by at least `eta1` times what was
    /// predicted, and a rejected one moves nothing.
    #[test]
    fn accepted_steps_decrease_the_objective(
        penalty in prop::sample::select(&[Penalty::L0, Penalty::L1, Penalty::LHalf, Penalty::LTwoThirds][..]),
        published: bool, quasi_cauchy: bool, beta in prop_oneof![Just(0.0), Just(0.9)], exponent in -3.0..2.0f64, lambda in 1e-3..0.5f64,
        x in prop::collection::vec(-2.0..2.0f32, 20),
    ) {
        let mut problem = LeastSquares::lasso();
        let prediction = if published { Prediction::Direction } else { Prediction::Gradient };
        let sr2 = Sr2 { sigma_start: 10f64.powf(exponent), prediction, ..Sr2::paper() };
        let settings = Settings { quasi_cauchy, ..settings(penalty, lambda, beta, sr2) };
        let mut optimizer = Optimizer::new(settings, Layers::one(0..problem.cols));
        let mut x = x;
        for _ in 0..40 {
            let before = x.clone();
            let report = optimizer.step(&mut x, &mut problem).unwrap();
            let mut value = |x: &[f32]| {
                problem.value(x).unwrap() + lambda * x.iter().map(|x| penalty.value(f64::from(*x))).sum::<f64>()
            };
            let decrease = value(&before) - value(&x);
            match report.verdict {
                Verdict::Rejected => prop_assert_eq!(&before, &x),
                Verdict::Accepted | Verdict::VeryGood => {
                    let least = 7.5e-4 * report.xi;
                    prop_assert!(decrease >= least - 1e-12 * value(&before), "{report:?}: {decrease}");
                }
                Verdict::Unjudged => {}
            }
        }
    }
}
