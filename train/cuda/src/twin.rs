//! The operators by candle's, in f32 and by its automatic differentiation where there is a gradient: slow, and what the
//! kernels are to compute.

use candle_core::{DType, Result, Tensor, Var};

use crate::operators::{BatchNorm, Clamp, Convolution, NormGradient, Pooling, Shape4, Window, rows_and_channels};

/// The gradients of `inputs` from the gradient `g` of `f(inputs)`.
fn gradients(inputs: &[&Tensor], g: &Tensor, f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<Vec<Tensor>> {
    let variables: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(&wide(input)?)).collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
    let gradients = (f(&tensors)? * wide(g)?)?.sum_all()?.backward()?;
    variables.iter().map(|v| gradients.get(v).map_or_else(|| v.zeros_like(), |g| Ok(g.clone()))).collect()
}

fn wide(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)
}

fn clamped(x: &Tensor, clamp: Clamp) -> Result<Tensor> {
    if clamp == Clamp::NONE {
        return Ok(x.clone());
    }
    let Clamp { low, high } = clamp;
    let inside = (x.gt(low)?.to_dtype(x.dtype())? * x.lt(high)?.to_dtype(x.dtype())?)?.detach();
    let bound = (x.detach().clamp(low, high)? * inside.affine(-1.0, 1.0)?)?;
    (x * inside)? + bound
}

pub(crate) fn moments(x: &Tensor) -> Result<Tensor> {
    let rows = wide(x)?.reshape(((), rows_and_channels(x)?.1))?;
    let mean = rows.mean_keepdim(0)?;
    Tensor::cat(&[&mean, &rows.broadcast_sub(&mean)?.sqr()?.mean_keepdim(0)?], 0)
}

pub(crate) fn normalise(norm: &BatchNorm, x: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let factor = (norm.moments.get(1)? + f64::from(norm.epsilon))?.sqrt()?.recip()?.mul(norm.scale)?;
    let y = wide(x)?.broadcast_sub(&norm.moments.get(0)?)?.broadcast_mul(&factor)?.broadcast_add(shift)?;
    clamped(&y, norm.clamp)?.to_dtype(x.dtype())
}

pub(crate) fn gradient(norm: &BatchNorm, [x, y, g]: [&Tensor; 3]) -> Result<NormGradient> {
    let (g, shift) = (clamp_gradient(y, g, norm.clamp)?, norm.scale.zeros_like()?);
    let normalised = |t: &[Tensor]| {
        let norm = BatchNorm { moments: &moments(&t[0])?, scale: &t[1], clamp: Clamp::NONE, ..*norm };
        normalise(&norm, &t[0], &t[2])
    };
    let mut found = gradients(&[x, norm.scale, &shift], &g, normalised)?.into_iter();
    let mut next = || found.next().expect("three gradients");
    Ok(NormGradient { x: next().to_dtype(x.dtype())?, scale: next(), shift: next() })
}

pub(crate) fn running_statistics(
    [mean, var]: [&Tensor; 2],
    moments: &Tensor,
    unbias: f32,
    momentum: f32,
) -> Result<[Tensor; 2]> {
    let moved = |running: &Tensor, batch: Tensor, factor: f32| {
        running.affine(f64::from(1.0 - momentum), 0.0)? + batch.affine(f64::from(momentum * factor), 0.0)?
    };
    Ok([moved(mean, moments.get(0)?, 1.0)?, moved(var, moments.get(1)?, unbias)?])
}

pub(crate) fn add(a: &Tensor, b: &Tensor, clamp: Clamp) -> Result<Tensor> {
    clamped(&(wide(a)? + wide(b)?)?, clamp)?.to_dtype(a.dtype())
}

pub(crate) fn clamp_gradient(y: &Tensor, g: &Tensor, clamp: Clamp) -> Result<Tensor> {
    let outside = (y.le(clamp.low)? + y.ge(clamp.high)?)?;
    outside.where_cond(&g.zeros_like()?, g)
}

pub(crate) fn weights_last(w: &Tensor, dtype: DType) -> Result<Tensor> {
    w.permute((0, 2, 3, 1))?.contiguous()?.to_dtype(dtype)
}

pub(crate) fn weights_first(g: &Tensor) -> Result<Tensor> {
    wide(g)?.permute((0, 3, 1, 2))?.contiguous()
}

pub(crate) fn cross_entropy_gradient(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let (images, classes) = logits.dims2()?;
    let less_most = logits.broadcast_sub(&logits.max_keepdim(1)?)?.exp()?;
    let softmax = less_most.broadcast_div(&less_most.sum_keepdim(1)?)?;
    let numbers = Tensor::arange(0u32, classes as u32, logits.device())?.unsqueeze(0)?;
    let targets = labels.unsqueeze(1)?.broadcast_eq(&numbers)?.to_dtype(DType::F32)?;
    (softmax - targets)? / images as f64
}

