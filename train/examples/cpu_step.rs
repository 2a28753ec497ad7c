//! Times training steps on the CPU, split by phase, or in candle on a CUDA device: `cpu_step --help`.
//!
//! One row a network, executor, kind of step and sparsity: median milliseconds, images a second, GFLOP/s of the
//! convolutions and linear layers of a dense network (two operations a multiply-add, three passes a step, padded lanes
//! not counted) and what they are of the peak measured in the same run. Random weights; zeros at random places.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use rayon::prelude::*;
use serde::Serialize;
use sr2_kernels::{Isa, peak_flops};
use sr2_models::{Graph, ParameterRole, zoo};
use sr2_train::candle_executor::{CandleExecutor, DeviceKind};
use sr2_train::data::{BatchLoader, Dataset, DatasetKind, IMAGE_BYTES, LoaderError, LoaderOptions};
use sr2_train::direction::Direction;
use sr2_train::executor::{Batch, Executor, ExecutorError, Precision, Support};
use sr2_train::layout::ParameterLayout;
use sr2_train::metrics::Passes;
use sr2_train::optimizer::{Layers, Objective, Optimizer, Settings, StepControl, WeightDecay};
use sr2_train::penalty::Penalty;
use sr2_train::pruning::{PruningPlan, Target};
use sr2_train::share::{PenalisedLayer, Share};
use sr2_train::sr2::Sr2;
use sr2_train::tape::{PhaseTimes, TapeExecutor};

/// Times training steps on the CPU, split by phase, or in candle on a CUDA device.
#[derive(Parser)]
struct Options {
    /// Networks of the zoo.
    #[arg(long, value_delimiter = ',', default_value = "resnet20")]
    networks: Vec<String>,
    /// Candle is stock candle; its steps take seconds. Cuda is candle on the first CUDA device.
    #[arg(long, value_delimiter = ',', default_value = "candle,tape")]
    executors: Vec<Engine>,
    /// Kinds of step.
    #[arg(long, value_delimiter = ',', default_value = "step,frozen,sr2")]
    steps: Vec<Kind>,
    /// Per cent of the prunable weights that are zero.
    #[arg(long, value_delimiter = ',', default_value = "0,80,90,95,98")]
    sparsity: Vec<u32>,
    /// Compute dense convolutions in bf16.
    #[arg(long)]
    bf16: bool,
    /// Let matrix products on a CUDA device round to TF32.
    #[arg(long, conflicts_with = "bf16")]
    tf32: bool,
    /// Each step takes a new batch from the loader, shuffled, cropped and flipped, instead of always the same; the
    /// images are noise.
    #[arg(long)]
    loader: bool,
    #[arg(long, default_value_t = 128)]
    batch: usize,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Seconds a row, after one step to warm up.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Engine {
    Candle,
    Cuda,
    Tape,
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// The loss alone, as of a trial point.
    Loss,
    /// Forward, backward and a plain gradient step.
    Step,
    /// The same with the zeros frozen.
    Frozen,
    /// A whole iteration of SR2: a step with its proximal operator and the loss at the trial point.
    Sr2,
}

#[derive(Serialize)]
struct Row {
    network: String,
    executor: Engine,
    kind: Kind,
    sparsity: u32,
    batch: usize,
    threads: usize,
    step_ms: f64,
    images_per_s: f64,
    /// Missing for candle, which does not tell.
    phases_ms: Option<[f64; PHASES.len()]>,
    /// Of a dense network, whatever the sparsity.
    gflops: f64,
    /// Of the CPU's.
    peak_percent: Option<f64>,
    peak_rss_mb: Option<u64>,
}

const PHASES: [&str; 5] = ["forward", "input grad", "weight grad", "norm", "rest"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let mut rows = Vec::new();
    for network in &options.networks {
        let graph = zoo::build(network, 10)?;
        for &engine in &options.executors {
            for &kind in &options.steps {
                for &sparsity in &options.sparsity {
                    let row = measure(&options, &graph, engine, kind, sparsity)?;
                    if options.json {
                        println!("{}", serde_json::to_string(&row)?);
                    }
                    rows.push(row);
                }
            }
        }
    }
    if !options.json {
        println!("{}", table(&rows));
    }
    Ok(())
}

/// An executor of either kind, with what only the tape tells.
enum Running {
    Candle(CandleExecutor),
    Tape(TapeExecutor),
}

impl Running {
    fn new(engine: Engine, graph: &Graph, options: &Options) -> Result<Self, ExecutorError> {
        let precision = match (options.bf16, options.tf32 && engine == Engine::Cuda) {
            (true, _) => Precision::Bf16,
            (false, true) => Precision::Tf32,
            (false, false) => Precision::F32,
        };
        if engine == Engine::Tape {
            let mut tape = TapeExecutor::new(graph, options.batch, options.threads)?;
            tape.set_precision(precision)?;
            return Ok(Self::Tape(tape));
        }
        let layout = ParameterLayout::new(graph);
        let mut buffers = vec![0.0; layout.buffers_len()];
        for segment in layout.buffers().iter().filter(|s| s.spec.role == ParameterRole::RunningVar) {
            buffers[segment.range.clone()].fill(1.0);
        }
        let device = if engine == Engine::Cuda { DeviceKind::Cuda } else { DeviceKind::Cpu };
        let mut candle = CandleExecutor::new(graph.clone(), buffers, device)?;
        candle.set_precision(precision)?;
        Ok(Self::Candle(candle))
    }

