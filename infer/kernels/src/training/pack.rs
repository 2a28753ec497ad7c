//! Weights in the order in which the kernels read them, and back.

use std::ops::Range;

use super::BLOCK;
use super::convolution::{Convolution, Phase};

impl Convolution {
    /// Values of the packed weights of one output block in the forward pass: `[input block][tap][input lane][output
    /// lane]`, or `[tap][lane]` if depthwise.
    pub fn forward_block_len(&self) -> usize {
        self.taps() * if self.depthwise { BLOCK } else { self.input_blocks() * BLOCK * BLOCK }
    }

    /// Values of the packed weights of one input block in the backward pass: for each residue of the stride `[output
    /// block][tap][output lane][input lane]`, or `[tap][lane]` if depthwise.
    pub fn backward_block_len(&self) -> usize {
        self.taps() * if self.depthwise { BLOCK } else { self.output_blocks() * BLOCK * BLOCK }
    }

    /// Values of the plain weights of one (whole) output block.
    pub fn block_weights(&self) -> usize {
        BLOCK * self.filters() * self.taps()
    }

    /// Packs the weights of one output block for [`Convolution::forward`].
    ///
    /// `weights` is `[out_channels, in_channels / groups, kernel[0], kernel[1]]`. Lanes past the last channel, and
    /// pairs of channels in different groups, are zero in `packed`.
    pub fn pack_forward(&self, block: usize, weights: &[f32], packed: &mut [f32]) {
        assert_eq!(packed.len(), self.forward_block_len());
        packed.fill(0.0);
        self.for_each_filter(block * BLOCK..(block + 1) * BLOCK, 0..self.shape.in_channels, |output, input, from| {
            let filter = &weights[from..from + self.taps()];
            for (tap, value) in filter.iter().enumerate() {
                packed[self.forward_index(output % BLOCK, input, tap)] = *value;
            }
        });
    }

    /// Adds the packed gradient of one output block to `gradient`, the part of the weight's gradient that belongs to
    /// the block's channels.
    pub fn unpack_gradient(&self, block: usize, packed: &[f32], gradient: &mut [f32]) {
        assert_eq!(packed.len(), self.forward_block_len());
        let first = block * self.block_weights();
        self.for_each_filter(block * BLOCK..(block + 1) * BLOCK, 0..self.shape.in_channels, |output, input, from| {
            let filter = &mut gradient[from - first..from - first + self.taps()];
            for (tap, value) in filter.iter_mut().enumerate() {
                *value += packed[self.forward_index(output % BLOCK, input, tap)];
            }
        });
    }

    /// Packs the weights of one input block for [`Convolution::input_gradient`].
    pub fn pack_backward(&self, block: usize, weights: &[f32], packed: &mut [f32]) {
        assert_eq!(packed.len(), self.backward_block_len());
        packed.fill(0.0);
        let mut start = 0;
        for phase in &self.backward {
            let taps = phase.kernel_places.len();
            let inputs = block * BLOCK..(block + 1) * BLOCK;
            self.for_each_filter(0..self.shape.out_channels, inputs, |output, input, from| {
                let first = if self.depthwise { 0 } else { (output / BLOCK * taps * BLOCK + output % BLOCK) * BLOCK };
                let step = if self.depthwise { BLOCK } else { BLOCK * BLOCK };
                for (tap, place) in phase.kernel_places.iter().enumerate() {
                    packed[start + first + tap * step + input % BLOCK] = weights[from + place];
                }
            });
            start += self.phase_len(phase);
        }
    }

    /// Packed values of one phase of one input block.
    pub(super) fn phase_len(&self, phase: &Phase) -> usize {
        self.backward_block_len() / self.taps() * phase.kernel_places.len()
    }

    fn forward_index(&self, lane: usize, input: usize, tap: usize) -> usize {
        match self.depthwise {
            true => tap * BLOCK + lane,
            false => ((input / BLOCK * self.taps() + tap) * BLOCK + input % BLOCK) * BLOCK + lane,
        }
    }

    /// Calls `f(output channel, input channel, offset of their filter in the weights)` for every connected pair of an
    /// output channel in `outputs` and an input channel in `inputs`; for one block of inputs after another, whose packed
    /// weights then stay in the nearest cache.
    fn for_each_filter(&self, outputs: Range<usize>, inputs: Range<usize>, mut f: impl FnMut(usize, usize, usize)) {
        let per_group = self.shape.out_channels / self.shape.groups;
        for block in inputs.clone().step_by(BLOCK) {
            let inputs = block..(block + BLOCK).min(inputs.end);
            for output in outputs.start..outputs.end.min(self.shape.out_channels) {
                let first = output / per_group * self.filters();
                for input in inputs.start.max(first)..inputs.end.min(first + self.filters()) {
                    f(output, input, (output * self.filters() + input - first) * self.taps());
                }
            }
        }
    }

    /// Input channels that one output channel sees.
    fn filters(&self) -> usize {
        self.shape.in_channels / self.shape.groups
    }

    fn taps(&self) -> usize {
        self.shape.kernel[0] * self.shape.kernel[1]
    }
}
