//! What a measurement found, as a table and as JSON.

use std::fmt;
use std::path::PathBuf;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use sr2_formats::lossy_path;

use crate::{Agreement, EngineKind, Machine, NetworkFacts, OnnxRuntime};

/// Version of the JSON form of [`Report`]; raised when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// The figures of one measurement and all that is needed to repeat it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of sr2-prune.
    pub version: &'static str,
    /// The ONNX Runtime measured, if it was.
    pub onnx_runtime: Option<OnnxRuntime>,
    /// The machine.
    pub machine: Machine,
    /// Instruction-set tier of the engine's kernels.
    pub isa: &'static str,
    /// File or folder asked for.
    #[serde(serialize_with = "lossy_path")]
    pub model: PathBuf,
    /// The network in it, if one of the engines measured is ours.
    pub network: Option<NetworkFacts>,
    /// Images in a batch.
    pub batch: usize,
    /// Threads of each engine.
    pub threads: usize,
    /// Seconds of each engine, warm-up not counted.
    pub seconds: f64,
    /// How well the engines' answers agree.
    pub agreement: Agreement,
    /// One row for each engine measured, in the order asked for.
    pub results: Vec<EngineResult>,
    /// One row for each other file measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<RivalResult>,
    /// Engines asked for and not measured.
    pub unavailable: Vec<Unavailable>,
}

/// The figures of one engine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EngineResult {
    /// The engine.
    pub engine: EngineKind,
    /// Bytes of the weights as the engine stores them (of ONNX Runtime: size of the ONNX file).
    pub weight_bytes: u64,
    /// Median time of a batch, in milliseconds.
    pub p50_ms: f64,
    /// 90th percentile.
    pub p90_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Smallest and largest median of a round.
    pub round_p50_ms: [f64; 2],
    /// Number of runs timed.
    pub runs: usize,
    /// Batch size over the median time.
    pub images_per_s: f64,
    /// Time of ONNX Runtime over the time of this engine (above 1 is faster than ONNX Runtime), the median of the
    /// ratios taken round by round.
    pub ratio_to_ort: Option<f64>,
    /// Largest resident memory of a process that loads the network in this engine only and runs it.
    pub peak_rss_bytes: Option<u64>,
    /// Fraction of the labelled images given that it classifies right.
    pub accuracy: Option<f64>,
}

/// The figures of another ONNX file by ONNX Runtime.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RivalResult {
    /// The file.
    #[serde(serialize_with = "lossy_path")]
    pub file: PathBuf,
    /// How many times as fast the first engine of the report is: the median of the ratios taken round by round.
    pub speed_of_first: f64,
    /// Fraction of the images that it gives the class which the first engine gives them.
    pub same_class: f64,
    /// Its figures.
    #[serde(flatten)]
    pub result: EngineResult,
}

/// An engine that was asked for and cannot run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unavailable {
    /// The engine.
    pub engine: EngineKind,
    /// Why, and what to do.
    pub reason: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (batch, threads) = (self.batch, self.threads);
        let cpu = self.machine.cpu.as_deref().unwrap_or(&self.machine.system);
        match &self.network {
            Some(n) => {
                write!(f, "{}: {} weights, {:.2} % zero; ", n.name.escape_debug(), n.weights, 100.0 * n.sparsity)?
            }
            None => write!(f, "{}: ", self.model.display())?,
        }
        let plural = if threads == 1 { "" } else { "s" };
        writeln!(f, "batch {batch}, {threads} thread{plural}, {}, {cpu}", self.isa)?;
        writeln!(f, "{}", self.table())?;
        for RivalResult { file, speed_of_first, same_class, .. } in &self.against {
            let (first, same) = (self.results[0].engine, 100.0 * same_class);
            let file = file.display();
            writeln!(
                f,
                "{first} is {speed_of_first:.2}x as fast as {file}, which gives {same:.1} % of images its class"
            )?;
        }
        for Unavailable { engine, reason } in &self.unavailable {
            writeln!(f, "{engine}: not measured: {reason}")?;
        }
        let Agreement { reference, images, max_difference, .. } = &self.agreement;
        if let [_] = self.results[..] {
            return write!(f, "there was no other engine to compare the answers of {reference} with");
        }
        write!(f, "largest difference of logits to {reference} on {images} images: {max_difference:.1e} of their range")
    }
}

impl Report {
    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header([
            "engine",
            "weights MB",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "images/s",
            "vs ort",
            "peak RSS MB",
            "accuracy",
        ]);
        let name = |path: &PathBuf| path.file_name().map(|name| name.display().to_string()).unwrap_or_default();
        let others = self.against.iter().map(|rival| (format!("ort {}", name(&rival.file)), &rival.result));
        let own = self.results.iter().map(|row| (row.engine.to_string(), row));
        for (name, row) in own.chain(others) {
            let known = |value: Option<String>| value.unwrap_or_else(|| "-".into());
            table.add_row([
                name,
                format!("{:.3}", row.weight_bytes as f64 / 1e6),
                format!("{:.3}", row.p50_ms),
                format!("{:.3}", row.p90_ms),
                format!("{:.3}", row.p99_ms),
                format!("{:.1}", row.images_per_s),
                known(row.ratio_to_ort.map(|ratio| format!("{ratio:.2}x"))),
                known(row.peak_rss_bytes.map(|bytes| format!("{:.1}", bytes as f64 / 1e6))),
                known(row.accuracy.map(|fraction| format!("{:.2} %", 100.0 * fraction))),
            ]);
        }
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let row = EngineResult {
            engine: EngineKind::Sparse,
            weight_bytes: 105_000,
            p50_ms: 0.25,
            p90_ms: 0.5,
            p99_ms: 1.0,
            round_p50_ms: [0.25, 0.375],
            runs: 4000,
            images_per_s: 4000.0,
            ratio_to_ort: Some(3.5),
            peak_rss_bytes: Some(12_500_000),
            accuracy: Some(0.9125),
        };
        let dense = EngineResult { engine: EngineKind::Dense, ratio_to_ort: None, accuracy: None, ..row.clone() };
        Report {
            schema: SCHEMA,
            version: "0.1.0",
            onnx_runtime: None,
            machine: Machine {
                cpu: Some("A CPU".into()),
                cores: 2,
                cpu_flags: vec!["avx2", "fma"],
                memory_bytes: Some(1 << 34),
                system: "linux x86_64".into(),
            },
            isa: "avx2",
            model: "exports/net".into(),
            network: Some(NetworkFacts::new("resnet20", 270_896, 16_931)),
            batch: 1,
            threads: 2,
            seconds: 1.0,
            agreement: Agreement { reference: "sparse".into(), images: 16, max_difference: 0.5, allowed: 1.0 },
            results: vec![row, dense],
            against: Vec::new(),
            unavailable: vec![Unavailable { engine: EngineKind::Ort, reason: "not found".into() }],
        }
    }

    #[test]
    fn json_is_as_recorded() {
        let json = serde_json::to_string_pretty(&report()).unwrap();
        assert_eq!(json, include_str!("../tests/data/report.json").trim_end());
    }

    #[test]
    fn table_is_as_recorded() {
        assert_eq!(report().to_string(), include_str!("../tests/data/report.md").trim_end());
    }
}
