//! The graph interpreted in candle: the executor for CUDA, and the reference on the CPU.

mod ops;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};
use sr2_models::{BatchNormalization, Graph, Op};

use crate::cross_entropy::cross_entropy;
use crate::executor::{Batch, BatchLoss, Executor, ExecutorError, Support};
use crate::layout::{ParameterLayout, Segment};

/// Where candle computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// The first CUDA device; needs a build with the feature `cuda`.
    Cuda,
}

/// Interprets a graph with candle's operators and automatic differentiation.
#[derive(Debug)]
pub struct CandleExecutor {
    graph: Graph,
    last_reads: Vec<Option<usize>>,
    layout: ParameterLayout,
    device: Device,
    buffers: Vec<f32>,
    support: Support,
}

/// How batch norm gets its statistics.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Training,
    Inference,
}

/// Mean and unbiased variance of a batch, seen by one batch-norm node, on the device.
struct BatchStatistics {
    norm: BatchNormalization,
    mean: Tensor,
    var: Tensor,
}

impl CandleExecutor {
    /// An executor of `graph` with the running statistics `buffers`, in the layout's order.
    ///
    /// # Errors
    /// No such device, or a graph with something that candle cannot differentiate; the message names the node.
    pub fn new(graph: Graph, buffers: Vec<f32>, device: DeviceKind) -> Result<Self, ExecutorError> {
        for node in graph.nodes() {
            ops::check(node, graph.shape(node.inputs[0]))
                .map_err(|problem| failed(format!("node {:?} ({}): {problem}", node.name, node.op.name())))?;
        }
        let layout = ParameterLayout::new(&graph);
        assert_eq!(buffers.len(), layout.buffers_len(), "buffers of {}", graph.name());
        Ok(Self {
            last_reads: graph.last_reads(),
            layout,
            device: open(device)?,
            buffers,
            support: Support::default(),
            graph,
        })
    }

    /// Views of one tensor that is copied to the device at once.
    fn tensors(&self, segments: &[Segment], flat: &[f32]) -> candle_core::Result<HashMap<String, Tensor>> {
        let all = Tensor::from_slice(flat, flat.len(), &self.device)?;
        let tensor = |s: &Segment| {
            let tensor = all.narrow(0, s.range.start, s.range.len())?.reshape(s.spec.shape.as_slice())?;
            Ok((s.spec.name.clone(), tensor))
        };
        segments.iter().map(tensor).collect()
    }

    fn images(&self, images: &[f32], count: usize) -> candle_core::Result<Tensor> {
        let shape: Vec<usize> = std::iter::once(count).chain(self.graph.input_shape().iter().copied()).collect();
        Tensor::from_slice(images, shape, &self.device)
    }

    /// The network's output, and in training mode the statistics of each batch-norm node.
    fn forward(
        &self,
        tensors: &HashMap<String, Tensor>,
        images: Tensor,
        mode: Mode,
    ) -> candle_core::Result<(Tensor, Vec<BatchStatistics>)> {
        let mut values = vec![Some(images)];
        let mut statistics = Vec::new();
        for (index, node) in self.graph.nodes().iter().enumerate() {
            let inputs: Vec<Tensor> =
                node.inputs.iter().map(|v| values[*v].clone().expect("values live until their last read")).collect();
            let output = match &node.op {
                Op::BatchNormalization(norm) if mode == Mode::Training => {
                    let (output, mean, var) = ops::batch_norm_training(norm, &inputs[0], tensors)?;
                    statistics.push(BatchStatistics { norm: norm.clone(), mean, var });
                    output
                }
                op => ops::apply(op, &inputs, tensors)?,
            };
            values.push(Some(output));
            for value in &node.inputs {
                if self.last_reads[*value] == Some(index) {
                    values[*value] = None;
                }
            }
        }
        let output = values.pop().flatten().expect("the last node makes the output");
        Ok((output, statistics))
    }

    /// Moves the running statistics as PyTorch does: `(1 - momentum) running + momentum batch`.
    fn move_running(&mut self, statistics: &[BatchStatistics]) -> candle_core::Result<()> {
        let batch = together(statistics.iter().flat_map(|s| [s.mean.clone(), s.var.clone()]))?;
        let mut batch = batch.iter();
        for BatchStatistics { norm, .. } in statistics {
            for name in [&norm.mean, &norm.var] {
                let segment = self.layout.buffers().iter().find(|s| s.spec.name == *name);
                let range = segment.expect("every buffer has a segment").range.clone();
                for (running, batch) in self.buffers[range].iter_mut().zip(&mut batch) {
                    *running = (1.0 - norm.momentum) * *running + norm.momentum * batch;
                }
            }
        }
        Ok(())
    }

