//! SIMD kernels with portable twins, one tier an instruction set, behind safe descriptors.
//!
//! This is the only crate of the project with `unsafe` code.

mod isa;
mod simd;

pub use isa::{Avx2, Avx512, Isa, IsaError};
