//! Distillation: learning from the outputs of a trained network beside the labels.

use crate::executor::BatchLoss;

/// Softens both distributions.
pub const TEMPERATURE: f64 = 4.0;
/// Part of the loss that the teacher makes; the rest is the cross-entropy with the labels.
pub const WEIGHT: f64 = 0.5;

/// The loss `(1 - w) ce + w T^2 KL(softmax(teacher / T) || softmax(z / T))`, mean over the rows of `logits`
/// `[count, classes]`, with `w` = [`WEIGHT`] and `T` = [`TEMPERATURE`] (Hinton, Vinyals, Dean, arXiv 1503.02531), from the
/// cross-entropy `loss` and its gradient, which becomes that of the whole. Without a teacher (no values) nothing changes.
///
/// # Panics
/// If the lengths do not fit.
pub fn blend(
    loss: BatchLoss,
    logits: &[f32],
    teacher: &[f32],
    classes: usize,
    mut gradient: Option<&mut [f32]>,
) -> BatchLoss {
    if teacher.is_empty() {
        return loss;
    }
    assert_eq!(teacher.len(), logits.len(), "logits of the teacher");
    let count = (logits.len() / classes) as f64;
    let mut divergence = 0.0;
    for (row, (z, teacher)) in logits.chunks_exact(classes).zip(teacher.chunks_exact(classes)).enumerate() {
        let (q, p) = (log_softmax(z), log_softmax(teacher));
        divergence += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        if let Some(gradient) = &mut gradient {
            for ((g, q), p) in gradient[row * classes..][..classes].iter_mut().zip(&q).zip(&p) {
                let soft = TEMPERATURE * (q.exp() - p.exp()) / count;
                *g = ((1.0 - WEIGHT) * f64::from(*g) + WEIGHT * soft) as f32;
            }
        }
    }
    let soft = TEMPERATURE * TEMPERATURE * divergence / count;
    BatchLoss { loss: (1.0 - WEIGHT) * loss.loss + WEIGHT * soft, ..loss }
}

/// `log softmax(z / T)`.
fn log_softmax(z: &[f32]) -> Vec<f64> {
    let scaled: Vec<f64> = z.iter().map(|z| f64::from(*z) / TEMPERATURE).collect();
    let largest = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total = scaled.iter().map(|z| (z - largest).exp()).sum::<f64>().ln() + largest;
    scaled.into_iter().map(|z| z - total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cross_entropy::cross_entropy;

    fn loss(logits: &[f32], teacher: &[f32], gradient: Option<&mut [f32]>) -> f64 {
        let mut hard = vec![0.0; logits.len()];
        let loss = cross_entropy(logits, &[1, 0], 3, Some(&mut hard));
        let blended = blend(loss, logits, teacher, 3, Some(&mut hard));
        gradient.into_iter().for_each(|g| g.copy_from_slice(&hard));
        blended.loss
    }

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let logits = [0.3f32, -1.2, 2.0, 0.1, 0.4, -0.7];
        let teacher = [1.0f32, 3.0, -2.0, 5.0, 0.0, 0.5];
        let mut gradient = [0.0; 6];
        loss(&logits, &teacher, Some(&mut gradient));
        for i in 0..6 {
            let at = |step: f32| {
                let mut moved = logits;
                moved[i] += step;
                loss(&moved, &teacher, None)
            };
            let expected = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((f64::from(gradient[i]) - expected).abs() < 1e-4, "{i}: {} {expected}", gradient[i]);
        }
    }

    #[test]
    fn a_teacher_that_agrees_adds_nothing_but_its_weight() {
        let logits = [0.3f32, -1.2, 2.0, 0.1, 0.4, -0.7];
        let (alone, agreeing) = (loss(&logits, &[], None), loss(&logits, &logits, None));
        assert!((agreeing - (1.0 - WEIGHT) * alone).abs() < 1e-12);
    }
}
