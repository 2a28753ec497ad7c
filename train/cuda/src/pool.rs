//! Poolings.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{Result, Tensor, bail};

use crate::launch::{Element, by_element, device, expect, int, launch, pointwise, tensor, uninitialised, views};

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

/// As `Window` of the kernels: height, width, channels, those of the output, kernel, stride, top, left.
#[derive(Clone, Copy)]
#[repr(C)]
struct Places([i32; 11]);

// SAFETY: eleven ints, as the kernels' struct.
unsafe impl DeviceRepr for Places {}

impl Window {
    /// The shape of the output for images `[images, height, width, channels]`.
    fn output(&self, shape: (usize, usize, usize, usize)) -> Result<(usize, usize, usize, usize)> {
        let ([top, left, bottom, right], (images, height, width, channels)) = (self.pads, shape);
        let covered = [height + top + bottom, width + left + right];
        let padded = top.max(bottom) < self.kernel[0] && left.max(right) < self.kernel[1];
        if !padded || self.stride.contains(&0) || covered[0] < self.kernel[0] || covered[1] < self.kernel[1] {
            bail!("a pooling of {self:?} over {height} x {width}");
        }
        let along = |axis: usize| (covered[axis] - self.kernel[axis]) / self.stride[axis] + 1;
        Ok((images, along(0), along(1), channels))
    }

    fn places(&self, x: &Tensor) -> Result<((usize, usize, usize, usize), Places)> {
        let (shape, output) = (x.dims4()?, self.output(x.dims4()?)?);
        let [top, left, ..] = self.pads;
        let sizes =
            [[shape.1, shape.2, shape.3].as_slice(), &[output.1, output.2], &self.kernel, &self.stride, &[top, left]]
                .concat();
        let mut places = [0; 11];
        for (place, size) in places.iter_mut().zip(sizes) {
            *place = int(size)?;
        }
        Ok((output, Places(places)))
    }
}

impl Pooling {
    fn name(self) -> &'static str {
        match self {
            Self::Max => "max_pool",
            Self::Average => "average_pool",
        }
    }

    /// The pooled activations.
    ///
    /// # Errors
    /// Windows that do not fit, or the device fails.
    pub fn forward(self, x: &Tensor, window: Window) -> Result<Tensor> {
        by_element!(x, pooled(self, x, window))
    }

    /// The gradient of `x` from the gradient `g` of its pooling.
    ///
    /// # Errors
    /// Shapes that do not belong together, or the device fails.
    pub fn gradient(self, x: &Tensor, g: &Tensor, window: Window) -> Result<Tensor> {
        by_element!(x, pool_gradient(self, x, g, window))
    }
}

fn pooled<T: Element>(pooling: Pooling, x: &Tensor, window: Window) -> Result<Tensor> {
    let (device, (shape, places)) = (&device(x)?, window.places(x)?);
    let (images, height, width, channels) = shape;
    let count = images * height * width * channels;
    let mut y = uninitialised::<T>(device, count)?;
    views!(T: x);
    let images = int(images)?;
    launch!(device, &format!("{}_{}", pooling.name(), T::NAME), pointwise(count), x, &mut y, &images, &places);
    Ok(tensor(y, shape, device))
}

fn pool_gradient<T: Element>(pooling: Pooling, x: &Tensor, g: &Tensor, window: Window) -> Result<Tensor> {
    let (device, (output, places)) = (&device(x)?, window.places(x)?);
    expect("gradient", g, x.dtype(), &[output.0, output.1, output.2, output.3])?;
    let (shape, count) = (x.shape(), x.elem_count());
    let mut dx = uninitialised::<T>(device, count)?;
    views!(T: x, g);
    let images = int(output.0)?;
    let name = format!("{}_gradient_{}", pooling.name(), T::NAME);
    launch!(device, &name, pointwise(count), x, g, &mut dx, &images, &places);
    Ok(tensor(dx, shape, device))
}

/// The mean of each channel, `[images, 1, 1, channels]`.
///
/// # Errors
/// `x` is none of activations, or the device fails.
pub fn mean(x: &Tensor) -> Result<Tensor> {
    fn run<T: Element>(x: &Tensor) -> Result<Tensor> {
        let (device, (images, height, width, channels)) = (&device(x)?, x.dims4()?);
        let mut y = uninitialised::<T>(device, images * channels)?;
        views!(T: x);
        let (i, places, c) = (int(images)?, int(height * width)?, int(channels)?);
        launch!(device, &format!("mean_{}", T::NAME), pointwise(images * channels), x, &mut y, &i, &places, &c);
        Ok(tensor(y, (images, 1, 1, channels), device))
    }
    by_element!(x, run(x))
}

/// The gradient of `x`, of this shape, from the gradient `g` of its [`mean`].
///
/// # Errors
/// Shapes that do not belong together, or the device fails.
pub fn mean_gradient(g: &Tensor, shape: (usize, usize, usize, usize)) -> Result<Tensor> {
    fn run<T: Element>(g: &Tensor, shape: (usize, usize, usize, usize)) -> Result<Tensor> {
        let (device, (images, height, width, channels)) = (&device(g)?, shape);
        let count = images * height * width * channels;
        let mut dx = uninitialised::<T>(device, count)?;
        views!(T: g);
        let (i, places, c) = (int(images)?, int(height * width)?, int(channels)?);
        launch!(device, &format!("mean_gradient_{}", T::NAME), pointwise(count), g, &mut dx, &i, &places, &c);
        Ok(tensor(dx, shape, device))
    }
    expect("gradient", g, g.dtype(), &[shape.0, 1, 1, shape.3])?;
    by_element!(g, run(g, shape))
}
