//! The engine of this project, with its plan's choice of sparse and dense layers or with every layer dense.

use sr2_infer::{Engine, Model, Options, Scratch, Tuning, WeightPolicy};

use crate::engine_kind::EngineSpec;
use crate::{BenchError, EngineKind, NetworkFacts, Runner};

/// A network planned by the engine.
pub(crate) struct NativeEngine {
    kind: EngineKind,
    engine: Engine,
    scratch: Scratch,
    input_shape: [usize; 3],
}

impl NativeEngine {
    /// Loads and plans the spec's file.
    pub(crate) fn open(spec: &EngineSpec) -> Result<Self, BenchError> {
        let weights = match spec.kind {
            EngineKind::Dense => WeightPolicy::Dense,
            _ => WeightPolicy::Auto,
        };
        let isa = spec.isa.parse().map_err(sr2_infer::Error::Isa)?;
        let EngineSpec { threads, spin, pin, batch, .. } = *spec;
        let options = Options { threads, spin, pin, batch, isa: Some(isa), weights, ..Default::default() };
        let model = Model::load(&spec.file)?;
        let engine = match &spec.tuning {
            Some(file) => model.plan_tuned(&options, &Tuning::load(file)?)?,
            None => model.plan(&options)?,
        };
        Self::new(spec.kind, engine)
    }

    /// An engine to be reported as `kind`.
    pub(crate) fn new(kind: EngineKind, engine: Engine) -> Result<Self, BenchError> {
        let scratch = engine.scratch()?;
        let input_shape = engine.input_shape().try_into().expect("a graph's input is [C, H, W]");
        Ok(Self { kind, engine, scratch, input_shape })
    }
}

impl Runner for NativeEngine {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn input_shape(&self) -> [usize; 3] {
        self.input_shape
    }

    fn outputs(&self) -> usize {
        self.engine.output_shape().iter().product()
    }

    fn network(&self) -> Option<NetworkFacts> {
        let layers = self.engine.plan().iter();
        let (weights, nnz) = layers.fold((0, 0), |(w, n), layer| (w + layer.weights, n + layer.nnz));
        Some(NetworkFacts::new(self.engine.name(), weights, nnz))
    }

    fn weight_bytes(&self) -> u64 {
        self.engine.weight_bytes() as u64
    }

    fn run(&mut self, images: &[f32], logits: &mut [f32]) -> Result<(), BenchError> {
        Ok(self.engine.run(images, logits, &mut self.scratch)?)
    }
}
