//! What the measurement needs of an engine.

use crate::BenchError;

/// An engine with a network loaded, ready to run batches of one size.
pub trait Runner {
    /// The engine's name, as asked for on the command line.
    fn name(&self) -> &'static str;

    /// Shape of one image, `[C, H, W]`.
    fn input_shape(&self) -> [usize; 3];

    /// Number of values (classes) the network answers for one image.
    fn outputs(&self) -> usize;

    /// Bytes of the weights as this engine stores them.
    fn weight_bytes(&self) -> u64;

    /// Runs one batch: `images` is `[batch, C, H, W]` flat, `logits` becomes `[batch, outputs]` flat.
    fn run(&mut self, images: &[f32], logits: &mut Vec<f32>) -> Result<(), BenchError>;
}
