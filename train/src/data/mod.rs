//! CIFAR-10 and CIFAR-100: finding, reading, checking and fetching the files, and turning images into batches.
//!
//! ```no_run
//! use std::sync::Arc;
//! use sr2_train::data::{BatchLoader, Cifar, DatasetKind, LoaderOptions, holdout_size, locate, split};
//!
//! let folder = locate(DatasetKind::Cifar10, None)?;
//! let cifar = Cifar::open(&folder, DatasetKind::Cifar10)?;
//! let all = cifar.load_train()?;
//! let (train, validation) = split(&all, holdout_size(all.len()), 0);
//! let mut loader = BatchLoader::new(Arc::new(train), &LoaderOptions::default())?;
//! let first = loader.next_batch();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod binary;
mod check;
mod cifar;
mod class_names;
mod contain;
mod dataset;
mod draw;
mod evaluation;
mod fetch;
mod image;
mod kind;
mod loader;
mod locate;
mod parquet_file;
mod pixels;
mod split;

pub use check::{PartReport, Report, check};
pub use cifar::Cifar;
pub use dataset::Dataset;
pub use evaluation::EvaluationBatches;
pub use fetch::fetch;
pub use image::read_images;
pub use kind::{DatasetKind, Part};
pub use loader::{BatchLoader, LoadedBatch, LoaderError, LoaderOptions, Position};
pub use locate::{cache_folder, locate};
pub use pixels::{CHANNELS, CROP_PADDING, IMAGE_BYTES, SIDE};
pub use split::{HOLDOUT, SPLIT_SEED, holdout_size, split};

#[cfg(test)]
mod tests;
