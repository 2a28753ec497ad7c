//! Weight decay, as a part of the function and outside it.

use super::*;

/// `mu / 2 |w|^2` over the first [`WEIGHTS`] is a part of the function itself.
struct Decayed(Towards, f32);

impl Objective for Decayed {
    fn gradient(&mut self, x: &[f32], gradient: &mut [f32]) -> Result<f64, ExecutorError> {
        self.0.gradient(x, gradient)?;
        gradient.iter_mut().zip(x).take(WEIGHTS).for_each(|(g, x)| *g += self.1 * x);
        self.value(x)
    }

    fn value(&mut self, x: &[f32]) -> Result<f64, ExecutorError> {
        let squares: f64 = x[..WEIGHTS].iter().map(|x| f64::from(*x).powi(2)).sum();
        Ok(self.0.value(x)? + f64::from(self.1) / 2.0 * squares)
    }
}

#[test]
fn coupled_weight_decay_is_a_part_of_the_function() {
    const CLOSE: f64 = 1e-9;
    let mu = 0.75f32;
    let sr2 = Sr2 { sigma_start: 0.4, test_every: 1, ..Sr2::paper() };
    for quasi_cauchy in [false, true] {
        let settings = Settings { quasi_cauchy, ..settings(Penalty::L0, 1e-4, 0.0, sr2.clone()) };
        let decay = Settings { weight_decay: WeightDecay::Coupled(f64::from(mu)), ..settings.clone() };
        let towards = || Towards((0..=WEIGHTS).map(|i| 0.2 * (i as f32 * 1.7).sin() + 0.05).collect());
        let (mut own, mut whole) = (towards(), Decayed(towards(), mu));
        let [mut sr2, mut twin] = [decay, settings].map(|settings| Optimizer::new(settings, Layers::one(0..WEIGHTS)));
        let (mut x, mut y) = (vec![0.5; WEIGHTS + 1], vec![0.5; WEIGHTS + 1]);
        let mut rejected = Vec::new();
        for _ in 0..30 {
            let (found, expected) = (sr2.step(&mut x, &mut own).unwrap(), twin.step(&mut y, &mut whole).unwrap());
            assert_eq!((&x, found.xi, found.verdict), (&y, expected.xi, expected.verdict));
            let [found, expected] = [found, expected].map(|report| report.rho.unwrap_or(0.0) * report.xi);
            assert!((found - expected).abs() < CLOSE, "{found}, expected {expected}");
            rejected.push(sr2.state.rejections_in_a_row > 0);
        }
        assert!(rejected.contains(&true) && rejected.contains(&false));
    }
}

#[test]
fn decoupled_weight_decay_shrinks_by_its_part_of_the_step() {
    let settings = settings(Penalty::L0, 0.0, 0.0, Sr2::robust(FLAT_FLOOR, 10));
    let mut sr2 = Optimizer::new(Settings { weight_decay: WeightDecay::Decoupled(0.1), ..settings }, Layers::one(0..1));
    let mut x = vec![2.0, 2.0];
    sr2.step(&mut x, &mut Scripted { at_point: 2.0, at_trial: 1.25 }).unwrap();
    assert_eq!(x, [1.5 * 0.95, 1.5]);
}
