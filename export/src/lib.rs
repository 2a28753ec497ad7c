//! From a checkpoint to files that other tools load: dense and CSR safetensors, ONNX, a description and a model card.

mod check;
mod config;
mod csr_writer;
mod error;
mod export;
mod locate;
mod model_card;
mod onnx;
mod passes;
mod report;
mod staging;

pub use check::LOGITS_TOLERANCE;
pub use config::{Config, LayerSparsity, Sparsity};
pub use error::ExportError;
pub use export::{ExportOptions, export};
pub use locate::newest_run;
pub use onnx::{OnnxForm, OnnxFormError, OnnxReader, to_onnx};
pub use passes::{Counts, PassReport, Passes};
pub use report::{ExportReport, FileReport};
