use serde::Deserialize;

use super::*;

/// `1/(2 rows) |A x - b|^2 + ridge/2 |x|^2`, in f64 inside.
#[derive(Deserialize)]
struct LeastSquares {
    rows: usize,
    cols: usize,
    ridge: f64,
    lambda: f64,
    a: Vec<f64>,
    b: Vec<f64>,
    /// The minimiser with `lambda |x|_1` added.
    x: Vec<f64>,
}

impl LeastSquares {
    fn read() -> Self {
        serde_json::from_str(include_str!("../../tests/reference/elastic_net.json")).expect("the reference is valid")
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

fn solve(settings: Sr2Settings, steps: usize) -> (Vec<f32>, LeastSquares) {
    let mut problem = LeastSquares::read();
    let mut sr2 = Sr2::new(settings, std::iter::once(0..problem.cols).collect());
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
    let lambda = LeastSquares::read().lambda;
    let (x, problem) = solve(Sr2Settings::paper(Penalty::L1, lambda, 0.0), 4000);
    assert_solved(&x, &problem);
}

#[test]
fn robust_preset_solves_it_too() {
    let lambda = LeastSquares::read().lambda;
    let floor = Floor { lowest: 0.1, first: 0.1, last: 0.1, warmup: 0.0, steps: 400 };
    let (x, problem) = solve(Sr2Settings::robust(Penalty::L1, lambda, 0.0, floor, 10), 400);
    assert_solved(&x, &problem);
    let (x, problem) = solve(Sr2Settings::robust(Penalty::L1, lambda, 0.9, floor, 10), 800);
    assert_solved(&x, &problem);
}

/// A loss whose values are scripted: the gradient is always 1 in each coordinate.
struct Scripted {
    at_point: f64,
    at_trial: f64,
}

impl Objective for Scripted {
    fn gradient(&mut self, _: &[f32], gradient: &mut [f32]) -> Result<f64, ExecutorError> {
        gradient.fill(1.0);
        Ok(self.at_point)
    }

    fn value(&mut self, _: &[f32]) -> Result<f64, ExecutorError> {
        Ok(self.at_trial)
    }
}

const FLAT_FLOOR: Floor = Floor { lowest: 2.0, first: 2.0, last: 2.0, warmup: 0.0, steps: 10 };

fn robust(lambda: f64) -> Sr2 {
    let settings = Sr2Settings::robust(Penalty::L0, lambda, 0.9, FLAT_FLOOR, 10);
    Sr2::new(settings, std::iter::once(0..2).collect())
}

#[test]
fn rejection_restores_point_and_momentum_and_raises_sigma() {
    let mut sr2 = robust(0.0);
    let mut x = vec![1.0, 2.0, 3.0];
    sr2.step(&mut x, &mut Scripted { at_point: 2.0, at_trial: 0.6 }).unwrap();
    let (point, momentum) = (x.clone(), sr2.momentum().to_vec());
    let report = sr2.step(&mut x, &mut Scripted { at_point: 2.0, at_trial: 2.5 }).unwrap();
    assert_eq!(report.verdict, Verdict::Rejected);
    assert_eq!((x, sr2.momentum()), (point, momentum.as_slice()));
    assert_eq!(sr2.state().sigma, 2.0 * 5.57);
    assert_eq!(sr2.state().rejections_in_a_row, 1);
}

#[test]
fn accepted_steps_move_by_the_direction_over_sigma() {
    let mut sr2 = robust(0.0);
    let mut x = vec![1.0, 2.0, 3.0];
    // g's = -3 (1/2), so xi = 1.5 and rho = 0.75/1.5: good, not very good.
    let report = sr2.step(&mut x, &mut Scripted { at_point: 2.0, at_trial: 1.25 }).unwrap();
    assert_eq!((report.verdict, report.rho, report.xi), (Verdict::Accepted, Some(0.5), 1.5));
    assert_eq!(x, [0.5, 1.5, 2.5]);
    assert_eq!(report.stationarity, 3f64.sqrt());
}

#[test]
fn sigma_falls_back_to_the_floor_but_the_floor_is_never_written_back() {
    let floor = Floor { lowest: 1.0, first: 8.0, last: 100.0, warmup: 0.5, steps: 21 };
    let settings = Sr2Settings::robust(Penalty::L0, 0.0, 0.0, floor, 10);
    let mut sr2 = Sr2::new(settings, vec![]);
    let mut x = vec![0.0; 3];
    for step in 0..=10 {
        assert_eq!(sr2.sigma(), floor.sigma(step));
        sr2.step(&mut x, &mut Scripted { at_point: 20.0, at_trial: 0.0 }).unwrap();
    }
    assert_eq!(sr2.state().sigma, 1.0);
}

#[test]
fn a_blow_up_is_rejected_even_if_the_penalty_pays_for_it() {
    let mut x = vec![0.1, 0.1, 3.0];
    let blow_up = Scripted { at_point: 1.0, at_trial: 4.0 };
    let (mut guarded, mut published) = (robust(100.0), robust(100.0));
    published.settings.guards = None;
    assert_eq!(guarded.step(&mut x.clone(), &mut { blow_up }).unwrap().verdict, Verdict::Rejected);
    let blow_up = Scripted { at_point: 1.0, at_trial: 4.0 };
    assert_eq!(published.step(&mut x, &mut { blow_up }).unwrap().verdict, Verdict::VeryGood);
    assert_eq!(x[..2], [0.0, 0.0]);
}

#[test]
fn sigma_is_not_lowered_where_the_penalty_makes_the_prediction() {
    let mut sr2 = robust(100.0);
    sr2.state.sigma = 50.0;
    let mut x = vec![0.1, 0.1, 3.0];
    let report = sr2.step(&mut x, &mut Scripted { at_point: 1.0, at_trial: 1.0 }).unwrap();
    assert!(report.rho.unwrap() > 0.9);
    assert_eq!((report.verdict, sr2.state().sigma), (Verdict::Accepted, 50.0));
}

#[test]
fn decreases_below_rounding_are_not_judged() {
    let mut sr2 = robust(0.0);
    sr2.settings.sigma_max = 1e9;
    sr2.state.sigma = 1e9;
    let report = sr2.step(&mut vec![1.0; 3], &mut Scripted { at_point: 1.0, at_trial: 1.0001 }).unwrap();
    assert_eq!((report.verdict, report.rho), (Verdict::Unjudged, None));
}

#[test]
fn non_finite_losses_stop_at_the_point_and_reject_at_the_trial() {
    let mut x = vec![1.0; 3];
    let mut sr2 = robust(0.0);
    let error = sr2.step(&mut x, &mut Scripted { at_point: f64::NAN, at_trial: 0.0 }).unwrap_err();
    assert_eq!(error.to_string(), "loss is NaN at step 0");
    let report = sr2.step(&mut x, &mut Scripted { at_point: 1.0, at_trial: f64::NAN }).unwrap();
    assert_eq!(report.verdict, Verdict::Rejected);
    assert_eq!(x, [1.0; 3]);
}

#[test]
fn a_resumed_state_gives_the_same_bits() {
    let lambda = LeastSquares::read().lambda;
    let settings = Sr2Settings::paper(Penalty::L1, lambda, 0.9);
    let prunable: Vec<_> = std::iter::once(0..24).collect();
    let mut problem = LeastSquares::read();
    let mut straight = Sr2::new(settings.clone(), prunable.clone());
    let mut x = vec![1.0; 24];
    for _ in 0..5 {
        straight.step(&mut x, &mut problem).unwrap();
    }
    let saved: Sr2State = serde_json::from_str(&serde_json::to_string(straight.state()).unwrap()).unwrap();
    let mut resumed = Sr2::resume(settings, prunable, saved, straight.momentum().to_vec());
    let mut y = x.clone();
    for _ in 0..5 {
        let reports = (straight.step(&mut x, &mut problem).unwrap(), resumed.step(&mut y, &mut problem).unwrap());
        assert_eq!(reports.0, reports.1);
    }
    assert_eq!(x, y);
}
