//! SR2 away from neural networks: recovers a sparse vector from noisy linear measurements.
//!
//! `cargo run --release --example sparse_regression`
//! minimises `1/(2m) |A x - b|^2 + lambda |x|_1` where `b = A x0 + noise`, `x0` has 8 non-zeros of 200, and the columns of
//! `A` differ in scale by up to ten: by SR2 as published, and with a diagonal curvature in its model.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sr2_train::direction::Direction;
use sr2_train::executor::ExecutorError;
use sr2_train::optimizer::{Layers, Objective, Optimizer, Settings, StepControl, StepError, WeightDecay};
use sr2_train::penalty::Penalty;
use sr2_train::pruning::PruningPlan;
use sr2_train::share::Share;
use sr2_train::sr2::Sr2;

const MEASUREMENTS: usize = 100;
const UNKNOWNS: usize = 200;
const NONZEROS: usize = 8;

struct LeastSquares {
    a: Vec<f32>,
    b: Vec<f32>,
}

impl LeastSquares {
    fn residual(&self, x: &[f32]) -> Vec<f32> {
        let products = self.a.chunks(UNKNOWNS).map(|row| row.iter().zip(x).map(|(a, x)| a * x).sum::<f32>());
        products.zip(&self.b).map(|(product, b)| product - b).collect()
    }
}

impl Objective for LeastSquares {
    fn value(&mut self, x: &[f32]) -> Result<f64, ExecutorError> {
        let squares = self.residual(x).iter().map(|r| f64::from(*r).powi(2)).sum::<f64>();
        Ok(squares / (2 * MEASUREMENTS) as f64)
    }

    fn gradient(&mut self, x: &[f32], gradient: &mut [f32]) -> Result<f64, ExecutorError> {
        gradient.fill(0.0);
        for (row, residual) in self.a.chunks(UNKNOWNS).zip(self.residual(x)) {
            gradient.iter_mut().zip(row).for_each(|(g, a)| *g += a * residual / MEASUREMENTS as f32);
        }
        self.value(x)
    }
}

/// Steps until the measure of stationarity is 1e-5, 5000 at most, and the point.
fn solve(problem: &mut LeastSquares, quasi_cauchy: bool) -> Result<(usize, Vec<f32>), StepError> {
    let settings = Settings {
        regulariser: Penalty::L1.into(),
        share: Share::Global,
        plan: PruningPlan::constant(0.1),
        direction: Direction::Momentum { beta: 0.0, nesterov: false },
        quasi_cauchy,
        control: StepControl::Sr2(Sr2::paper()),
        relaxed: false,
        weight_decay: WeightDecay::NONE,
        ema: None,
    };
    let mut sr2 = Optimizer::new(settings, Layers::one(0..UNKNOWNS));
    let mut x = vec![0.0; UNKNOWNS];
    for step in 0..5000 {
        if sr2.step(&mut x, problem)?.stationarity < 1e-5 {
            return Ok((step, x));
        }
    }
    Ok((5000, x))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let scales: Vec<f32> = (0..UNKNOWNS).map(|_| 10f32.powf(rng.random_range(0.0..1.0))).collect();
    let a = (0..MEASUREMENTS * UNKNOWNS).map(|i| scales[i % UNKNOWNS] * rng.random_range(-1.7..1.7)).collect();
    let mut truth = vec![0.0; UNKNOWNS];
    (0..NONZEROS).for_each(|k| truth[k * UNKNOWNS / NONZEROS] = if k % 2 == 0 { 1.0 } else { -1.0 });
    let mut problem = LeastSquares { a, b: vec![0.0; MEASUREMENTS] };
    problem.b = problem.residual(&truth).iter().map(|r| r + rng.random_range(-0.05..0.05)).collect();

    let support = |x: &[f32]| (0..UNKNOWNS).filter(|k| x[*k] != 0.0).collect::<Vec<_>>();
    for (name, quasi_cauchy) in [("as published", false), ("with curvature", true)] {
        let (steps, x) = solve(&mut problem, quasi_cauchy)?;
        println!("{name}: {steps} steps, loss {:.5}, non-zeros {:?}", problem.value(&x)?, support(&x));
    }
    println!("true non-zeros {:?}", support(&truth));
    Ok(())
}
