//! A program: steps over buffers, checked once when it is built, then run many times without allocating.

use std::ops::Range;
use std::time::{Duration, Instant};

use sr2_formats::CsrMatrix;

use crate::Isa;
use crate::activation::Activate;
use crate::arena::Arena;
use crate::arrange::Arrange;
use crate::border::Border;
use crate::builder::ProgramBuilder;
use crate::combine::Combine;
use crate::dense_conv::DenseConv;
use crate::depthwise::DepthwiseConv;
use crate::dilated_pooling::DilatedPool;
use crate::linear::Linear;
use crate::plane::Plane;
use crate::pointwise::Pointwise;
use crate::pooling::{GlobalAverage, Pool};
use crate::softmax::Softmax;
use crate::sparse_conv::SparseConv;
use crate::step::{Call, Part, Site};
use crate::team::Team;
use crate::transfer::{Export, Flatten, Import};

/// A place for the values of one tensor: `channels` planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Layout of a channel.
    pub plane: Plane,
    /// Number of channels.
    pub channels: usize,
}

/// Weights of a convolution or linear layer, `[out_channels, in_channels / groups * kernel height * kernel width]`.
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a> {
    /// Only the non-zeros are stored and computed.
    Sparse(&'a CsrMatrix),
    /// Row-major, all computed.
    Dense(&'a [f32]),
}

/// One step, with all it needs beside the arena.
#[derive(Debug)]
pub(crate) enum Step {
    Import(Import),
    Export(Export),
    Arrange(Arrange),
    SparseConv(SparseConv),
    DenseConv(DenseConv),
    DepthwiseConv(DepthwiseConv),
    Linear(Linear),
    Pointwise(Pointwise),
    Activate(Activate),
    Combine(Combine),
    Border(Border),
    Pool(Pool),
    DilatedPool(DilatedPool),
    GlobalAverage(GlobalAverage),
    Flatten(Flatten),
    Softmax(Softmax),
}

impl Step {
    /// The registered name of its kernel, without the tier.
    pub(crate) fn kernel(&self) -> &'static str {
        use crate::linear::LinearWeights;
        match self {
            Self::Import(_) => "import_f32",
            Self::Export(_) => "export_f32",
            Self::Arrange(_) => "arrange_f32",
            Self::SparseConv(_) => "sparse_conv_f32",
            Self::DenseConv(_) => "dense_conv_f32",
            Self::DepthwiseConv(_) => "depthwise_conv_f32",
            Self::Linear(Linear { weights: LinearWeights::Sparse { .. }, .. }) => "sparse_linear_f32",
            Self::Linear(_) => "dense_linear_f32",
            Self::Pointwise(_) => "pointwise_f32",
            Self::Activate(_) => "activate_f32",
            Self::Combine(_) => "combine_f32",
            Self::Border(_) => "border_f32",
            Self::Pool(_) => "pool_f32",
            Self::DilatedPool(_) => "dilated_pool_f32",
            Self::GlobalAverage(_) => "global_average_f32",
            Self::Flatten(_) => "flatten_f32",
            Self::Softmax(_) => "softmax_f32",
        }
    }

    /// Bytes of weights and indices that it streams.
    fn weight_bytes(&self) -> usize {
        use crate::linear::LinearWeights;
        match self {
            Self::SparseConv(s) => {
                size_of_val(&s.taps[..]) + s.blocks.iter().map(|b| size_of_val(&b[..])).sum::<usize>()
            }
            Self::DenseConv(s) => size_of_val(&s.weights[..]) + size_of_val(&s.offsets[..]),
            Self::DepthwiseConv(s) => size_of_val(&s.weights[..]),
            Self::Linear(Linear { weights: LinearWeights::Dense(weights), .. }) => size_of_val(&weights[..]),
            Self::Linear(Linear { weights: LinearWeights::Sparse { starts, entries }, .. }) => {
                size_of_val(&starts[..]) + size_of_val(&entries[..])
            }
            _ => 0,
        }
    }

    /// # Safety
    /// `site` must be that of the program that owns the step, with an arena of its size.
    unsafe fn run(&self, isa: Isa, site: Site) {
        // SAFETY: the builder checked each step against the arena's size; the rest is the caller's promise.
        unsafe {
            match self {
                Self::Import(step) => isa.launch(&Call { step, site }),
                Self::Export(step) => isa.launch(&Call { step, site }),
                Self::Arrange(step) => isa.launch(&Call { step, site }),
                Self::SparseConv(step) => isa.launch(&Call { step, site }),
                Self::DenseConv(step) => isa.launch(&Call { step, site }),
                Self::DepthwiseConv(step) => isa.launch(&Call { step, site }),
                Self::Linear(step) => isa.launch(&Call { step, site }),
                Self::Pointwise(step) => isa.launch(&Call { step, site }),
                Self::Activate(step) => isa.launch(&Call { step, site }),
                Self::Combine(step) => isa.launch(&Call { step, site }),
                Self::Border(step) => isa.launch(&Call { step, site }),
                Self::Pool(step) => isa.launch(&Call { step, site }),
                Self::DilatedPool(step) => isa.launch(&Call { step, site }),
                Self::GlobalAverage(step) => isa.launch(&Call { step, site }),
                Self::Flatten(step) => isa.launch(&Call { step, site }),
                Self::Softmax(step) => isa.launch(&Call { step, site }),
            }
        }
    }
}

/// Steps, the memory they work on and the threads that run them.
#[derive(Debug)]
pub struct Program {
    isa: Isa,
    steps: Vec<Step>,
    lanes: usize,
    input: usize,
    output: usize,
    arenas: Vec<Arena>,
    team: Team,
}

/// Images and outputs of one run.
struct Io {
    images: *const f32,
    outputs: *mut f32,
    count: usize,
}

// SAFETY: threads read the images and write outputs of different images or different parts of one.
unsafe impl Sync for Io {}

impl Io {
    /// The site of up to `lanes` images from image `first` on.
    ///
    /// # Safety
    /// `first` must be below the number of images, each of `input` values in and `output` values out.
    unsafe fn site(&self, arena: &Arena, first: usize, lanes: usize, [input, output]: [usize; 2], part: Part) -> Site {
        // SAFETY: the caller's promise.
        let (images, outputs) = unsafe { (self.images.add(first * input), self.outputs.add(first * output)) };
        Site { arena: arena.as_ptr(), images, outputs, count: lanes.min(self.count - first), part }
    }
}

impl Program {
    pub(crate) fn new(builder: ProgramBuilder, threads: usize, batch: usize) -> std::io::Result<Self> {
        let values = builder.arena_values();
        let ProgramBuilder { isa, steps, lanes, input, output, .. } = builder;
        let arenas = if batch > lanes { threads } else { 1 };
        let arenas = (0..arenas).map(|_| Arena::zeroed(values)).collect();
        Ok(Self { isa, steps, lanes, input, output, arenas, team: Team::new(threads)? })
    }

    /// Computes `count` outputs.
    ///
    /// Images are taken in groups of as many as a plane has lanes. While there is a group for every thread, each
    /// thread runs the whole program on its own group; the threads share the steps of the groups left over.
    ///
    /// # Panics
    /// If `images` or `outputs` do not hold exactly `count` images and outputs.
    pub fn run(&mut self, images: &[f32], count: usize, outputs: &mut [f32]) {
        let io = self.check(images, count, outputs);
        let threads = self.team.size();
        let groups = count.div_ceil(self.lanes);
        let alone = if self.arenas.len() == threads { groups / threads * threads } else { 0 };
        let Self { isa, steps, lanes, input, output, arenas, team } = self;
        let run = |step: &Step, group: usize, arena: usize, part: Part| {
            // SAFETY: the group's images and outputs lie inside the slices that `check` measured; every arena has the
            // size the steps were checked against. Threads with groups of their own have their own arenas and
            // outputs; parts of one step write to different places, and barriers part the steps.
            unsafe {
                let site = io.site(&arenas[arena], group * *lanes, *lanes, [*input, *output], part);
                step.run(*isa, site);
            }
        };
        team.run(&|thread, barrier| {
            for group in (thread..alone).step_by(threads) {
                for step in steps.iter() {
                    run(step, group, thread, Part { index: 0, count: 1 });
                }
            }
            if alone < groups {
                barrier.wait();
            }
            for group in alone..groups {
                for step in steps.iter() {
                    run(step, group, 0, Part { index: thread, count: threads });
                    barrier.wait();
                }
            }
        });
    }

    /// Computes the outputs of one group of at most `lanes` images with all threads, as [`Program::run`] does, and
    /// returns the time each step took.
    ///
    /// # Panics
    /// As [`Program::run`], or if `count` is above the number of lanes.
    pub fn run_timed(&mut self, images: &[f32], count: usize, outputs: &mut [f32]) -> Vec<Duration> {
        assert!(count <= self.lanes, "{count} images to time, the program takes {} at a time", self.lanes);
        let io = self.check(images, count, outputs);
        let (isa, lanes, size) = (self.isa, self.lanes, [self.input, self.output]);
        let (arena, threads) = (&self.arenas[0], self.team.size());
        let mut times = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let start = Instant::now();
            self.team.run(&|index, _| {
                // SAFETY: as in `run`; a round of the team parts the steps.
                unsafe { step.run(isa, io.site(arena, 0, lanes, size, Part { index, count: threads })) };
            });
            times.push(start.elapsed());
        }
        times
    }

    /// The tier of its kernels.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Images that the steps take at a time.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.team.size()
    }

    /// Full name of the kernel of each step in a range: operation, type and tier.
    pub fn kernels(&self, steps: Range<usize>) -> Vec<String> {
        self.steps[steps].iter().map(|step| format!("{}_{}", step.kernel(), self.isa)).collect()
    }

    /// Bytes of weights and indices that a range of steps reads.
    pub fn weight_bytes(&self, steps: Range<usize>) -> usize {
        self.steps[steps].iter().map(Step::weight_bytes).sum()
    }

    /// Bytes of activations, all threads together.
    pub fn arena_bytes(&self) -> usize {
        self.arenas.iter().map(|arena| arena.len() * size_of::<f32>()).sum()
    }

    fn check(&self, images: &[f32], count: usize, outputs: &mut [f32]) -> Io {
        assert_eq!(images.len(), count * self.input, "images of {count} x {} values", self.input);
        assert_eq!(outputs.len(), count * self.output, "outputs of {count} x {} values", self.output);
        Io { images: images.as_ptr(), outputs: outputs.as_mut_ptr(), count }
    }
}
