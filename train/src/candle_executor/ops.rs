//! Each operator of the graph in candle.

use std::collections::HashMap;

use candle_core::{DType, Result, Tensor, bail};
use sr2_models::{BatchNormalization, Conv, Gemm, Node, Op, Pool};

type Tensors = HashMap<String, Tensor>;

/// What candle cannot do with a node whose first input has the shape `input`.
pub(super) fn check(node: &Node, input: &[usize]) -> std::result::Result<(), String> {
    match &node.op {
        Op::Softmax => Err("the loss takes logits; end the network before Softmax".into()),
        Op::Conv(c) => check_convolution(c, input),
        Op::MaxPool(p) | Op::AveragePool(p) if p.dilation != [1, 1] => {
            Err(format!("dilation {:?} of a pooling is not supported, expected [1, 1]", p.dilation))
        }
        _ => Ok(()),
    }
}

/// candle's convolution has one stride, one dilation and one padding, and takes the padding of its backward pass from
/// the height alone.
fn check_convolution(c: &Conv, input: &[usize]) -> std::result::Result<(), String> {
    if c.stride[0] != c.stride[1] || c.dilation[0] != c.dilation[1] {
        return Err(format!("stride {:?} and dilation {:?} must be equal down and right", c.stride, c.dilation));
    }
    let unused = |axis: usize| {
        let extent = c.dilation[axis] * (c.kernel[axis] - 1) + 1;
        (input[1 + axis] + c.pads[axis] + c.pads[axis + 2] - extent) % c.stride[axis]
    };
    if unused(0) != unused(1) {
        return Err(format!("stride {} leaves {} rows and {} columns unused", c.stride[0], unused(0), unused(1)));
    }
    Ok(())
}

/// Clamp whose gradient is 0 at and beyond its bounds, as PyTorch's hardtanh.
fn clip(x: &Tensor, min: f32, max: f32) -> Result<Tensor> {
    let inside = (x.gt(min)?.to_dtype(x.dtype())? * x.lt(max)?.to_dtype(x.dtype())?)?.detach();
    let bound = (x.detach().clamp(min, max)? * inside.affine(-1.0, 1.0)?)?;
    (x * inside)? + bound
}

/// Applies an operator; batch norm with its running statistics. With `bf16`, factors of products are rounded so.
pub(super) fn apply(op: &Op, inputs: &[Tensor], tensors: &Tensors, bf16: bool) -> Result<Tensor> {
    let x = &inputs[0];
    match op {
        Op::Conv(c) => convolution(c, x, tensors, bf16),
        Op::BatchNormalization(n) => {
            let (mean, var) = (per_channel(&tensors[&n.mean])?, per_channel(&tensors[&n.var])?);
            normalise(n, x, &mean, &var, tensors)
        }
        // candle's own relu has gradient 1 at 0; PyTorch's is 0.
        Op::Relu => x * x.gt(0f32)?.to_dtype(x.dtype())?.detach(),
        Op::Clip(c) => clip(x, c.min, c.max),
        Op::LeakyRelu(l) => {
            let positive = x.ge(0f32)?.to_dtype(x.dtype())?.detach();
            let alpha = f64::from(l.alpha);
            x * positive.affine(1.0 - alpha, alpha)?
        }
        Op::Sigmoid => candle_nn::ops::sigmoid(x),
        Op::HardSigmoid(h) => clip(&x.affine(f64::from(h.alpha), f64::from(h.beta))?, 0.0, 1.0),
        Op::HardSwish => x * clip(&x.affine(1.0 / 6.0, 0.5)?, 0.0, 1.0)?,
        Op::Add => x.broadcast_add(&inputs[1]),
        Op::Mul => x.broadcast_mul(&inputs[1]),
        Op::Concat => Tensor::cat(inputs, 1),
        Op::MaxPool(p) => {
            let places = windows(x, p, f32::NEG_INFINITY)?;
            places[1..].iter().try_fold(places[0].clone(), |most, place| most.maximum(place))
        }
        Op::AveragePool(p) => {
            let sum = |places: Vec<Tensor>| places[1..].iter().try_fold(places[0].clone(), |sum, place| sum + place);
            let (_, _, height, width) = x.dims4()?;
            let ones = Tensor::ones((1, 1, height, width), x.dtype(), x.device())?;
            sum(windows(x, p, 0.0)?)?.broadcast_div(&sum(windows(&ones, p, 0.0)?)?)
        }
        Op::Pad(p) => {
            let ([top, left, bottom, right], value) = (p.pads, f64::from(p.value));
            let shifted = x.affine(1.0, -value)?.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)?;
            shifted.affine(1.0, value)
        }
        Op::GlobalAveragePool => x.mean_keepdim((2, 3)),
        Op::Flatten => x.flatten_from(1),
        Op::Gemm(g) => linear(g, x, tensors, bf16),
        Op::Identity => Ok(x.clone()),
        other => bail!("operator {} cannot be trained", other.name()),
    }
}

