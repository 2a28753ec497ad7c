//! Directions: running averages of the gradient, and of its square for the metric.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::schedule_free::ScheduleFree;

/// What is averaged into the direction `v`, and whether a second average makes a diagonal metric. Averages are kept
/// bias-corrected: `m += w_t (g - m)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// `v = beta v + (1 - beta) g` from `v = g`; `beta = 0` gives the gradient. No metric.
    Momentum {
        /// Weight of the past, 0 to below 1.
        beta: f64,
        /// Whether the direction is `beta m + (1 - beta) g` with `m` the new average, as Nesterov's looks ahead
        /// (Sutskever et al., ICML 2013; in this form Dozat, ICLR workshop 2016).
        nesterov: bool,
    },
    /// Adam's moments (0.9, 0.999, 1e-8, both bias-corrected), the metric of ProxGEN (arXiv 2007.07484).
    Adam,
    /// ProxSGD's (ICLR 2020): `v` with weight `0.9 / (t + 4)^0.5`, the square as Adam's, `t` from 0.
    ProxSgd,
    /// The gradient itself, which moves the sequences of schedule-free averaging. No metric.
    ScheduleFree(ScheduleFree),
}

/// Fewest values that a task takes.
const PIECE: usize = 1 << 15;

impl Direction {
    /// Added to the root of the mean square.
    pub(crate) const DELTA: f32 = 1e-8;

    /// Weight of the newest gradient at `step` (from 0); `first` where there is no average yet.
    pub(crate) fn weight(self, step: u64, first: bool) -> f64 {
        match self {
            Self::Momentum { .. } if first => 1.0,
            Self::Momentum { beta, .. } => 1.0 - beta,
            Self::Adam => corrected_weight(0.9, step),
            Self::ProxSgd => 0.9 / (step as f64 + 4.0).sqrt(),
            Self::ScheduleFree(_) => 1.0,
        }
    }

    /// Writes the direction at `step` from the gradient and the last direction (empty before the first step).
    pub fn update(self, step: u64, gradient: &[f32], last: &[f32], direction: &mut Vec<f32>) {
        let w = self.weight(step, last.is_empty()) as f32;
        let gradient = gradient.par_iter().with_min_len(PIECE);
        if last.is_empty() {
            gradient.map(|g| w * g).collect_into_vec(direction);
        } else {
            gradient.zip(last).map(|(g, m)| (1.0 - w) * m + w * g).collect_into_vec(direction);
        }
    }

    /// The constants of schedule-free averaging, if the direction follows it.
    pub fn schedule_free(self) -> Option<ScheduleFree> {
        match self {
            Self::ScheduleFree(method) => Some(method),
            _ => None,
        }
    }

    /// Whether [`Direction::look_ahead`] does anything.
    pub fn looks_ahead(self) -> bool {
        matches!(self, Self::Momentum { nesterov: true, .. })
    }

    /// Turns the new average into the direction of the step.
    pub fn look_ahead(self, gradient: &[f32], average: &mut [f32]) {
        if let Self::Momentum { beta, nesterov: true } = self {
            let beta = beta as f32;
            let pairs = average.par_iter_mut().with_min_len(PIECE).zip(gradient);
            pairs.for_each(|(m, g)| *m = beta * *m + (1.0 - beta) * g);
        }
    }

    /// Weight of the newest square in the mean square at `step`, for a direction with a metric.
    pub(crate) fn metric_weight(self, step: u64) -> Option<f32> {
        matches!(self, Self::Adam | Self::ProxSgd).then(|| corrected_weight(0.999, step) as f32)
    }

    /// Moves the mean square of the gradients (empty before the first step) and writes the diagonal metric
    /// `sqrt(mean square) + 1e-8`; nothing for a direction without one.
    pub fn update_metric(self, step: u64, gradient: &[f32], mean_square: &mut Vec<f32>, metric: &mut Vec<f32>) {
        let Some(w) = self.metric_weight(step) else { return };
        mean_square.resize(gradient.len(), 0.0);
        let pairs = mean_square.par_iter_mut().with_min_len(PIECE).zip(gradient);
        let roots = pairs.map(|(r, g)| {
            *r += w * (g * g - *r);
            r.sqrt() + Self::DELTA
        });
        roots.collect_into_vec(metric);
    }
}

/// Weight of the newest value in an exponential average with bias correction: `(1 - beta) / (1 - beta^(t + 1))`.
fn corrected_weight(beta: f64, step: u64) -> f64 {
    (1.0 - beta) / (1.0 - beta.powf(step as f64 + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSE: f64 = 1e-6;

    /// Kingma and Ba (arXiv 1412.6980), algorithm 1, in f64.
    #[test]
    fn adam_is_the_textbook_one() {
        let gradients = [[0.3f32, -2.0], [0.1, 1.0], [-0.5, 0.5], [0.2, 0.0]];
        let (mut last, mut direction, mut mean_square, mut metric) =
            <(Vec<f32>, Vec<f32>, Vec<f32>, Vec<f32>)>::default();
        let (mut m, mut r) = ([0.0f64; 2], [0.0f64; 2]);
        for (step, g) in gradients.iter().enumerate() {
            Direction::Adam.update(step as u64, g, &last, &mut direction);
            Direction::Adam.update_metric(step as u64, g, &mut mean_square, &mut metric);
            std::mem::swap(&mut last, &mut direction);
            for i in 0..2 {
                let g = f64::from(g[i]);
                m[i] = 0.9 * m[i] + 0.1 * g;
                r[i] = 0.999 * r[i] + 0.001 * g * g;
                let m_hat = m[i] / (1.0 - 0.9f64.powi(step as i32 + 1));
                let r_hat = r[i] / (1.0 - 0.999f64.powi(step as i32 + 1));
                assert!((f64::from(last[i]) - m_hat).abs() < CLOSE, "step {step}: {} {m_hat}", last[i]);
                assert!(
                    (f64::from(metric[i]) - r_hat.sqrt() - 1e-8).abs() < CLOSE,
                    "step {step}: {} {r_hat}",
                    metric[i]
                );
            }
        }
    }

    #[test]
    fn momentum_starts_at_the_gradient() {
        let (mut direction, mut metric) = (Vec::new(), Vec::new());
        let momentum = Direction::Momentum { beta: 0.75, nesterov: true };
        momentum.update(0, &[2.0], &[], &mut direction);
        assert_eq!(direction, [2.0]);
        momentum.update(1, &[6.0], &[2.0], &mut direction);
        assert_eq!(direction, [3.0]);
        momentum.look_ahead(&[6.0], &mut direction);
        assert_eq!(direction, [0.75 * 3.0 + 0.25 * 6.0]);
        momentum.update_metric(1, &[6.0], &mut Vec::new(), &mut metric);
        assert!(metric.is_empty());
    }
}
