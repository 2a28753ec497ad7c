//! Why a measurement could not be made.

use crate::OnnxRuntimeError;

/// A measurement that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// Options that fit no measurement, or not this model.
    #[error("{0}")]
    Usage(String),
    /// A model file that cannot be read, or has an operator the engine lacks.
    #[error(transparent)]
    Model(#[from] sr2_formats::Error),
    /// ONNX Runtime was the only engine left and is not there.
    #[error(transparent)]
    OnnxRuntime(#[from] OnnxRuntimeError),
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
