//! Images and labels in memory.

use super::DatasetKind;
use super::pixels::IMAGE_BYTES;

/// Images with their classes. Every image is 3x32x32 bytes and every label is below the number of classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    kind: DatasetKind,
    images: Vec<u8>,
    labels: Vec<u8>,
}

impl Dataset {
    /// Images `[labels.len(), 3, 32, 32]` row-major, channels red, green, blue.
    ///
    /// # Panics
    /// If the lengths differ or a label is out of range.
    pub fn new(kind: DatasetKind, images: Vec<u8>, labels: Vec<u8>) -> Self {
        assert_eq!(images.len(), labels.len() * IMAGE_BYTES, "bytes of {} images", labels.len());
        if let Some(label) = labels.iter().find(|&&label| usize::from(label) >= kind.classes()) {
            panic!("label {label} in a dataset of {} classes", kind.classes());
        }
        Self { kind, images, labels }
    }

    /// Which dataset it is.
    pub fn kind(&self) -> DatasetKind {
        self.kind
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Pixels `[3, 32, 32]` of an image.
    ///
    /// # Panics
    /// If `index` is not below [`Dataset::len`].
    pub fn image(&self, index: usize) -> &[u8] {
        &self.images[index * IMAGE_BYTES..][..IMAGE_BYTES]
    }

    /// Class of an image.
    ///
    /// # Panics
    /// If `index` is not below [`Dataset::len`].
    pub fn label(&self, index: usize) -> u32 {
        self.labels[index].into()
    }

    /// Classes of all images.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// Number of images of each class.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.kind.classes()];
        for &label in &self.labels {
            counts[usize::from(label)] += 1;
        }
        counts
    }

    /// The images at `indices`, in that order.
    ///
    /// # Panics
    /// If an index is not below [`Dataset::len`].
    pub fn select(&self, indices: &[usize]) -> Self {
        let mut images = Vec::with_capacity(indices.len() * IMAGE_BYTES);
        for &index in indices {
            images.extend_from_slice(self.image(index));
        }
        Self { kind: self.kind, images, labels: indices.iter().map(|&index| self.labels[index]).collect() }
    }
}