    fn get(&mut self) -> &mut dyn Executor {
        match self {
            Self::Candle(executor) => executor,
            Self::Tape(executor) => executor,
        }
    }

    fn take_times(&mut self) -> Option<PhaseTimes> {
        match self {
            Self::Candle(_) => None,
            Self::Tape(executor) => Some(executor.take_times()),
        }
    }
}

fn measure(
    options: &Options,
    graph: &Graph,
    engine: Engine,
    kind: Kind,
    sparsity: u32,
) -> Result<Row, Box<dyn std::error::Error>> {
    let layout = ParameterLayout::new(graph);
    let mut parameters = parameters(&layout, sparsity);
    let mut batch = batch(graph, options.batch);
    let mut loader = options.loader.then(|| loader(options.batch)).transpose()?;
    let mut gradient = vec![0.0; parameters.len()];
    let ranges = layout.trainable().iter().filter(|s| s.spec.role.is_prunable()).map(|s| s.range.clone());
    let prunable: Vec<_> = ranges.collect();
    let left = prunable.iter().cloned().flatten().filter(|i| parameters[*i] != 0.0).count();
    let settings = Settings {
        regulariser: Penalty::L0.into(),
        share: Share::Global,
        plan: PruningPlan { target: Target::Weights { left, ramp_until: 0 }, ..PruningPlan::constant(0.0) },
        direction: Direction::Momentum { beta: 0.9, nesterov: false },
        // Steps so short that nearly all zeros stay where they are.
        control: StepControl::Sr2(Sr2 { sigma_start: 1e3, ..Sr2::paper() }),
        quasi_cauchy: false,
        relaxed: false,
        weight_decay: WeightDecay::NONE,
        ema: None,
    };
    let penalised = prunable.iter().map(|range| PenalisedLayer::plain(range.clone())).collect();
    let mut sr2 = Optimizer::new(settings, Layers { penalised, prunable });

    let mut running = Running::new(engine, graph, options)?;
    if kind == Kind::Frozen {
        running.get().set_support(Support::Frozen);
    }
    if let Some(candle) = running.get().candle().filter(|_| kind == Kind::Sr2) {
        candle.keep(&sr2, &parameters)?;
    }
    let mut step = |running: &mut Running| -> Result<(), Box<dyn std::error::Error>> {
        if let Some(loader) = &mut loader {
            let next = loader.next_batch().batch;
            loader.recycle(std::mem::replace(&mut batch, next));
        }
        match kind {
            Kind::Loss => drop(running.get().loss(&parameters, &batch)?),
            Kind::Step | Kind::Frozen => {
                running.get().loss_and_gradient(&parameters, &batch, &mut gradient)?;
                let pairs = parameters.par_iter_mut().with_min_len(1 << 14).zip(&gradient);
                pairs.for_each(|(x, g)| *x -= if *x == 0.0 { 0.0 } else { 1e-4 * g });
            }
            Kind::Sr2 => {
                if let Some(candle) = running.get().candle() {
                    candle.step(&mut sr2, &batch, &mut Passes::default())?;
                } else {
                    let mut objective = BatchObjective { executor: running.get(), batch: &batch };
                    sr2.step(&mut parameters, &mut objective)?;
                }
            }
        }
        Ok(())
    };
    step(&mut running)?;
    running.take_times();
    let (mut times, start) = (Vec::new(), Instant::now());
    while times.is_empty() || start.elapsed().as_secs_f64() < options.seconds {
        let start = Instant::now();
        step(&mut running)?;
        times.push(start.elapsed());
    }
    let steps = times.len() as f64;
    let average_ms = |time: Duration| time.as_secs_f64() * 1e3 / steps;
    let total: Duration = times.iter().sum();
    let phases_ms = running.take_times().map(|t| {
        let rest = total - (t.total() - t.rest);
        [t.conv_forward, t.conv_input_gradient, t.conv_weight_gradient, t.norm, rest].map(average_ms)
    });
    let step_ms = median_ms(times);
    let passes = match kind {
        Kind::Loss => 1.0,
        Kind::Step | Kind::Frozen => 3.0,
        Kind::Sr2 => 4.0,
    };
    let multiplications = TapeExecutor::new(graph, 1, 1)?.multiplications() * options.batch;
    let gflops = 2e-6 * passes * multiplications as f64 / step_ms;
    let isa = Isa::from_env()?;
    let peak = (engine != Engine::Cuda).then(|| peak_flops(isa, options.threads) / 1e9);
    Ok(Row {
        network: graph.name().into(),
        executor: engine,
        kind,
        sparsity,
        batch: options.batch,
        threads: options.threads,
        step_ms,
        images_per_s: options.batch as f64 * 1e3 / step_ms,
        phases_ms,
        gflops,
        peak_percent: peak.map(|peak| 100.0 * gflops / peak),
        peak_rss_mb: peak_rss_mb(),
    })
}

struct BatchObjective<'a> {
    executor: &'a mut dyn Executor,
    batch: &'a Batch,
}

