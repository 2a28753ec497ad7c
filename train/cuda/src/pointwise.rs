//! Activations, sums of branches, weights in cuDNN's order, and the gradient of the loss.

use candle_core::{DType, Result, Tensor};

use crate::launch::{Element, by_element, device, expect, int, launch, pack, pointwise, tensor, uninitialised, views};

/// Bounds of an activation. Its gradient is 0 at and beyond them, as PyTorch's of ReLU and hardtanh.
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

/// `clamp(a + b)`.
///
/// # Errors
/// Different shapes or types, or the device fails.
pub fn add(a: &Tensor, b: &Tensor, clamp: Clamp) -> Result<Tensor> {
    expect("second term", b, a.dtype(), a.dims())?;
    by_element!(a, clamped(&format!("add_{}", name_of(a)), a, b, clamp))
}

/// The gradient `g` of `y = clamp(..)`, carried on to what was clamped.
///
/// # Errors
/// Different shapes or types, or the device fails.
pub fn clamp_gradient(y: &Tensor, g: &Tensor, clamp: Clamp) -> Result<Tensor> {
    expect("gradient", g, y.dtype(), y.dims())?;
    by_element!(y, clamped(&format!("clamp_gradient_{}", name_of(y)), y, g, clamp))
}

fn name_of(x: &Tensor) -> &'static str {
    if x.dtype() == DType::BF16 { "bf16" } else { "f32" }
}

/// A kernel of two inputs, an output and a clamp.
fn clamped<T: Element>(name: &str, a: &Tensor, b: &Tensor, clamp: Clamp) -> Result<Tensor> {
    let (device, shape, count) = (&device(a)?, a.shape(), a.elem_count());
    let lanes = pack::<T>(count, &[a, b]);
    let mut y = uninitialised::<T>(device, count)?;
    views!(T: a, b);
    let (packs, Clamp { low, high }) = ((count / lanes) as i64, clamp);
    launch!(device, &format!("{name}_{lanes}"), pointwise(count / lanes), a, b, &mut y, &packs, &low, &high);
    Ok(tensor(y, shape, device))
}

/// Weights `[outputs, inputs, height, width]` in f32 as `[outputs, height, width, inputs]` in `dtype`.
///
/// # Errors
/// Not such weights, no such type, or the device fails.
pub fn weights_last(w: &Tensor, dtype: DType) -> Result<Tensor> {
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

/// [`weights_last`] the other way round, to f32: for its gradient.
///
/// # Errors
/// Not such weights, or the device fails.
pub fn weights_first(g: &Tensor) -> Result<Tensor> {
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

/// The gradient of the mean cross-entropy of `logits`, `[images, classes]` in f32; `labels` are u32 and below `classes`.
///
/// # Errors
/// Shapes or types that do not belong together, or the device fails.
pub fn cross_entropy_gradient(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let (images, classes) = logits.dims2()?;
    expect("logits", logits, DType::F32, &[images, classes])?;
    expect("labels", labels, DType::U32, &[images])?;
    let device = &device(logits)?;
    let mut result = uninitialised::<f32>(device, images * classes)?;
    views!(f32: logits);
    views!(u32: labels);
    let (rows, columns) = (int(images)?, int(classes)?);
    launch!(device, "cross_entropy_gradient", pointwise(images), logits, labels, &mut result, &rows, &columns);
    Ok(tensor(result, (images, classes), device))
}
