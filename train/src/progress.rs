//! Progress on stderr: a bar in a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::metrics::{EpochRecord, StepRecord};
use crate::observer::{Observer, SoFar};

/// Pause between two plain lines within an epoch.
const PLAIN_PAUSE: Duration = Duration::from_secs(10);
/// Two lines, so that 80 columns hold everything.
const BAR: &str = "{prefix} {wide_bar} {pos}/{len}\n{wide_msg}";

/// Writes a line on stderr. That its reader has gone (`2>&1 | head`) is no reason to end a training.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Shows a run on stderr.
#[derive(Debug)]
pub struct Progress {
    /// Hidden where stderr is not a terminal.
    bar: ProgressBar,
    plain: bool,
    steps: u64,
    batch_size: usize,
    last_line: Instant,
}

impl Progress {
    /// A bar if stderr is a terminal, plain lines otherwise.
    pub fn new() -> Self {
        let plain = !io::stderr().is_terminal();
        Self { bar: ProgressBar::hidden(), plain, steps: 0, batch_size: 0, last_line: Instant::now() }
    }

    fn line(&self, text: &str) {
        // A hidden bar, as before the start, prints nothing.
        if self.plain || self.bar.is_hidden() {
            say(text);
        } else {
            self.bar.println(text);
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Progress {
    fn on_start(&mut self, folder: &Path, done: u64, steps: u64, batch_size: usize) {
        (self.steps, self.batch_size) = (steps, batch_size);
        if !self.plain {
            let style = ProgressStyle::with_template(BAR).expect("the template is valid");
            self.bar = ProgressBar::new(steps).with_position(done).with_style(style);
        }
        let from = if done > 0 { format!(" from step {done}") } else { String::new() };
        self.line(&format!("training in {}: {steps} steps{from}", folder.display()));
    }

    fn on_step(&mut self, step: &StepRecord, so_far: &SoFar) {
        let left = self.steps.saturating_sub(step.step) as f64 * self.batch_size as f64 / so_far.images_per_s.max(1e-9);
        let (place, line) = (format!("epoch {} ETA {}", step.epoch, duration(left)), step_line(step, so_far));
        if !self.plain {
            self.bar.set_position(step.step);
            self.bar.set_prefix(place);
            self.bar.set_message(line);
        } else if self.last_line.elapsed() >= PLAIN_PAUSE {
            self.last_line = Instant::now();
            say(&format!("{place} step {}/{} {line}", step.step, self.steps));
        }
    }

    fn on_epoch(&mut self, epoch: &EpochRecord) {
        self.line(&epoch_line(epoch));
        self.last_line = Instant::now();
    }

    fn on_note(&mut self, message: &str) {
        self.line(message);
    }

    fn on_warning(&mut self, message: &str) {
        self.line(&format!("warning: {message}"));
    }
}

fn step_line(step: &StepRecord, so_far: &SoFar) -> String {
    format!(
        "loss {:.3} acc {:.1}% sparsity {:.1}% sigma {:.3} accepted {:.0}% {:.0} images/s",
        so_far.loss,
        100.0 * so_far.accuracy,
        100.0 * step.sparsity,
        step.sigma,
        100.0 * so_far.acceptance_rate,
        so_far.images_per_s
    )
}

/// An epoch in one line.
pub(crate) fn epoch_line(e: &EpochRecord) -> String {
    format!(
        "epoch {}: loss {:.3}, train {:.1}%, validation {:.1}% (loss {:.3}), sparsity {:.2}%, sigma {:.3}, \
         accepted {:.0}%, {:.0} images/s",
        e.epoch,
        e.loss,
        100.0 * e.train_accuracy,
        100.0 * e.validation_accuracy,
        e.validation_loss,
        100.0 * e.sparsity,
        e.sigma,
        100.0 * e.acceptance_rate,
        e.images_per_s
    )
}

/// `h:mm:ss`, or `m:ss` below an hour.
fn duration(seconds: f64) -> String {
    let total = seconds.min(1e9) as u64;
    let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_shows_what_matters() {
        let step = StepRecord {
            epoch: 2,
            step: 100,
            loss: 9.0,
            xi: 0.1,
            rho: None,
            sigma: 0.5,
            lambda: 1e-3,
            stationarity: 1.0,
            accepted: true,
            sparsity: 0.951,
        };
        let so_far = SoFar { loss: 1.2346, accuracy: 0.5, acceptance_rate: 0.99, images_per_s: 640.0 };
        let expected = "loss 1.235 acc 50.0% sparsity 95.1% sigma 0.500 accepted 99% 640 images/s";
        assert_eq!(step_line(&step, &so_far), expected);
    }

    #[test]
    fn durations() {
        assert_eq!([0.0, 59.9, 61.0, 3725.0].map(duration), ["0:00", "0:59", "1:01", "1:02:05"]);
        assert_eq!(duration(f64::INFINITY), duration(1e9));
    }
}
