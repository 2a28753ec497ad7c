//! The graph interpreted in candle: the executor for CUDA, and the reference on the CPU. On CUDA, in builds with cuDNN, the
//! network is computed by [`sr2_cuda`] on candle's tensors.

mod channels_last;
mod ops;
mod resident;
mod rows;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod transfer;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};
use sr2_models::{BatchNormalization, Graph, Op};

use crate::cross_entropy::cross_entropy;
use crate::executor::{Batch, BatchLoss, Executor, ExecutorError, Precision, Support};
use crate::layout::{ParameterLayout, Segment};
use crate::metrics::Passes;
use crate::optimizer::{Averages, Optimizer, StepError, StepReport};
use channels_last::{ChannelsLast, Pass};
use resident::{OnDevice, Resident};
use transfer::{download, upload};

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
    /// How networks run on CUDA devices; else candle's operators and automatic differentiation do.
    channels_last: Option<ChannelsLast>,
    /// Running statistics, in the layout's order.
    running: Vec<Tensor>,
    support: Support,
    precision: Precision,
    resident: Option<Resident>,
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
        let device = open(device)?;
        let own = cfg!(feature = "cudnn") && device.is_cuda();
        let channels_last = own.then(|| ChannelsLast::new(&graph));
        let running = tensors(layout.buffers(), &buffers, &device).map_err(failed)?;
        let (last_reads, support, precision) = (graph.last_reads(), Support::default(), Precision::default());
        Ok(Self { last_reads, layout, device, channels_last, running, support, precision, graph, resident: None })
    }

    /// Trains in this precision from now on; [`Executor::logits`] has no bf16. On the CPU, where candle multiplies none,
    /// factors and results are rounded. TF32 is a setting of the whole process, which any other precision ends.
    ///
    /// # Errors
    /// TF32 on the CPU.
    pub fn set_precision(&mut self, precision: Precision) -> Result<(), ExecutorError> {
        match (self.device.is_cpu(), precision == Precision::Tf32) {
            (true, true) => return Err(failed("tf32 needs device cuda; use f32")),
            (true, false) => {}
            (false, tf32) => candle_core::cuda::set_gemm_reduced_precision_f32(tf32),
        }
        self.precision = precision;
        Ok(())
    }

    /// Takes over the vectors of a training; its steps are then [`CandleExecutor::step`]'s, until
    /// [`CandleExecutor::release`].
    ///
    /// # Errors
    /// The device fails.
    pub fn keep(&mut self, optimizer: &Optimizer, parameters: &[f32]) -> Result<(), ExecutorError> {
        let averages = optimizer.averages();
        let resident = Resident::new(&self.layout, optimizer.layers(), parameters, averages, &self.device);
        self.resident = Some(resident.map_err(failed)?);
        Ok(())
    }

    /// What keeps the vectors of a training from being taken over, if anything does.
    pub fn cannot_keep(optimizer: &Optimizer) -> Option<&'static str> {
        resident::unsupported(optimizer.settings(), optimizer.layers())
    }

    /// Weights of each parameter that are not zero, in the vectors taken over; `None` without.
    pub fn nonzero(&self) -> Option<&[usize]> {
        self.resident.as_ref().map(|resident| resident.nonzero.as_slice())
    }

    /// [`Optimizer::step`] on the vectors taken over; also the loss before it.
    ///
    /// # Panics
    /// Without such vectors.
    ///
    /// # Errors
    /// Those of [`Optimizer::step`].
    pub fn step(
        &mut self,
        optimizer: &mut Optimizer,
        batch: &Batch,
        passes: &mut Passes,
    ) -> Result<(StepReport, BatchLoss), StepError> {
        let mut resident = self.resident.take().expect("vectors that were taken over");
        let mut step = OnDevice { executor: self, resident: &mut resident, batch, passes, at_point: None };
        let report = optimizer.step_with(&mut step);
        let at_point = step.at_point;
        self.resident = Some(resident);
        Ok((report?, at_point.expect("a step computes its loss")))
    }

    /// Parameters and averages of the vectors taken over, if there are any.
    ///
    /// # Errors
    /// The device fails.
    pub fn fetch(&self) -> Result<Option<(Vec<f32>, Averages)>, ExecutorError> {
        self.resident.as_ref().map(Resident::fetch).transpose().map_err(failed)
    }

    /// Drops the vectors taken over.
    pub fn release(&mut self) {
        self.resident = None;
    }

    fn named(&self, trainable: Vec<Tensor>) -> HashMap<String, Tensor> {
        self.layout.trainable().iter().map(|s| s.spec.name.clone()).zip(trainable).collect()
    }

    fn images(&self, images: &[f32], count: usize) -> candle_core::Result<Tensor> {
        let shape: Vec<usize> = std::iter::once(count).chain(self.graph.input_shape().iter().copied()).collect();
        upload(images, shape, &self.device)
    }

    /// The network's output. Trial points need no more.
    fn output(&self, tensors: &HashMap<String, Tensor>, images: Tensor, mode: Mode) -> candle_core::Result<Tensor> {
        let Some(own) = &self.channels_last else { return Ok(self.forward(tensors, images, mode)?.0) };
        let pass = own.forward((&self.graph, &self.last_reads), tensors, &images, (mode, self.dtype(mode), false))?;
        pass.logits()
    }

    /// What activations are made of.
    fn dtype(&self, mode: Mode) -> DType {
        match (mode, self.precision) {
            (Mode::Training, Precision::Bf16) => DType::BF16,
            _ => DType::F32,
        }
    }

    /// The network's output by candle, and in training mode the statistics of each batch-norm node.
    fn forward(
        &self,
        tensors: &HashMap<String, Tensor>,
        images: Tensor,
        mode: Mode,
    ) -> candle_core::Result<(Tensor, Vec<BatchStatistics>)> {
        let bf16 = self.dtype(mode) == DType::BF16;
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
                op => ops::apply(op, &inputs, tensors, bf16)?,
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
        for BatchStatistics { norm, mean, var } in statistics {
            for (name, batch) in [(&norm.mean, mean), (&norm.var, var)] {
                let running = &mut self.running[place(&self.layout, name)];
                let kept = running.affine(f64::from(1.0 - norm.momentum), 0.0)?;
                *running = (kept + batch.flatten_all()?.affine(f64::from(norm.momentum), 0.0)?)?;
            }
        }
        Ok(())
    }

    /// The gradient of each trainable parameter that has one, and the logits. Moves the running statistics.
    fn differentiate(
        &mut self,
        trainable: Vec<Tensor>,
        images: &Tensor,
        labels: &[u32],
    ) -> candle_core::Result<(Vec<Option<Tensor>>, Tensor)> {
        if self.channels_last.is_some() {
            return self.differentiate_channels_last(trainable, images, labels);
        }
        let variables: Vec<Var> = trainable.iter().map(Var::from_tensor).collect::<candle_core::Result<_>>()?;
        let tensors = self.named(variables.iter().map(|variable| variable.as_tensor().clone()).collect());
        let (logits, statistics) = self.forward(&tensors, images.clone(), Mode::Training)?;
        let labels = upload(labels, labels.len(), &self.device)?;
        let gradients = candle_nn::loss::cross_entropy(&logits, &labels)?.backward()?;
        self.move_running(&statistics)?;
        Ok((variables.iter().map(|variable| gradients.get(variable).cloned()).collect(), logits.detach()))
    }

    fn differentiate_channels_last(
        &mut self,
        trainable: Vec<Tensor>,
        images: &Tensor,
        labels: &[u32],
    ) -> candle_core::Result<(Vec<Option<Tensor>>, Tensor)> {
        let own = self.channels_last.as_ref().expect("a network that runs channels last");
        let (graph, tensors) = (&self.graph, self.named(trainable));
        let settings = (Mode::Training, self.dtype(Mode::Training), true);
        let pass = own.forward((graph, &self.last_reads), &tensors, images, settings)?;
        let logits = pass.logits()?;
        let labels = upload(labels, labels.len(), &self.device)?;
        let at_logits = sr2_cuda::cross_entropy_gradient(&logits, &labels)?;
        let running = moved_running(graph, &self.layout, &self.running, &pass)?;
        let mut gradients = own.backward(graph, &tensors, pass, &at_logits)?;
        let gradients = self.layout.trainable().iter().map(|s| gradients.remove(&s.spec.name)).collect();
        self.running = running;
        Ok((gradients, logits))
    }

    fn try_move_statistics(&mut self, parameters: &[f32], batch: &Batch) -> candle_core::Result<()> {
        let images = self.images(&batch.images, batch.labels.len())?;
        let tensors = self.named(tensors(self.layout.trainable(), parameters, &self.device)?);
        let Some(own) = &self.channels_last else {
            let (_, statistics) = self.forward(&tensors, images, Mode::Training)?;
            return self.move_running(&statistics);
        };
        let settings = (Mode::Training, self.dtype(Mode::Training), true);
        let pass = own.forward((&self.graph, &self.last_reads), &tensors, &images, settings)?;
        self.running = moved_running(&self.graph, &self.layout, &self.running, &pass)?;
        Ok(())
    }

    fn try_gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch,
        gradient: &mut [f32],
    ) -> candle_core::Result<BatchLoss> {
        let images = self.images(&batch.images, batch.labels.len())?;
        let trainable = tensors(self.layout.trainable(), parameters, &self.device)?;
        let (gradients, logits) = self.differentiate(trainable, &images, &batch.labels)?;
        gradient.fill(0.0);
        let values = together(gradients.iter().flatten().cloned())?;
        let mut values = values.as_slice();
        for (segment, _) in self.layout.trainable().iter().zip(&gradients).filter(|(_, found)| found.is_some()) {
            let own = values.split_off(..segment.range.len()).expect("a gradient has the shape of its parameter");
            gradient[segment.range.clone()].copy_from_slice(own);
        }
        self.support.mask(&self.layout, parameters, gradient);
        Ok(cross_entropy(&download(&logits)?, &batch.labels, logits.dim(1)?, None))
    }

    /// The network's tensors on the device, running statistics too.
    fn network(&self, parameters: &[f32]) -> candle_core::Result<HashMap<String, Tensor>> {
        let mut tensors = self.named(tensors(self.layout.trainable(), parameters, &self.device)?);
        let buffers = self.layout.buffers().iter().map(|s| s.spec.name.clone());
        tensors.extend(buffers.zip(self.running.iter().cloned()));
        Ok(tensors)
    }

    fn try_logits(
        &self,
        network: &HashMap<String, Tensor>,
        images: &[f32],
        count: usize,
        mode: Mode,
    ) -> candle_core::Result<Vec<f32>> {
        download(&self.output(network, self.images(images, count)?, mode)?)
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
        let network = self.network(parameters).map_err(failed)?;
        let logits = self.try_logits(&network, &batch.images, count, Mode::Training).map_err(failed)?;
        Ok(cross_entropy(&logits, &batch.labels, self.graph.output_shape()[0], None))
    }

    fn move_statistics(&mut self, parameters: &[f32], batch: &Batch) -> Result<(), ExecutorError> {
        self.try_move_statistics(parameters, batch).map_err(failed)
    }

    fn logits(&mut self, parameters: &[f32], images: &[f32], count: usize) -> Result<Vec<f32>, ExecutorError> {
        let network = self.network(parameters).map_err(failed)?;
        self.try_logits(&network, images, count, Mode::Inference).map_err(failed)
    }

    fn logits_of_each(
        &mut self,
        parameters: &[f32],
        batches: &mut dyn Iterator<Item = Batch>,
        take: &mut dyn FnMut(&Batch, &[f32]),
    ) -> Result<(), ExecutorError> {
        let network = self.network(parameters).map_err(failed)?;
        for batch in batches {
            let logits = self.try_logits(&network, &batch.images, batch.labels.len(), Mode::Inference);
            take(&batch, &logits.map_err(failed)?);
        }
        Ok(())
    }

    fn buffers(&self) -> Result<Vec<f32>, ExecutorError> {
        together(self.running.iter().cloned()).map_err(failed)
    }

    fn set_buffers(&mut self, buffers: &[f32]) -> Result<(), ExecutorError> {
        self.running = tensors(self.layout.buffers(), buffers, &self.device).map_err(failed)?;
        Ok(())
    }

    fn candle(&mut self) -> Option<&mut CandleExecutor> {
        Some(self)
    }
}

