//! Builds programs: every step is checked here, against buffers that are laid out here.

use std::ops::Range;

use crate::Isa;
use crate::activation::{Activate, Activation};
use crate::border::Border;
use crate::combine::{Combination, Combine};
use crate::dilated_pooling::DilatedPool;
use crate::linear::{Linear, Rows};
use crate::masks::Masks;
use crate::plane::{ALIGN, Place, odd_lines};
use crate::pointwise::Pointwise;
use crate::pooling::{GlobalAverage, Pool, Pooling};
use crate::program::{Buffer, Program, Weights};
use crate::registry::{self, Step};
use crate::softmax::Softmax;
use crate::source::TooLarge;
use crate::team::Threads;
use crate::transfer::{Export, Flatten, Import};
use crate::window::Window;

mod conv;

/// Index of a buffer in the list the builder was made with.
pub type BufferId = usize;

/// No limit on a step's results.
pub const NO_CLIP: [f32; 2] = [f32::NEG_INFINITY, f32::INFINITY];

/// What a convolution does beside multiplying with its weights.
#[derive(Debug, Clone, Copy)]
pub struct Conv<'a> {
    /// The window.
    pub window: Window,
    /// Number of groups; as many as input channels for a depthwise convolution.
    pub groups: usize,
    /// Added to each output channel.
    pub bias: Option<&'a [f32]>,
    /// Added to the result, of the same layout.
    pub residual: Option<BufferId>,
    /// The result is limited to `[low, high]`, last.
    pub clip: [f32; 2],
}

impl Conv<'_> {
    /// Whether every output channel reads one input channel of its own, through a window that has a kernel of its own
    /// for dense weights.
    pub fn is_depthwise(&self, in_channels: usize, out_channels: usize) -> bool {
        let Window { kernel, stride, dilation, .. } = self.window;
        (self.groups, self.groups) == (in_channels, out_channels)
            && (kernel, dilation) == ([3, 3], [1, 1])
            && matches!(stride, [1, 1] | [2, 2])
    }
}

/// Collects the steps of a [`Program`]. Every method returns the range of steps it appended.
///
/// Methods panic where a step does not fit its buffers: which steps to run is the caller's choice, never a file's.
#[derive(Debug)]
pub struct ProgramBuilder {
    pub(crate) isa: Isa,
    pub(crate) steps: Vec<Step>,
    pub(crate) lanes: usize,
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) buffers: Vec<Place>,
    scratch: usize,
    scratch_values: usize,
    masks: Masks,
    /// Bytes of the lists of the first `counted` steps.
    lists: usize,
    counted: usize,
}

/// Values that a step may read past its buffers: a pooling of every second column two vectors.
const READ_PAST: usize = 3 * ALIGN;

impl ProgramBuilder {
    /// A builder over these buffers, whose planes all have 1 lane or all as many as the tier's vectors.
    pub fn new(isa: Isa, buffers: &[Buffer]) -> Self {
        let lanes = buffers.first().expect("a program has buffers").plane.lanes();
        assert!(lanes == 1 || lanes == isa.lanes(), "{lanes} lanes a position on {isa}, expected 1 or {}", isa.lanes());
        let mut next = 0;
        let mut laid = Vec::with_capacity(buffers.len());
        for buffer in buffers {
            assert_eq!(buffer.plane.lanes(), lanes, "buffers must agree on the lanes of a position");
            let Buffer { plane, channels } = *buffer;
            laid.push(Place { start: next, plane, channels });
            next += odd_lines(channels * plane.stride() + ALIGN);
        }
        Self {
            isa,
            steps: Vec::new(),
            lanes,
            input: 0,
            output: 0,
            buffers: laid,
            scratch: next,
            scratch_values: 0,
            masks: Masks::default(),
            lists: 0,
            counted: 0,
        }
    }

    /// Bytes that its steps so far take beside their weights: an arena, the bits that they keep, and the lists of what they
    /// rearrange and in which tiles they compute.
    pub fn bytes(&mut self) -> usize {
        self.lists += self.steps[self.counted..].iter().map(Step::list_bytes).sum::<usize>();
        self.counted = self.steps.len();
        self.arena_values() * size_of::<f32>() + self.masks.bytes() + self.lists
    }

