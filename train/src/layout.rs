//! Flat vectors over named tensors: where each parameter and each buffer of a graph lies.

use std::ops::Range;

use sr2_formats::{Tensor, TensorMap};
use sr2_models::{Graph, ParameterSpec};

/// A named tensor's place in a flat vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Name, shape and role.
    pub spec: ParameterSpec,
    /// Its values in the flat vector, row-major.
    pub range: Range<usize>,
}

/// Places of all trainable parameters in one flat vector, and of all buffers (running statistics) in another,
/// both in the graph's order of first use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterLayout {
    trainable: Vec<Segment>,
    buffers: Vec<Segment>,
}

impl ParameterLayout {
    /// The layout of a graph.
    pub fn new(graph: &Graph) -> Self {
        let (trainable, buffers): (Vec<_>, Vec<_>) =
            graph.parameters().iter().cloned().partition(|p| p.role.is_trainable());
        Self { trainable: segments(trainable), buffers: segments(buffers) }
    }

    /// The trainable parameters.
    pub fn trainable(&self) -> &[Segment] {
        &self.trainable
    }

    /// The buffers.
    pub fn buffers(&self) -> &[Segment] {
        &self.buffers
    }

    /// Length of the flat vector of trainable parameters.
    pub fn trainable_len(&self) -> usize {
        self.trainable.last().map_or(0, |s| s.range.end)
    }

    /// Length of the flat vector of buffers.
    pub fn buffers_len(&self) -> usize {
        self.buffers.last().map_or(0, |s| s.range.end)
    }
}

fn segments(specs: Vec<ParameterSpec>) -> Vec<Segment> {
    let mut end = 0;
    let place = |spec: ParameterSpec| {
        let start = end;
        end += spec.shape.iter().product::<usize>();
        Segment { spec, range: start..end }
    };
    specs.into_iter().map(place).collect()
}

/// Gathers the tensors of `segments` into one flat vector.
///
/// # Panics
/// If a tensor is missing or has another size; a [`sr2_models::Model`]'s tensors always fit its graph.
pub fn flatten(segments: &[Segment], tensors: &TensorMap) -> Vec<f32> {
    let mut flat = Vec::with_capacity(segments.last().map_or(0, |s| s.range.end));
    for segment in segments {
        let tensor = &tensors[&segment.spec.name];
        assert_eq!(tensor.len(), segment.range.len(), "{}", segment.spec.name);
        flat.extend_from_slice(tensor.data());
    }
    flat
}

/// Cuts a flat vector into the tensors of `segments`.
pub fn unflatten(segments: &[Segment], flat: &[f32]) -> TensorMap {
    let tensor = |s: &Segment| (s.spec.name.clone(), Tensor::new(s.spec.shape.clone(), flat[s.range.clone()].to_vec()));
    segments.iter().map(tensor).collect()
}
