//! Training batches, made on worker threads ahead of the step that needs them.
//!
//! Worker w of W makes the batches start + w, start + w + W, ... and sends them through its own bounded channel; the
//! consumer takes from the channels in turn. So batches arrive in order, and what they hold depends only on the seed,
//! the epoch and the batch: not on the number of workers, nor on timing, nor on where the loader started.

use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::Dataset;
use super::draw::Draw;
use super::pixels::{Augmentation, Normalizer};
use crate::executor::Batch;

/// Finished batches that wait for the consumer, for each worker.
pub(super) const PREFETCH: usize = 2;

/// A place in the endless sequence of batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Passes over the dataset before this one.
    pub epoch: u64,
    /// Batches of this epoch before this one.
    pub batch: u64,
}

/// How to make training batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Images in a batch.
    pub batch_size: usize,
    /// The images of each batch to deliver: all, or the part of one process of several.
    pub part: Option<Range<usize>>,
    /// Decides the order of the images and their crops and flips.
    pub seed: u64,
    /// Whether to crop (4 pixels of padding) and flip at random.
    pub augment: bool,
    /// Threads that make batches.
    pub workers: usize,
    /// First batch to deliver.
    pub start: Position,
}

impl Default for LoaderOptions {
    /// Whole batches of 128, augmented, seed 0, one worker, from the beginning.
    fn default() -> Self {
        Self { batch_size: 128, part: None, seed: 0, augment: true, workers: 1, start: Position::default() }
    }
}

/// The loader cannot make batches.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoaderError {
    /// No whole batch fits in the dataset; the rest of an epoch is dropped, so none would ever come.
    #[error("batch size {batch_size}, expected 1 to {images}, the number of training images")]
    BatchSize {
        /// Images in a batch.
        batch_size: usize,
        /// Images in the dataset.
        images: usize,
    },
    /// No thread to make batches.
    #[error("0 loader workers, expected at least 1")]
    NoWorkers,
    /// The operating system refused a thread.
    #[error("cannot start a loader thread: {0}")]
    Thread(String),
}

/// A training batch and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedBatch {
    /// Where in the sequence it is.
    pub position: Position,
    /// The images and labels.
    pub batch: Batch,
}

/// An endless sequence of shuffled, augmented, normalised batches. Each epoch takes every image at most once; images
/// that do not fill a batch are left out of that epoch. Dropping the loader stops its threads.
#[derive(Debug)]
pub struct BatchLoader {
    /// In order of delivery: the next batch comes from the front.
    pub(super) ready: Vec<Receiver<LoadedBatch>>,
    next_worker: usize,
    spent: Sender<Batch>,
    threads: Vec<JoinHandle<()>>,
    batches_per_epoch: u64,
}

impl BatchLoader {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`LoaderError`]: a batch size that never gives a batch, no workers, or no thread to be had.
    pub fn new(dataset: Arc<Dataset>, options: &LoaderOptions) -> Result<Self, LoaderError> {
        if options.batch_size == 0 || options.batch_size > dataset.len() {
            return Err(LoaderError::BatchSize { batch_size: options.batch_size, images: dataset.len() });
        }
        if options.workers == 0 {
            return Err(LoaderError::NoWorkers);
        }
        let batches_per_epoch = (dataset.len() / options.batch_size) as u64;
        let (spent, reusable) = unbounded();
        let mut loader = Self { ready: vec![], next_worker: 0, spent, threads: vec![], batches_per_epoch };
        for index in 0..options.workers {
            let worker = Worker {
                dataset: dataset.clone(),
                normalizer: Normalizer::new(dataset.kind()),
                options: options.clone(),
                batches_per_epoch,
                reusable: reusable.clone(),
            };
            let (sender, receiver) = bounded(PREFETCH);
            let thread = std::thread::Builder::new().name(format!("loader-{index}"));
            let handle = thread
                .spawn(move || worker.run(index as u64, &sender))
                .map_err(|error| LoaderError::Thread(error.to_string()))?;
            loader.ready.push(receiver);
            loader.threads.push(handle);
        }
        Ok(loader)
    }

    /// The next batch; waits for it only if the workers are slower than the caller.
    pub fn next_batch(&mut self) -> LoadedBatch {
        let loaded = self.ready[self.next_worker].recv().expect("loader threads live as long as the loader");
        self.next_worker = (self.next_worker + 1) % self.ready.len();
        loaded
    }

    /// Gives the memory of a batch back for a later one.
    pub fn recycle(&self, batch: Batch) {
        // Fails only when every worker has ended: then no one needs the memory.
        let _ = self.spent.send(batch);
    }

    /// Whole batches in an epoch.
    pub fn batches_per_epoch(&self) -> u64 {
        self.batches_per_epoch
    }
}

impl Drop for BatchLoader {
    fn drop(&mut self) {
        self.ready.clear();
        for thread in self.threads.drain(..) {
            // A panic in a worker has already been reported by its thread; a second one here would abort.
            let _ = thread.join();
        }
    }
}

struct Worker {
    dataset: Arc<Dataset>,
    normalizer: Normalizer,
    options: LoaderOptions,
    batches_per_epoch: u64,
    reusable: Receiver<Batch>,
}

impl Worker {
    fn run(self, index: u64, ready: &Sender<LoadedBatch>) {
        let LoaderOptions { seed, workers, start, .. } = self.options;
        let first = start.epoch * self.batches_per_epoch + start.batch + index;
        let mut epoch = first / self.batches_per_epoch;
        let mut order = shuffled(self.dataset.len(), seed, epoch);
        for number in (first..).step_by(workers) {
            let position = Position { epoch: number / self.batches_per_epoch, batch: number % self.batches_per_epoch };
            if position.epoch != epoch {
                epoch = position.epoch;
                order = shuffled(self.dataset.len(), seed, epoch);
            }
            let mut batch = self.reusable.try_recv().unwrap_or_default();
            self.fill(position, &order, &mut batch);
            if ready.send(LoadedBatch { position, batch }).is_err() {
                return;
            }
        }
    }

    fn fill(&self, Position { epoch, batch }: Position, order: &[usize], output: &mut Batch) {
        let LoaderOptions { batch_size, seed, augment, .. } = self.options;
        let part = self.options.part.clone().unwrap_or(0..batch_size);
        output.images.clear();
        output.labels.clear();
        for &index in &order[batch as usize * batch_size..][part] {
            let augmentation = if augment {
                Augmentation::draw(&mut Draw::Augmentation { epoch, image: index as u64 }.generator(seed))
            } else {
                Augmentation::NONE
            };
            self.normalizer.append(self.dataset.image(index), augmentation, &mut output.images);
            output.labels.push(self.dataset.label(index));
        }
    }
}

pub(super) fn shuffled(images: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..images).collect();
    order.shuffle(&mut Draw::Order { epoch }.generator(seed));
    order
}
