//! Sparse CPU inference: load once, plan once, run many.
//!
//! ```no_run
//! # fn main() -> Result<(), sr2_infer::Error> {
//! use sr2_infer::{Engine, Options};
//!
//! let mut engine = Engine::load("exports/resnet20", &Options::default())?;
//! let image = vec![0.0; engine.input_shape().iter().product()];
//! let mut logits = vec![0.0; engine.output_shape().iter().product()];
//! engine.run(&image, 1, &mut logits)?;
//! println!("{}", engine.plan());
//! # Ok(())
//! # }
//! ```

mod compile;
mod cost;
mod engine;
mod error;
mod fuse;
mod load;
mod memory;
mod options;
mod plan;

#[cfg(test)]
mod tests;

pub use engine::Engine;
pub use error::Error;
pub use options::{Options, WeightPolicy};
pub use plan::{LayerPlan, Plan};
pub use sr2_kernels::{Isa, IsaError, peak_flops};