/// The running statistics, moved by those of a pass that kept its values.
fn moved_running(
    graph: &Graph,
    layout: &ParameterLayout,
    running: &[Tensor],
    pass: &Pass,
) -> candle_core::Result<Vec<Tensor>> {
    let mut running = running.to_vec();
    for (index, node) in graph.nodes().iter().enumerate() {
        let Op::BatchNormalization(norm) = &node.op else { continue };
        let (moments, values) = pass.moments(index, node.inputs[0]).expect("a pass that kept its values");
        let places = [&norm.mean, &norm.var].map(|name| place(layout, name));
        let old = places.map(|place| &running[place]);
        let moved = sr2_cuda::running_statistics(old, moments, values, norm.momentum)?;
        places.into_iter().zip(moved).for_each(|(place, moved)| running[place] = moved);
    }
    Ok(running)
}

/// The number of the buffer of that name.
fn place(layout: &ParameterLayout, name: &str) -> usize {
    layout.buffers().iter().position(|s| s.spec.name == name).expect("every buffer has a segment")
}

/// Views of one tensor that is copied to the device at once.
fn tensors(segments: &[Segment], flat: &[f32], device: &Device) -> candle_core::Result<Vec<Tensor>> {
    let all = upload(flat, flat.len(), device)?;
    let tensor = |s: &Segment| all.narrow(0, s.range.start, s.range.len())?.reshape(s.spec.shape.as_slice());
    segments.iter().map(tensor).collect()
}

