//! What the measurement needs of an engine.

use serde::Serialize;

use crate::BenchError;

/// What is known of the network an engine has loaded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NetworkFacts {
    /// Name of the network.
    pub name: String,
    /// Number of convolution and linear weights.
    pub weights: usize,
    /// Number of them that are not zero.
    pub nnz: usize,
    /// Fraction of them that are zero (0 for a network without weights).
    pub sparsity: f64,
}

impl NetworkFacts {
    /// The facts of a network with `nnz` of its `weights` not zero.
    pub fn new(name: &str, weights: usize, nnz: usize) -> Self {
        let sparsity = if weights == 0 { 0.0 } else { 1.0 - nnz as f64 / weights as f64 };
        Self { name: name.into(), weights, nnz, sparsity }
    }
}

/// An engine with a network loaded, ready to run batches of one size.
pub trait Runner {
    /// The engine's name, as asked for on the command line.
    fn name(&self) -> &'static str;

    /// Shape of one image, `[C, H, W]`.
    fn input_shape(&self) -> [usize; 3];

    /// Number of values (classes) the network answers for one image.
    fn outputs(&self) -> usize;

    /// The network, if the engine can tell.
    fn network(&self) -> Option<NetworkFacts> {
        None
    }

    /// Bytes of the weights as this engine stores them.
    fn weight_bytes(&self) -> u64;

    /// Runs one batch: `images` is `[batch, C, H, W]` flat, `logits` is `[batch, outputs]` flat.
    fn run(&mut self, images: &[f32], logits: &mut [f32]) -> Result<(), BenchError>;
}