/// Batch norm with the statistics of the batch; also returns its mean and unbiased variance, `[1, C, 1, 1]`.
pub(super) fn batch_norm_training(
    norm: &BatchNormalization,
    x: &Tensor,
    tensors: &Tensors,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (count, _, height, width) = x.dims4()?;
    let values = (count * height * width) as f64;
    check_values(norm, count * height * width)?;
    let mean = x.mean_keepdim((0, 2, 3))?;
    let var = x.broadcast_sub(&mean)?.sqr()?.mean_keepdim((0, 2, 3))?;
    let output = normalise(norm, x, &mean, &var, tensors)?;
    let unbiased = (var.detach() * (values / (values - 1.0)))?;
    Ok((output, mean.detach(), unbiased))
}

/// Refuses to take the variance of one value.
pub(super) fn check_values(norm: &BatchNormalization, values: usize) -> Result<()> {
    if values < 2 {
        bail!("batch norm {:?} in training needs more than one value per channel", norm.scale);
    }
    Ok(())
}

fn normalise(norm: &BatchNormalization, x: &Tensor, mean: &Tensor, var: &Tensor, tensors: &Tensors) -> Result<Tensor> {
    let factor = (var + f64::from(norm.epsilon))?.sqrt()?.recip()?.mul(&per_channel(&tensors[&norm.scale])?)?;
    x.broadcast_sub(mean)?.broadcast_mul(&factor)?.broadcast_add(&per_channel(&tensors[&norm.shift])?)
}

fn per_channel(tensor: &Tensor) -> Result<Tensor> {
    tensor.reshape((1, (), 1, 1))
}

/// `multiply` of `x` and `weight`, both f32 as the product is; if `bf16`, multiplied in bf16.
fn product(
    bf16: bool,
    x: &Tensor,
    weight: &Tensor,
    multiply: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    if !bf16 {
        return multiply(x, weight);
    }
    let rounded = |tensor: &Tensor| {
        let rounded = tensor.to_dtype(DType::BF16)?;
        // candle multiplies no bf16 there.
        if tensor.device().is_cpu() { rounded.to_dtype(DType::F32) } else { Ok(rounded) }
    };
    rounded(&multiply(&rounded(x)?, &rounded(weight)?)?)?.to_dtype(DType::F32)
}

fn convolution(c: &Conv, x: &Tensor, tensors: &Tensors, bf16: bool) -> Result<Tensor> {
    let [top, left, bottom, right] = c.pads;
    let (x, padding) = if [left, bottom, right] == [top; 3] {
        (x.clone(), top)
    } else {
        (x.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)?, 0)
    };
    let y = product(bf16, &x, &tensors[&c.weight], |x, weight| {
        x.conv2d(weight, padding, c.stride[0], c.dilation[0], c.groups)
    })?;
    match &c.bias {
        Some(bias) => y.broadcast_add(&per_channel(&tensors[bias])?),
        None => Ok(y),
    }
}

fn linear(g: &Gemm, x: &Tensor, tensors: &Tensors, bf16: bool) -> Result<Tensor> {
    let y = product(bf16, x, &tensors[&g.weight], |x, weight| x.matmul(&weight.t()?))?;
    match &g.bias {
        Some(bias) => y.broadcast_add(&tensors[bias]),
        None => Ok(y),
    }
}

/// For each place of the window, the padded image at that place, at every window position: candle's own pooling has no
/// padding, and its gradient needs windows that do not overlap.
fn windows(x: &Tensor, pool: &Pool, fill: f32) -> Result<Vec<Tensor>> {
    let [top, left, bottom, right] = pool.pads;
    let padded = pad(&pad(x, 2, top, bottom, fill)?, 3, left, right, fill)?;
    let places = |axis: usize, offset: usize| {
        let positions = (padded.dims()[2 + axis] - pool.kernel[axis]) / pool.stride[axis] + 1;
        let indices = (0..positions).map(|p| (p * pool.stride[axis] + offset) as u32);
        Tensor::from_iter(indices, x.device())
    };
    let mut windows = Vec::with_capacity(pool.kernel[0] * pool.kernel[1]);
    for row in 0..pool.kernel[0] {
        let rows = padded.index_select(&places(0, row)?, 2)?;
        for column in 0..pool.kernel[1] {
            windows.push(rows.index_select(&places(1, column)?, 3)?);
        }
    }
    Ok(windows)
}

fn pad(x: &Tensor, dim: usize, before: usize, after: usize, fill: f32) -> Result<Tensor> {
    let edge = |size| {
        let mut shape = x.dims().to_vec();
        shape[dim] = size;
        Tensor::full(fill, shape, x.device())
    };
    match (before, after) {
        (0, 0) => Ok(x.clone()),
        (0, _) => Tensor::cat(&[x, &edge(after)?], dim),
        (_, 0) => Tensor::cat(&[&edge(before)?, x], dim),
        _ => Tensor::cat(&[&edge(before)?, x, &edge(after)?], dim),
    }
}
