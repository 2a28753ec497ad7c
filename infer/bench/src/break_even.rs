//! From which share of zeros on a network is faster sparse than dense.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use sr2_infer::{Model, Options, WeightPolicy};
use sr2_models::ParameterSpec;

use crate::bench::{self, BenchOptions};
use crate::model_files::ModelFiles;
use crate::native_engine::NativeEngine;
use crate::{BenchError, EngineKind, Machine, OnnxRuntime, Runner, SCHEMA, Unavailable, timing};

/// Speed of a network over its share of zeros, against the dense path of the same engine.
///
/// The network is thinned for it: in each layer whose filters have more than three inputs, so in all but the first and
/// the depthwise ones, the weights of the least magnitude are zeroed; zeros it has beyond the share asked for count as
/// weights, picked at random.
#[derive(Debug, Clone, Serialize)]
pub struct BreakEven {
    /// Version of the JSON form, as that of [`crate::Report`].
    pub schema: u32,
    /// Version of sr2-prune.
    pub version: &'static str,
    /// The ONNX Runtime measured, if it was.
    pub onnx_runtime: Option<OnnxRuntime>,
    /// The machine.
    pub machine: Machine,
    /// Instruction-set tier of the engine's kernels.
    pub isa: &'static str,
    /// Name of the network.
    pub network: String,
    /// Images in a batch.
    pub batch: usize,
    /// Threads of each engine.
    pub threads: usize,
    /// Seconds of each plan, warm-up not counted.
    pub seconds: f64,
    /// Median time of a batch with every layer dense, in milliseconds.
    pub dense_ms: f64,
    /// The same by ONNX Runtime, on the file as it is.
    pub ort_ms: Option<f64>,
    /// ONNX Runtime, if it was not measured.
    pub unavailable: Option<Unavailable>,
    /// The share of zeros from which on the thinned layers are faster sparse, interpolated between the two around it
    /// (or the least one timed, where they are faster already there); none where they never are.
    pub break_even: Option<f64>,
    /// The shares timed, from the least.
    pub curve: Vec<BreakEvenPoint>,
}

/// One share of zeros.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BreakEvenPoint {
    /// Fraction of the weights of each thinned layer that are zero.
    pub sparsity: f64,
    /// Median time of a batch with all thinned layers sparse, in milliseconds.
    pub sparse_ms: f64,
    /// How many times as fast as dense that is.
    pub sparse_speed: f64,
    /// Median time of a batch as the plan chooses sparse and dense layers.
    pub plan_ms: f64,
    /// How many times as fast as dense that is.
    pub plan_speed: f64,
    /// How many times as fast as ONNX Runtime that is.
    pub plan_ratio_to_ort: Option<f64>,
}

/// The shares of zeros timed.
const SPARSITIES: [f64; 10] = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98];

/// Most inputs of a filter in layers that stay dense.
const FEW_INPUTS: usize = 3;

/// A weight in place of a zero that a smaller share of zeros has no room for.
const SMALL_WEIGHT: f32 = 1e-4;

/// Thins the network of `options` step by step, and times each step sparse and as planned beside the dense network and
/// ONNX Runtime, in interleaved rounds of `options.seconds` each.
///
/// # Errors
/// As [`crate::bench`] without data, and where no layer can be thinned.
pub fn break_even(options: &BenchOptions) -> Result<BreakEven, BenchError> {
    bench::check_options(options)?;
    let files = ModelFiles::find(&options.model)?;
    let (graph, mut parameters) = Model::load(files.native())?.into_network().into_parts();
    let is_thinned =
        |spec: &&ParameterSpec| spec.role.is_prunable() && spec.shape.get(1).is_some_and(|inputs| *inputs > FEW_INPUTS);
    let mut orders = Vec::new();
    for spec in graph.parameters().iter().filter(is_thinned) {
        let weights = parameters.get_mut(&spec.name).expect("a model has all its parameters");
        orders.push((&spec.name, fill(weights.data_mut())));
    }
    if orders.is_empty() {
        let problem = format!("no layer has filters of more than {FEW_INPUTS} inputs, so there is none to thin");
        return Err(BenchError::Usage(format!("{}: {problem}", options.model.display())));
    }

    let mut runners: Vec<Box<dyn Runner>> = Vec::new();
    let mut plan = |kind: EngineKind, weights: WeightPolicy, network: &sr2_models::Model| -> Result<(), BenchError> {
        let BenchOptions { threads, spin, pin, batch, isa, .. } = *options;
        let options = Options { threads, spin, pin, batch, isa: Some(isa), weights, ..Default::default() };
        runners.push(Box::new(NativeEngine::new(kind, Model::from(network).plan(&options)?)?));
        Ok(())
    };
    let fits = "a graph's own parameters fit it";
    let network = sr2_models::Model::try_new(graph.clone(), parameters.clone()).expect(fits);
    plan(EngineKind::Dense, WeightPolicy::Dense, &network)?;
    for sparsity in SPARSITIES {
        for (name, order) in &orders {
            let weights = parameters.get_mut(*name).expect("a model has all its parameters").data_mut();
            let zeros = (sparsity * weights.len() as f64).round() as usize;
            order[..zeros].iter().for_each(|index| weights[*index as usize] = 0.0);
        }
        let network = sr2_models::Model::try_new(graph.clone(), parameters.clone()).expect(fits);
        plan(EngineKind::Sparse, WeightPolicy::WithZeros, &network)?;
        plan(EngineKind::Sparse, WeightPolicy::Auto, &network)?;
    }
    let (mut onnx_runtime, mut unavailable) = (None, None);
    match bench::spec(EngineKind::Ort, options, &files).and_then(|spec| Ok((spec.open()?, spec))) {
        Ok((runner, spec)) => {
            runners.push(runner);
            onnx_runtime = spec.library;
        }
        Err(error) if error.is_absence() => {
            unavailable = Some(Unavailable { engine: EngineKind::Ort, reason: error.to_string() });
        }
        Err(error) => return Err(error),
    }

    let images = bench::random_images(options.batch * runners[0].input_shape().iter().product::<usize>());
    let samples = timing::race(&mut runners, &images, options.batch, options.seconds)?;
    let ort = onnx_runtime.as_ref().and(samples.last());
    let pairs = SPARSITIES.iter().zip(samples[1..].chunks(2));
    let curve: Vec<_> = pairs
        .map(|(sparsity, pair)| BreakEvenPoint {
            sparsity: *sparsity,
            sparse_ms: pair[0].percentile(50.0),
            sparse_speed: pair[0].speed_over(&samples[0]),
            plan_ms: pair[1].percentile(50.0),
            plan_speed: pair[1].speed_over(&samples[0]),
            plan_ratio_to_ort: ort.map(|ort| pair[1].speed_over(ort)),
        })
        .collect();
    Ok(BreakEven {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        onnx_runtime,
        machine: Machine::this(),
        isa: options.isa.name(),
        network: graph.name().into(),
        batch: options.batch,
        threads: options.threads,
        seconds: options.seconds,
        dense_ms: samples[0].percentile(50.0),
        ort_ms: ort.map(|ort| ort.percentile(50.0)),
        unavailable,
        break_even: crossing(curve.iter().map(|point| (point.sparsity, point.sparse_speed))),
        curve,
    })
}