/// The values of all tensors, one after the other, in one copy from the device.
fn together(tensors: impl Iterator<Item = Tensor>) -> candle_core::Result<Vec<f32>> {
    let tensors: Vec<Tensor> = tensors.map(|tensor| tensor.flatten_all()).collect::<candle_core::Result<_>>()?;
    if tensors.is_empty() { Ok(Vec::new()) } else { download(&Tensor::cat(&tensors, 0)?) }
}

fn open(device: DeviceKind) -> Result<Device, ExecutorError> {
    match device {
        DeviceKind::Cpu => Ok(Device::Cpu),
        DeviceKind::Cuda if cfg!(feature = "cuda") => {
            open_cuda().map_err(|e| failed(format!("cannot open CUDA device 0: {e}; --device cpu needs none")))
        }
        DeviceKind::Cuda => Err(failed(
            "device cuda: this program was built without the feature `cuda`; build with it or use --device cpu",
        )),
    }
}

#[cfg(feature = "cudnn")]
fn open_cuda() -> candle_core::Result<Device> {
    sr2_cuda::open(0)
}

#[cfg(not(feature = "cudnn"))]
fn open_cuda() -> candle_core::Result<Device> {
    Device::new_cuda(0)
}

/// The first line of a candle error; the rest may be a backtrace.
fn failed(problem: impl ToString) -> ExecutorError {
    let mut message = problem.to_string().lines().next().unwrap_or_default().to_string();
    if ["OUT_OF_MEMORY", "ALLOC_FAILED"].iter().any(|name| message.contains(name)) {
        message.push_str("; a smaller batch_size needs less");
    }
    ExecutorError { executor: "candle", message }
}
