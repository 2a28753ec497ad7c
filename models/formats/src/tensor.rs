//! Dense f32 tensors in row-major order, and maps of them by name.

use std::collections::BTreeMap;

/// A dense row-major f32 tensor whose data always fills its shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Vec<f32>,
}

/// Tensors by name, in name order.
pub type TensorMap = BTreeMap<String, Tensor>;

impl Tensor {
    /// A tensor of `shape` over `data`.
    ///
    /// # Panics
    /// If `data.len()` is not the product of `shape` (a caller's bug; files are checked before they get here).
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        let shape = shape.into();
        let expected: usize = shape.iter().product();
        assert_eq!(data.len(), expected, "tensor of shape {shape:?} needs {expected} values, got {}", data.len());
        Self { shape, data }
    }

    /// A tensor of `shape` where every value is `value`.
    pub fn full(shape: impl Into<Vec<usize>>, value: f32) -> Self {
        let shape = shape.into();
        let data = vec![value; shape.iter().product()];
        Self { shape, data }
    }

    /// The dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values in row-major order.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The values in row-major order, to change in place.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The values in row-major order, without the shape.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Number of values that are not exactly zero (−0.0 counts as zero, NaN as non-zero).
    pub fn nnz(&self) -> usize {
        self.data.iter().filter(|v| **v != 0.0).count()
    }
}
