//! Who watches a run.

use std::path::Path;

use crate::metrics::{EpochRecord, StepRecord};

/// Told of a run's progress; every method does nothing unless overridden.
pub trait Observer {
    /// The run starts or goes on in `folder`, with `done` of `steps` steps behind it, `batch_size` images each.
    fn on_start(&mut self, folder: &Path, done: u64, steps: u64, batch_size: usize) {
        let _ = (folder, done, steps, batch_size);
    }

    /// A step has ended; `so_far` are the means of its epoch.
    fn on_step(&mut self, step: &StepRecord, so_far: &SoFar) {
        let _ = (step, so_far);
    }

    /// An epoch has ended.
    fn on_epoch(&mut self, epoch: &EpochRecord) {
        let _ = epoch;
    }

    /// A decision that was made for the user.
    fn on_note(&mut self, message: &str) {
        let _ = message;
    }

    /// Something the user should know.
    fn on_warning(&mut self, message: &str) {
        let _ = message;
    }
}

/// Means over an epoch so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoFar {
    /// Training loss.
    pub loss: f64,
    /// Training accuracy.
    pub accuracy: f64,
    /// Fraction of the steps taken.
    pub acceptance_rate: f64,
    /// Training images a second.
    pub images_per_s: f64,
}

/// Watches nothing.
impl Observer for () {}
