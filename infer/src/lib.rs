//! Sparse CPU inference: load once, plan once, run many.
//!
//! A [`Model`] is a network from a file, an [`Engine`] its plan with weights packed for it, and a [`Scratch`] the memory
//! and threads of one run at a time. Running allocates nothing, and threads may share an engine.
//!
//! ```no_run
//! # fn main() -> Result<(), sr2_infer::Error> {
//! use sr2_infer::{Model, Options};
//!
//! let engine = Model::load("runs/resnet20-1/export")?.plan(&Options::default())?;
//! let mut scratch = engine.scratch()?;
//! let image = vec![0.0; engine.input_shape().iter().product()];
//! let mut logits = vec![0.0; engine.output_shape().iter().product()];
//! engine.run(&image, &mut logits, &mut scratch)?;
//! println!("{}", engine.plan());
//! # Ok(())
//! # }
//! ```

mod compile;
mod cost;
mod decisions;
mod engine;
mod error;
mod fuse;
mod memory;
mod model;
mod options;
mod plan;
mod tuning;

#[cfg(test)]
mod tests;

pub use engine::{Engine, Scratch};
pub use error::Error;
pub use model::Model;
pub use options::{Layout, MAX_BATCH, MAX_THREADS, Options, WeightPolicy};
pub use plan::{LayerPlan, Plan};
pub use sr2_kernels::{Contract, Isa, IsaError, KERNELS, peak_flops};
pub use tuning::Tuning;
