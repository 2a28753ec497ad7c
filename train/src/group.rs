//! Groups of weights that live and die together.

use serde::{Deserialize, Serialize};

/// How a layer's weights `[outputs, inputs, height, width]` form groups. The last block of a row or column holds what is
/// left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// The taps between one input and one output channel.
    Kernel,
    /// All weights that read one input channel.
    InputChannel,
    /// All weights that make one output channel.
    OutputChannel,
    /// Four neighbouring input channels at one tap of one output channel.
    #[serde(rename = "1x4")]
    Block1x4,
    /// Sixteen neighbouring output channels at one tap of one input channel.
    #[serde(rename = "16x1")]
    Block16x1,
}

/// The groups of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grouping {
    /// Outputs, inputs, taps.
    shape: [usize; 3],
    /// The same of one group.
    block: [usize; 3],
}

impl Grouping {
    /// The groups of a layer with so many `[outputs, inputs, taps]`.
    pub fn new(group: Group, shape: [usize; 3]) -> Self {
        let [outputs, inputs, taps] = shape;
        let block = match group {
            Group::Kernel => [1, 1, taps],
            Group::InputChannel => [outputs, 1, taps],
            Group::OutputChannel => [1, inputs, taps],
            Group::Block1x4 => [1, 4, 1],
            Group::Block16x1 => [16, 1, 1],
        };
        Self { shape, block: [0, 1, 2].map(|axis| block[axis].min(shape[axis]).max(1)) }
    }

    /// Weights of a whole group.
    pub fn size(&self) -> usize {
        self.block.iter().product()
    }

    /// Calls `visit` with the places of each group's weights in the layer, ascending.
    pub fn for_each(&self, mut visit: impl FnMut(&[usize])) {
        let [_, inputs, taps] = self.shape;
        let starts = |axis: usize| (0..self.shape[axis]).step_by(self.block[axis]);
        let range = |axis: usize, start: usize| start..(start + self.block[axis]).min(self.shape[axis]);
        let mut places = Vec::with_capacity(self.size());
        for output in starts(0) {
            for input in starts(1) {
                for tap in starts(2) {
                    places.clear();
                    for o in range(0, output) {
                        for i in range(1, input) {
                            places.extend(range(2, tap).map(|t| (o * inputs + i) * taps + t));
                        }
                    }
                    visit(&places);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Group; 5] =
        [Group::Kernel, Group::InputChannel, Group::OutputChannel, Group::Block1x4, Group::Block16x1];

    fn groups(group: Group, shape: [usize; 3]) -> Vec<Vec<usize>> {
        let mut groups = Vec::new();
        Grouping::new(group, shape).for_each(|places| groups.push(places.to_vec()));
        groups
    }

    #[test]
    fn every_weight_is_in_one_group() {
        for group in ALL {
            for shape in [[1, 1, 1], [17, 5, 9], [16, 8, 1], [3, 4, 49]] {
                let mut places = groups(group, shape).concat();
                places.sort_unstable();
                assert!(places.into_iter().eq(0..shape.iter().product()), "{group:?} {shape:?}");
            }
        }
    }

    #[test]
    fn groups_are_what_their_names_say() {
        // [outputs, inputs, taps] = [2, 3, 2], row-major
        assert_eq!(groups(Group::Kernel, [2, 3, 2])[4], [8, 9]);
        assert_eq!(groups(Group::InputChannel, [2, 3, 2])[1], [2, 3, 8, 9]);
        assert_eq!(groups(Group::OutputChannel, [2, 3, 2])[1], [6, 7, 8, 9, 10, 11]);
        assert_eq!(groups(Group::Block1x4, [1, 6, 2])[1], [1, 3, 5, 7]);
        assert_eq!(groups(Group::Block1x4, [1, 6, 2])[2], [8, 10]);
        assert_eq!(groups(Group::Block16x1, [17, 1, 2])[1], (0..16).map(|o| 2 * o + 1).collect::<Vec<_>>());
        assert_eq!(groups(Group::Block16x1, [17, 1, 2])[2], [32]);
    }
}
