//! Event files of a run, which TensorBoard reads: scalars of steps and epochs.
//!
//! A file is a sequence of TFRecords (length, masked CRC-32C of the length, content, masked CRC-32C of the content, all
//! little-endian), each the protobuf message `Event` of `tensorflow/core/util/event.proto`, of which the fields used here
//! are declared below under their numbers.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::metrics::{EpochRecord, StepRecord};
use crate::observer::{Observer, SoFar};
use crate::training::LOG_EVERY;

#[cfg(test)]
mod tests;

/// Writes what it is told of a run into an event file in the run's folder, and passes it on.
///
/// A resumed run gets a further file, at whose start TensorBoard forgets what was logged of later steps. If a file cannot
/// be written, that is a warning, once, and the run goes on.
pub struct EventLog<'a> {
    inner: &'a mut dyn Observer,
    file: Option<File>,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Scalars),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct Scalars {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    /// 1: start.
    #[prost(int32, tag = "1")]
    status: i32,
}

impl<'a> EventLog<'a> {
    /// An observer in front of `inner`; its file comes with the start of the run.
    pub fn new(inner: &'a mut dyn Observer) -> Self {
        Self { inner, file: None }
    }

    fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) {
        let value = scalars.iter().map(|(tag, value)| Scalar { tag: tag.to_string(), simple_value: *value as f32 });
        self.log(step, What::Summary(Scalars { value: value.collect() }));
    }

    fn log(&mut self, step: u64, what: What) {
        let Some(file) = &mut self.file else { return };
        let event = Event { wall_time: now(), step: step as i64, what: Some(what) };
        if let Err(error) = file.write_all(&record(&event.encode_to_vec())) {
            self.give_up(&error);
        }
    }

    fn give_up(&mut self, error: &io::Error) {
        self.file = None;
        self.inner.on_warning(&format!("no more events for TensorBoard: {error}"));
    }
}

impl Observer for EventLog<'_> {
    fn on_start(&mut self, folder: &Path, done: u64, steps: u64, batch_size: usize) {
        self.inner.on_start(folder, done, steps, batch_size);
        match create(folder) {
            Ok(file) => self.file = Some(file),
            Err(error) => self.give_up(&error),
        }
        self.log(0, What::FileVersion("brain.Event:2".into()));
        if done > 0 {
            self.log(done + 1, What::SessionLog(SessionLog { status: 1 }));
        }
    }

    fn on_step(&mut self, step: &StepRecord, so_far: &SoFar) {
        self.inner.on_step(step, so_far);
        if !step.step.is_multiple_of(LOG_EVERY) {
            return;
        }
        let mut scalars = vec![
            ("step/loss", step.loss),
            ("step/xi", step.xi),
            ("step/sigma", step.sigma),
            ("step/lambda", step.lambda),
            ("step/stationarity", step.stationarity),
            ("step/sparsity", step.sparsity),
        ];
        scalars.extend(step.rho.map(|rho| ("step/rho", rho)));
        self.scalars(step.step, &scalars);
    }

    fn on_epoch(&mut self, epoch: &EpochRecord) {
        self.inner.on_epoch(epoch);
        let scalars = [
            ("loss/training", epoch.loss),
            ("loss/validation", epoch.validation_loss),
            ("accuracy/training", epoch.train_accuracy),
            ("accuracy/validation", epoch.validation_accuracy),
            ("epoch/sparsity", epoch.sparsity),
            ("epoch/acceptance_rate", epoch.acceptance_rate),
            ("epoch/images_per_s", epoch.images_per_s),
        ];
        self.scalars(epoch.step, &scalars);
    }

    fn on_note(&mut self, message: &str) {
        self.inner.on_note(message);
    }

    fn on_warning(&mut self, message: &str) {
        self.inner.on_warning(message);
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A new event file, named so that names sort by time.
fn create(folder: &Path) -> io::Result<File> {
    let nanoseconds = (1e9 * now()) as u128;
    let name =
        format!("events.out.tfevents.{:010}.{:09}.sr2-prune", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    OpenOptions::new().create_new(true).append(true).open(folder.join(name))
}

/// A TFRecord.
fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    [&length[..], &masked(crc32c(&length)).to_le_bytes(), content, &masked(crc32c(content)).to_le_bytes()].concat()
}

/// The CRC as TFRecords hold it, so that a record of records has no CRC of a CRC.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: events are few and small.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}
