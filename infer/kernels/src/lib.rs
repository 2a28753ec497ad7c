//! SIMD kernels with portable twins, one tier an instruction set, behind safe descriptors.
//!
//! A [`ProgramBuilder`] checks each step against the buffers it works on; the [`Program`] it makes runs them many times,
//! on many threads, without allocating. Apart from training's CUDA kernels and the boundary to C, this is the only crate of the project with `unsafe` code.

mod activation;
mod affinity;
mod arena;
mod arrange;
mod border;
mod builder;
mod combine;
mod dense_conv;
mod depthwise;
mod depthwise_aligned;
mod depthwise_rows;
mod dilated_pooling;
mod generated_conv;
mod grid;
#[cfg(test)]
mod guard;
mod isa;
mod linear;
mod machine_code;
mod map_conv;
mod masks;
mod packing;
mod peak;
mod plane;
mod pointwise;
mod pooling;
mod program;
mod registry;
mod row_conv;
mod select;
mod sharing;
mod simd;
mod softmax;
mod source;
mod sparse_conv;
mod step;
mod team;
#[cfg(test)]
mod tests;
pub mod training;
mod transfer;
mod window;
mod winograd;

pub use activation::Activation;
pub use arena::Aligned;
pub use builder::{BufferId, Conv, NO_CLIP, ProgramBuilder};
pub use combine::Combination;
pub use isa::{Avx2, Avx512, Avx512Bf16, Bf16, Isa, IsaError, Neon};
pub use peak::peak_flops;
pub use plane::Plane;
pub use pooling::Pooling;
pub use program::{Buffer, Program, Weights, Workspace};
pub use registry::{Contract, KERNELS};
pub use source::TooLarge;
pub use team::Threads;
pub use window::Window;
