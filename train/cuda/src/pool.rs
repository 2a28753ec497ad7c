//! Poolings by kernels.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{Result, Tensor};

use crate::launch::{Element, by_element, device, int, launch, pointwise, tensor, uninitialised, views};
use crate::operators::{Pooling, Shape4, Window};

/// As `Window` of the kernels: height, width, channels, those of the output, kernel, stride, top, left.
#[derive(Clone, Copy)]
#[repr(C)]
struct Places([i32; 11]);

// SAFETY: eleven ints, as the kernels' struct.
unsafe impl DeviceRepr for Places {}

/// The output's shape too.
fn places(window: Window, x: &Tensor) -> Result<(Shape4, Places)> {
    let (shape, output) = (x.dims4()?, window.output(x.dims4()?)?);
    let ([top, left, ..], [height, width], [down, right]) = (window.pads, window.kernel, window.stride);
    let sizes = [shape.1, shape.2, shape.3, output.1, output.2, height, width, down, right, top, left];
    let mut places = [0; 11];
    for (place, size) in places.iter_mut().zip(sizes) {
        *place = int(size)?;
    }
    Ok((output, Places(places)))
}

fn name(pooling: Pooling) -> &'static str {
    match pooling {
        Pooling::Max => "max_pool",
        Pooling::Average => "average_pool",
    }
}

pub(crate) fn pool(pooling: Pooling, x: &Tensor, window: Window) -> Result<Tensor> {
    by_element!(x, pooled(pooling, x, window))
}

pub(crate) fn pool_gradient(pooling: Pooling, x: &Tensor, g: &Tensor, window: Window) -> Result<Tensor> {
    by_element!(x, gradient_of(pooling, x, g, window))
}

fn pooled<T: Element>(pooling: Pooling, x: &Tensor, window: Window) -> Result<Tensor> {
    let (device, (shape, places)) = (&device(x)?, places(window, x)?);
    let (images, height, width, channels) = shape;
    let count = images * height * width * channels;
    let mut y = uninitialised::<T>(device, count)?;
    views!(T: x);
    let images = int(images)?;
    launch!(device, &format!("{}_{}", name(pooling), T::NAME), pointwise(count), x, &mut y, &images, &places);
    Ok(tensor(y, shape, device))
}

fn gradient_of<T: Element>(pooling: Pooling, x: &Tensor, g: &Tensor, window: Window) -> Result<Tensor> {
    let (device, (output, places)) = (&device(x)?, places(window, x)?);
    let (shape, count) = (x.shape(), x.elem_count());
    let mut dx = uninitialised::<T>(device, count)?;
    views!(T: x, g);
    let images = int(output.0)?;
    let name = format!("{}_gradient_{}", name(pooling), T::NAME);
    launch!(device, &name, pointwise(count), x, g, &mut dx, &images, &places);
    Ok(tensor(dx, shape, device))
}

pub(crate) fn mean(x: &Tensor) -> Result<Tensor> {
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

pub(crate) fn mean_gradient(g: &Tensor, shape: Shape4) -> Result<Tensor> {
    fn run<T: Element>(g: &Tensor, shape: Shape4) -> Result<Tensor> {
        let (device, (images, height, width, channels)) = (&device(g)?, shape);
        let count = images * height * width * channels;
        let mut dx = uninitialised::<T>(device, count)?;
        views!(T: g);
        let (i, places, c) = (int(images)?, int(height * width)?, int(channels)?);
        launch!(device, &format!("mean_gradient_{}", T::NAME), pointwise(count), g, &mut dx, &i, &places, &c);
        Ok(tensor(dx, shape, device))
    }
    by_element!(g, run(g, shape))
}
