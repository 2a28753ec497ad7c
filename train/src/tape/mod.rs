//! The CPU executor: forward and backward planned once over the graph, buffers allocated once, our own kernels.
//!
//! `plan` turns the graph into steps (a batch norm swallows the sum and the activation that follow it) and gives
//! every activation and gradient a buffer; the executor then only runs the steps. Work is cut by images (weight
//! gradients also by output channels) in a way that does not depend on the number of threads, so neither do the bits
//! of the results.

mod conv;
mod norm;
mod phases;
mod plan;
mod sparse_conv;
mod step;
mod winograd;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use sr2_kernels::training::{block_images, unblock_rows};
use sr2_kernels::{Aligned, Bf16, Isa};
use sr2_models::Graph;

use crate::collective::{Alone, Collective};
use crate::cross_entropy::cross_entropy;
use crate::distillation::blend;
use crate::executor::{Batch, BatchLoss, Executor, ExecutorError, Precision, Support};
use crate::layout::ParameterLayout;
pub use phases::PhaseTimes;
use phases::timed;
use plan::{Plan, Value};

/// Runs a graph forward and backward on the CPU.
pub struct TapeExecutor {
    layout: ParameterLayout,
    plan: Plan,
    /// One per entry of the plan's `buffer_lens`, for `max_batch` images each.
    buffers: Vec<Aligned>,
    running: Vec<f32>,
    support: Support,
    max_batch: usize,
    isa: Isa,
    bf16: Option<Bf16>,
    threads: ThreadPool,
    team: Arc<dyn Collective>,
    scratch: Scratch,
    times: PhaseTimes,
}

/// What batch norm normalises with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Statistics {
    /// The batch's own, for training.
    Batch,
    /// The running ones, for evaluation.
    Running,
}

/// What every step of one pass shares.
struct Pass<'a> {
    isa: Isa,
    /// How dense convolutions multiply, unless in f32.
    bf16: Option<Bf16>,
    /// Images in this process's part of the batch.
    count: usize,
    /// Images in the batch.
    whole: usize,
    team: &'a dyn Collective,
    parameters: &'a [f32],
    scratch: &'a Scratch,
    support: Support,
}

/// Working memory.
struct Scratch {
    /// Two pieces a thread.
    of_threads: Vec<[Mutex<Vec<f32>>; 2]>,
    /// Weight gradients of slices of the batch.
    partial: Mutex<Aligned>,
    /// A layer's inputs and output gradients as its weight gradient reads them.
    paired: Mutex<Aligned>,
}

impl Scratch {
    /// The calling thread's piece.
    fn get(&self) -> MutexGuard<'_, Vec<f32>> {
        self.piece(0)
    }

    /// The calling thread's other piece.
    fn second(&self) -> MutexGuard<'_, Vec<f32>> {
        self.piece(1)
    }

    fn piece(&self, piece: usize) -> MutexGuard<'_, Vec<f32>> {
        let index = rayon::current_thread_index().expect("called inside the pool");
        self.of_threads[index][piece].lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Those of the one layer that is computed.
    fn partial(&self, len: usize) -> MutexGuard<'_, Aligned> {
        grown(&self.partial, len)
    }

    /// Those of the one layer that is computed.
    fn paired(&self, len: usize) -> MutexGuard<'_, Aligned> {
        grown(&self.paired, len)
    }
}

/// The buffer, with `len` values or more.
fn grown(buffer: &Mutex<Aligned>, len: usize) -> MutexGuard<'_, Aligned> {
    let mut buffer = buffer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if buffer.len() < len {
        *buffer = Aligned::zeroed(len);
    }
    buffer
}

fn error(message: impl Into<String>) -> ExecutorError {
    ExecutorError { executor: "cpu", message: message.into() }
}

