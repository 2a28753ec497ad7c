//! Convolutions by cuDNN.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::LocalKey;

use candle_core::cuda_backend::cudarc::cudnn::CudnnError;
use candle_core::cuda_backend::cudarc::cudnn::safe::{
    ConvBackwardData, ConvBackwardFilter, ConvDescriptor, ConvForward, Cudnn, CudnnDataType, FilterDescriptor,
    TensorDescriptor,
};
use candle_core::cuda_backend::cudarc::cudnn::sys::{
    cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdFilterAlgo_t, cudnnConvolutionFwdAlgo_t, cudnnConvolutionMode_t,
    cudnnMathType_t, cudnnTensorFormat_t,
};
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::cuda_backend::{DeviceId, gemm_reduced_precision_f32};
use candle_core::{CudaDevice, Result, Tensor};

use crate::launch::{Element, by_element, device, int, tensor, uninitialised, views};
use crate::operators::{Convolution, Shape4};

thread_local! {
    /// A handle is one thread's.
    static HANDLES: RefCell<HashMap<DeviceId, Arc<Cudnn>>> = RefCell::default();
    static FORWARD: Choices<cudnnConvolutionFwdAlgo_t> = RefCell::default();
    static INPUT_GRADIENT: Choices<cudnnConvolutionBwdDataAlgo_t> = RefCell::default();
    static WEIGHT_GRADIENT: Choices<cudnnConvolutionBwdFilterAlgo_t> = RefCell::default();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    device: DeviceId,
    convolution: Convolution,
    x: Shape4,
    weights: Shape4,
    element: &'static str,
    tf32: bool,
}

fn handle(device: &CudaDevice) -> Result<Arc<Cudnn>> {
    HANDLES.with_borrow_mut(|handles| {
        if let Some(handle) = handles.get(&device.id()) {
            return Ok(handle.clone());
        }
        let handle = Cudnn::new(device.cuda_stream())?;
        handles.insert(device.id(), handle.clone());
        Ok(handle)
    })
}

/// What cuDNN is to know of a convolution.
struct Descriptors<T> {
    convolution: ConvDescriptor<f32>,
    x: TensorDescriptor<T>,
    weights: FilterDescriptor<T>,
    y: TensorDescriptor<T>,
}

impl Convolution {
    fn describe<T: Element + CudnnDataType>(
        &self,
        cudnn: &Arc<Cudnn>,
        x: Shape4,
        weights: Shape4,
        y: Shape4,
    ) -> Result<Descriptors<T>> {
        let format = cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        // cuDNN names sizes in the order of channels first, whatever the order in memory.
        let dims = |(a, h, w, c): Shape4| -> Result<[i32; 4]> { Ok([int(a)?, int(c)?, int(h)?, int(w)?]) };
        let pair = |[a, b]: [usize; 2]| -> Result<[i32; 2]> { Ok([int(a)?, int(b)?]) };
        let mode = cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let mut convolution =
            cudnn.create_conv2d::<f32>(pair(self.padding)?, pair(self.stride)?, pair(self.dilation)?, mode)?;
        convolution.set_group_count(int(self.groups)?)?;
        convolution.set_math_type(match T::NAME {
            "f32" if !gemm_reduced_precision_f32() => cudnnMathType_t::CUDNN_FMA_MATH,
            _ => cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        })?;
        Ok(Descriptors {
            convolution,
            x: cudnn.create_4d_tensor(format, dims(x)?)?,
            weights: cudnn.create_4d_filter(format, dims(weights)?)?,
            y: cudnn.create_4d_tensor(format, dims(y)?)?,
        })
    }

    fn key<T: Element>(&self, device: &CudaDevice, x: Shape4, weights: Shape4) -> Key {
        let tf32 = gemm_reduced_precision_f32();
        Key { device: device.id(), convolution: *self, x, weights, element: T::NAME, tf32 }
    }
}

type Choices<A> = RefCell<HashMap<Key, (A, usize)>>;

/// An algorithm and its bytes of working memory: `usual`, which gives the same bits each time, or cuDNN's choice where that
/// does not know the convolution.
fn choose<A: Copy>(
    choices: &'static LocalKey<Choices<A>>,
    key: Key,
    usual: A,
    heuristic: impl FnOnce() -> std::result::Result<A, CudnnError>,
    bytes: impl Fn(A) -> std::result::Result<usize, CudnnError>,
) -> Result<(A, usize)> {
    if let Some(choice) = choices.with_borrow(|choices| choices.get(&key).copied()) {
        return Ok(choice);
    }
    let choice = match bytes(usual) {
        Ok(size) => (usual, size),
        Err(_) => {
            let algorithm = heuristic()?;
            (algorithm, bytes(algorithm)?)
        }
    };
    choices.with_borrow_mut(|choices| choices.insert(key, choice));
    Ok(choice)
}

