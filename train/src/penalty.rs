//! Separable penalties and their proximal operators.

use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// A penalty `h(x) = sum of R(x_i)` over the prunable weights, or over the norms of groups of them
/// ([`crate::regulariser::Regulariser`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Penalty {
    /// `R(u) = 1` where `u` is not zero: the number of weights kept. Survivors are not shrunk.
    #[serde(rename = "l0")]
    L0,
    /// `R(u) = abs(u)`. Survivors are shrunk by the threshold.
    #[serde(rename = "l1")]
    L1,
    /// `R(u) = abs(u)^(1/2)`. Survivors are shrunk by at most a third, large ones hardly.
    #[serde(rename = "l1/2")]
    LHalf,
    /// `R(u) = abs(u)^(2/3)`, between l1/2 and l1.
    #[serde(rename = "l2/3")]
    LTwoThirds,
    /// `h(x)` is 0 where at most so many weights are not zero, and infinite elsewhere: the prox is the projection, which
    /// keeps the `k` largest `d z^2`. On one weight it acts as l0 whose `lambda` is the threshold, but `h` does not
    /// count in the predicted decrease.
    #[serde(rename = "l0-ball")]
    L0Ball,
}

impl Penalty {
    /// Its name in configurations and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::L0 => "l0",
            Self::L1 => "l1",
            Self::LHalf => "l1/2",
            Self::LTwoThirds => "l2/3",
            Self::L0Ball => "l0-ball",
        }
    }

    /// Whether survivors stay as they are, so that any number of weights can be kept in one step.
    pub fn spares_survivors(self) -> bool {
        matches!(self, Self::L0 | Self::L0Ball)
    }

    /// `R(u)`.
    pub fn value(self, u: f64) -> f64 {
        match self {
            Self::L0 => f64::from(u8::from(u != 0.0)),
            Self::L1 => u.abs(),
            Self::LHalf => u.abs().sqrt(),
            Self::LTwoThirds => u.abs().cbrt().powi(2),
            Self::L0Ball => 0.0,
        }
    }

    /// The least `lambda` at which the prox makes `z` zero, in the metric `d > 0`. Inverts the thresholds of
    /// [`Penalty::prox`]: `d z^2 / 2` (l0), `d |z|` (l1), `d (2/3 |z|)^(3/2)` (l1/2),
    /// `d/2 (3/2 |z|)^(4/3) / 3^(1/3)` (l2/3).
    pub fn critical_lambda(self, z: f64, d: f64) -> f64 {
        match self {
            Self::L0 | Self::L0Ball => d * z * z / 2.0,
            Self::L1 => d * z.abs(),
            Self::LHalf => {
                let t = z.abs() / 1.5;
                d * t * t.sqrt()
            }
            Self::LTwoThirds => d / 2.0 * (1.5 * z.abs()).powf(4.0 / 3.0) / 3f64.cbrt(),
        }
    }

    /// `argmin_u d/2 (u - z)^2 + lambda R(u)` for `d > 0`, `lambda >= 0`, exactly, up to rounding; a tie goes to 0.
    ///
    /// | R | zero for `abs(z)` up to | else, times the sign of z | source |
    /// |--|--|--|--|
    /// | l0 | `sqrt(2 lambda / d)` | `abs(z)` | Parikh and Boyd, Proximal Algorithms, 2014 |
    /// | l1 | `lambda / d` | `abs(z) - lambda / d` | the same, section 6.5.2 |
    /// | l1/2 | `3/2 (lambda / d)^(2/3)` | `2/3 abs(z) (1 + cos(2 pi / 3 - 2 phi / 3))`, `phi = arccos(lambda / (4 d) (abs(z) / 3)^(-3/2))` | Xu et al., IEEE TNNLS 23(7), 2012 |
    /// | l2/3 | `2/3 (3 L^3)^(1/4)`, `L = 2 lambda / d` | `((A + sqrt(2 abs(z) / A - A^2)) / 2)^3`, `A = 2 / sqrt(3) L^(1/4) cosh(phi / 3)^(1/2)`, `phi = arccosh(27/16 z^2 L^(-3/2))` | Cao, Sun, Xu, J. Vis. Commun. Image R. 24(1), 2013 |
    ///
    /// A NaN stays NaN, so that divergence is seen and not pruned away. Checked against brute force on a grid.
    pub fn prox(self, z: f64, lambda: f64, d: f64) -> f64 {
        if lambda >= self.critical_lambda(z, d) {
            return 0.0;
        }
        match self {
            _ if lambda == 0.0 => z,
            Self::L0 | Self::L0Ball => z,
            Self::L1 => (z.abs() - lambda / d).copysign(z),
            Self::LHalf => half(z.abs(), lambda / d).copysign(z),
            Self::LTwoThirds => two_thirds(z.abs(), 2.0 * lambda / d).copysign(z),
        }
    }
}

fn half(z: f64, ratio: f64) -> f64 {
    let phi = (ratio / 4.0 * (z / 3.0).powf(-1.5)).acos();
    2.0 / 3.0 * z * (1.0 + (2.0 / 3.0 * (std::f64::consts::PI - phi)).cos())
}

fn two_thirds(z: f64, l: f64) -> f64 {
    let cosh = 27.0 / 16.0 * z * z * l.powf(-1.5);
    if cosh == f64::INFINITY {
        return z; // lambda is far below what rounding of z shows
    }
    let a = 2.0 / 3f64.sqrt() * l.powf(0.25) * (cosh.acosh() / 3.0).cosh().sqrt();
    ((a + (2.0 * z / a - a * a).sqrt()) / 2.0).powi(3)
}
