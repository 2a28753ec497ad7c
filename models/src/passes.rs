//! Rewrites of a network that keep what it computes.

mod channels;
mod dead_channels;
mod fold_batch_norm;
mod fold_constant_sums;
mod remove_dead_channels;
mod rewrite;

pub use fold_batch_norm::fold_batch_norm;
pub use fold_constant_sums::fold_constant_sums;
pub use remove_dead_channels::remove_dead_channels;
