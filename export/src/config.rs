//! `config.json`: what a program must know to use an export, and where it came from.

use serde::Serialize;
use sr2_models::Model;
use sr2_models::checkpoint::Provenance;

/// Contents of `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Version of sr2-prune that wrote the export.
    pub sr2_prune_version: &'static str,
    /// Name of the network.
    pub architecture: String,
    /// Shape of one image, `[channels, height, width]`.
    pub image_shape: Vec<usize>,
    /// Number of outputs.
    pub num_classes: usize,
    /// Data, classes and normalisation of the images, and how it was trained.
    #[serde(flatten)]
    pub provenance: Provenance,
    /// Zeros of the prunable weights.
    pub sparsity: Sparsity,
}

/// Exact zeros of a network's prunable (Conv and Gemm) weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sparsity {
    /// Fraction of zeros over all of them.
    pub overall: f64,
    /// Number of non-zeros.
    pub nnz: usize,
    /// Number of weights.
    pub weights: usize,
    /// The same for each weight tensor, in the order of the network.
    pub layers: Vec<LayerSparsity>,
}

/// Exact zeros of one weight tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerSparsity {
    /// Parameter name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Number of non-zeros.
    pub nnz: usize,
    /// Fraction of zeros.
    pub sparsity: f64,
}

impl Sparsity {
    /// Counts the zeros of a network.
    pub fn of(model: &Model) -> Self {
        let prunable = model.graph().parameters().iter().filter(|p| p.role.is_prunable());
        let layers: Vec<LayerSparsity> = prunable
            .map(|p| {
                let tensor = model.parameter(&p.name);
                let sparsity = 1.0 - tensor.nnz() as f64 / tensor.len() as f64;
                LayerSparsity { name: p.name.clone(), shape: p.shape.clone(), nnz: tensor.nnz(), sparsity }
            })
            .collect();
        let nnz = layers.iter().map(|layer| layer.nnz).sum();
        Self { overall: model.sparsity(), nnz, weights: model.graph().prunable_weights(), layers }
    }
}

impl Config {
    /// Describes a network and what its checkpoint says of its training.
    pub fn new(model: &Model, provenance: Provenance) -> Self {
        let graph = model.graph();
        Self {
            sr2_prune_version: env!("CARGO_PKG_VERSION"),
            architecture: graph.name().into(),
            image_shape: graph.input_shape().to_vec(),
            num_classes: graph.output_shape().iter().product(),
            provenance,
            sparsity: Sparsity::of(model),
        }
    }
}
