//! Bits of the values that steps keep: all steps on planes of one layout share one table.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::plane::Plane;

/// The tables made so far.
#[derive(Debug, Default)]
pub(crate) struct Masks {
    masks: BTreeMap<Plane, Option<Arc<[f32]>>>,
    edges: BTreeMap<(Plane, isize), Arc<[f32]>>,
}

impl Masks {
    /// As [`Plane::mask`].
    pub(crate) fn mask(&mut self, plane: &Plane) -> Option<Arc<[f32]>> {
        self.masks.entry(*plane).or_insert_with(|| plane.mask().map(Arc::from)).clone()
    }

    /// As [`Plane::edge`].
    pub(crate) fn edge(&mut self, plane: &Plane, right: isize) -> Arc<[f32]> {
        self.edges.entry((*plane, right)).or_insert_with(|| plane.edge(right).into()).clone()
    }

    /// Bytes of all tables.
    pub(crate) fn bytes(&self) -> usize {
        self.masks.values().flatten().chain(self.edges.values()).map(|table| size_of_val(&table[..])).sum()
    }
}
