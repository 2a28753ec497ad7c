//! The training loss.

use rayon::prelude::*;

use crate::executor::BatchLoss;

/// Mean cross-entropy `-log softmax(z)_label` over the rows of `logits` `[labels.len(), classes]`, in f64, and its
/// gradient `(softmax(z) - onehot(label)) / count` written to `gradient` if given.
///
/// A row is right if the first of its largest logits is its label's. Any NaN or infinite logit gives a loss that is
/// not finite. Checked against PyTorch and finite differences through the executors.
///
/// # Panics
/// If the lengths do not fit, or a label is not below `classes`.
pub fn cross_entropy(logits: &[f32], labels: &[u32], classes: usize, gradient: Option<&mut [f32]>) -> BatchLoss {
    assert_eq!(logits.len(), labels.len() * classes, "logits of {} images, {classes} classes", labels.len());
    if let Some(gradient) = &gradient {
        assert_eq!(gradient.len(), logits.len(), "gradient of the logits");
    }
    let count = labels.len() as f64;
    let rows = logits.par_chunks_exact(classes).zip(labels).with_min_len(ROWS_TOGETHER);
    let losses: Vec<(f64, bool)> = match gradient {
        None => rows.map(|(z, label)| row_loss(z, *label, count, None)).collect(),
        Some(gradient) => {
            let rows = rows.zip(gradient.par_chunks_exact_mut(classes));
            rows.map(|((z, label), gradient)| row_loss(z, *label, count, Some(gradient))).collect()
        }
    };
    // In the rows' order, whatever thread computed them.
    BatchLoss {
        loss: losses.iter().map(|(loss, _)| loss).sum::<f64>() / count,
        correct: losses.iter().filter(|(_, right)| *right).count(),
    }
}

/// Rows that are worth a task.
const ROWS_TOGETHER: usize = 32;

/// Loss of one row, whether it is right, and its part of the gradient of a mean over `count` rows.
fn row_loss(z: &[f32], label: u32, count: f64, gradient: Option<&mut [f32]>) -> (f64, bool) {
    let (label, classes) = (label as usize, z.len());
    assert!(label < classes, "label {label} of {classes} classes");
    let best = (1..classes).fold(0, |best, c| if z[c] > z[best] { c } else { best });
    let largest = f64::from(z[best]);
    let total: f64 = z.iter().map(|z| (f64::from(*z) - largest).exp()).sum();
    if let Some(gradient) = gradient {
        for (c, g) in gradient.iter_mut().enumerate() {
            let target = f64::from(u8::from(c == label));
            *g = (((f64::from(z[c]) - largest).exp() / total - target) / count) as f32;
        }
    }
    (total.ln() + largest - f64::from(z[label]), best == label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let mut gradient = [0.0; 4];
        let logits = [0.0, 0.0, 3f32.ln(), 0.0];
        let BatchLoss { loss, correct } = cross_entropy(&logits, &[1, 0], 2, Some(&mut gradient));
        assert!((loss - (2f64.ln() + (4.0f64 / 3.0).ln()) / 2.0).abs() < 1e-7, "{loss}");
        assert_eq!(correct, 1, "a tie goes to the first class");
        for (found, expected) in gradient.iter().zip([0.25, -0.25, -0.125, 0.125]) {
            assert!((found - expected).abs() < 1e-7, "{gradient:?}");
        }
    }

    #[test]
    fn large_logits_stay_finite_and_broken_ones_do_not() {
        assert_eq!(cross_entropy(&[3e38, -3e38], &[0], 2, None).loss, 0.0);
        for broken in [f32::NAN, f32::INFINITY] {
            assert!(!cross_entropy(&[broken, 0.0], &[0], 2, None).loss.is_finite());
            assert!(!cross_entropy(&[0.0, broken], &[0], 2, None).loss.is_finite());
        }
    }
}