    fn try_gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch,
        gradient: &mut [f32],
    ) -> candle_core::Result<BatchLoss> {
        let mut tensors = self.tensors(self.layout.trainable(), parameters)?;
        let mut variables = HashMap::new();
        for (name, tensor) in &mut tensors {
            let variable = Var::from_tensor(tensor)?;
            *tensor = variable.as_tensor().clone();
            variables.insert(name.clone(), variable);
        }
        let images = self.images(&batch.images, batch.labels.len())?;
        let (logits, statistics) = self.forward(&tensors, images, Mode::Training)?;
        let labels = Tensor::from_slice(&batch.labels, batch.labels.len(), &self.device)?;
        let gradients = candle_nn::loss::cross_entropy(&logits, &labels)?.backward()?;
        gradient.fill(0.0);
        let of = |segment: &Segment| gradients.get(&variables[&segment.spec.name]).cloned();
        let values = together(self.layout.trainable().iter().filter_map(of))?;
        let mut values = values.as_slice();
        for segment in self.layout.trainable().iter().filter(|segment| of(segment).is_some()) {
            let own = values.split_off(..segment.range.len()).expect("a gradient has the shape of its parameter");
            gradient[segment.range.clone()].copy_from_slice(own);
        }
        self.support.mask(&self.layout, parameters, gradient);
        self.move_running(&statistics)?;
        Ok(cross_entropy(&flat(&logits)?, &batch.labels, logits.dim(1)?, None))
    }

    fn try_logits(
        &self,
        parameters: &[f32],
        images: &[f32],
        count: usize,
        mode: Mode,
    ) -> candle_core::Result<Vec<f32>> {
        let mut tensors = self.tensors(self.layout.trainable(), parameters)?;
        tensors.extend(self.tensors(self.layout.buffers(), &self.buffers)?);
        let (logits, _) = self.forward(&tensors, self.images(images, count)?, mode)?;
        flat(&logits)
    }
}

impl Executor for CandleExecutor {
    fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    fn loss_and_gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch,
        gradient: &mut [f32],
    ) -> Result<BatchLoss, ExecutorError> {
        self.try_gradient(parameters, batch, gradient).map_err(failed)
    }

    fn set_support(&mut self, support: Support) {
        self.support = support;
    }

    fn loss(&mut self, parameters: &[f32], batch: &Batch) -> Result<BatchLoss, ExecutorError> {
        let count = batch.labels.len();
        let logits = self.try_logits(parameters, &batch.images, count, Mode::Training).map_err(failed)?;
        Ok(cross_entropy(&logits, &batch.labels, self.graph.output_shape()[0], None))
    }

    fn logits(&mut self, parameters: &[f32], images: &[f32], count: usize) -> Result<Vec<f32>, ExecutorError> {
        self.try_logits(parameters, images, count, Mode::Inference).map_err(failed)
    }

    fn buffers(&self) -> Vec<f32> {
        self.buffers.clone()
    }

    fn set_buffers(&mut self, buffers: &[f32]) {
        self.buffers.copy_from_slice(buffers);
    }
}

/// The values of all tensors, one after the other, in one copy from the device.
fn together(tensors: impl Iterator<Item = Tensor>) -> candle_core::Result<Vec<f32>> {
    let tensors: Vec<Tensor> = tensors.map(|tensor| tensor.flatten_all()).collect::<candle_core::Result<_>>()?;
    if tensors.is_empty() { Ok(Vec::new()) } else { flat(&Tensor::cat(&tensors, 0)?) }
}

fn flat(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

fn open(device: DeviceKind) -> Result<Device, ExecutorError> {
    match device {
        DeviceKind::Cpu => Ok(Device::Cpu),
        DeviceKind::Cuda if cfg!(feature = "cuda") => {
            Device::new_cuda(0).map_err(|e| failed(format!("cannot open CUDA device 0: {e}; --device cpu needs none")))
        }
        DeviceKind::Cuda => Err(failed(
            "device cuda: this program was built without the feature `cuda`; build with it or use --device cpu",
        )),
    }
}

/// The first line of a candle error; the rest may be a backtrace.
fn failed(problem: impl ToString) -> ExecutorError {
    let message = problem.to_string().lines().next().unwrap_or_default().to_string();
    ExecutorError { executor: "candle", message }
}
