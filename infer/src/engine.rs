//! A network ready to run.

use std::path::Path;
use std::time::Duration;

use sr2_kernels::{Isa, Program};
use sr2_models::{CompressedModel, Model, Node, Op, passes};

use crate::plan::{LayerPlan, Plan};
use crate::{Error, Options, compile, load};

/// A network ready to run: planned once, its memory taken once, then run many times without allocating.
#[derive(Debug)]
pub struct Engine {
    name: String,
    program: Program,
    plan: Plan,
    input: Vec<usize>,
    output: Vec<usize>,
}

impl Engine {
    /// Loads a `.onnx`, `.srz` or `.csr.safetensors` file, a checkpoint, or an export folder with such a `model` file, and
    /// plans it.
    ///
    /// The weights of `.srz` and CSR files whose batch norms are folded go to the plan as CSR matrices and are never dense,
    /// except in layers that the plan computes densely.
    ///
    /// # Errors
    /// If the file cannot be read or breaks its format's rules, if the network has an operator the engine does not run,
    /// and for options out of range.
    pub fn load(path: impl AsRef<Path>, options: &Options) -> Result<Self, Error> {
        let model = load::load(path.as_ref())?;
        let is_norm = |node: &Node| matches!(node.op, Op::BatchNormalization(_));
        match model.graph().nodes().iter().any(is_norm) {
            true => Self::new(&model.into_model(), options),
            false => Self::planned(&model, options),
        }
    }

    /// Plans a model; batch norms are folded first.
    ///
    /// # Errors
    /// If the network has an operator the engine does not run, and for options out of range.
    pub fn new(model: &Model, options: &Options) -> Result<Self, Error> {
        Self::planned(&passes::fold_batch_norm(model).into(), options)
    }

    fn planned(model: &CompressedModel, options: &Options) -> Result<Self, Error> {
        let isa = options.check()?;
        let (program, plan) = compile::compile(model, isa, options)?;
        let (input, output) = (model.graph().input_shape().to_vec(), model.graph().output_shape().to_vec());
        let name = model.graph().name().to_string();
        Ok(Self { name, program, plan, input, output })
    }

    /// Computes the outputs of `batch` images: `images` is `[batch, C, H, W]`, `logits` is `[batch, outputs]`.
    ///
    /// # Errors
    /// If the slices do not hold exactly that many values.
    pub fn run(&mut self, images: &[f32], batch: usize, logits: &mut [f32]) -> Result<(), Error> {
        self.check(images, batch, logits)?;
        self.program.run(images, batch, logits);
        Ok(())
    }

    /// Runs `images` once, one pass of as many as the plan takes at a time, and returns the time of each layer of
    /// [`Engine::plan`]. A batch that one pass does not hold is cut to it.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn profile(&mut self, images: &[f32], batch: usize) -> Result<Vec<Duration>, Error> {
        let batch = batch.min(self.program.lanes());
        let mut logits = vec![0.0; batch * self.output.iter().product::<usize>()];
        let images = &images[..images.len().min(batch * self.input.iter().product::<usize>())];
        self.check(images, batch, &logits)?;
        let steps = self.program.run_timed(images, batch, &mut logits);
        Ok(self.plan.iter().map(|layer| steps[layer.steps.clone()].iter().sum()).collect())
    }

    /// How each layer runs; prints as a table.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Bytes of weights and indices that a run reads.
    pub fn weight_bytes(&self) -> usize {
        self.plan.iter().map(|layer: &LayerPlan| layer.weight_bytes).sum()
    }

    /// Name of the network.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Images that the plan takes through the network at a time; a larger batch is several passes.
    pub fn images_a_pass(&self) -> usize {
        self.program.lanes()
    }

    /// Tier of the kernels.
    pub fn isa(&self) -> Isa {
        self.program.isa()
    }

    /// Shape of one image, `[C, H, W]`.
    pub fn input_shape(&self) -> &[usize] {
        &self.input
    }

    /// Shape of one output.
    pub fn output_shape(&self) -> &[usize] {
        &self.output
    }

    fn check(&self, images: &[f32], batch: usize, logits: &[f32]) -> Result<(), Error> {
        for (what, found, shape) in [("images", images.len(), &self.input), ("logits", logits.len(), &self.output)] {
            let expected = shape.iter().product::<usize>().saturating_mul(batch);
            if found != expected {
                return Err(Error::Length { what, batch, found, expected });
            }
        }
        Ok(())
    }
}