impl Objective for BatchObjective<'_> {
    fn gradient(&mut self, x: &[f32], gradient: &mut [f32]) -> Result<f64, ExecutorError> {
        Ok(self.executor.loss_and_gradient(x, self.batch, gradient)?.loss)
    }

    fn value(&mut self, x: &[f32]) -> Result<f64, ExecutorError> {
        Ok(self.executor.loss(x, self.batch)?.loss)
    }
}

fn parameters(layout: &ParameterLayout, sparsity: u32) -> Vec<f32> {
    let mut parameters = vec![0.0; layout.trainable_len()];
    for segment in layout.trainable() {
        let fan_in: usize = segment.spec.shape[1..].iter().product();
        // The variance that He's initialisation gives the whole layer, on the weights that are left.
        let kept = 1.0 - f64::from(sparsity) / 100.0;
        let scale = (6.0 / (fan_in as f64 * kept)).sqrt() as f32;
        for index in segment.range.clone() {
            let pruned = noise(2 * index + 1) < 2.0 * f64::from(sparsity) as f32 / 100.0 - 1.0;
            parameters[index] = match segment.spec.role {
                ParameterRole::Weight if pruned => 0.0,
                ParameterRole::Weight => scale * noise(2 * index),
                ParameterRole::NormScale => 1.0,
                _ => 0.0,
            };
        }
    }
    parameters
}

/// Batches of so many images out of an epoch of 10,000.
fn loader(batch_size: usize) -> Result<BatchLoader, LoaderError> {
    let images = 10_000;
    let pixels = (0..images * IMAGE_BYTES).map(|i| (127.0 * (1.0 + noise(i))) as u8).collect();
    let labels = (0..images).map(|i| (i % 10) as u8).collect();
    let dataset = Arc::new(Dataset::new(DatasetKind::Cifar10, pixels, labels));
    BatchLoader::new(dataset, &LoaderOptions { batch_size, ..LoaderOptions::default() })
}

fn batch(graph: &Graph, count: usize) -> Batch {
    let image_len: usize = graph.input_shape().iter().product();
    Batch {
        images: (0..count * image_len).map(noise).collect(),
        labels: (0..count as u32).map(|i| i % 10).collect(),
        ..Batch::default()
    }
}

/// A value between -1 and 1 that depends only on `index`.
fn noise(index: usize) -> f32 {
    let hash = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// Most memory that this process has held, where Linux tells.
fn peak_rss_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? / 1024)
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    let columns = ["network", "executor", "step", "zeros %", "ms", "images/s"].into_iter().chain(PHASES);
    table.set_header(columns.chain(["GFLOP/s", "% of peak"]));
    table.column_iter_mut().skip(3).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    for row in rows {
        let phases = (0..PHASES.len()).map(|i| row.phases_ms.map_or("-".into(), |p| format!("{:.1}", p[i])));
        let start = [row.network.clone(), name(row.executor), name(row.kind), row.sparsity.to_string()];
        let speed = [format!("{:.1}", row.step_ms), format!("{:.0}", row.images_per_s)];
        let percent = row.peak_percent.map_or("-".into(), |percent| format!("{percent:.0}"));
        let peak = [format!("{:.0}", row.gflops), percent];
        table.add_row(start.into_iter().chain(speed).chain(phases).chain(peak));
    }
    table
}

fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_string())
}
