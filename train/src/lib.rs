//! Training: data, proximal operators, SR2, the loop and its run folders.

pub mod executor;
pub mod layout;
