//! Gradients against central differences of the loss, computed in f64 by plain loops.

use sr2_models::{Graph, Node, Op, Pool};

use super::{Reference, batch, parameters};
use crate::executor::{Batch, Executor};
use crate::layout::ParameterLayout;
use crate::tape::TapeExecutor;

/// Largest difference relative to the largest gradient of a parameter: rounding of the executor to f32.
const TOLERANCE: f64 = 1e-5;

/// Half the distance of the two points: so short that no ReLU switches between them.
const STEP: f64 = 1e-7;

/// A batch of one value: `[image][channel][row][column]`.
type Values = Vec<f64>;

/// A network in f64 at some parameters.
struct Naive<'a> {
    graph: &'a Graph,
    layout: &'a ParameterLayout,
    parameters: &'a [f64],
    count: usize,
}

impl Naive<'_> {
    /// Mean cross-entropy, batch norm with the statistics of the batch.
    fn loss(&self, batch: &Batch) -> f64 {
        let mut values = vec![batch.images.iter().map(|v| f64::from(*v)).collect::<Values>()];
        for (index, node) in self.graph.nodes().iter().enumerate() {
            values.push(self.evaluate(node, &values, self.graph.shape(index + 1)));
        }
        let rows = values.last().unwrap().chunks_exact(self.graph.output_shape()[0]);
        let losses = rows
            .zip(&batch.labels)
            .map(|(row, label)| row.iter().map(|v| (v - row[*label as usize]).exp()).sum::<f64>().ln());
        losses.sum::<f64>() / self.count as f64
    }

    fn evaluate(&self, node: &Node, values: &[Values], to: &[usize]) -> Values {
        let (x, from) = (&values[node.inputs[0]], self.graph.shape(node.inputs[0]));
        match &node.op {
            Op::Conv(c) => {
                let weight = self.parameter(&c.weight);
                let bias = c.bias.as_deref().map(|name| self.parameter(name));
                let per_group = [from[0] / c.groups, c.out_channels / c.groups];
                self.each(to, |n, o, row, column| {
                    let mut sum = bias.map_or(0.0, |bias| bias[o]);
                    for i in 0..per_group[0] {
                        for k in 0..c.kernel[0] * c.kernel[1] {
                            let y = (row * c.stride[0] + k / c.kernel[1] * c.dilation[0]).checked_sub(c.pads[0]);
                            let x_ = (column * c.stride[1] + k % c.kernel[1] * c.dilation[1]).checked_sub(c.pads[1]);
                            let channel = o / per_group[1] * per_group[0] + i;
                            let w = weight[(o * per_group[0] + i) * c.kernel[0] * c.kernel[1] + k];
                            sum += w * inside(x, from, n, channel, y, x_).unwrap_or(0.0);
                        }
                    }
                    sum
                })
            }
            Op::BatchNormalization(b) => {
                let (scale, shift) = (self.parameter(&b.scale), self.parameter(&b.shift));
                let statistics: Vec<[f64; 2]> = (0..from[0])
                    .map(|channel| {
                        let area = from[1] * from[2];
                        let values = || (0..self.count).flat_map(|n| &x[(n * from[0] + channel) * area..][..area]);
                        let population = (self.count * area) as f64;
                        let mean = values().sum::<f64>() / population;
                        let var = values().map(|v| (v - mean) * (v - mean)).sum::<f64>() / population;
                        [mean, (var + f64::from(b.epsilon)).sqrt()]
                    })
                    .collect();
                self.each(to, |n, c, row, column| {
                    let value = inside(x, from, n, c, Some(row), Some(column)).unwrap();
                    (value - statistics[c][0]) / statistics[c][1] * scale[c] + shift[c]
                })
            }
            Op::Relu => x.iter().map(|v| v.max(0.0)).collect(),
            Op::Clip(c) => x.iter().map(|v| v.clamp(c.min.into(), c.max.into())).collect(),
            Op::Add => x.iter().zip(&values[node.inputs[1]]).map(|(a, b)| a + b).collect(),
            Op::Concat => (0..self.count)
                .flat_map(|n| {
                    node.inputs.iter().flat_map(move |v| {
                        let len = self.graph.shape(*v).iter().product::<usize>();
                        values[*v][n * len..(n + 1) * len].iter().copied()
                    })
                })
                .collect(),
            Op::MaxPool(p) => {
                self.pool(p, x, from, to, |window| window.iter().copied().fold(f64::NEG_INFINITY, f64::max))
            }
            Op::AveragePool(p) => self.pool(p, x, from, to, mean),
            Op::GlobalAveragePool => x.chunks_exact(from[1] * from[2]).map(mean).collect(),
            Op::Gemm(g) => {
                let weight = self.parameter(&g.weight);
                let rows = x.chunks_exact(from[0]).flat_map(|row| {
                    weight.chunks_exact(from[0]).map(move |w| w.iter().zip(row).map(|(w, x)| w * x).sum::<f64>())
                });
                let bias = self.parameter(g.bias.as_deref().unwrap());
                rows.zip(bias.iter().cycle()).map(|(y, b)| y + b).collect()
            }
            Op::Flatten | Op::Identity => x.clone(),
            op => panic!("{} is in no graph of the reference", op.name()),
        }
    }

    fn pool(&self, p: &Pool, x: &[f64], from: &[usize], to: &[usize], f: impl Fn(&[f64]) -> f64) -> Values {
        self.each(to, |n, c, row, column| {
            let at = |k: usize| {
                let y = (row * p.stride[0] + k / p.kernel[1]).checked_sub(p.pads[0]);
                inside(x, from, n, c, y, (column * p.stride[1] + k % p.kernel[1]).checked_sub(p.pads[1]))
            };
            f(&(0..p.kernel[0] * p.kernel[1]).filter_map(at).collect::<Vec<_>>())
        })
    }

    /// `f(image, channel, row, column)` for every place of a value.
    fn each(&self, shape: &[usize], f: impl Fn(usize, usize, usize, usize) -> f64) -> Values {
        let [channels, height, width] = [shape[0], shape[1], shape[2]];
        let places = 0..self.count * channels * height * width;
        places
            .map(|i| f(i / width / height / channels, i / width / height % channels, i / width % height, i % width))
            .collect()
    }

    fn parameter(&self, name: &str) -> &[f64] {
        let segment = self.layout.trainable().iter().find(|s| s.spec.name == name).unwrap();
        &self.parameters[segment.range.clone()]
    }
}

