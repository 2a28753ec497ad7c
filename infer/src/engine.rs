//! A network ready to run.

use std::time::Duration;

use sr2_kernels::{Isa, Program, Workspace};
use sr2_models::CompressedModel;

use crate::decisions::Decisions;
use crate::fuse::Layers;
use crate::plan::{LayerPlan, Plan};
use crate::{Error, Options, compile, fuse};

/// A network planned and packed, made by [`crate::Model::plan`].
///
/// Running changes nothing in it: any number of threads may share one, each with a [`Scratch`] of its own.
#[derive(Debug)]
pub struct Engine {
    name: String,
    program: Program,
    plan: Plan,
    input: Vec<usize>,
    output: Vec<usize>,
}

/// What one run of an [`Engine`] needs for itself: memory for activations, and the threads beside the caller's. It is
/// taken once and used again and again: runs do not allocate.
#[derive(Debug)]
pub struct Scratch(Workspace);

impl Engine {
    pub(crate) fn new(model: &CompressedModel, options: &Options) -> Result<Self, Error> {
        let isa = options.check()?;
        let layers = fuse::layers(model.graph())?;
        let decisions = Decisions::estimated(model, &layers, isa, options);
        Self::decided(model, &layers, &decisions, isa, options)
    }

    /// Plans a network as decided.
    pub(crate) fn decided(
        model: &CompressedModel,
        layers: &Layers<'_>,
        decisions: &Decisions,
        isa: Isa,
        options: &Options,
    ) -> Result<Self, Error> {
        let (program, plan) = compile::compile(model, layers, decisions, isa, options)?;
        let (input, output) = (model.graph().input_shape().to_vec(), model.graph().output_shape().to_vec());
        let name = model.graph().name().to_string();
        Ok(Self { name, program, plan, input, output })
    }

    /// Takes memory and starts threads.
    ///
    /// # Errors
    /// If the system refuses a thread, or cannot keep one on a CPU of its own.
    pub fn scratch(&self) -> Result<Scratch, Error> {
        let error = |problem| Error::Threads { threads: self.program.threads(), problem };
        Ok(Scratch(self.program.workspace().map_err(error)?))
    }

    /// Computes the outputs of any number of images: `images` is `[N, C, H, W]`, `outputs` is `[N, ...]`.
    ///
    /// # Errors
    /// If the slices do not hold as many values as `N` images have, or the scratch is that of another engine.
    pub fn run(&self, images: &[f32], outputs: &mut [f32], scratch: &mut Scratch) -> Result<(), Error> {
        let count = self.check(images, outputs, scratch)?;
        self.program.run(images, count, outputs, &mut scratch.0);
        Ok(())
    }

    /// Runs `images` once, one pass of as many as the plan takes at a time, and returns the time of each layer of
    /// [`Engine::plan`]. Of more images than that the first are taken.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn profile(&self, images: &[f32], scratch: &mut Scratch) -> Result<Vec<Duration>, Error> {
        let [input, output] = self.values();
        let count = (images.len() / input).min(self.program.lanes());
        let images = if images.len() > count * input { &images[..count * input] } else { images };
        let mut outputs = vec![0.0; count * output];
        self.check(images, &outputs, scratch)?;
        let steps = self.program.run_timed(images, count, &mut outputs, &mut scratch.0);
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

    /// Values of one image and of its output.
    fn values(&self) -> [usize; 2] {
        [&self.input, &self.output].map(|shape| shape.iter().product())
    }

    /// Number of images.
    fn check(&self, images: &[f32], outputs: &[f32], scratch: &Scratch) -> Result<usize, Error> {
        let [input, output] = self.values();
        let count = images.len() / input;
        if images.len() != count * input || outputs.len() != count * output {
            return Err(Error::Length { images: images.len(), outputs: outputs.len(), input, output });
        }
        if !self.program.owns(&scratch.0) {
            return Err(Error::Scratch);
        }
        Ok(count)
    }
}
