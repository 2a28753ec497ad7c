//! The network's arithmetic in plain loops: slow, and the measure of everything faster.

use crate::{BatchNormalization, Clip, Conv, Gemm, Model, Node, Op, Pool};

/// Logits `[count, classes]` of `images` (`[count, C, H, W]`, row-major), batch norm with the running statistics.
///
/// Values between nodes are f32; every sum is taken in f64. NaN and infinities propagate as in IEEE arithmetic; ReLU,
/// clamp and maximum of a NaN are NaN.
///
/// # Panics
/// If `images` does not hold `count` images.
pub fn logits(model: &Model, images: &[f32], count: usize) -> Vec<f32> {
    let size: usize = model.graph().input_shape().iter().product();
    assert_eq!(images.len(), count * size, "{count} images of shape {:?}", model.graph().input_shape());
    images.chunks_exact(size).flat_map(|image| image_logits(model, image)).collect()
}

fn image_logits(model: &Model, image: &[f32]) -> Vec<f32> {
    let graph = model.graph();
    let last_reads = graph.last_reads();
    let mut values = vec![image.to_vec()];
    for (index, node) in graph.nodes().iter().enumerate() {
        values.push(evaluate(model, node, &values, graph.shape(index + 1)));
        for &value in node.inputs.iter().filter(|v| last_reads[**v] == Some(index)) {
            values[value] = Vec::new();
        }
    }
    values.pop().expect("a graph has nodes")
}

/// The output of a node, given the values before it.
pub(crate) fn evaluate(model: &Model, node: &Node, values: &[Vec<f32>], shape: &[usize]) -> Vec<f32> {
    let x = &values[node.inputs[0]];
    let x_shape = model.graph().shape(node.inputs[0]);
    match &node.op {
        Op::Conv(c) => convolve(model, c, x, x_shape, shape),
        Op::BatchNormalization(n) => normalise(model, n, x, x_shape),
        Op::Relu => x.iter().map(|v| larger(*v, 0.0)).collect(),
        Op::Clip(Clip { min, max }) => x.iter().map(|v| if v.is_nan() { *v } else { v.max(*min).min(*max) }).collect(),
        Op::LeakyRelu(l) => x.iter().map(|v| if *v < 0.0 { l.alpha * v } else { *v }).collect(),
        Op::Sigmoid => x.iter().map(|v| (1.0 / (1.0 + (-f64::from(*v)).exp())) as f32).collect(),
        Op::HardSigmoid(h) => x.iter().map(|v| (h.alpha * v + h.beta).clamp(0.0, 1.0)).collect(),
        Op::HardSwish => x.iter().map(|v| v * (v / 6.0 + 0.5).clamp(0.0, 1.0)).collect(),
        Op::Add => combine(x, &values[node.inputs[1]], |a, b| a + b),
        Op::Mul => combine(x, &values[node.inputs[1]], |a, b| a * b),
        Op::Concat => node.inputs.iter().flat_map(|v| values[*v].iter().copied()).collect(),
        Op::MaxPool(p) => pool(p, x, x_shape, shape, |window| window.iter().copied().fold(f32::NEG_INFINITY, larger)),
        Op::AveragePool(p) => pool(p, x, x_shape, shape, mean),
        Op::Pad(p) => {
            let border = pad(x, x_shape, p.pads, f64::from(p.value)).0;
            border.into_iter().map(|v| v as f32).collect()
        }
        Op::GlobalAveragePool => x.chunks_exact(x_shape[1] * x_shape[2]).map(mean).collect(),
        Op::Gemm(g) => linear(model, g, x),
        Op::Softmax => softmax(x),
        Op::Flatten | Op::Identity => x.clone(),
    }
}

/// The larger of two values, NaN if one is, where [`f32::max`] would take the other.
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}

/// Element by element; one value a channel is combined with each of its channel.
fn combine(a: &[f32], b: &[f32], operation: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let len = a.len().max(b.len());
    let at = |values: &[f32], i: usize| values[i / (len / values.len())];
    (0..len).map(|i| operation(at(a, i), at(b, i))).collect()
}

/// `y[o, r, c] = bias[o] + sum over i, u, v of weight[o, i, u, v] x[i, r s + u d - top, c s + v d - left]`, where places
/// outside the image are 0 and `i` runs over the input channels of `o`'s group.
fn convolve(model: &Model, c: &Conv, x: &[f32], x_shape: &[usize], shape: &[usize]) -> Vec<f32> {
    let (padded, [height, width]) = pad(x, x_shape, c.pads, 0.0);
    let (rows, columns) = (shape[1], shape[2]);
    let weight = model.parameter(&c.weight).data();
    let group_inputs = x_shape[0] / c.groups;
    let group_outputs = c.out_channels / c.groups;
    let mut y = Vec::with_capacity(c.out_channels * rows * columns);
    for o in 0..c.out_channels {
        let mut sums = vec![c.bias.as_ref().map_or(0.0, |b| f64::from(model.parameter(b).data()[o])); rows * columns];
        for i in 0..group_inputs {
            let channel = o / group_outputs * group_inputs + i;
            for u in 0..c.kernel[0] {
                for v in 0..c.kernel[1] {
                    let w = f64::from(weight[((o * group_inputs + i) * c.kernel[0] + u) * c.kernel[1] + v]);
                    for (row, sums) in sums.chunks_exact_mut(columns).enumerate() {
                        let in_row = channel * height + row * c.stride[0] + u * c.dilation[0];
                        let taps = padded[in_row * width + v * c.dilation[1]..].iter().step_by(c.stride[1]);
                        sums.iter_mut().zip(taps).for_each(|(sum, tap)| *sum += w * tap);
                    }
                }
            }
        }
        y.extend(sums.into_iter().map(|s| s as f32));
    }
    y
}