pub(crate) fn convolve(convolution: &Convolution, x: &Tensor, weights: &Tensor) -> Result<Tensor> {
    by_element!(x, forward_of(convolution, x, weights))
}

pub(crate) fn input_gradient(convolution: &Convolution, g: &Tensor, weights: &Tensor, x: Shape4) -> Result<Tensor> {
    by_element!(g, input_gradient_of(convolution, g, weights, x))
}

pub(crate) fn weight_gradient(convolution: &Convolution, x: &Tensor, g: &Tensor, weights: Shape4) -> Result<Tensor> {
    by_element!(x, weight_gradient_of(convolution, x, g, weights))
}

fn forward_of<T: Element + CudnnDataType>(convolution: &Convolution, x: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let (device, x_shape, weights_shape) = (&device(x)?, x.dims4()?, weights.dims4()?);
    let shape = convolution.output(x_shape, weights_shape)?;
    let described = convolution.describe::<T>(&handle(device)?, x_shape, weights_shape, shape)?;
    let pass = ConvForward { conv: &described.convolution, x: &described.x, w: &described.weights, y: &described.y };
    let (algorithm, bytes) = choose(
        &FORWARD,
        convolution.key::<T>(device, x_shape, weights_shape),
        cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
        || pass.pick_algorithm(),
        |algorithm| pass.get_workspace_size(algorithm),
    )?;
    let mut workspace: CudaSlice<u8> = uninitialised(device, bytes)?;
    let mut y = uninitialised::<T>(device, count(shape))?;
    views!(T: x, weights);
    // SAFETY: type, shape and order of each buffer are those described.
    unsafe { pass.launch(algorithm, Some(&mut workspace), (T::one(), T::zero()), x, weights, &mut y)? };
    Ok(tensor(y, shape, device))
}

fn input_gradient_of<T: Element + CudnnDataType>(
    convolution: &Convolution,
    g: &Tensor,
    weights: &Tensor,
    x_shape: Shape4,
) -> Result<Tensor> {
    let (device, weights_shape) = (&device(g)?, weights.dims4()?);
    let shape = convolution.output(x_shape, weights_shape)?;
    let described = convolution.describe::<T>(&handle(device)?, x_shape, weights_shape, shape)?;
    let pass =
        ConvBackwardData { conv: &described.convolution, dx: &described.x, w: &described.weights, dy: &described.y };
    let (algorithm, bytes) = choose(
        &INPUT_GRADIENT,
        convolution.key::<T>(device, x_shape, weights_shape),
        cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
        || pass.pick_algorithm(),
        |algorithm| pass.get_workspace_size(algorithm),
    )?;
    let mut workspace: CudaSlice<u8> = uninitialised(device, bytes)?;
    let mut dx = uninitialised::<T>(device, count(x_shape))?;
    views!(T: g, weights);
    // SAFETY: type, shape and order of each buffer are those described.
    unsafe { pass.launch(algorithm, Some(&mut workspace), (T::one(), T::zero()), &mut dx, weights, g)? };
    Ok(tensor(dx, x_shape, device))
}

fn weight_gradient_of<T: Element + CudnnDataType>(
    convolution: &Convolution,
    x: &Tensor,
    g: &Tensor,
    weights_shape: Shape4,
) -> Result<Tensor> {
    let (device, x_shape) = (&device(x)?, x.dims4()?);
    let shape = convolution.output(x_shape, weights_shape)?;
    let described = convolution.describe::<T>(&handle(device)?, x_shape, weights_shape, shape)?;
    let pass =
        ConvBackwardFilter { conv: &described.convolution, x: &described.x, dw: &described.weights, dy: &described.y };
    let (algorithm, bytes) = choose(
        &WEIGHT_GRADIENT,
        convolution.key::<T>(device, x_shape, weights_shape),
        cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
        || pass.pick_algorithm(),
        |algorithm| pass.get_workspace_size(algorithm),
    )?;
    let mut workspace: CudaSlice<u8> = uninitialised(device, bytes)?;
    let mut dw = uninitialised::<T>(device, count(weights_shape))?;
    views!(T: x, g);
    // SAFETY: type, shape and order of each buffer are those described.
    unsafe { pass.launch(algorithm, Some(&mut workspace), (T::one(), T::zero()), x, &mut dw, g)? };
    Ok(tensor(dw, weights_shape, device))
}

fn count((a, b, c, d): Shape4) -> usize {
    a * b * c * d
}
