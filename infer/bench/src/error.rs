//! Why a measurement could not be made.

use crate::OnnxRuntimeError;

/// A measurement that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// Options that fit no measurement, or not this model.
    #[error("{0}")]
    Usage(String),
    /// A model file that cannot be read.
    #[error(transparent)]
    Model(sr2_formats::Error),
    /// The engine does not take the model or the options.
    #[error(transparent)]
    Native(sr2_infer::Error),
    /// ONNX Runtime's library is not there or broken.
    #[error(transparent)]
    OnnxRuntime(#[from] OnnxRuntimeError),
    /// ONNX Runtime was asked for, and there is no file it can read.
    #[error("{}: no ONNX file here or beside it, so ONNX Runtime cannot run; export one", path.display())]
    NoOnnxFile {
        /// The model asked for.
        path: std::path::PathBuf,
    },
    /// ONNX Runtime does not take the file, or not in such batches.
    #[error("ort: {}: {problem}", path.display())]
    Unfit {
        /// The ONNX file.
        path: std::path::PathBuf,
        /// Why not.
        problem: String,
    },
    /// An engine failed on a model.
    #[error("{engine}: {problem}")]
    Engine {
        /// The engine.
        engine: String,
        /// Its message.
        problem: String,
    },
    /// Two engines answer differently, so that comparing their times would mean nothing.
    #[error(
        "engines {left} and {right} disagree on image {image}: logits differ by {difference:.3e}, \
         allowed is {allowed:.3e}"
    )]
    Disagreement {
        /// The reference engine.
        left: String,
        /// The engine compared with it.
        right: String,
        /// Index of the image with the largest difference.
        image: usize,
        /// Largest absolute difference of two logits.
        difference: f32,
        /// Largest difference allowed.
        allowed: f32,
    },
    /// An engine's answer holds NaN or infinity.
    #[error("{engine} answers {value} for image {image}; expected finite logits")]
    NotFinite {
        /// The engine.
        engine: String,
        /// Index of the image.
        image: usize,
        /// The value found.
        value: f32,
    },
}

impl From<sr2_formats::Error> for BenchError {
    fn from(error: sr2_formats::Error) -> Self {
        Self::Model(error)
    }
}

impl From<sr2_infer::Error> for BenchError {
    fn from(error: sr2_infer::Error) -> Self {
        match error {
            sr2_infer::Error::File(error) => Self::Model(error),
            error => Self::Native(error),
        }
    }
}

impl BenchError {
    /// Whether an engine is just not installed, or cannot run this file, so that the others can be measured without it.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::NoOnnxFile { .. } | Self::Unfit { .. } | Self::OnnxRuntime(OnnxRuntimeError::NotFound))
    }
}
