//! The operators, each by its kernel on a CUDA device and by its twin elsewhere.

use candle_core::{DType, Result, Tensor, bail};

use crate::twin;
#[cfg(feature = "cudnn")]
use crate::{convolution, norm, pointwise, pool};

/// Images, height, width and channels; or outputs, height, width and inputs.
pub type Shape4 = (usize, usize, usize, usize);

/// Calls the kernel if the tensor is on a CUDA device, and else the twin of the same name.
macro_rules! dispatch {
    ($tensor:expr, $module:ident::$function:ident($($argument:expr),*)) => {{
        #[cfg(feature = "cudnn")]
        if $tensor.device().is_cuda() {
            return $module::$function($($argument),*);
        }
        twin::$function($($argument),*)
    }};
}

/// Checks that a tensor has this type and shape.
pub(crate) fn expect(what: &str, tensor: &Tensor, dtype: DType, shape: &[usize]) -> Result<()> {
    if tensor.dtype() != dtype || tensor.dims() != shape {
        bail!("{what}: {:?} {:?}, expected {dtype:?} {shape:?}", tensor.dtype(), tensor.dims());
    }
    Ok(())
}

/// Rows and channels of activations.
pub(crate) fn rows_and_channels(x: &Tensor) -> Result<(usize, usize)> {
    let (images, height, width, channels) = x.dims4()?;
    let rows = images * height * width;
    if rows == 0 || channels == 0 {
        bail!("no values to normalise in {:?}", x.dims());
    }
    Ok((rows, channels))
}

/// Bounds of an activation, of values that bf16 holds exactly, as ReLU's and ReLU6's. Its gradient is 0 at and beyond them, as
/// PyTorch's of ReLU and hardtanh.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clamp {
    /// Least value.
    pub low: f32,
    /// Greatest value.
    pub high: f32,
}

impl Clamp {
    /// No bounds.
    pub const NONE: Self = Self { low: f32::NEG_INFINITY, high: f32::INFINITY };
    /// ReLU.
    pub const RELU: Self = Self { low: 0.0, high: f32::INFINITY };
}

/// Mean and biased variance of each channel, `[2, channels]`.
///
/// # Errors
/// `x` is none of activations, or the device fails.
pub fn moments(x: &Tensor) -> Result<Tensor> {
    rows_and_channels(x)?;
    dispatch!(x, norm::moments(x))
}

/// Batch norm with an activation behind it: `clamp((x - mean) / sqrt(var + epsilon) * scale + shift)`.
#[derive(Debug, Clone, Copy)]
pub struct BatchNorm<'a> {
    /// Mean and variance, `[2, channels]`.
    pub moments: &'a Tensor,
    /// `[channels]`.
    pub scale: &'a Tensor,
    /// Added to the variance.
    pub epsilon: f32,
    /// The activation.
    pub clamp: Clamp,
}

/// What comes back through [`BatchNorm::forward`].
#[derive(Debug)]
pub struct NormGradient {
    /// Of `x`.
    pub x: Tensor,
    /// Of the shift, `[channels]`.
    pub shift: Tensor,
    /// Of the scale, `[channels]`.
    pub scale: Tensor,
}

impl BatchNorm<'_> {
    fn check(&self, x: &Tensor) -> Result<usize> {
        let (_, channels) = rows_and_channels(x)?;
        expect("moments", self.moments, DType::F32, &[2, channels])?;
        expect("scale", self.scale, DType::F32, &[channels])?;
        Ok(channels)
    }

    /// The output for `x`, with the shift `[channels]`.
    ///
    /// # Errors
    /// Shapes that do not belong together, or the device fails.
    pub fn forward(&self, x: &Tensor, shift: &Tensor) -> Result<Tensor> {
        expect("shift", shift, DType::F32, &[self.check(x)?])?;
        dispatch!(x, norm::normalise(self, x, shift))
    }

    /// The gradients for `x`, whose own [`moments`] these are, its output `y` and the gradient `g` of that.
    ///
    /// # Errors
    /// Shapes or types that do not belong together, or the device fails.
    pub fn gradient(&self, [x, y, g]: [&Tensor; 3]) -> Result<NormGradient> {
        self.check(x)?;
        expect("output", y, x.dtype(), x.dims())?;
        expect("gradient", g, x.dtype(), x.dims())?;
        dispatch!(x, norm::gradient(self, [x, y, g]))
    }
}

