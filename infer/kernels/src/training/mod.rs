//! Kernels for training: single-threaded, safe to call, each with a scalar tier.
//!
//! Activations are *blocked*: `[image][ceil(channels / 16)][height][width][16]` ([`BLOCK`] channels innermost), the
//! lanes past the last channel zero. Flat features are images of height and width 1. A caller spreads work over
//! threads by cutting a batch into groups of images; every kernel works on the images it is given, in order, so
//! results do not depend on the cut.

mod arithmetic;
mod bf16;
mod convolution;
mod correlate;
mod correlation;
mod depthwise;
mod lanes;
mod layout;
mod norm;
mod pack;
mod pointwise;
mod pool;
mod sparse_conv;
mod sparse_sweep;
mod sparse_tile;
mod sparse_weights;
mod tiered;
mod transposed;
mod weight_gradient;
mod winograd;

#[cfg(test)]
mod tests;

pub use arithmetic::Arithmetic;
pub use bf16::pair_rows;
pub use convolution::{ConvShape, Convolution};
pub use layout::{block_images, blocked_channels, concat, concat_gradient, flatten, flatten_gradient, unblock_rows};
pub use norm::{
    Mask, NormInputGradient, accumulate_gradient_moments, accumulate_moments, norm_input_gradient, normalize,
};
pub use pointwise::{Activation, activate, activation_gradient, add, add_assign, add_channel_sums};
pub use pool::{PoolShape, average_pool, average_pool_gradient, max_pool, max_pool_gradient};
pub use sparse_conv::{SparseConvolution, SparseInputGradient, SparseWeightGradient};
pub use sparse_weights::{SparseWeights, count_nonzeros};
pub use winograd::WinogradConvolution;

/// Channels in a block: the innermost dimension of every activation.
pub const BLOCK: usize = 16;
