//! Training on CUDA devices, as functions of candle's tensors: convolutions by cuDNN, and own kernels for what lies between
//! them, forward and backward. Nothing here is tracked by candle's automatic differentiation.
//!
//! Activations are contiguous, channels last `[images, height, width, channels]`, in f32 or bf16; parameters and their
//! gradients, statistics and sums over a channel are f32. Results do not depend on the order in which blocks run.
//!
//! Tensors on the CPU, and all of them without the feature `cudnn`, are computed by slow twins of the kernels; the operations
//! of a step on whole vectors, `Vectors`, are there with that feature only. Together with the engine's kernels, and the
//! boundary to C, this is where the project's `unsafe` code is.

#[cfg(feature = "cudnn")]
mod convolution;
#[cfg(feature = "cudnn")]
mod launch;
#[cfg(feature = "cudnn")]
mod norm;
mod operators;
#[cfg(feature = "cudnn")]
mod pointwise;
#[cfg(feature = "cudnn")]
mod pool;
#[cfg(feature = "cudnn")]
mod step;
mod twin;

pub use operators::{
    BatchNorm, Clamp, Convolution, NormGradient, Pooling, Shape4, Window, add, clamp_gradient, cross_entropy_gradient,
    mean, mean_gradient, moments, running_statistics, weights_first, weights_last,
};
#[cfg(feature = "cudnn")]
pub use step::{Lambda, Model, Parameter, Penalty, ROW, Still, Vectors, Zeros};

/// Opens a CUDA device with one stream for all threads, lets it keep freed memory for the next allocation, and stops candle
/// from tracking tensors by events, which only several streams need.
///
/// # Errors
/// There is no such device, or it fails.
#[cfg(feature = "cudnn")]
pub fn open(ordinal: usize) -> candle_core::Result<candle_core::Device> {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::result::{device, mem_pool};
    use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;

    // candle's usual stream is another one in each thread.
    let opened = candle_core::Device::new_cuda_with_stream(ordinal)?;
    let cuda = opened.as_cuda_device()?;
    let mut threshold = u64::MAX;
    // SAFETY: the device is the one that candle opened, its pool exists as long, and the attribute is a u64. All that is
    // done with its tensors goes through the one stream, in order.
    unsafe {
        let pool = device::get_default_mem_pool(cuda.cuda_stream().context().cu_device()).w()?;
        let threshold: *mut u64 = &mut threshold;
        mem_pool::set_attribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, threshold.cast()).w()?;
        cuda.disable_event_tracking();
    }
    Ok(opened)
}