/// Puts small weights in the place of zeros, and returns the order in which weights are to be zeroed: the least
/// magnitude first, equal ones in random order.
fn fill(weights: &mut [f32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..weights.len() as u32).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
    order.sort_by(|a, b| weights[*a as usize].abs().total_cmp(&weights[*b as usize].abs()));
    weights.iter_mut().filter(|weight| **weight == 0.0).for_each(|weight| *weight = SMALL_WEIGHT);
    order
}

/// The sparsity from which on all speeds are 1 or more, by a line through the times at the two around it.
fn crossing(curve: impl DoubleEndedIterator<Item = (f64, f64)>) -> Option<f64> {
    let mut faster: Option<(f64, f64)> = None;
    for (sparsity, speed) in curve.rev() {
        if speed < 1.0 {
            let (above, faster) = faster?;
            let (slow, fast) = (1.0 / speed - 1.0, 1.0 - 1.0 / faster);
            return Some(sparsity + (above - sparsity) * slow / (slow + fast));
        }
        faster = Some((sparsity, speed));
    }
    faster.map(|(sparsity, _)| sparsity)
}

impl fmt::Display for BreakEven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, batch, threads, isa, dense_ms, .. } = self;
        let cpu = self.machine.cpu.as_deref().unwrap_or(&self.machine.system);
        let plural = if *threads == 1 { "" } else { "s" };
        let network = network.escape_debug();
        writeln!(f, "{network}: batch {batch}, {threads} thread{plural}, {isa}, {cpu}")?;
        let mut table = Table::new();
        let titles = ["zeros", "sparse p50 ms", "vs dense", "plan p50 ms", "vs dense", "vs ort"];
        table.load_style(presets::ASCII_MARKDOWN).set_header(titles);
        for point in &self.curve {
            table.add_row([
                format!("{:.0} %", 100.0 * point.sparsity),
                format!("{:.3}", point.sparse_ms),
                format!("{:.2}x", point.sparse_speed),
                format!("{:.3}", point.plan_ms),
                format!("{:.2}x", point.plan_speed),
                point.plan_ratio_to_ort.map_or("-".into(), |ratio| format!("{ratio:.2}x")),
            ]);
        }
        table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        writeln!(f, "{table}")?;
        write!(f, "dense: {dense_ms:.3} ms")?;
        match (self.ort_ms, &self.unavailable) {
            (Some(ms), _) => writeln!(f, ", ONNX Runtime: {ms:.3} ms")?,
            (None, Some(Unavailable { engine, reason })) => writeln!(f, "; {engine}: not measured: {reason}")?,
            (None, None) => writeln!(f)?,
        }
        match self.break_even {
            Some(sparsity) => write!(f, "faster sparse than dense from {:.0} % zeros on", 100.0 * sparsity),
            None => write!(f, "not faster sparse than dense at any share of zeros"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn break_even_is_where_all_further_points_are_faster() {
        let at = |speeds: [f64; 3]| crossing([0.2, 0.4, 0.8].into_iter().zip(speeds));
        // The time falls from 1.5 to 0.5 of dense's.
        assert!((at([0.5, 1.0 / 1.5, 2.0]).unwrap() - 0.6).abs() < 1e-12);
        assert_eq!(at([0.5, 1.0, 2.0]), Some(0.4));
        assert_eq!(at([1.5, 2.0, 3.0]), Some(0.2));
        assert_eq!(at([1.5, 2.0, 0.9]), None);
    }

    #[test]
    fn zeros_come_first_and_then_the_least_weights() {
        let mut weights = [3.0, 0.0, -1.0, 0.0, -2.0];
        let order = fill(&mut weights);
        assert_eq!(weights, [3.0, SMALL_WEIGHT, -1.0, SMALL_WEIGHT, -2.0]);
        assert_eq!((order[0].min(order[1]), order[0].max(order[1]), &order[2..]), (1, 3, &[2, 4, 0][..]));
    }
}