impl TapeExecutor {
    /// Plans `graph` for batches of up to `max_batch` images on `threads` threads, with the instructions of
    /// [`Isa::from_env`]. Running means start at 0 and running variances at 1.
    ///
    /// # Errors
    /// If the graph holds something the executor does not do, or the threads cannot be started.
    pub fn new(graph: &Graph, max_batch: usize, threads: usize) -> Result<Self, ExecutorError> {
        if max_batch == 0 || threads == 0 {
            return Err(error(format!("needs a batch and threads of at least 1, got {max_batch} and {threads}")));
        }
        let isa = Isa::from_env().map_err(|e| error(e.to_string()))?;
        let layout = ParameterLayout::new(graph);
        let plan = Plan::new(graph, &layout)?;
        let mut buffers = Vec::with_capacity(plan.buffer_lens.len());
        for len in &plan.buffer_lens {
            let size = len.checked_mul(max_batch).filter(|size| *size < isize::MAX as usize / 4);
            let size = size.ok_or_else(|| error(format!("a batch of {max_batch} images is too large")))?;
            buffers.push(Aligned::zeroed(size));
        }
        let mut running = vec![0.0; layout.buffers_len()];
        for segment in layout.buffers().iter().filter(|s| s.spec.role == sr2_models::ParameterRole::RunningVar) {
            running[segment.range.clone()].fill(1.0);
        }
        let named = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("tape-{i}"));
        let pool = named.build().map_err(|e| error(format!("cannot start {threads} threads: {e}")))?;
        let of_threads = (0..threads).map(|_| Default::default()).collect();
        let scratch = Scratch { of_threads, partial: Mutex::default(), paired: Mutex::default() };
        let (support, times) = Default::default();
        let (bf16, team) = (None, Arc::new(Alone));
        Ok(Self { layout, plan, buffers, running, support, max_batch, isa, bf16, threads: pool, team, scratch, times })
    }

    /// Trains together with other processes from now on: the batch of a call is one with those of the same call in the
    /// others, and losses, gradients and statistics of batch norm are those of all. [`Executor::logits`] stays this
    /// process's own.
    pub fn set_team(&mut self, team: Arc<dyn Collective>) {
        self.team = team;
    }

    /// Trains in this precision from now on; [`Executor::logits`] stays f32.
    ///
    /// # Errors
    /// TF32, or bf16 where the instructions have none.
    pub fn set_precision(&mut self, precision: Precision) -> Result<(), ExecutorError> {
        self.bf16 = match precision {
            Precision::F32 => None,
            Precision::Tf32 => return Err(error("tf32 needs device cuda; use f32")),
            Precision::Bf16 => {
                let missing = || error(format!("the {} kernels of this CPU have no bf16; use f32", self.isa));
                Some(self.isa.bf16().ok_or_else(missing)?)
            }
        };
        Ok(())
    }

    /// Bytes of activations, gradients and packed weights held.
    pub fn memory_bytes(&self) -> usize {
        4 * self.buffers.iter().map(|b| b.len()).sum::<usize>()
    }

    /// Time spent since the last call, by kind of work.
    pub fn take_times(&mut self) -> PhaseTimes {
        std::mem::take(&mut self.times)
    }

    /// Multiply-add operations of one image's forward pass in convolutions and linear layers.
    pub fn multiplications(&self) -> usize {
        self.plan.steps.iter().map(|step| step.multiplications()).sum()
    }

    /// Checks a batch against the network; returns its number of images.
    fn check(&self, parameters: &[f32], batch: &Batch) -> Result<usize, ExecutorError> {
        let (count, classes) = (batch.labels.len(), self.classes());
        self.check_images(parameters, &batch.images, count)?;
        if count == 0 || count > self.max_batch {
            return Err(error(format!("a batch of {count} images; it was planned for 1 to {}", self.max_batch)));
        }
        match batch.labels.iter().position(|label| *label as usize >= classes) {
            Some(i) => Err(error(format!("label {} of image {i}; the network has {classes} classes", batch.labels[i]))),
            None => Ok(count),
        }
    }

    fn check_images(&self, parameters: &[f32], images: &[f32], count: usize) -> Result<(), ExecutorError> {
        let (found, expected) = (parameters.len(), self.layout.trainable_len());
        if found != expected {
            return Err(error(format!("{found} parameters, expected {expected}")));
        }
        let Value { channels, size, .. } = self.plan.values[0];
        let expected = count * channels * size[0] * size[1];
        if images.len() != expected {
            let (found, [height, width]) = (images.len(), size);
            return Err(error(format!(
                "{found} image values, expected {expected}: {count} images of {channels} x {height} x {width}"
            )));
        }
        Ok(())
    }

    fn classes(&self) -> usize {
        self.plan.values[self.plan.output].channels
    }

    /// Images in the batch of which this process has `count`.
    fn whole(&self, count: usize) -> usize {
        let mut whole = [count as f64];
        self.team.sum_f64(&mut whole);
        whole[0] as usize
    }

    /// The loss over `whole` images from that over this process's `count`.
    fn loss_of_all(&self, part: BatchLoss, count: usize, whole: usize) -> BatchLoss {
        if whole == count {
            return part;
        }
        let mut sums = [part.loss * count as f64, part.correct as f64];
        self.team.sum_f64(&mut sums);
        BatchLoss { loss: sums[0] / whole as f64, correct: sums[1] as usize }
    }

    fn forward(
        &mut self,
        parameters: &[f32],
        images: &[f32],
        [count, whole]: [usize; 2],
        statistics: Statistics,
    ) -> Result<(), ExecutorError> {
        let Self { plan, buffers, running, isa, bf16, threads, team, scratch, support, times, .. } = self;
        let bf16 = bf16.filter(|_| statistics == Statistics::Batch);
        let pass = Pass { isa: *isa, bf16, count, whole, team: &**team, parameters, scratch, support: *support };
        let input = &plan.values[0];
        threads.install(|| {
            let (plain_len, area) = (input.channels * input.area(), input.area());
            let blocked = buffers[input.buffer].par_chunks_mut(input.len());
            let plain = images.par_chunks(plain_len);
            timed(&mut times.rest, || {
                blocked.zip(plain).for_each(|(blocked, plain)| block_images(input.channels, area, plain, blocked));
            });
            for index in 0..plan.steps.len() {
                let (step, later) = plan.steps[index..].split_first_mut().expect("the step is there");
                let moments = if statistics == Statistics::Batch { step.moments(later, count) } else { None };
                timed(step.phase(times), || step.forward(&pass, &plan.values, buffers, statistics, running, moments))?;
            }
            Ok(())
        })
    }

    /// The logits `[count, classes]` of the last forward pass.
    fn plain_output(&self, count: usize) -> Vec<f32> {
        let output = &self.plan.values[self.plan.output];
        unblock_rows(output.channels, &self.buffers[output.buffer][..count * output.len()])
    }
}