fn mean(window: &[f64]) -> f64 {
    window.iter().sum::<f64>() / window.len() as f64
}

/// The value at a place, unless it lies outside the image.
fn inside(
    x: &[f64],
    shape: &[usize],
    n: usize,
    channel: usize,
    row: Option<usize>,
    column: Option<usize>,
) -> Option<f64> {
    let (row, column) = (row.filter(|r| *r < shape[1])?, column.filter(|c| *c < shape[2])?);
    Some(x[((n * shape[0] + channel) * shape[1] + row) * shape[2] + column])
}

#[test]
fn gradients_are_central_differences() {
    let references: Vec<Reference> =
        serde_json::from_str(include_str!("../../../tests/reference/tape.json")).expect("the committed file is valid");
    for Reference { graph, count, .. } in references {
        let mut executor = TapeExecutor::new(&graph, count, 2).unwrap();
        let (x, batch) = (parameters(&executor, |_| 0.5), batch(&graph, count));
        let mut gradient = vec![0.0; x.len()];
        executor.loss_and_gradient(&x, &batch, &mut gradient).unwrap();
        let layout = executor.layout();
        let largest = gradient.iter().fold(0.0, |m: f32, g| m.max(g.abs()));
        for segment in layout.trainable() {
            let range = segment.range.clone();
            // The bias of a convolution before a batch norm has no gradient but rounding: compare it to the others.
            let scale = gradient[range.clone()].iter().fold(largest / 100.0, |m, g| m.max(g.abs()));
            for i in range.clone().step_by(range.len().div_ceil(5)) {
                let loss_at = |distance: f64| {
                    let mut parameters: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
                    parameters[i] += distance;
                    Naive { graph: &graph, layout, parameters: &parameters, count }.loss(&batch)
                };
                let difference = (loss_at(STEP) - loss_at(-STEP)) / (2.0 * STEP);
                let distance = (f64::from(gradient[i]) - difference).abs() / f64::from(scale);
                let what = format!("{} {}[{}]", graph.name(), segment.spec.name, i - range.start);
                assert!(distance < TOLERANCE, "{what}: {} for {difference}, distance {distance:e}", gradient[i]);
            }
        }
    }
}
