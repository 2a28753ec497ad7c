//! Training: data, proximal operators, SR2, the loop and its run folders.

pub mod candle_executor;
pub mod cross_entropy;
pub mod data;
pub mod executor;
pub mod layout;
pub mod penalty;
pub mod schedule;
pub mod sr2;
pub mod trial;