impl Executor for TapeExecutor {
    fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    fn loss_and_gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch,
        gradient: &mut [f32],
    ) -> Result<BatchLoss, ExecutorError> {
        let count = self.check(parameters, batch)?;
        if gradient.len() != parameters.len() {
            return Err(error(format!("a gradient of {} values for {}", gradient.len(), parameters.len())));
        }
        let whole = self.whole(count);
        self.forward(parameters, &batch.images, [count, whole], Statistics::Batch)?;
        let start = Instant::now();
        let (logits, classes) = (self.plain_output(count), self.classes());
        let mut logits_gradient = vec![0.0; logits.len()];
        let in_pool = || cross_entropy(&logits, &batch.labels, classes, Some(&mut logits_gradient));
        let loss = self.threads.install(in_pool);
        let loss = blend(loss, &logits, &batch.teacher, classes, Some(&mut logits_gradient));
        let loss = self.loss_of_all(loss, count, whole);
        if whole != count {
            let weight = (count as f64 / whole as f64) as f32;
            logits_gradient.iter_mut().for_each(|g| *g *= weight);
        }

        let Self { plan, buffers, running, isa, bf16, threads, team, scratch, support, times, .. } = self;
        plan.steps.iter().for_each(|step| step.move_running(running));
        threads.install(|| gradient.par_chunks_mut(1 << 16).for_each(|part| part.fill(0.0)));
        let Some(output_gradient) = plan.output_gradient else { return Ok(loss) };
        let rows = buffers[output_gradient].chunks_exact_mut(plan.values[plan.output].len());
        rows.zip(logits_gradient.chunks_exact(classes)).for_each(|(to, row)| block_images(classes, 1, row, to));
        times.rest += start.elapsed();
        let (isa, bf16, support) = (*isa, *bf16, *support);
        let pass = Pass { isa, bf16, count, whole, team: &**team, parameters, scratch, support };
        threads.install(|| {
            for step in plan.steps.iter_mut().rev() {
                step.backward(&pass, &plan.values, buffers, gradient, times);
            }
        });
        self.support.mask(&self.layout, parameters, gradient);
        self.team.sum_f32(gradient);
        Ok(loss)
    }

    fn set_support(&mut self, support: Support) {
        self.support = support;
    }

    fn loss(&mut self, parameters: &[f32], batch: &Batch) -> Result<BatchLoss, ExecutorError> {
        let count = self.check(parameters, batch)?;
        let whole = self.whole(count);
        self.forward(parameters, &batch.images, [count, whole], Statistics::Batch)?;
        let (logits, classes) = (self.plain_output(count), self.classes());
        let loss = self.threads.install(|| cross_entropy(&logits, &batch.labels, classes, None));
        let part = blend(loss, &logits, &batch.teacher, classes, None);
        Ok(self.loss_of_all(part, count, whole))
    }

    fn move_statistics(&mut self, parameters: &[f32], batch: &Batch) -> Result<(), ExecutorError> {
        let count = self.check(parameters, batch)?;
        let whole = self.whole(count);
        self.forward(parameters, &batch.images, [count, whole], Statistics::Batch)?;
        self.plan.steps.iter().for_each(|step| step.move_running(&mut self.running));
        Ok(())
    }

    fn logits(&mut self, parameters: &[f32], images: &[f32], count: usize) -> Result<Vec<f32>, ExecutorError> {
        self.check_images(parameters, images, count)?;
        let mut logits = Vec::with_capacity(count * self.classes());
        let image_len = images.len() / count.max(1);
        for images in images.chunks((self.max_batch * image_len).max(1)) {
            let count = images.len() / image_len;
            self.forward(parameters, images, [count; 2], Statistics::Running)?;
            logits.extend(self.plain_output(count));
        }
        Ok(logits)
    }

    fn buffers(&self) -> Result<Vec<f32>, ExecutorError> {
        Ok(self.running.clone())
    }

    fn set_buffers(&mut self, buffers: &[f32]) -> Result<(), ExecutorError> {
        self.running.copy_from_slice(buffers);
        Ok(())
    }
}
