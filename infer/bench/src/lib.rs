//! Measuring the engine beside dense baselines: agreement first, then interleaved timing, then one report.

mod agreement;
mod bench;
mod break_even;
mod doctor;
mod engine_kind;
mod error;
mod explain;
mod machine;
mod model_files;
mod native_engine;
mod onnx_runtime;
mod onnx_session;
mod peak_memory;
mod report;
mod runner;
mod telemetry;
mod timing;
mod verify;

pub use agreement::{AGREEMENT, Agreement};
pub use bench::{BenchOptions, LabelledImages, bench};
pub use break_even::{BreakEven, BreakEvenPoint, break_even};
pub use doctor::{Diagnosis, Finding, Python, doctor};
pub use engine_kind::EngineKind;
pub use error::BenchError;
pub use explain::{Explanation, LayerTime, explain, tune};
pub use machine::Machine;
pub use onnx_runtime::{FETCHED_VERSION, OnnxRuntime, OnnxRuntimeError, Place, Places, fetch_onnx_runtime};
pub use onnx_session::OnnxSession;
pub use peak_memory::measure_if_asked;
pub use report::{EngineResult, Report, RivalResult, SCHEMA, Unavailable};
pub use runner::{NetworkFacts, Runner};
pub use telemetry::{restart_without_telemetry, telemetry_is_off};
pub use verify::{OutputDifference, Verification, VerifyOptions, verify};
