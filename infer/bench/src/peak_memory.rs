//! Peak memory of one engine, measured in a process of its own: what a process has once touched, it never gives back.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::engine_kind::EngineSpec;
use crate::{BenchError, machine, telemetry};

/// First argument of a process that measures. Hidden: only [`peak_rss_bytes`] passes it.
const ARGUMENT: &str = "__peak-memory";

/// Runs before the first measurement is read: the second no longer allocates.
const RUNS: usize = 2;

/// Measures, and gives the exit code, if this process was started to measure the memory of an engine; else `None`.
///
/// A program that passes its own path as [`crate::BenchOptions::program`] calls this first of all.
pub fn measure_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != ARGUMENT {
        return None;
    }
    let spec = arguments.next().unwrap_or_default();
    match measure(&spec.to_string_lossy()) {
        Ok(bytes) => println!("{}", serde_json::json!({ "peak_rss_bytes": bytes })),
        Err(problem) => {
            eprintln!("{problem}");
            return Some(ExitCode::FAILURE);
        }
    }
    Some(ExitCode::SUCCESS)
}

fn measure(spec: &str) -> Result<Option<u64>, String> {
    let spec: EngineSpec = serde_json::from_str(spec).map_err(|e| format!("{ARGUMENT}: {e}"))?;
    let mut runner = spec.open().map_err(|e| e.to_string())?;
    let [c, h, w] = runner.input_shape();
    let (images, mut logits) = (vec![0.0; spec.batch * c * h * w], vec![0.0; spec.batch * runner.outputs()]);
    for _ in 0..RUNS {
        runner.run(&images, &mut logits).map_err(|e| e.to_string())?;
    }
    Ok(machine::kibibytes("/proc/self/status", "VmHWM"))
}

/// Largest resident memory of a fresh process of `program` that loads the network in one engine and runs it; `None`
/// where the system does not tell.
pub(crate) fn peak_rss_bytes(program: &Path, spec: &EngineSpec) -> Result<Option<u64>, BenchError> {
    let failed = |problem: String| BenchError::Engine {
        engine: spec.kind.to_string(),
        problem: format!("cannot measure its memory: {problem}"),
    };
    let spec_json = serde_json::to_string(spec).map_err(|e| failed(e.to_string()))?;
    let mut command = Command::new(program);
    command.args([ARGUMENT, &spec_json]).env(telemetry::VARIABLE, "1").stdin(Stdio::null());
    let output = command.output().map_err(|e| failed(format!("{}: {e}", program.display())))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(failed(errors.lines().last().unwrap_or("no message").to_string()));
    }
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|e| failed(e.to_string()))?;
    Ok(answer["peak_rss_bytes"].as_u64())
}
