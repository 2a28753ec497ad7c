//! A program: steps over buffers, checked once when it is built, then run many times without allocating.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sr2_formats::CsrMatrix;

use crate::Isa;
use crate::arena::Arena;
use crate::builder::ProgramBuilder;
use crate::plane::Plane;
use crate::registry::Step;
use crate::step::{Part, Site};
use crate::team::{Team, Threads};

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

/// Steps with their weights. They work in a [`Workspace`], of which a program may have many at once.
#[derive(Debug)]
pub struct Program {
    isa: Isa,
    steps: Vec<Step>,
    lanes: usize,
    input: usize,
    output: usize,
    /// Number of arenas of a workspace, and values of each.
    arenas: [usize; 2],
    threads: Threads,
    /// Tells its workspaces from those of other programs.
    id: u64,
}

/// The memory that a program works on and the threads that run it: one run at a time.
#[derive(Debug)]
pub struct Workspace {
    arenas: Vec<Arena>,
    team: Team,
    program: u64,
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
    pub(crate) fn new(builder: ProgramBuilder, threads: Threads, batch: usize) -> Self {
        static BUILT: AtomicU64 = AtomicU64::new(0);
        let values = builder.arena_values();
        let ProgramBuilder { isa, steps, lanes, input, output, .. } = builder;
        let arenas = [if batch > lanes { threads.count } else { 1 }, values];
        Self { isa, steps, lanes, input, output, arenas, threads, id: BUILT.fetch_add(1, Ordering::Relaxed) }
    }

    /// Memory and threads to run it.
    ///
    /// # Errors
    /// If the system refuses a thread, or cannot keep one on a CPU of its own.
    pub fn workspace(&self) -> std::io::Result<Workspace> {
        let [count, values] = self.arenas;
        let arenas = (0..count).map(|_| Arena::zeroed(values)).collect();
        Ok(Workspace { arenas, team: Team::new(self.threads)?, program: self.id })
    }

    /// Computes `count` outputs.
    ///
    /// Images are taken in groups of as many as a plane has lanes. While there is a group for every thread, each
    /// thread runs the whole program on its own group; the threads share the steps of the groups left over.
    ///
    /// # Panics
    /// If `images` or `outputs` do not hold exactly `count` images and outputs, or the workspace is another program's.
    pub fn run(&self, images: &[f32], count: usize, outputs: &mut [f32], workspace: &mut Workspace) {
        let io = self.check(images, count, outputs, workspace);
        let Workspace { arenas, team, .. } = workspace;
        let threads = team.size();
        let groups = count.div_ceil(self.lanes);
        let alone = if arenas.len() == threads { groups / threads * threads } else { 0 };
        let Self { isa, steps, lanes, input, output, .. } = self;
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
    pub fn run_timed(
        &self,
        images: &[f32],
        count: usize,
        outputs: &mut [f32],
        workspace: &mut Workspace,
    ) -> Vec<Duration> {
        assert!(count <= self.lanes, "{count} images to time, the program takes {} at a time", self.lanes);
        let io = self.check(images, count, outputs, workspace);
        let (isa, lanes, size) = (self.isa, self.lanes, [self.input, self.output]);
        let (arena, threads) = (&workspace.arenas[0], workspace.team.size());
        let mut times = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let start = Instant::now();
            workspace.team.run(&|index, _| {
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
        self.threads.count
    }

    /// Full name of the kernel of each step in a range: operation, type and tier.
    pub fn kernels(&self, steps: Range<usize>) -> Vec<String> {
        self.steps[steps].iter().map(|step| format!("{}_{}", step.kernel(), self.isa)).collect()
    }

    /// Bytes of weights and indices that a range of steps reads.
    pub fn weight_bytes(&self, steps: Range<usize>) -> usize {
        self.steps[steps].iter().map(Step::weight_bytes).sum()
    }

    /// Bytes of activations in a workspace, all threads together.
    pub fn arena_bytes(&self) -> usize {
        self.arenas.iter().product::<usize>() * size_of::<f32>()
    }

    /// Whether a workspace is this program's.
    pub fn owns(&self, workspace: &Workspace) -> bool {
        workspace.program == self.id
    }

    fn check(&self, images: &[f32], count: usize, outputs: &mut [f32], workspace: &Workspace) -> Io {
        assert!(self.owns(workspace), "a workspace of another program");
        assert_eq!(images.len(), count * self.input, "images of {count} x {} values", self.input);
        assert_eq!(outputs.len(), count * self.output, "outputs of {count} x {} values", self.output);
        Io { images: images.as_ptr(), outputs: outputs.as_mut_ptr(), count }
    }
}

#[cfg(test)]
impl Workspace {
    /// The values of its arenas.
    pub(crate) fn arenas(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.arenas.iter_mut().map(Arena::values)
    }
}
