//! Separable penalties and their proximal operators.

use serde::{Deserialize, Serialize};

/// A penalty `h(x) = sum of R(x_i)` over the prunable weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Penalty {
    /// `R(u) = 1` where `u` is not zero: the number of weights kept. Survivors are not shrunk.
    L0,
    /// `R(u) = abs(u)`. Survivors are shrunk by the threshold.
    L1,
}

impl Penalty {
    /// `R(u)` of one weight.
    pub fn value(self, u: f32) -> f64 {
        match self {
            Self::L0 => f64::from(u8::from(u != 0.0)),
            Self::L1 => f64::from(u.abs()),
        }
    }

    /// `argmin_u sigma/2 (u - z)^2 + lambda R(u)` for `sigma > 0`, `lambda >= 0`.
    ///
    /// l0: `z` if `abs(z) > sqrt(2 lambda / sigma)`, else 0 (a tie goes to 0); l1: `sign(z) max(abs(z) - lambda/sigma, 0)`
    /// (Parikh and Boyd, Proximal Algorithms, 2014, section 6). A NaN stays NaN, so that divergence is seen and not
    /// pruned away. Checked against brute force on a grid.
    pub fn prox(self, z: f64, lambda: f64, sigma: f64) -> f64 {
        match self {
            Self::L0 if sigma * z * z <= 2.0 * lambda => 0.0,
            Self::L0 => z,
            Self::L1 => {
                let shrunk = z.abs() - lambda / sigma;
                if shrunk <= 0.0 { 0.0 } else { shrunk.copysign(z) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Grid spacing relative to the width searched.
    const GRID: i32 = 4000;

    fn objective(penalty: Penalty, u: f64, z: f64, lambda: f64, sigma: f64) -> f64 {
        let value = match penalty {
            Penalty::L0 => f64::from(u8::from(u != 0.0)),
            Penalty::L1 => u.abs(),
        };
        sigma / 2.0 * (u - z) * (u - z) + lambda * value
    }

    proptest! {
        /// No point of a grid around 0 and z, nor 0 and z themselves, is better than the prox.
        #[test]
        fn prox_beats_brute_force(
            l1: bool,
            z in -3.0..3.0f64,
            lambda in prop_oneof![Just(0.0), 1e-6..1e-2f64, 1e-2..5.0f64],
            sigma in prop_oneof![1e-3..1.0f64, 1.0..1e3f64],
        ) {
            let penalty = if l1 { Penalty::L1 } else { Penalty::L0 };
            let u = penalty.prox(z, lambda, sigma);
            let best = objective(penalty, u, z, lambda, sigma);
            let grid = (-GRID..=GRID).map(|k| z * 1.2 * f64::from(k) / f64::from(GRID));
            for other in grid.chain([0.0, z]) {
                let value = objective(penalty, other, z, lambda, sigma);
                prop_assert!(best <= value + 1e-12 * value, "{penalty:?}: u {u} gives {best}, {other} gives {value}");
            }
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

    #[test]
    fn nan_is_not_pruned_away() {
        for penalty in [Penalty::L0, Penalty::L1] {
            assert!(penalty.prox(f64::NAN, 1.0, 1.0).is_nan());
        }
    }

    #[test]
    fn values_count_and_add() {
        let sum = |penalty: Penalty| [0.0f32, -0.0, 2.0, -0.5].iter().map(|u| penalty.value(*u)).sum::<f64>();
        assert_eq!(sum(Penalty::L0), 2.0);
        assert_eq!(sum(Penalty::L1), 2.5);
    }
}