    /// Bytes of weights and indices that a range of its steps reads; weights that steps share count once.
    pub fn weight_bytes(&self, steps: Range<usize>) -> usize {
        registry::weight_bytes(&self.steps[steps])
    }

    /// Makes the program, for these threads and for batches of `batch`.
    pub fn build(self, threads: Threads, batch: usize) -> Program {
        assert!(threads.count > 0, "a program needs a thread");
        Program::new(self, threads, batch)
    }

    /// Values of an arena: all buffers, the scratch, and what may be read past them.
    pub(crate) fn arena_values(&self) -> usize {
        self.scratch + self.scratch_values + READ_PAST
    }

    /// Copies the images into `y`.
    pub fn import(&mut self, y: BufferId) -> Range<usize> {
        let y = self.buffers[y];
        self.input = y.image();
        self.push(Step::Import(Import { y }))
    }

    /// Copies `x` to the outputs.
    pub fn export(&mut self, x: BufferId) -> Range<usize> {
        let x = self.buffers[x];
        self.output = x.image();
        self.push(Step::Export(Export { x }))
    }

    /// `y = clip(weights x + bias)` over features.
    ///
    /// # Errors
    /// As [`ProgramBuilder::conv`].
    pub fn linear(
        &mut self,
        x: BufferId,
        y: BufferId,
        weights: Weights<'_>,
        bias: Option<&[f32]>,
        clip: [f32; 2],
    ) -> Result<Range<usize>, TooLarge> {
        if self.lanes > 1 {
            return self.conv(x, y, weights, &Conv { window: Window::POINT, groups: 1, bias, residual: None, clip });
        }
        let (from, to) = (self.features(x, y), self.features(y, x));
        weights.check(to.channels, from.channels);
        let bias = bias.map_or_else(|| vec![0.0; to.channels], <[f32]>::to_vec);
        assert_eq!(bias.len(), to.channels, "biases");
        let (x, y, features) = (from.start, to.start, from.channels);
        Ok(self.push(match weights {
            Weights::Dense(dense) | Weights::Winograd(dense) => {
                Step::DenseLinear(Linear { x, y, features, weights: dense.to_vec(), bias, clip })
            }
            Weights::Sparse(matrix) | Weights::Generated(matrix) => {
                let starts = matrix.crow_indices().iter().map(|i| *i as u32).collect();
                let columns = matrix.col_indices().iter().map(|c| *c as u32);
                let entries = columns.zip(matrix.values().iter().copied()).collect();
                Step::SparseLinear(Linear { x, y, features, weights: Rows { starts, entries }, bias, clip })
            }
        }))
    }

    /// `y[first..first + channels of x] = clip(scale x + shift + residual)`; scale and shift come as one pair a
    /// channel, and all three may be left out. The rest of `y` stays as it is.
    pub fn pointwise(
        &mut self,
        x: BufferId,
        y: BufferId,
        first: usize,
        affine: Option<Vec<[f32; 2]>>,
        residual: Option<BufferId>,
        clip: [f32; 2],
    ) -> Range<usize> {
        let (from, to) = (self.buffers[x], self.buffers[y]);
        self.distinct(x, y);
        assert_eq!(from.plane, to.plane, "planes of a pointwise step");
        assert!(first + from.channels <= to.channels, "{} channels from {first} of {}", from.channels, to.channels);
        assert!(affine.as_ref().is_none_or(|affine| affine.len() == from.channels), "scales");
        let residual = residual.map(|r| {
            assert!(r != y, "a residual must not be the output");
            self.like(r, x).row(0, 0)
        });
        let (plane, mask) = (from.plane, self.masks.mask(&from.plane));
        self.push(Step::Pointwise(Pointwise {
            x: from.row(0, 0),
            y: to.row(first, 0),
            residual,
            stride: plane.stride(),
            flat: plane.values(),
            mask,
            channels: from.channels,
            affine,
            clip,
        }))
    }

    /// `y = activation(x)`.
    pub fn activate(&mut self, x: BufferId, y: BufferId, activation: Activation) -> Range<usize> {
        self.distinct(x, y);
        let (x, y) = (self.buffers[x], self.like(y, x));
        self.push(Step::Activate(Activate { x, y, activation }))
    }