/// The image with a border of `value` around it, and its new height and width.
fn pad(x: &[f32], shape: &[usize], [top, left, bottom, right]: [usize; 4], value: f64) -> (Vec<f64>, [usize; 2]) {
    let [height, width] = [shape[1] + top + bottom, shape[2] + left + right];
    let mut padded = vec![value; shape[0] * height * width];
    for (index, line) in x.chunks_exact(shape[2]).enumerate() {
        let row = index / shape[1] * height + top + index % shape[1];
        let start = row * width + left;
        padded[start..start + line.len()].iter_mut().zip(line).for_each(|(p, v)| *p = f64::from(*v));
    }
    (padded, [height, width])
}

/// The places in axis `axis` of `size` that output position `out` of a pooling reads, those outside left out.
fn places(p: &Pool, axis: usize, out: usize, size: usize) -> impl Iterator<Item = usize> {
    let (start, step, pad) = (out * p.stride[axis], p.dilation[axis], p.pads[axis]);
    (0..p.kernel[axis]).filter_map(move |k| (start + k * step).checked_sub(pad).filter(|place| *place < size))
}

fn normalise(model: &Model, n: &BatchNormalization, x: &[f32], x_shape: &[usize]) -> Vec<f32> {
    let [scale, shift, mean, var] = [&n.scale, &n.shift, &n.mean, &n.var].map(|name| model.parameter(name).data());
    let planes = x.chunks_exact(x_shape[1] * x_shape[2]).enumerate();
    let normalised = planes.flat_map(|(channel, plane)| {
        let deviation = (f64::from(var[channel]) + f64::from(n.epsilon)).sqrt();
        plane.iter().map(move |v| {
            let centred = f64::from(*v) - f64::from(mean[channel]);
            (f64::from(scale[channel]) * centred / deviation + f64::from(shift[channel])) as f32
        })
    });
    normalised.collect()
}

/// `reduce` over the places of each window that lie inside the image.
fn pool(p: &Pool, x: &[f32], x_shape: &[usize], shape: &[usize], reduce: impl Fn(&[f32]) -> f32) -> Vec<f32> {
    let (height, width) = (x_shape[1], x_shape[2]);
    let mut y = Vec::with_capacity(shape.iter().product());
    for plane in x.chunks_exact(height * width) {
        for row in 0..shape[1] {
            for column in 0..shape[2] {
                let places =
                    places(p, 0, row, height).flat_map(|r| places(p, 1, column, width).map(move |c| r * width + c));
                y.push(reduce(&places.map(|place| plane[place]).collect::<Vec<_>>()));
            }
        }
    }
    y
}

fn mean(values: &[f32]) -> f32 {
    (values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64) as f32
}

fn linear(model: &Model, g: &Gemm, x: &[f32]) -> Vec<f32> {
    let bias = |o: usize| g.bias.as_ref().map_or(0.0, |b| f64::from(model.parameter(b).data()[o]));
    let rows = model.parameter(&g.weight).data().chunks_exact(x.len()).enumerate();
    let dot = |row: &[f32]| row.iter().zip(x).map(|(w, v)| f64::from(*w) * f64::from(*v)).sum::<f64>();
    rows.map(|(o, row)| (bias(o) + dot(row)) as f32).collect()
}

fn softmax(x: &[f32]) -> Vec<f32> {
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f64> = x.iter().map(|v| f64::from(v - largest).exp()).collect();
    let total: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|e| (e / total) as f32).collect()
}

#[cfg(test)]
mod tests {
    use sr2_formats::TensorMap;

    use super::*;
    use crate::Graph;

    #[test]
    fn nan_propagates_through_every_operator_that_compares() {
        let pool = Pool { kernel: [1, 2], stride: [1, 1], pads: [0; 4], dilation: [1, 1] };
        let operators = [
            Op::Relu,
            Op::Clip(Clip { min: 0.0, max: 6.0 }),
            Op::LeakyRelu(crate::LeakyRelu { alpha: 0.1 }),
            Op::HardSigmoid(crate::HardSigmoid { alpha: 0.2, beta: 0.5 }),
            Op::HardSwish,
            Op::MaxPool(pool),
        ];
        for op in operators {
            let text = format!("{op:?}");
            let nodes = vec![Node { name: "node".into(), op, inputs: vec![0] }];
            let graph = Graph::try_new("one", &[1, 1, 4], nodes).unwrap();
            let model = Model::try_new(graph, TensorMap::new()).unwrap();
            let found = logits(&model, &[f32::NAN, 1.0, 7.0, f32::NAN], 1);
            assert!(found[0].is_nan() && found[found.len() - 1].is_nan() && found[1].is_finite(), "{text}: {found:?}");
        }
    }
}
