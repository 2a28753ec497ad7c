//! From a checkpoint to files that other tools load: dense and CSR safetensors, `.srz`, ONNX, a description and a model card;
//! from any file with weights to any other; and what a file's zeros are worth.

mod check;
mod compressors;
mod config;
mod convert;
mod csr_writer;
mod error;
mod export;
mod inspect;
mod locate;
mod model_card;
mod onnx;
mod passes;
mod report;
mod staging;
mod weights;

pub use check::LOGITS_TOLERANCE;
pub use config::{Config, LayerSparsity, Sparsity};
pub use convert::{Conversion, ConvertOptions, convert};
pub use error::ExportError;
pub use export::{ExportOptions, export};
pub use inspect::{Bytes, Inspection, Layer, inspect};
pub use locate::newest_run;
pub use onnx::{OnnxForm, OnnxFormError, OnnxReader, to_onnx};
pub use passes::{Counts, PassReport, Passes};
pub use report::{Compressed, ExportReport, FileReport, UNFINISHED};
