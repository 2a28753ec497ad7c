//! Where the engine's time goes, layer by layer.

use std::fmt;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use sr2_infer::{Engine, Isa, KERNELS, LayerPlan, Model, Options, Tuning, peak_flops};

use crate::bench::{BenchOptions, check_options};
use crate::model_files::ModelFiles;
use crate::{BenchError, Machine, SCHEMA};

/// The layers of a network in the engine, each with its kernels, its least time, and its speed against the CPU's peak.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// Version of the JSON form, as that of [`crate::Report`].
    pub schema: u32,
    /// Version of sr2-prune.
    pub version: &'static str,
    /// The machine.
    pub machine: Machine,
    /// Name of the network.
    pub network: String,
    /// Instruction-set tier of the kernels.
    pub isa: &'static str,
    /// Images that one pass takes through the network, which is what is timed.
    pub images: usize,
    /// Threads.
    pub threads: usize,
    /// Fused multiply-adds that all threads do at best, counted as two operations, in 10^9 a second, as measured.
    pub peak_gflops: f64,
    /// Time of a pass, in microseconds: the sum of the layers', so a little more than in one go.
    pub total_us: f64,
    /// The layers in the order they run.
    pub layers: Vec<LayerTime>,
}

/// How one layer ran.
#[derive(Debug, Clone, Serialize)]
pub struct LayerTime {
    /// Name of the first of its nodes.
    pub layer: String,
    /// What it computes, fused parts included.
    pub op: String,
    /// Shape of its output for one image: its layout is planes of these sizes.
    pub output: Vec<usize>,
    /// Images that it takes at a time: one, or as many as a vector has lanes.
    pub images: usize,
    /// Names of its kernels, in the order they run.
    pub kernels: Vec<String>,
    /// Fraction of its weights that are zero; none for layers without weights.
    pub sparsity: Option<f64>,
    /// Least time of a pass, in microseconds.
    pub us: f64,
    /// Operations with weights that are not zero, in 10^9 a second.
    pub gflops: Option<f64>,
    /// Operations that a dense layer would have done in that time.
    pub dense_gflops: Option<f64>,
    /// `gflops` over the peak, in percent.
    pub percent_of_peak: Option<f64>,
    /// Bytes of weights and indices.
    pub weight_bytes: usize,
}

/// Loads the network of `options` in the engine and times its layers for `options.seconds`.
///
/// # Errors
/// As [`crate::bench`] of the sparse engine alone.
pub fn explain(options: &BenchOptions) -> Result<Explanation, BenchError> {
    check_options(options)?;
    let files = ModelFiles::find(&options.model)?;
    let BenchOptions { threads, spin, pin, batch, isa, .. } = *options;
    let engine_options = Options { threads, spin, pin, batch, isa: Some(isa), ..Default::default() };
    let model = Model::load(files.native())?;
    let engine = match &options.tuning {
        Some(file) => model.plan_tuned(&engine_options, &Tuning::load(file)?)?,
        None => model.plan(&engine_options)?,
    };
    let images = options.batch.min(engine.images_a_pass());
    let batch = vec![0.5; images * engine.input_shape().iter().product::<usize>()];
    let times = least_times(&engine, &batch, Duration::from_secs_f64(options.seconds))?;
    let peak_gflops = peak_flops(options.isa, options.threads) / 1e9;
    let layer = |(plan, time): (&LayerPlan, &Duration)| LayerTime::new(plan, *time, images, peak_gflops);
    Ok(Explanation {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        machine: Machine::this(),
        network: engine.name().into(),
        isa: Isa::name(options.isa),
        images,
        threads: options.threads,
        peak_gflops,
        total_us: times.iter().sum::<Duration>().as_secs_f64() * 1e6,
        layers: engine.plan().iter().zip(&times).map(layer).collect(),
    })
}

/// Measures a plan for the network of `options` in about `time`; see [`Tuning::measure`].
///
/// # Errors
/// As [`Tuning::measure`], and if the options make no sense or the model cannot be read.
pub fn tune(options: &BenchOptions, time: Duration) -> Result<Tuning, BenchError> {
    check_options(options)?;
    let BenchOptions { threads, spin, pin, batch, isa, .. } = *options;
    let engine_options = Options { threads, spin, pin, batch, isa: Some(isa), ..Default::default() };
    let files = ModelFiles::find(&options.model)?;
    Ok(Tuning::measure(&Model::load(files.native())?, &engine_options, time)?)
}

/// Least time of each layer over passes that take `length` in all, and two at least.
fn least_times(engine: &Engine, batch: &[f32], length: Duration) -> Result<Vec<Duration>, BenchError> {
    let mut scratch = engine.scratch()?;
    let mut least = engine.profile(batch, &mut scratch)?;
    let start = Instant::now();
    loop {
        for (least, time) in least.iter_mut().zip(engine.profile(batch, &mut scratch)?) {
            *least = time.min(*least);
        }
        if start.elapsed() >= length {
            return Ok(least);
        }
    }
}

impl LayerTime {
    fn new(plan: &LayerPlan, time: Duration, images: usize, peak_gflops: f64) -> Self {
        let has_weights = plan.weights > 0;
        let dense_gflops = 2.0 * plan.macs as f64 * images as f64 / time.as_secs_f64() / 1e9;
        let gflops = dense_gflops * (1.0 - plan.sparsity());
        Self {
            layer: plan.name.clone(),
            op: plan.op.clone(),
            output: plan.output.clone(),
            images: plan.images,
            kernels: plan.kernels.clone(),
            sparsity: has_weights.then(|| plan.sparsity()),
            us: time.as_secs_f64() * 1e6,
            gflops: has_weights.then_some(gflops),
            dense_gflops: has_weights.then_some(dense_gflops),
            percent_of_peak: has_weights.then_some(100.0 * gflops / peak_gflops),
            weight_bytes: plan.weight_bytes,
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, isa, images, threads, peak_gflops, total_us, .. } = self;
        let network = network.escape_debug();
        writeln!(f, "{network}: {images} image(s) a pass, {threads} thread(s), {isa}, peak {peak_gflops:.1} GFLOP/s")?;
        let mut table = Table::new();
        let titles =
            ["layer", "op", "output", "images", "sparsity", "us", "GFLOP/s", "dense", "% of peak", "kB", "kernels"];
        table.load_style(presets::ASCII_MARKDOWN).set_header(titles);
        for row in &self.layers {
            let known = |value: Option<f64>, digits: usize| value.map_or("-".into(), |v| format!("{v:.digits$}"));
            table.add_row([
                row.layer.escape_debug().to_string(),
                row.op.clone(),
                row.output.iter().map(usize::to_string).collect::<Vec<_>>().join("x"),
                row.images.to_string(),
                known(row.sparsity.map(|sparsity| 100.0 * sparsity), 2),
                format!("{:.1}", row.us),
                known(row.gflops, 1),
                known(row.dense_gflops, 1),
                known(row.percent_of_peak, 1),
                format!("{:.1}", row.weight_bytes as f64 / 1e3),
                row.kernels.join(" "),
            ]);
        }
        table.column_iter_mut().skip(3).take(7).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        writeln!(f, "{table}")?;
        writeln!(f, "all layers: {total_us:.1} us")?;
        let uses = |name: &str| self.layers.iter().flat_map(|layer| &layer.kernels).any(|kernel| kernel == name);
        for kernel in KERNELS {
            let name = format!("{}_{isa}", kernel.name);
            if uses(&name) {
                write!(f, "\n{name}: {}", kernel.computes)?;
            }
        }
        Ok(())
    }
}