/// Running mean and variance after a batch with the moments `[2, channels]` over `values` values a channel, 2 or more:
/// `(1 - momentum) running + momentum batch`, of the unbiased variance.
///
/// # Errors
/// Shapes that do not belong together, or the device fails.
pub fn running_statistics(
    [mean, var]: [&Tensor; 2],
    moments: &Tensor,
    values: usize,
    momentum: f32,
) -> Result<[Tensor; 2]> {
    let channels = mean.dims1()?;
    expect("running variance", var, DType::F32, &[channels])?;
    expect("moments", moments, DType::F32, &[2, channels])?;
    let unbias = (values as f64 / (values as f64 - 1.0)) as f32;
    dispatch!(mean, norm::running_statistics([mean, var], moments, unbias, momentum))
}

/// `clamp(a + b)`.
///
/// # Errors
/// Different shapes or types, or the device fails.
pub fn add(a: &Tensor, b: &Tensor, clamp: Clamp) -> Result<Tensor> {
    expect("second term", b, a.dtype(), a.dims())?;
    dispatch!(a, pointwise::add(a, b, clamp))
}

/// The gradient `g` of `y = clamp(..)`, carried on to what was clamped.
///
/// # Errors
/// Different shapes or types, or the device fails.
pub fn clamp_gradient(y: &Tensor, g: &Tensor, clamp: Clamp) -> Result<Tensor> {
    expect("gradient", g, y.dtype(), y.dims())?;
    dispatch!(y, pointwise::clamp_gradient(y, g, clamp))
}

/// Weights `[outputs, inputs, height, width]` in f32 as `[outputs, height, width, inputs]` in `dtype`.
///
/// # Errors
/// Not such weights, no such type, or the device fails.
pub fn weights_last(w: &Tensor, dtype: DType) -> Result<Tensor> {
    dispatch!(w, pointwise::weights_last(w, dtype))
}

/// [`weights_last`] the other way round, to f32: for its gradient.
///
/// # Errors
/// Not such weights, or the device fails.
pub fn weights_first(g: &Tensor) -> Result<Tensor> {
    dispatch!(g, pointwise::weights_first(g))
}

/// The gradient of the mean cross-entropy of `logits`, `[images, classes]` in f32; `labels` are u32 and below `classes`.
///
/// # Errors
/// Shapes or types that do not belong together, or the device fails.
pub fn cross_entropy_gradient(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let (images, classes) = logits.dims2()?;
    expect("logits", logits, DType::F32, &[images, classes])?;
    expect("labels", labels, DType::U32, &[images])?;
    dispatch!(logits, pointwise::cross_entropy_gradient(logits, labels))
}

/// What a window gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Its largest value; the gradient is the first such value's.
    Max,
    /// The mean of its values inside the image.
    Average,
}

/// Where the windows lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Height and width.
    pub kernel: [usize; 2],
    /// Down and right.
    pub stride: [usize; 2],
    /// Places outside the image: top, left, bottom, right; less than the kernel.
    pub pads: [usize; 4],
}

impl Window {
    /// The shape of the output for activations of this shape.
    pub(crate) fn output(&self, shape: Shape4) -> Result<Shape4> {
        let ([top, left, bottom, right], (images, height, width, channels)) = (self.pads, shape);
        let covered = [height + top + bottom, width + left + right];
        let padded = top.max(bottom) < self.kernel[0] && left.max(right) < self.kernel[1];
        if !padded || self.stride.contains(&0) || covered[0] < self.kernel[0] || covered[1] < self.kernel[1] {
            bail!("a pooling of {self:?} over {height} x {width}");
        }
        let along = |axis: usize| (covered[axis] - self.kernel[axis]) / self.stride[axis] + 1;
        Ok((images, along(0), along(1), channels))
    }
}

