use super::*;
use crate::pruning::Pressure;

const CLOSE: f64 = 1e-5;
const SIGMA: f64 = 2.0;
const BETA: f64 = 0.9;

/// Schedule-free averaging whose point is the `left` largest of what the sequences lead to, in f64.
struct Exact {
    targets: Vec<f64>,
    z: Vec<f64>,
    x: Vec<f64>,
    y: Vec<f64>,
}

impl Exact {
    fn step(&mut self, plan: &PruningPlan, step: u64) {
        let frozen = step >= plan.frozen_from;
        let c = ScheduleFree::part(step);
        let mut u = vec![0.0; WEIGHTS];
        for (i, u) in u.iter_mut().enumerate() {
            if frozen && self.y[i] == 0.0 {
                (self.z[i], self.x[i]) = (0.0, 0.0);
                continue;
            }
            self.z[i] -= (self.y[i] - self.targets[i]) / SIGMA;
            self.x[i] += c * (self.z[i] - self.x[i]);
            *u = (1.0 - BETA) * self.z[i] + BETA * self.x[i];
        }
        if let Pressure::Weights(left) = plan.pressure(step, WEIGHTS) {
            let mut sizes: Vec<f64> = u.iter().map(|u| u.abs()).collect();
            sizes.sort_by(|a, b| b.total_cmp(a));
            let least = sizes[left - 1];
            u.iter_mut().filter(|u| u.abs() < least).for_each(|u| *u = 0.0);
        }
        self.y = u;
    }
}

#[test]
fn what_a_ramp_takes_moves_on_and_comes_back_as_what_it_has_become() {
    let settings = towards(Penalty::L0, SCHEDULE_FREE, flat(), false, true);
    let plan = settings.plan.clone();
    // What is small at first is drawn to large values.
    let targets: Vec<f32> = (0..WEIGHTS).map(|i| 0.01 * (i + 1) as f32).collect();
    let mut y: Vec<f32> = targets.iter().rev().map(|target| 40.0 * target).collect();
    let start: Vec<f64> = y.iter().map(|y| f64::from(*y)).collect();
    let of_targets = targets.iter().map(|target| f64::from(*target)).collect();
    let mut exact = Exact { targets: of_targets, z: start.clone(), x: start.clone(), y: start };
    let mut optimizer = Optimizer::new(settings, Layers::one(0..WEIGHTS));
    let mut objective = Towards(targets);
    let mut returns = 0;
    for step in 0..100 {
        let before = y.clone();
        optimizer.step(&mut y, &mut objective).unwrap();
        exact.step(&plan, step);
        for (i, (y, exact)) in y.iter().zip(&exact.y).enumerate() {
            assert!((f64::from(*y) - exact).abs() < CLOSE, "step {step}, weight {i}: {y}, expected {exact}");
        }
        returns += before.iter().zip(&y).filter(|(before, y)| **before == 0.0 && **y != 0.0).count();
    }
    assert!(returns > 0);
    assert_eq!(y.iter().filter(|w| **w == 0.0).count(), WEIGHTS - LEFT);
    let Averages { iterate, parameters, .. } = optimizer.averages();
    for sequence in [iterate, parameters] {
        assert_eq!(sequence.iter().filter(|w| **w == 0.0).count(), WEIGHTS - LEFT);
    }
}
