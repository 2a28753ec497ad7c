//! When a layer is faster sparse than dense.

use sr2_kernels::Isa;

/// Time of one non-zero weight of the sparse kernel in units of one weight of the dense one, as `examples/profile.rs`
/// finds it on ResNet-18 for policies `sparse` and `dense`.
const SPARSE_OVER_DENSE: f64 = 2.0;

/// Time of one non-zero of the one-image linear kernel, which gathers, in units of one weight of the dense dot
/// product, for a tier of `lanes`.
fn gather_over_dot(isa: Isa) -> f64 {
    isa.lanes() as f64
}

/// Whether a convolution of this density is faster when only its non-zeros are computed.
///
/// The dense kernel keeps blocks of output channels in registers, so it cannot serve groups of fewer.
pub(crate) fn convolution_is_sparse(density: f64, channels_per_group: usize) -> bool {
    let wasted = channels_per_group.next_multiple_of(6) as f64 / channels_per_group as f64;
    density * SPARSE_OVER_DENSE < wasted
}

/// Whether a depthwise convolution is: only where few of a channel's weights are left, as starting a channel costs the
/// sparse kernel some.
pub(crate) fn depthwise_is_sparse(density: f64) -> bool {
    density < 0.25
}

/// Whether a linear layer for one image is faster when only its non-zeros are computed.
pub(crate) fn linear_is_sparse(density: f64, isa: Isa) -> bool {
    density * gather_over_dot(isa) < 1.0
}

/// Whether a vector of images at a time is no slower than image by image, for a network whose largest layer has
/// `values` inputs and outputs: where those leave the core's caches, they cost more than the zeros between rows and
/// the small maps that a vector of images does without. `examples/profile.rs` puts ResNet-18 and VGG-16 for 32x32
/// images on one side, MobileNetV2 and images of 224x224 on the other.
pub(crate) fn vector_of_images_fits(values: usize) -> bool {
    values * size_of::<f32>() <= 800 << 10
}

/// Vectors that hold `values` values.
pub(crate) fn vectors(values: usize, isa: Isa) -> usize {
    values.div_ceil(isa.lanes())
}

/// Time of rearranging `positions` positions of one channel, in multiply-adds of a vector: with one lane a gather for
/// each vector, else a load and a store for each position.
pub(crate) fn rearranging(positions: usize, isa: Isa, lanes: usize) -> f64 {
    const GATHER: f64 = 16.0;
    const COPY: f64 = 2.0;
    if lanes == 1 { GATHER * vectors(positions, isa) as f64 } else { COPY * positions as f64 }
}