    /// `y = a combined with b`, where `b` has the layout of `a`, or one position a channel.
    pub fn combine(&mut self, a: BufferId, b: BufferId, y: BufferId, combination: Combination) -> Range<usize> {
        self.distinct(a, y);
        self.distinct(b, y);
        let (a, b, y) = (self.buffers[a], self.buffers[b], self.like(y, a));
        assert_eq!(a.channels, b.channels, "channels to combine");
        assert!(b.plane == a.plane || (b.plane.height(), b.plane.width()) == (1, 1), "{:?}", b.plane);
        self.push(Step::Combine(Combine { a, b, y, combination }))
    }

    /// `x` with a border of `value` around it: as wide as `top` and `left` say, and to the end of `y` behind.
    pub fn border(&mut self, x: BufferId, y: BufferId, [top, left]: [usize; 2], value: f32) -> Range<usize> {
        self.distinct(x, y);
        let (x, y) = (self.buffers[x], self.buffers[y]);
        assert_eq!(x.channels, y.channels, "channels of a border");
        let fits = |from: usize, before: usize, to: usize| from + before <= to;
        assert!(
            fits(x.plane.height(), top, y.plane.height()) && fits(x.plane.width(), left, y.plane.width()),
            "{x:?} does not fit {y:?} at {top}, {left}"
        );
        self.push(Step::Border(Border { x, y, top, left, value }))
    }

    /// Max or average pooling.
    pub fn pool(&mut self, x: BufferId, y: BufferId, pooling: Pooling, window: Window) -> Range<usize> {
        self.distinct(x, y);
        let (x, y) = (self.buffers[x], self.buffers[y]);
        let positions = window.positions([x.plane.height(), x.plane.width()]);
        assert_eq!(positions, Some([y.plane.height(), y.plane.width()]), "positions of {window:?}");
        assert_eq!(x.channels, y.channels, "channels of a pooling");
        let pool = Pool { x, y, pooling, window };
        self.push(if window.dilation == [1, 1] { Step::Pool(pool) } else { Step::DilatedPool(DilatedPool(pool)) })
    }

    /// Mean over each plane; `y` holds one position a channel.
    pub fn global_average(&mut self, x: BufferId, y: BufferId) -> Range<usize> {
        self.distinct(x, y);
        let (x, y) = (self.buffers[x], self.buffers[y]);
        assert_eq!((y.channels, y.plane.height(), y.plane.width()), (x.channels, 1, 1), "means");
        self.push(Step::GlobalAverage(GlobalAverage { x, y }))
    }

    /// Planes to features.
    pub fn flatten(&mut self, x: BufferId, y: BufferId) -> Range<usize> {
        let (to, x) = (self.features(y, x), self.buffers[x]);
        assert_eq!(to.channels, x.image(), "features");
        self.push(Step::Flatten(Flatten { x, y: to.start }))
    }

    /// Softmax over features.
    pub fn softmax(&mut self, x: BufferId, y: BufferId) -> Range<usize> {
        let (x, y) = (self.features(x, y), self.features(y, x));
        assert_eq!(x.channels, y.channels, "features");
        self.push(Step::Softmax(Softmax { x: x.start, y: y.start, features: x.channels, lanes: self.lanes }))
    }

    fn push(&mut self, step: Step) -> Range<usize> {
        self.steps.push(step);
        self.steps.len() - 1..self.steps.len()
    }

    /// A buffer that must have the layout of another.
    fn like(&self, buffer: BufferId, other: BufferId) -> Place {
        let (a, b) = (self.buffers[buffer], self.buffers[other]);
        assert_eq!((a.plane, a.channels), (b.plane, b.channels), "two layouts that must be one");
        a
    }

    /// A buffer of features, distinct from `other`.
    fn features(&self, buffer: BufferId, other: BufferId) -> Place {
        self.distinct(buffer, other);
        let features = self.buffers[buffer];
        assert_eq!(features.plane.stride(), self.lanes, "features must be contiguous");
        features
    }

    fn distinct(&self, x: BufferId, y: BufferId) {
        assert_ne!(x, y, "a step must not read the buffer it writes");
    }
}
