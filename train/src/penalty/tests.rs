use proptest::prelude::*;

use super::*;

const SEPARABLE: [Penalty; 4] = [Penalty::L0, Penalty::L1, Penalty::LHalf, Penalty::LTwoThirds];
/// Points of the grid on each side of zero.
const GRID: i32 = 4000;
/// Relative tolerance of an objective value.
const CLOSE: f64 = 1e-12;

fn objective(penalty: Penalty, u: f64, z: f64, lambda: f64, d: f64) -> f64 {
    let value = match penalty {
        Penalty::L0 => f64::from(u8::from(u != 0.0)),
        Penalty::L1 => u.abs(),
        Penalty::LHalf => u.abs().powf(0.5),
        Penalty::LTwoThirds => u.abs().powf(2.0 / 3.0),
        Penalty::L0Ball => unreachable!("not separable"),
    };
    d / 2.0 * (u - z) * (u - z) + lambda * value
}

proptest! {
    /// No point of a grid around 0 and z, nor 0 and z themselves, is better than the prox.
    #[test]
    fn prox_beats_brute_force(
        penalty in prop::sample::select(&SEPARABLE[..]),
        z in -3.0..3.0f64,
        lambda in prop_oneof![Just(0.0), 1e-6..1e-2f64, 1e-2..5.0f64],
        d in prop_oneof![1e-3..1.0f64, 1.0..1e3f64],
    ) {
        let u = penalty.prox(z, lambda, d);
        let best = objective(penalty, u, z, lambda, d);
        let grid = (-GRID..=GRID).map(|k| z * 1.2 * f64::from(k) / f64::from(GRID));
        for other in grid.chain([0.0, z]) {
            let value = objective(penalty, other, z, lambda, d);
            prop_assert!(best <= value + CLOSE * value, "{penalty:?}: u {u} gives {best}, {other} gives {value}");
        }
    }

    /// Just below the critical lambda the prox is not zero, and at it exactly zero.
    #[test]
    fn the_critical_lambda_is_where_a_weight_goes(
        penalty in prop::sample::select(&SEPARABLE[..]), z in prop_oneof![1e-6..1e-2f64, 1e-2..3.0f64], d in 1e-2..1e3f64,
    ) {
        let critical = penalty.critical_lambda(z, d);
        prop_assert_eq!(penalty.prox(z, critical, d), 0.0);
        let survivor = penalty.prox(z, critical * (1.0 - 1e-9), d);
        prop_assert!(survivor > 0.0);
        let (kept, gone) = (objective(penalty, survivor, z, critical, d), objective(penalty, 0.0, z, critical, d));
        prop_assert!((kept - gone).abs() <= 1e-7 * gone, "{penalty:?} at its limit: {kept} and {gone}");
    }
}

#[test]
fn regimes_of_l0() {
    // threshold sqrt(2 * 0.5 / 4) = 0.5, exactly
    assert_eq!(Penalty::L0.prox(0.5, 0.5, 4.0), 0.0);
    assert_eq!(Penalty::L0.prox(-0.5001, 0.5, 4.0), -0.5001);
    assert_eq!(Penalty::L0.prox(0.0, 0.0, 1.0), 0.0);
    assert_eq!(Penalty::L0.prox(1e-30, 0.0, 1.0), 1e-30);
}

#[test]
fn regimes_of_l1() {
    assert_eq!(Penalty::L1.prox(-1.0, 0.5, 2.0), -0.75);
    assert_eq!(Penalty::L1.prox(0.25, 0.5, 2.0), 0.0);
    assert_eq!(Penalty::L1.prox(-0.1, 0.5, 2.0), 0.0);
    assert_eq!(Penalty::L1.prox(-0.1, 0.0, 2.0), -0.1);
}

/// Just above its threshold l1/2 jumps to two thirds of z (Xu et al., theorem 1), l2/3 to half of it.
#[test]
fn fractional_penalties_jump() {
    let (lambda, d): (f64, f64) = (0.8, 2.5);
    let z = 1.5 * (lambda / d).powf(2.0 / 3.0) * (1.0 + 1e-12);
    assert!((Penalty::LHalf.prox(-z, lambda, d) / -z - 2.0 / 3.0).abs() < 1e-5);
    let l = 2.0 * lambda / d;
    let z = 2.0 / 3.0 * (3.0 * l.powi(3)).powf(0.25) * (1.0 + 1e-12);
    assert!((Penalty::LTwoThirds.prox(z, lambda, d) / z - 0.5).abs() < 1e-5);
}

#[test]
fn a_vanishing_lambda_leaves_a_weight_where_it_is() {
    for penalty in SEPARABLE {
        for lambda in [0.0, 1e-300, 1e-30] {
            assert!((penalty.prox(-0.3, lambda, 1.0) + 0.3).abs() < 1e-15, "{penalty:?} {lambda}");
        }
    }
}

#[test]
fn nan_is_not_pruned_away() {
    for penalty in SEPARABLE {
        assert!(penalty.prox(f64::NAN, 1.0, 1.0).is_nan());
    }
}

#[test]
fn values_count_and_add() {
    let sum = |penalty: Penalty| [0.0, -0.0, 8.0, -1.0].iter().map(|u| penalty.value(*u)).sum::<f64>();
    assert_eq!([Penalty::L0, Penalty::L1, Penalty::LTwoThirds].map(sum), [2.0, 9.0, 5.0]);
    assert_eq!(Penalty::LHalf.value(-4.0), 2.0);
}

#[test]
fn names_are_those_of_configurations() {
    for penalty in SEPARABLE.into_iter().chain([Penalty::L0Ball]) {
        assert_eq!(serde_json::to_value(penalty).unwrap(), penalty.name());
    }
}
