//! Measuring the engine beside dense baselines: agreement first, then interleaved timing, then one report.

mod error;
mod onnx_runtime;
mod onnx_session;
mod runner;
mod telemetry;

pub use error::BenchError;
pub use onnx_runtime::{FETCHED_VERSION, OnnxRuntime, OnnxRuntimeError, Place, Places, fetch_onnx_runtime};
pub use onnx_session::OnnxSession;
pub use runner::Runner;
pub use telemetry::{restart_without_telemetry, telemetry_is_off};
