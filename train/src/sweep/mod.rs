//! Sweeps: a grid over settings of a base configuration, one run each, gathered in one results file.
//!
//! The configuration of a sweep is that of a run with one or more tables `[[grid]]`, each of which stands for the
//! combinations of its values, over the settings above it:
//!
//! ```toml
//! network = "resnet8"
//!
//! [[grid]]
//! method = ["magnitude", "prox-gen"]
//! epochs = 4
//! sparsity = [0.9, 0.95]
//! seed = [0, 1, 2]
//!
//! [[grid]]
//! method = "sr2"
//! epochs = 3
//! sparsity = [0.9, 0.95]
//! seed = [0, 1, 2]
//! ```
//!
//! Each run has its own folder, named after its grid values, so a sweep that was stopped goes on where it was, and one
//! that has grown keeps what is finished.

mod error;
mod execute;
mod plan;
mod results;
mod shard;
mod state;
mod table;
#[cfg(test)]
mod tests;

pub use error::SweepError;
pub use execute::{Failed, Options, SweepOutcome, execute};
pub use plan::{Plan, PlannedRun};
pub use results::{Row, read_results};
pub use shard::Shard;
pub use state::RunState;
pub use table::{Group, MeanSd, Table};
