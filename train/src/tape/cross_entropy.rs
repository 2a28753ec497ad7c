//! Softmax cross-entropy of blocked logits, in f64.

use sr2_kernels::training::blocked_channels;

use crate::executor::BatchLoss;

/// Mean of `-log softmax(logits)[label]`, and how often the first largest logit is the label's.
pub(super) fn loss(logits: &[f32], classes: usize, labels: &[u32]) -> BatchLoss {
    let (mut sum, mut correct) = (0.0, 0);
    for (row, label) in logits.chunks_exact(blocked_channels(classes)).zip(labels) {
        let (row, label) = (&row[..classes], *label as usize);
        let (largest, total) = softmax_parts(row);
        sum += largest + total.ln() - f64::from(row[label]);
        let best = (1..classes).fold(0, |best, c| if row[c] > row[best] { c } else { best });
        correct += usize::from(best == label);
    }
    BatchLoss { loss: sum / labels.len() as f64, correct }
}

/// Gradient of the mean loss: `(softmax - one_hot(label)) / count`.
pub(super) fn gradient(logits: &[f32], classes: usize, labels: &[u32], gradient: &mut [f32]) {
    let stride = blocked_channels(classes);
    let rows = logits.chunks_exact(stride).zip(gradient.chunks_exact_mut(stride));
    for ((row, to), label) in rows.zip(labels) {
        let (largest, total) = softmax_parts(&row[..classes]);
        to.fill(0.0);
        for (class, (to, logit)) in to.iter_mut().zip(&row[..classes]).enumerate() {
            let probability = (f64::from(*logit) - largest).exp() / total;
            let target = if class == *label as usize { 1.0 } else { 0.0 };
            *to = ((probability - target) / labels.len() as f64) as f32;
        }
    }
}

/// The largest logit `m` and the sum of `exp(logit - m)`.
fn softmax_parts(row: &[f32]) -> (f64, f64) {
    let largest = row.iter().fold(f64::NEG_INFINITY, |m, v| m.max(f64::from(*v)));
    (largest, row.iter().map(|v| (f64::from(*v) - largest).exp()).sum())
}