/// Calls `visit` with each place of the input that each place of the output has in its window, and the number of those.
fn windows(x: Shape4, window: Window, mut visit: impl FnMut(usize, usize, usize)) -> Result<Shape4> {
    let output = window.output(x)?;
    for (i, image) in (0..output.0).flat_map(|i| (0..output.1 * output.2 * output.3).map(move |place| (place, i))) {
        let (row, column, channel) = (i / output.3 / output.2, i / output.3 % output.2, i % output.3);
        let along = |axis: usize, at: usize, size: usize| {
            let first = at * window.stride[axis];
            let places = first.max(window.pads[axis])..(first + window.kernel[axis]).min(size + window.pads[axis]);
            places.map(move |place| place - window.pads[axis])
        };
        let (rows, columns) = (along(0, row, x.1), along(1, column, x.2));
        let count = rows.len() * columns.len();
        for place in rows.flat_map(|row| columns.clone().map(move |column| row * x.2 + column)) {
            let output = image * output.1 * output.2 * output.3 + i;
            visit(output, (image * x.1 * x.2 + place) * x.3 + channel, count);
        }
    }
    Ok(output)
}

/// A place of the input in the window of one of the output.
struct Share {
    output: usize,
    input: usize,
    /// Of the output's gradient.
    part: f32,
}

/// All that are not 0, and the output's shape.
fn shares(pooling: Pooling, x: &Tensor, window: Window) -> Result<(Vec<Share>, Shape4)> {
    let values: Vec<f32> = wide(x)?.flatten_all()?.to_vec1()?;
    let mut shares: Vec<Share> = Vec::new();
    let shape = windows(x.dims4()?, window, |output, input, count| match (pooling, shares.last_mut()) {
        (Pooling::Average, _) => shares.push(Share { output, input, part: 1.0 / count as f32 }),
        (Pooling::Max, Some(last)) if last.output == output => {
            if values[input] > values[last.input] {
                last.input = input;
            }
        }
        (Pooling::Max, _) => shares.push(Share { output, input, part: 1.0 }),
    })?;
    Ok((shares, shape))
}

pub(crate) fn pool(pooling: Pooling, x: &Tensor, window: Window) -> Result<Tensor> {
    let (shares, shape) = shares(pooling, x, window)?;
    let values: Vec<f32> = wide(x)?.flatten_all()?.to_vec1()?;
    let mut y = vec![0.0; shape.0 * shape.1 * shape.2 * shape.3];
    shares.iter().for_each(|share| y[share.output] += share.part * values[share.input]);
    Tensor::from_vec(y, shape, x.device())?.to_dtype(x.dtype())
}

pub(crate) fn pool_gradient(pooling: Pooling, x: &Tensor, g: &Tensor, window: Window) -> Result<Tensor> {
    let (shares, _) = shares(pooling, x, window)?;
    let values: Vec<f32> = wide(g)?.flatten_all()?.to_vec1()?;
    let mut dx = vec![0.0; x.elem_count()];
    shares.iter().for_each(|share| dx[share.input] += share.part * values[share.output]);
    Tensor::from_vec(dx, x.shape(), x.device())?.to_dtype(x.dtype())
}

pub(crate) fn mean(x: &Tensor) -> Result<Tensor> {
    wide(x)?.mean_keepdim((1, 2))?.to_dtype(x.dtype())
}

pub(crate) fn mean_gradient(g: &Tensor, shape: Shape4) -> Result<Tensor> {
    (wide(g)? / (shape.1 * shape.2) as f64)?.broadcast_as(shape)?.contiguous()?.to_dtype(g.dtype())
}

pub(crate) fn convolve(convolution: &Convolution, x: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let Convolution { stride, padding, dilation, groups } = *convolution;
    let padded = wide(x)?.pad_with_zeros(1, padding[0], padding[0])?.pad_with_zeros(2, padding[1], padding[1])?;
    let first = |tensor: &Tensor| wide(tensor)?.permute((0, 3, 1, 2))?.contiguous();
    let y = first(&padded)?.conv2d(&first(weights)?, 0, stride[0], dilation[0], groups)?;
    y.permute((0, 2, 3, 1))?.contiguous()?.to_dtype(x.dtype())
}

pub(crate) fn input_gradient(convolution: &Convolution, g: &Tensor, weights: &Tensor, x: Shape4) -> Result<Tensor> {
    let anywhere = Tensor::zeros(x, DType::F32, g.device())?;
    let weights = wide(weights)?;
    gradients(&[&anywhere], g, |t| convolve(convolution, &t[0], &weights))?.remove(0).to_dtype(g.dtype())
}

pub(crate) fn weight_gradient(convolution: &Convolution, x: &Tensor, g: &Tensor, weights: Shape4) -> Result<Tensor> {
    let (anything, x) = (Tensor::zeros(weights, DType::F32, g.device())?, wide(x)?);
    gradients(&[&anything], g, |t| convolve(convolution, &x, &t[0]))?.remove(0).to_dtype(g.dtype())
}
