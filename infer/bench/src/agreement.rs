//! Whether engines answer alike. Only then do their times mean anything.

use serde::Serialize;

use crate::{BenchError, Runner, onnx_session};

/// Largest difference of two engines' logits, relative to the range of the reference's logits (zero included).
///
/// f32 sums of thousands of products taken in another order stay well below it; a wrong weight does not.
pub const AGREEMENT: f32 = 1e-4;

/// The engines' agreement on a set of images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    /// The engine the others are compared with: ONNX Runtime if it runs, else the first.
    pub reference: String,
    /// Number of images compared.
    pub images: usize,
    /// Largest absolute difference of a logit, over the range of the reference's logits.
    pub max_difference: f32,
    /// The largest such difference allowed.
    pub allowed: f32,
}

/// Logits `[images, outputs]` of one engine for all images; the last batch is filled up with zeros.
pub(crate) fn answers(runner: &mut dyn Runner, images: &[f32], batch: usize) -> Result<Vec<f32>, BenchError> {
    let [c, h, w] = runner.input_shape();
    let (size, outputs) = (c * h * w, runner.outputs());
    let (mut all, mut logits, mut last) = (Vec::new(), vec![0.0; batch * outputs], Vec::new());
    for images in images.chunks(batch * size) {
        let full = if images.len() == batch * size {
            images
        } else {
            last.extend_from_slice(images);
            last.resize(batch * size, 0.0);
            &last
        };
        runner.run(full, &mut logits)?;
        all.extend_from_slice(&logits[..images.len() / size * outputs]);
    }
    match all.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(BenchError::NotFinite { engine: runner.name().into(), image: at / outputs, value: all[at] }),
        None => Ok(all),
    }
}

/// Compares the answers of all engines, `(name, logits [images, outputs])`, with those of the reference.
pub(crate) fn check(answers: &[(&str, Vec<f32>)], outputs: usize) -> Result<Agreement, BenchError> {
    let (reference, expected) =
        answers.iter().find(|(name, _)| *name == onnx_session::NAME).unwrap_or_else(|| &answers[0]);
    let (low, high) = expected.iter().fold((0f32, 0f32), |(low, high), v| (low.min(*v), high.max(*v)));
    let range = high - low;
    let mut largest = 0f32;
    for (name, found) in answers {
        assert_eq!(found.len(), expected.len(), "logits of {name} and {reference}");
        let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
        let (at, difference) = differences.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default();
        if difference > AGREEMENT * range {
            return Err(BenchError::Disagreement {
                left: reference.to_string(),
                right: name.to_string(),
                image: at / outputs,
                difference,
                allowed: AGREEMENT * range,
            });
        }
        largest = largest.max(difference);
    }
    let max_difference = if range > 0.0 { largest / range } else { 0.0 };
    let images = expected.len() / outputs;
    Ok(Agreement { reference: reference.to_string(), images, max_difference, allowed: AGREEMENT })
}

/// Fraction of images whose largest logit (the first of equal ones) is that of their label.
pub(crate) fn accuracy(logits: &[f32], labels: &[usize]) -> f64 {
    let found = classes(logits, logits.len() / labels.len());
    let right = found.iter().zip(labels).filter(|(found, label)| found == label).count();
    right as f64 / labels.len() as f64
}

/// The class of each image: where its largest logit is.
pub(crate) fn classes(logits: &[f32], outputs: usize) -> Vec<usize> {
    logits.chunks(outputs).map(largest).collect()
}

/// Index of the largest of an image's logits, the first of equal ones.
pub(crate) fn largest(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, k| if logits[k] > logits[best] { k } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: [f32; 6] = [-2.0, 6.0, 1.0, 0.5, 0.0, 3.0];

    fn changed(at: usize, by: f32) -> Vec<f32> {
        let mut logits = REFERENCE.to_vec();
        logits[at] += by;
        logits
    }

    /// The range is 8, so 8e-4 is allowed.
    #[test]
    fn a_difference_above_the_bound_names_engines_and_image() {
        let near = [("sparse", changed(1, 7e-4)), ("ort", REFERENCE.to_vec()), ("dense", changed(2, -4e-4))];
        let agreement = check(&near, 3).unwrap();
        assert_eq!((agreement.reference.as_str(), agreement.images), ("ort", 2));
        assert!((agreement.max_difference - 7e-4 / 8.0).abs() < 1e-7, "{agreement:?}");

        let far = [("sparse", REFERENCE.to_vec()), ("dense", changed(4, 9e-4))];
        let message = check(&far, 3).unwrap_err().to_string();
        assert!(message.starts_with("engines sparse and dense disagree on image 1: "), "{message}");
    }

    #[test]
    fn engines_that_answer_only_zeros_agree() {
        assert_eq!(check(&[("sparse", vec![0.0; 4]), ("dense", vec![0.0; 4])], 2).unwrap().max_difference, 0.0);
    }

    #[test]
    fn accuracy_counts_largest_logits() {
        assert_eq!(accuracy(&REFERENCE, &[1, 2]), 1.0);
        assert_eq!(accuracy(&REFERENCE, &[0, 2]), 0.5);
        assert_eq!(accuracy(&[1.0, 1.0, 0.0, 0.0], &[0, 1]), 0.5);
    }

    /// Answers the sum of each image's values.
    struct Sum;

    impl Runner for Sum {
        fn name(&self) -> &'static str {
            "sum"
        }
        fn input_shape(&self) -> [usize; 3] {
            [1, 1, 2]
        }
        fn outputs(&self) -> usize {
            1
        }
        fn weight_bytes(&self) -> u64 {
            0
        }
        fn run(&mut self, images: &[f32], logits: &mut [f32]) -> Result<(), BenchError> {
            assert_eq!(images.len(), 4, "a batch of 2");
            logits.iter_mut().zip(images.chunks(2)).for_each(|(sum, image)| *sum = image.iter().sum());
            Ok(())
        }
    }

    #[test]
    fn a_short_last_batch_is_filled_up_and_cut() {
        let images = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(answers(&mut Sum, &images, 2).unwrap(), [3.0, 7.0, 11.0]);
        let error = answers(&mut Sum, &[1.0, 2.0, 3.0, f32::NAN], 2).unwrap_err();
        assert_eq!(error.to_string(), "sum answers NaN for image 1; expected finite logits");
    }
}
