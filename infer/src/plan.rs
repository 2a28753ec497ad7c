//! What an engine does for each layer, to be read by people and programs.

use std::fmt;
use std::ops::{Deref, Range};

use sr2_kernels::{Activation, Combination, Program};

use crate::fuse::{Kind, Layer};

/// The layers of an engine in the order they run; a slice of [`LayerPlan`] that prints as a table.
#[derive(Debug, Clone)]
pub struct Plan {
    header: String,
    layers: Vec<LayerPlan>,
}

/// How one layer runs.
#[derive(Debug, Clone)]
pub struct LayerPlan {
    /// Name of the first of its nodes.
    pub name: String,
    /// What it computes, fused parts included: `Conv+Add+Clip`.
    pub op: String,
    /// Shape of its output, without the batch.
    pub output: Vec<usize>,
    /// Images that it takes at a time.
    pub images: usize,
    /// Registered names of its kernels in the order they run.
    pub kernels: Vec<String>,
    /// Weights, zeros included; 0 for layers without.
    pub weights: usize,
    /// Weights that are not zero.
    pub nnz: usize,
    /// Bytes of weights and indices that one run reads.
    pub weight_bytes: usize,
    /// Multiply-adds of one image, zeros included.
    pub macs: u64,
    pub(crate) steps: Range<usize>,
}

impl LayerPlan {
    pub(crate) fn new(layer: &Layer<'_>, output: &[usize]) -> Self {
        let mut op = match layer.kind {
            Kind::Conv(_) => "Conv",
            Kind::Gemm(_) => "Gemm",
            Kind::Pointwise(Some(_)) => "BatchNormalization",
            Kind::Pointwise(None) => "",
            Kind::HardSigmoid(_) => "HardSigmoid",
            Kind::Activation(Activation::LeakyRelu { .. }) => "LeakyRelu",
            Kind::Activation(Activation::Sigmoid) => "Sigmoid",
            Kind::Activation(Activation::HardSwish) => "HardSwish",
            Kind::Combination(Combination::Sum) => "Add",
            Kind::Combination(Combination::Product) => "Mul",
            Kind::Pad(_) => "Pad",
            Kind::Concat => "Concat",
            Kind::MaxPool(_) => "MaxPool",
            Kind::AveragePool(_) => "AveragePool",
            Kind::GlobalAverage => "GlobalAveragePool",
            Kind::Flatten => "Flatten",
            Kind::Softmax => "Softmax",
        }
        .to_string();
        let limits = match layer.clip {
            sr2_kernels::NO_CLIP => None,
            _ if matches!(layer.kind, Kind::HardSigmoid(_)) => None,
            [0.0, f32::INFINITY] => Some("Relu"),
            _ => Some("Clip"),
        };
        for part in layer.residual.map(|_| "Add").into_iter().chain(limits) {
            op += if op.is_empty() { "" } else { "+" };
            op += part;
        }
        Self { op, ..Self::transfer(layer.name, "", output, 0..0) }
    }

    pub(crate) fn transfer(name: &str, op: &str, output: &[usize], steps: Range<usize>) -> Self {
        Self {
            name: name.into(),
            op: op.into(),
            output: output.to_vec(),
            images: 1,
            kernels: Vec::new(),
            weights: 0,
            nnz: 0,
            weight_bytes: 0,
            macs: 0,
            steps,
        }
    }

    /// The start of a stage that takes in what the one before puts out.
    pub(crate) fn follow(&mut self, before: &Self) {
        (self.name, self.op) = ("stage".into(), "Export+Import".into());
        self.steps = before.steps.start..self.steps.end;
    }

    pub(crate) fn set_weights(&mut self, shape: &[usize], nnz: usize) {
        self.weights = shape.iter().product();
        self.nnz = nnz;
        let positions: usize = self.output.iter().skip(1).product();
        self.macs = self.weights as u64 * positions as u64;
    }

    /// Fraction of its weights that are zero; 0 for layers without.
    pub fn sparsity(&self) -> f64 {
        if self.weights == 0 { 0.0 } else { 1.0 - self.nnz as f64 / self.weights as f64 }
    }
}

impl Plan {
    pub(crate) fn new(program: &Program, layers: Vec<LayerPlan>) -> Self {
        let header = format!(
            "{}, {} thread(s), {} image(s) a pass, {:.2} MB of weights, {:.2} MB of activations",
            program.isa(),
            program.threads(),
            program.lanes(),
            layers.iter().map(|layer| layer.weight_bytes).sum::<usize>() as f64 / 1e6,
            program.arena_bytes() as f64 / 1e6,
        );
        Self { header, layers }
    }
}

/// What a column of the table shows of a layer.
type Cell = fn(&LayerPlan) -> String;

impl Deref for Plan {
    type Target = [LayerPlan];

    fn deref(&self) -> &[LayerPlan] {
        &self.layers
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.header)?;
        let width = |get: Cell, title: &str| {
            self.layers.iter().map(|l| get(l).chars().count()).chain([title.len()]).max().unwrap_or(0)
        };
        let columns: [(&str, Cell); 7] = [
            ("layer", |l| l.name.escape_debug().to_string()),
            ("op", |l| l.op.clone()),
            ("output", |l| l.output.iter().map(usize::to_string).collect::<Vec<_>>().join("x")),
            ("images", |l| l.images.to_string()),
            ("sparsity", |l| if l.weights == 0 { String::new() } else { format!("{:.2} %", 100.0 * l.sparsity()) }),
            ("kB", |l| if l.weights == 0 { String::new() } else { format!("{:.1}", l.weight_bytes as f64 / 1e3) }),
            ("kernels", |l| l.kernels.join(" ")),
        ];
        let widths = columns.map(|(title, get)| width(get, title));
        let mut line = |cells: Vec<String>| {
            let cells = cells.iter().zip(widths).enumerate().map(|(i, (cell, width))| match i {
                3..=5 => format!("{cell:>width$}"),
                _ => format!("{cell:<width$}"),
            });
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())
        };
        line(columns.iter().map(|(title, _)| title.to_string()).collect())?;
        self.layers.iter().try_for_each(|layer| line(columns.iter().map(|(_, get)| get(layer)).collect()))
    }
}
