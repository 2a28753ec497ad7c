//! Training: data, proximal operators, SR2 and its rivals, the loop and its run folders.

pub mod candle_executor;
pub mod collective;
pub mod config;
pub mod cross_entropy;
pub mod data;
pub mod direction;
pub mod distillation;
pub mod evaluation;
pub mod executor;
pub mod group;
pub mod layout;
pub mod metrics;
pub mod observer;
pub mod optimizer;
pub mod penalty;
pub mod progress;
pub mod pruning;
pub mod regulariser;
pub mod report;
pub mod run_folder;
pub mod schedule;
pub mod schedule_free;
pub mod share;
pub mod sr2;
mod summary;
pub mod sweep;
pub mod tape;
pub mod tensorboard;
mod train_error;
mod training;
pub mod trial;

pub use config::{Config, ConfigError, Control, ExecutorKind, Method};
pub use observer::Observer;
pub use summary::Summary;
pub use train_error::TrainError;
pub use training::{Outcome, resume, resume_together, train, train_together};
