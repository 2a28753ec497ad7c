//! Activations, sums of branches, weights in cuDNN's order, and the gradient of the loss, by kernels.

use candle_core::{DType, Result, Tensor};

use crate::launch::{Element, by_element, device, int, launch, pack, pointwise, tensor, uninitialised, views};
use crate::operators::Clamp;

pub(crate) fn add(a: &Tensor, b: &Tensor, clamp: Clamp) -> Result<Tensor> {
    by_element!(a, clamped("add", a, b, clamp))
}

pub(crate) fn clamp_gradient(y: &Tensor, g: &Tensor, clamp: Clamp) -> Result<Tensor> {
    by_element!(y, clamped("clamp_gradient", y, g, clamp))
}

/// A kernel of two inputs, an output and a clamp.
fn clamped<T: Element>(name: &str, a: &Tensor, b: &Tensor, clamp: Clamp) -> Result<Tensor> {
    let (device, shape, count) = (&device(a)?, a.shape(), a.elem_count());
    let lanes = pack::<T>(count, &[a, b]);
    let mut y = uninitialised::<T>(device, count)?;
    views!(T: a, b);
    let (packs, Clamp { low, high }) = ((count / lanes) as i64, clamp);
    launch!(
        device,
        &format!("{name}_{}_{lanes}", T::NAME),
        pointwise(count / lanes),
        a,
        b,
        &mut y,
        &packs,
        &low,
        &high
    );
    Ok(tensor(y, shape, device))
}

pub(crate) fn weights_last(w: &Tensor, dtype: DType) -> Result<Tensor> {
    fn run<T: Element>(w: &Tensor) -> Result<Tensor> {
        let (device, (outputs, inputs, height, width)) = (&device(w)?, w.dims4()?);
        let mut result = uninitialised::<T>(device, w.elem_count())?;
        let count = w.elem_count();
        views!(f32: w);
        let (o, i, taps) = (int(outputs)?, int(inputs)?, int(height * width)?);
        launch!(device, &format!("weights_last_{}", T::NAME), pointwise(count), w, &mut result, &o, &i, &taps);
        Ok(tensor(result, (outputs, height, width, inputs), device))
    }
    if dtype == DType::BF16 { run::<half::bf16>(w) } else { run::<f32>(w) }
}

pub(crate) fn weights_first(g: &Tensor) -> Result<Tensor> {
    fn run<T: Element>(g: &Tensor) -> Result<Tensor> {
        let (device, (outputs, height, width, inputs)) = (&device(g)?, g.dims4()?);
        let count = g.elem_count();
        let mut result = uninitialised::<f32>(device, count)?;
        views!(T: g);
        let (o, i, taps) = (int(outputs)?, int(inputs)?, int(height * width)?);
        launch!(device, &format!("weights_first_{}", T::NAME), pointwise(count), g, &mut result, &o, &i, &taps);
        Ok(tensor(result, (outputs, inputs, height, width), device))
    }
    by_element!(g, run(g))
}

pub(crate) fn cross_entropy_gradient(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let (images, classes) = logits.dims2()?;
    let device = &device(logits)?;
    let mut result = uninitialised::<f32>(device, images * classes)?;
    views!(f32: logits);
    views!(u32: labels);
    let (rows, columns) = (int(images)?, int(classes)?);
    launch!(device, "cross_entropy_gradient", pointwise(images), logits, labels, &mut result, &rows, &columns);
    Ok(tensor(result, (images, classes), device))
}
