//! The non-zeros of a convolution's weight in the order in which a sweep applies them.

use super::convolution::ConvShape;
use super::sparse_sweep::Sweep;

/// A weight and where its source value lies, from a position's place in the band.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tap {
    pub value: f32,
    pub offset: u32,
}

/// Lists of non-zeros; see [`super::SparseConvolution`].
#[derive(Debug, Clone, Default)]
pub struct SparseWeights {
    pub(super) phases: Vec<TapList>,
}

/// The non-zeros of one phase, chunk by chunk of source channels, and in a chunk row by row of destination channels.
#[derive(Debug, Clone, Default)]
pub(super) struct TapList {
    pub taps: Vec<Tap>,
    /// First tap of each row of each chunk, and the end.
    pub starts: Vec<u32>,
    /// Place of each tap in the plain weight.
    places: Vec<u32>,
}

impl SparseWeights {
    /// Number of non-zeros.
    pub fn nnz(&self) -> usize {
        self.phases.iter().map(|list| list.taps.len()).sum()
    }

    /// Adds sums in this order, as many as non-zeros, to the plain gradient.
    pub fn add_to_gradient(&self, sums: &[f32], gradient: &mut [f32]) {
        assert_eq!(sums.len(), self.nnz());
        let places = self.phases.iter().flat_map(|list| &list.places);
        places.zip(sums).for_each(|(place, sum)| gradient[*place as usize] += sum);
    }

    /// Takes the values of `weights`, and the places of its non-zeros where they have changed.
    pub(super) fn refresh(&mut self, shape: &ConvShape, sweep: &Sweep, weights: &[f32]) {
        let per_group = [shape.in_channels, shape.out_channels].map(|channels| channels / shape.groups);
        let taps = shape.kernel[0] * shape.kernel[1];
        assert_eq!(weights.len(), shape.out_channels * per_group[0] * taps);
        if !self.take_values(weights) {
            self.rebuild(per_group, taps, sweep, weights);
        }
    }

    /// Whether the non-zeros of `weights` are those listed; the values are then up to date.
    fn take_values(&mut self, weights: &[f32]) -> bool {
        let mut all = true;
        for list in &mut self.phases {
            for (tap, place) in list.taps.iter_mut().zip(&list.places) {
                tap.value = weights.get(*place as usize).copied().unwrap_or(0.0);
                all &= tap.value != 0.0;
            }
        }
        all && !self.phases.is_empty() && self.nnz() == count_nonzeros(weights)
    }

    fn rebuild(&mut self, per_group: [usize; 2], taps: usize, sweep: &Sweep, weights: &[f32]) {
        // Phase and offset of each place of the kernel; those that meet only padding have none.
        let mut of_place = vec![None; taps];
        for (phase, p) in sweep.phases.iter().enumerate() {
            p.taps.iter().for_each(|(place, offset)| of_place[*place] = Some((phase, *offset)));
        }
        let rows = sweep.destination.channels;
        let entries = weights.iter().enumerate().filter(|(_, value)| **value != 0.0).filter_map(|(place, value)| {
            let (filter, tap) = (place / taps, place % taps);
            let output = filter / per_group[0];
            let input = output / per_group[1] * per_group[0] + filter % per_group[0];
            let (row, source) = if sweep.transposed { (input, output) } else { (output, input) };
            let (phase, offset) = of_place[tap]?;
            let key = source / sweep.phases[phase].chunk * rows + row;
            let offset = (source * sweep.plane()) as u32 + offset;
            Some((phase, key, place as u32, Tap { value: *value, offset }))
        });
        self.phases.resize_with(sweep.phases.len(), TapList::default);
        for (list, phase) in self.phases.iter_mut().zip(&sweep.phases) {
            list.starts.clear();
            list.starts.resize(sweep.source.channels.div_ceil(phase.chunk) * rows + 1, 0);
        }
        // Counting sort: lengths, then starts, then each entry to the next place of its row.
        for (phase, key, ..) in entries.clone() {
            self.phases[phase].starts[key] += 1;
        }
        for list in &mut self.phases {
            let mut end = 0;
            for start in &mut list.starts {
                (*start, end) = (end, end + *start);
            }
            list.taps.resize(end as usize, Tap::default());
            list.places.resize(end as usize, 0);
        }
        for (phase, key, place, tap) in entries {
            let list = &mut self.phases[phase];
            let at = list.starts[key] as usize;
            (list.taps[at], list.places[at]) = (tap, place);
            list.starts[key] += 1;
        }
        for list in &mut self.phases {
            // Each start now is the next row's.
            list.starts.rotate_right(1);
            list.starts[0] = 0;
        }
    }
}

/// Number of values that are not zero.
pub fn count_nonzeros(values: &[f32]) -> usize {
    values.chunks(1 << 16).map(|part| part.iter().map(|v| u32::from(*v != 0.0)).sum::<u32>() as usize).sum()
}
