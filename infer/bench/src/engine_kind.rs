//! The engines that can be measured, and how each is opened.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{BenchError, OnnxRuntime, OnnxSession, Runner, native_engine::NativeEngine, onnx_session};

/// An engine that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// The sparse engine: each layer as its plan chooses.
    Sparse,
    /// The same engine with every layer dense.
    Dense,
    /// ONNX Runtime.
    Ort,
}

impl EngineKind {
    /// Every engine, the order in which they are measured by default.
    pub const ALL: [Self; 3] = [Self::Sparse, Self::Dense, Self::Ort];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sparse => "sparse",
            Self::Dense => "dense",
            Self::Ort => onnx_session::NAME,
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EngineKind {
    type Err = BenchError;

    fn from_str(name: &str) -> Result<Self, BenchError> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            BenchError::Usage(format!("unknown engine {name:?}, expected one of {names}"))
        })
    }
}

/// All that is needed to open one engine, in this process or in another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EngineSpec {
    pub(crate) kind: EngineKind,
    pub(crate) file: PathBuf,
    pub(crate) batch: usize,
    pub(crate) threads: usize,
    pub(crate) spin: bool,
    pub(crate) pin: bool,
    pub(crate) isa: String,
    /// The ONNX Runtime library; given for [`EngineKind::Ort`].
    pub(crate) library: Option<OnnxRuntime>,
    /// A tuning that the plan follows; given for [`EngineKind::Sparse`] only.
    pub(crate) tuning: Option<PathBuf>,
}

impl EngineSpec {
    pub(crate) fn open(&self) -> Result<Box<dyn Runner>, BenchError> {
        Ok(match (self.kind, &self.library) {
            (EngineKind::Ort, Some(library)) => {
                Box::new(OnnxSession::open(library, &self.file, self.batch, self.threads)?)
            }
            _ => Box::new(NativeEngine::open(self)?),
        })
    }
}
