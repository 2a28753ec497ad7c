//! Batches for validation and test.

use super::Dataset;
use super::pixels::{Augmentation, IMAGE_BYTES, Normalizer};
use crate::executor::Batch;

/// All images once, in order, normalised and not augmented; the last batch may be smaller.
#[derive(Debug, Clone)]
pub struct EvaluationBatches<'a> {
    dataset: &'a Dataset,
    normalizer: Normalizer,
    batch_size: usize,
    next: usize,
}

impl<'a> EvaluationBatches<'a> {
    /// Batches of `batch_size` images.
    ///
    /// # Panics
    /// If `batch_size` is 0.
    pub fn new(dataset: &'a Dataset, batch_size: usize) -> Self {
        assert!(batch_size > 0, "batch size 0");
        Self { dataset, normalizer: Normalizer::new(dataset.kind()), batch_size, next: 0 }
    }
}

impl Iterator for EvaluationBatches<'_> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let range = self.next..self.dataset.len().min(self.next + self.batch_size);
        if range.is_empty() {
            return None;
        }
        self.next = range.end;
        let mut images = Vec::with_capacity(range.len() * IMAGE_BYTES);
        for index in range.clone() {
            self.normalizer.append(self.dataset.image(index), Augmentation::NONE, &mut images);
        }
        let labels = range.map(|index| self.dataset.label(index)).collect();
        Some(Batch { images, labels, ..Batch::default() })
    }
}
