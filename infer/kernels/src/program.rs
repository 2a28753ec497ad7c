//! A program: steps over buffers, checked once when it is built, then run many times without allocating.

use std::iter::StepBy;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sr2_formats::CsrMatrix;

use crate::Isa;
use crate::arena::Arena;
use crate::builder::ProgramBuilder;
use crate::plane::{Plane, odd_lines};
use crate::registry::{self, Step};
use crate::sharing::Sharing;
use crate::step::{Part, Site};
use crate::team::{Barrier, Team, Threads};

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
    /// As [`Weights::Sparse`], by machine code made for them, of a convolution for which
    /// [`Conv::is_generated`](crate::Conv::is_generated). Where the system lets
    /// no code be made, it is the same as that.
    Generated(&'a CsrMatrix),
    /// Row-major, all computed.
    Dense(&'a [f32]),
    /// Row-major, of a convolution for which [`Conv::winograd`](crate::Conv::winograd) has an estimate, computed with
    /// fewer products, whose rounding errors are a few times larger.
    Winograd(&'a [f32]),
}

impl Weights<'_> {
    /// Panics where there are not so many.
    pub(crate) fn check(&self, rows: usize, columns: usize) {
        match self {
            Self::Sparse(m) | Self::Generated(m) => {
                assert_eq!((m.rows(), m.cols()), (rows, columns), "rows and columns of weights")
            }
            Self::Dense(w) | Self::Winograd(w) => assert_eq!(w.len(), rows * columns, "weights of {rows} x {columns}"),
        }
    }
}

/// Steps with their weights, in one or more stages. They work in a [`Workspace`], of which a program may have many at
/// once.
#[derive(Debug)]
pub struct Program {
    isa: Isa,
    steps: Vec<Step>,
    stages: Vec<Stage>,
    /// Images of a group: as many as the widest stage takes at a time.
    lanes: usize,
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
    sharing: Sharing,
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

/// Steps that take `lanes` images at a time, through buffers of their own.
#[derive(Debug)]
struct Stage {
    steps: Range<usize>,
    lanes: usize,
    /// Values of an image of the stage, and of its output.
    input: usize,
    output: usize,
    /// Where its buffers start in an arena.
    buffers: usize,
    /// Where its outputs for a group start in an arena, for the next stage to take as images.
    outputs: usize,
}

/// One run of a program, as each of its threads sees it.
struct Run<'a> {
    program: &'a Program,
    io: Io,
    arenas: &'a [Arena],
    threads: usize,
    /// Nanoseconds of the caller's work in a shared run, if they are to be counted.
    work: Option<AtomicU64>,
}

impl Run<'_> {
    /// All steps of every `stride`-th of some groups, by one thread in an arena of its own.
    fn alone(&self, thread: usize, groups: Range<usize>, stride: usize) {
        for group in groups.step_by(stride) {
            for (index, stage) in self.program.stages.iter().enumerate() {
                for first in self.program.passes(&self.io, group, stage) {
                    self.steps(index, group, first, [thread, thread]);
                }
            }
        }
    }

    /// What one thread does of the first `groups` groups.
    fn together(&self, thread: usize, groups: usize, barrier: &Barrier) {
        let alone = self.each(groups);
        self.alone(thread, thread..alone, self.threads);
        if alone < groups {
            barrier.wait();
        }
        let part = Part { index: thread, count: self.threads };
        for group in alone..groups {
            for (index, stage) in self.program.stages.iter().enumerate() {
                let passes = self.program.passes(&self.io, group, stage);
                let own = self.each(passes.len());
                for first in passes.clone().take(own).skip(thread).step_by(self.threads) {
                    self.watched(thread, || self.steps(index, group, first, [thread, 0]));
                }
                if own > 0 {
                    barrier.wait();
                }
                for first in passes.skip(own) {
                    for step in &self.program.steps[stage.steps.clone()] {
                        self.watched(thread, || self.step(index, group, first, [0, 0], part, step));
                        barrier.wait();
                    }
                }
            }
        }
    }

    /// How many of `n` are taken by one thread each, the same number by every thread.
    fn each(&self, n: usize) -> usize {
        if self.arenas.len() == self.threads { n / self.threads * self.threads } else { 0 }
    }

    /// Counts the work if it is the caller's.
    fn watched(&self, thread: usize, work: impl FnOnce()) {
        let Some(time) = self.work.as_ref().filter(|_| thread == 0) else { return work() };
        let start = Instant::now();
        work();
        time.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// A pass through a stage by one thread.
    fn steps(&self, stage: usize, group: usize, first: usize, arenas: [usize; 2]) {
        for step in &self.program.steps[self.program.stages[stage].steps.clone()] {
            self.step(stage, group, first, arenas, Part { index: 0, count: 1 }, step);
        }
    }

    fn step(&self, stage: usize, group: usize, first: usize, arenas: [usize; 2], part: Part, step: &Step) {
        let arenas = arenas.map(|index| &self.arenas[index]);
        let pass = Pass { stage, group: group * self.program.lanes, first, arenas, part };
        // SAFETY: the images and outputs are those that `check` measured; every arena has the size the steps were
        // checked against. Threads with images of their own have their own buffers and outputs; parts of one step
        // write to different places, and barriers part the steps.
        unsafe { step.run(self.program.isa, self.program.site(&self.io, pass)) };
    }
}

/// Some images of a group on their way through a stage.
struct Pass<'a> {
    stage: usize,
    /// First image of the group.
    group: usize,
    /// First image of the pass, counted from the group's.
    first: usize,
    /// The arena with the stage's buffers, and the one with what is handed from stage to stage.
    arenas: [&'a Arena; 2],
    part: Part,
}

impl Program {
    pub(crate) fn new(builder: ProgramBuilder, threads: Threads, batch: usize) -> Self {
        Self::chain(vec![builder], threads, batch)
    }

    /// A program of stages, each with a layout of its own: it takes the outputs of the one before as its images.
    ///
    /// # Panics
    /// If there are no stages, or two that follow each other do not fit.
    pub fn chain(builders: Vec<ProgramBuilder>, threads: Threads, batch: usize) -> Self {
        static BUILT: AtomicU64 = AtomicU64::new(0);
        let isa = builders.first().expect("a program has a stage").isa;
        let lanes = |lanes: fn(usize, usize) -> usize| builders.iter().map(|b| b.lanes).reduce(lanes).unwrap_or(1);
        let (group, least) = (lanes(usize::max), lanes(usize::min));
        let (mut steps, mut stages, mut values) = (Vec::new(), Vec::<Stage>::new(), 0);
        for builder in builders {
            assert_eq!(builder.isa, isa, "the tier of a stage");
            assert_eq!(group % builder.lanes, 0, "images of a group by those of a stage");
            if let Some(before) = stages.last() {
                assert_eq!(before.output, builder.input, "values from stage to stage");
            }
            let (buffers, outputs) = (values, values + odd_lines(builder.arena_values()));
            let ProgramBuilder { steps: added, lanes, input, output, .. } = builder;
            let range = steps.len()..steps.len() + added.len();
            steps.extend(added);
            stages.push(Stage { steps: range, lanes, input, output, buffers, outputs });
            values = outputs + odd_lines(group * output);
        }
        // The last stage's outputs are the program's.
        let values = stages.last().map_or(0, |stage| stage.outputs);
        let arenas = [if batch > least { threads.count } else { 1 }, values];
        Self { isa, steps, stages, lanes: group, arenas, threads, id: BUILT.fetch_add(1, Ordering::Relaxed) }
    }

    /// Memory and threads to run it.
    ///
    /// # Errors
    /// If the system refuses a thread, or cannot keep one on a CPU of its own.
    pub fn workspace(&self) -> std::io::Result<Workspace> {
        let [count, values] = self.arenas;
        let arenas = (0..count).map(|_| Arena::zeroed(values)).collect();
        let (team, sharing) = (Team::new(self.threads)?, Sharing::new(self.threads.count, self.steps.len()));
        Ok(Workspace { arenas, team, sharing, program: self.id })
    }

    /// Computes `count` outputs.
    ///
    /// Images are taken in groups of as many as the widest stage takes at a time. While there is a group for every
    /// thread, each thread runs the whole program on its own group. Of a group left over, each thread takes images of
    /// its own through the stages that take fewer at a time, while there are some for every thread; the threads share
    /// the steps of the rest. Where there is no group for every thread, runs are timed now and then, and done by the
    /// caller alone while that is faster.
    ///
    /// # Panics
    /// If `images` or `outputs` do not hold exactly `count` images and outputs, or the workspace is another program's.
    pub fn run(&self, images: &[f32], count: usize, outputs: &mut [f32], workspace: &mut Workspace) {
        let io = self.check(images, count, outputs, workspace);
        let Workspace { arenas, team, sharing, .. } = workspace;
        let mut run = Run { program: self, io, arenas, threads: team.size(), work: None };
        let groups = count.div_ceil(self.lanes);
        if run.each(groups) > 0 || run.threads == 1 {
            return team.run(&|thread, barrier| run.together(thread, groups, barrier));
        }
        let start = Instant::now();
        if sharing.alone(count) {
            run.alone(0, 0..groups, 1);
        } else {
            run.work = sharing.watches().then(AtomicU64::default);
            team.run(&|thread, barrier| run.together(thread, groups, barrier));
        }
        sharing.ran(start.elapsed(), run.work.map(|work| Duration::from_nanos(work.into_inner())));
    }

    /// Computes the outputs of one group of at most `lanes` images with all threads, which share every step, and
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
        let (arena, threads) = (&workspace.arenas[0], workspace.team.size());
        let mut times = vec![Duration::ZERO; self.steps.len()];
        for (stage, Stage { steps, .. }) in self.stages.iter().enumerate() {
            for first in self.passes(&io, 0, &self.stages[stage]) {
                for step in steps.clone() {
                    let start = Instant::now();
                    workspace.team.run(&|index, _| {
                        let part = Part { index, count: threads };
                        let pass = Pass { stage, group: 0, first, arenas: [arena, arena], part };
                        // SAFETY: as in `run`; a round of the team parts the steps.
                        unsafe { self.steps[step].run(self.isa, self.site(&io, pass)) };
                    });
                    times[step] += start.elapsed();
                }
            }
        }
        times
    }

    /// The first image of each pass of a group through a stage, counted from the group's.
    fn passes(&self, io: &Io, group: usize, stage: &Stage) -> StepBy<Range<usize>> {
        (0..self.lanes.min(io.count - group * self.lanes)).step_by(stage.lanes)
    }

    /// # Safety
    /// The pass must be one of a group of `io`, the arenas this program's.
    unsafe fn site(&self, io: &Io, Pass { stage, group, first, arenas: [own, common], part }: Pass<'_>) -> Site {
        let Stage { lanes, input, output, buffers, outputs, .. } = self.stages[stage];
        let count = lanes.min(self.lanes.min(io.count - group) - first);
        // SAFETY: the caller's promise; an arena has room for the outputs of a group behind the buffers of each stage
        // but the last.
        unsafe {
            let images = match stage.checked_sub(1) {
                None => io.images.add((group + first) * input),
                Some(before) => common.as_ptr().add(self.stages[before].outputs + first * input).cast_const(),
            };
            let outputs = match stage + 1 == self.stages.len() {
                true => io.outputs.add((group + first) * output),
                false => common.as_ptr().add(outputs + first * output),
            };
            Site { arena: own.as_ptr().add(buffers), images, outputs, count, part }
        }
    }

    /// The tier of its kernels.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Images that the widest stage takes at a time.
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

    /// Bytes of weights and indices that a range of steps reads; weights that steps share count once.
    pub fn weight_bytes(&self, steps: Range<usize>) -> usize {
        registry::weight_bytes(&self.steps[steps])
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
        let [input, output] = [self.stages[0].input, self.stages[self.stages.len() - 1].output];
        assert_eq!(images.len(), count * input, "images of {count} x {input} values");
        assert_eq!(outputs.len(), count * output, "outputs of {count} x {output} values");
        Io { images: images.as_ptr(), outputs: outputs.as_mut_ptr(), count }
    }
}

#[cfg(test)]
impl Workspace {
    /// Decides for all runs of so many images that no thread has for itself whether they are the caller's alone.
    pub(crate) fn settle(&mut self, images: usize, alone: bool) {
        self.sharing = Sharing::settled(self.team.size(), images, alone);
    }

    /// Whether a comparison of shared runs with the caller's own has ended.
    pub(crate) fn has_compared(&self) -> bool {
        self.sharing.rests()
    }

    /// The values of its arenas.
    pub(crate) fn arenas(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.arenas.iter_mut().map(Arena::values)
    }
}