impl Pooling {
    /// The pooled activations.
    ///
    /// # Errors
    /// Windows that do not fit, or the device fails.
    pub fn forward(self, x: &Tensor, window: Window) -> Result<Tensor> {
        dispatch!(x, pool::pool(self, x, window))
    }

    /// The gradient of `x` from the gradient `g` of its pooling.
    ///
    /// # Errors
    /// Shapes that do not belong together, or the device fails.
    pub fn gradient(self, x: &Tensor, g: &Tensor, window: Window) -> Result<Tensor> {
        let (a, b, c, d) = window.output(x.dims4()?)?;
        expect("gradient", g, x.dtype(), &[a, b, c, d])?;
        dispatch!(x, pool::pool_gradient(self, x, g, window))
    }
}

/// The mean of each channel, `[images, 1, 1, channels]`.
///
/// # Errors
/// `x` is none of activations, or the device fails.
pub fn mean(x: &Tensor) -> Result<Tensor> {
    dispatch!(x, pool::mean(x))
}

/// The gradient of `x`, of this shape, from the gradient `g` of its [`mean`].
///
/// # Errors
/// Shapes that do not belong together, or the device fails.
pub fn mean_gradient(g: &Tensor, shape: Shape4) -> Result<Tensor> {
    expect("gradient", g, g.dtype(), &[shape.0, 1, 1, shape.3])?;
    dispatch!(g, pool::mean_gradient(g, shape))
}

/// A convolution of activations with weights `[outputs, height, width, inputs / groups]` of the same type. bf16 is summed up
/// in f32. f32 is multiplied in f32, or in TF32 where candle's matrix products are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Convolution {
    /// Down and right.
    pub stride: [usize; 2],
    /// Zeros above and below, and on the left and on the right.
    pub padding: [usize; 2],
    /// Down and right.
    pub dilation: [usize; 2],
    /// Number of groups.
    pub groups: usize,
}

impl Convolution {
    /// The shape of the output.
    pub(crate) fn output(&self, x: Shape4, weights: Shape4) -> Result<Shape4> {
        let ((images, height, width, channels), (outputs, kernel_height, kernel_width, inputs)) = (x, weights);
        let along = |axis: usize, size: usize, kernel: usize| {
            let extent = self.dilation[axis] * kernel.saturating_sub(1) + 1;
            (size + 2 * self.padding[axis]).checked_sub(extent).map(|rest| rest / self.stride[axis].max(1) + 1)
        };
        let size = (along(0, height, kernel_height), along(1, width, kernel_width));
        let ((Some(height), Some(width)), true) = (size, channels == inputs * self.groups) else {
            bail!("a convolution {self:?} of {x:?} with {weights:?}");
        };
        Ok((images, height, width, outputs))
    }

    /// The output for activations `x`.
    ///
    /// # Errors
    /// Shapes or types that do not belong together, or the device fails.
    pub fn forward(&self, x: &Tensor, weights: &Tensor) -> Result<Tensor> {
        expect("weights", weights, x.dtype(), weights.dims())?;
        self.output(x.dims4()?, weights.dims4()?)?;
        dispatch!(x, convolution::convolve(self, x, weights))
    }

    /// The gradient of activations of the shape `x` from the gradient `g` of the output.
    ///
    /// # Errors
    /// Shapes or types that do not belong together, or the device fails.
    pub fn input_gradient(&self, g: &Tensor, weights: &Tensor, x: Shape4) -> Result<Tensor> {
        let (a, b, c, d) = self.output(x, weights.dims4()?)?;
        expect("gradient", g, weights.dtype(), &[a, b, c, d])?;
        dispatch!(g, convolution::input_gradient(self, g, weights, x))
    }

    /// The gradient of weights of the shape `weights` from the gradient `g` of the output.
    ///
    /// # Errors
    /// Shapes or types that do not belong together, or the device fails.
    pub fn weight_gradient(&self, x: &Tensor, g: &Tensor, weights: Shape4) -> Result<Tensor> {
        let (a, b, c, d) = self.output(x.dims4()?, weights)?;
        expect("gradient", g, x.dtype(), &[a, b, c, d])?;
        dispatch!(x, convolution::weight_gradient(self, x, g, weights))
    }
}
