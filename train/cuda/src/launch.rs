//! Kernels compiled by NVRTC for the device at hand, and tensors as what kernels take.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute_enum::{
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, CudaView, DeviceRepr, LaunchConfig,
};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDType, DeviceId, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Result, Shape, Storage, StorageRef, Tensor, WithDType, bail};
use half::bf16;

const SOURCE: &str = concat!(
    include_str!("element.cu"),
    include_str!("norm.cu"),
    include_str!("pointwise.cu"),
    include_str!("pool.cu"),
    include_str!("step.cu"),
);

/// Threads of a block of pointwise kernels.
const BLOCK: u32 = 256;

/// Most blocks of a launch whose threads loop.
pub(crate) const MOST_BLOCKS: usize = 1056;

/// What activations are made of.
pub(crate) trait Element: CudaDType + DeviceRepr + WithDType {
    /// In the names of kernels.
    const NAME: &'static str;
    /// Elements in 16 bytes.
    const PACK: usize;
}

impl Element for f32 {
    const NAME: &'static str = "f32";
    const PACK: usize = 4;
}

impl Element for bf16 {
    const NAME: &'static str = "bf16";
    const PACK: usize = 8;
}

/// The type of element of a tensor, to call a function of any [`Element`] with.
macro_rules! by_element {
    ($tensor:expr, $function:ident($($argument:expr),*)) => {
        match $tensor.dtype() {
            candle_core::DType::F32 => $function::<f32>($($argument),*),
            candle_core::DType::BF16 => $function::<half::bf16>($($argument),*),
            other => candle_core::bail!("{} of {other:?}, expected f32 or bf16", stringify!($function)),
        }
    };
}
pub(crate) use by_element;

/// The CUDA device of a tensor.
pub(crate) fn device(tensor: &Tensor) -> Result<CudaDevice> {
    Ok(tensor.device().as_cuda_device()?.clone())
}

thread_local! {
    static MODULES: RefCell<HashMap<DeviceId, Arc<CudaModule>>> = RefCell::default();
}

/// A kernel of [`SOURCE`], which is compiled when the first is asked for.
pub(crate) fn kernel(device: &CudaDevice, name: &str) -> Result<CudaFunction> {
    MODULES.with_borrow_mut(|modules| {
        let module = match modules.entry(device.id()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(compile(device)?),
        };
        module.load_function(name).w()
    })
}

fn compile(device: &CudaDevice) -> Result<Arc<CudaModule>> {
    let stream = device.cuda_stream();
    let context = stream.context();
    let major = context.attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR).w()?;
    let minor = context.attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR).w()?;
    // Without contraction, a step's products and sums are rounded one by one as on the host.
    let options = vec![format!("--gpu-architecture=compute_{major}{minor}"), "--fmad=false".into()];
    let compiled = compile_ptx_with_opts(SOURCE, CompileOptions { options, ..CompileOptions::default() });
    let ptx = compiled.map_err(|e| candle_core::Error::Msg(format!("NVRTC cannot compile the kernels: {e}")))?;
    context.load_module(ptx).w()
}

/// Launches a kernel: `launch!(device, name, configuration, arguments...)`.
///
/// The arguments are the kernel's, in its order and of its types (C's int is i32, long i64), and its buffers have the
/// lengths that the kernel's documentation says for the sizes among them: that is what every caller has to see to.
macro_rules! launch {
    ($device:expr, $name:expr, $configuration:expr, $($argument:expr),+ $(,)?) => {{
        use candle_core::cuda_backend::WrapErr;
        use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
        let function = $crate::launch::kernel($device, $name)?;
        let stream = $device.cuda_stream();
        let mut builder = stream.launch_builder(&function);
        $(builder.arg($argument);)+
        // SAFETY: arguments and buffers are the kernel's, by this macro's contract.
        unsafe { builder.launch($configuration) }.w()?
    }};
}
pub(crate) use launch;

/// Views of contiguous tensors of one type: `views!(T: a, b)` shadows each name by its view.
macro_rules! views {
    ($element:ty: $($tensor:ident),+) => {
        $(
            let guard = $tensor.storage_and_layout();
            let $tensor = &$crate::launch::view::<$element>(&guard.0, guard.1)?;
        )+
    };
}
pub(crate) use views;

/// The values of a contiguous tensor on a CUDA device.
pub(crate) fn view<'a, T: CudaDType + DeviceRepr>(
    storage: &'a StorageRef<'_>,
    layout: &candle_core::Layout,
) -> Result<CudaView<'a, T>> {
    let Storage::Cuda(storage) = &**storage else { bail!("a tensor that is not on a CUDA device") };
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("a tensor that is not contiguous") };
    Ok(storage.as_cuda_slice::<T>()?.slice(start..end))
}

/// Memory for `count` values, which a kernel is to write all; for one where there are none, as the device gives no less.
pub(crate) fn uninitialised<T: CudaDType + DeviceRepr>(device: &CudaDevice, count: usize) -> Result<CudaSlice<T>> {
    // SAFETY: no one reads the values before the kernel that is launched with them next, on the same stream.
    unsafe { device.alloc::<T>(count.max(1)) }
}

/// A tensor of values that a kernel has written.
pub(crate) fn tensor<T: CudaDType>(values: CudaSlice<T>, shape: impl Into<Shape>, device: &CudaDevice) -> Tensor {
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(values, device.clone()));
    Tensor::from_storage(storage, shape, BackpropOp::none(), false)
}

/// Elements that a thread reads at once, if packs begin at multiples of `count` in every tensor.
pub(crate) fn pack<T: Element>(count: usize, tensors: &[&Tensor]) -> usize {
    let aligned = tensors.iter().all(|tensor| tensor.layout().start_offset().is_multiple_of(T::PACK));
    if aligned && count.is_multiple_of(T::PACK) { T::PACK } else { 1 }
}

/// Blocks of a kernel whose threads take one of `count` pieces after the other.
pub(crate) fn pointwise(count: usize) -> LaunchConfig {
    let blocks = count.div_ceil(BLOCK as usize).clamp(1, 4 * MOST_BLOCKS) as u32;
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (BLOCK, 1, 1), shared_mem_bytes: 0 }
}

/// A size as a kernel takes it.
pub(crate) fn int(size: usize) -> Result<i32> {
    i32::try_from(size).map_err(|_| candle_core::Error::Msg(format!("{size} values are too many for a kernel")))
}
