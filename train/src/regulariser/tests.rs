use proptest::prelude::*;

use super::*;

/// Relative tolerance of an objective value.
const CLOSE: f64 = 1e-12;
const GRID: i32 = 2000;

fn group_objective(penalty: Penalty, u: &[f64], points: &[(f64, f64)], lambda: f64) -> f64 {
    let size = u.len() as f64;
    let norm = u.iter().map(|u| u * u).sum::<f64>().sqrt();
    let h = if penalty == Penalty::L1 { size.sqrt() * norm } else { size * f64::from(u8::from(norm > 0.0)) };
    lambda * h + u.iter().zip(points).map(|(u, (z, d))| d / 2.0 * (u - z) * (u - z)).sum::<f64>()
}

fn points() -> impl Strategy<Value = Vec<(f64, f64)>> {
    let metric = prop_oneof![Just(2.0), 1e-2..1e2f64];
    prop_oneof![
        prop::collection::vec((-1.0..1.0f64, metric), 1..10),
        prop::collection::vec((-1.0..1.0f64, Just(3.0)), 1..10),
    ]
}

proptest! {
    /// Inside the box no point of a grid is better, nor are its ends and 0.
    #[test]
    fn prox_in_a_box_beats_brute_force(
        l1: bool, z in -3.0..3.0f64, lambda in prop_oneof![Just(0.0), 1e-3..5.0f64], d in 1e-1..1e2f64,
        low in prop_oneof![Just(0.0f32), -1.5..0.0f32], high in prop_oneof![Just(0.0f32), 0.0..1.5f32],
    ) {
        let penalty = if l1 { Penalty::L1 } else { Penalty::L0 };
        let regulariser = Regulariser { penalty, bounds: Some(Bounds(low, high)) };
        let objective = |u: f64| d / 2.0 * (u - z) * (u - z) + lambda * penalty.value(u);
        let u = regulariser.prox(z, lambda, d);
        let (low, high) = (f64::from(low), f64::from(high));
        prop_assert!((low..=high).contains(&u));
        let grid = (0..=GRID).map(|k| low + (high - low) * f64::from(k) / f64::from(GRID));
        for other in grid.chain([0.0, low, high]) {
            let slack = CLOSE * (objective(other) + d * z * z);
            prop_assert!(objective(u) <= objective(other) + slack, "{other} is better than {u}");
        }
    }

    /// The prox of a group in a scalar or diagonal metric: no worse than nothing, than all of it, and than its neighbours
    /// in any direction and at any scale.
    #[test]
    fn prox_of_a_group_beats_brute_force(
        l1: bool, points in points(), lambda in prop_oneof![Just(0.0), 1e-4..1.0f64, 1.0..10.0f64],
        directions in prop::collection::vec(prop::collection::vec(-1.0..1.0f64, 9), 20),
    ) {
        let penalty = if l1 { Penalty::L1 } else { Penalty::L0 };
        let pull = Regulariser::from(penalty).pull(&points, lambda);
        let u: Vec<f64> = points.iter().map(|(z, d)| z / (1.0 + pull / d)).collect();
        let best = group_objective(penalty, &u, &points, lambda);
        let no_better = |other: &[f64]| {
            let value = group_objective(penalty, other, &points, lambda);
            best <= value + CLOSE * (value + best)
        };
        let all: Vec<f64> = points.iter().map(|(z, _)| *z).collect();
        prop_assert!(no_better(&all));
        for k in 0..=50 {
            let scaled = |from: &[f64]| from.iter().map(|v| v * f64::from(k) / 40.0).collect::<Vec<_>>();
            prop_assert!(no_better(&scaled(&u)) && no_better(&scaled(&all)));
        }
        for direction in &directions {
            for size in [1e-1, 1e-2, 1e-4] {
                let other: Vec<f64> = u.iter().zip(direction).map(|(u, e)| u + size * e).collect();
                prop_assert!(no_better(&other), "{penalty:?} {points:?}: {other:?} is better than {u:?}");
            }
        }
    }

    #[test]
    fn a_group_goes_at_its_critical_lambda(l1: bool, points in points()) {
        let regulariser = Regulariser::from(if l1 { Penalty::L1 } else { Penalty::L0 });
        let critical = regulariser.critical_lambda_of_group(&points);
        prop_assert_eq!(regulariser.pull(&points, critical), f64::INFINITY);
        prop_assert!(regulariser.pull(&points, critical * (1.0 - 1e-9)).is_finite());
    }
}

#[test]
fn a_group_of_one_is_its_weight() {
    for penalty in [Penalty::L0, Penalty::L1] {
        let regulariser = Regulariser::from(penalty);
        for (z, lambda, d) in [(0.5, 0.3, 2.0), (-0.5, 0.1, 3.0), (0.1, 4.0, 1.0)] {
            let pull = regulariser.pull(&[(z, d)], lambda);
            assert!((z / (1.0 + pull / d) - penalty.prox(z, lambda, d)).abs() < 1e-15, "{penalty:?}");
        }
    }
}

#[test]
fn nan_stays_nan_in_groups_and_boxes() {
    assert!(Regulariser::from(Penalty::L1).pull(&[(f64::NAN, 1.0), (0.5, 2.0)], 0.1).is_nan());
    let boxed = Regulariser { penalty: Penalty::L0, bounds: Some(Bounds(-1.0, 1.0)) };
    assert!(boxed.prox(f64::NAN, 0.1, 1.0).is_nan());
}
