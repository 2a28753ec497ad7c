//! ONNX Runtime as an engine.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;

use crate::{BenchError, OnnxRuntime, OnnxRuntimeError, Runner, telemetry_is_off};

/// Name of the engine.
pub(crate) const NAME: &str = "ort";

/// The one environment that ONNX Runtime allows a process, and the library it came from.
static ENVIRONMENT: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// An ONNX file loaded in ONNX Runtime, every graph optimisation on.
#[derive(Debug)]
pub struct OnnxSession {
    session: Session,
    /// Shape of a batch: `[N, C, H, W]` or `[N, C]`.
    shape: Vec<usize>,
    outputs: usize,
    weight_bytes: u64,
}

impl OnnxSession {
    /// Loads `model`, a network with one input `[batch, C, H, W]` or `[batch, C]` and one output `[batch, outputs]` of f32, to run on
    /// `threads` threads.
    pub fn open(runtime: &OnnxRuntime, model: &Path, batch: usize, threads: usize) -> Result<Self, BenchError> {
        let environment = environment(runtime)?;
        let size = std::fs::metadata(model).map_err(|e| sr2_formats::Error::io(model, "read", e))?.len();
        let session = session(&environment, model, threads).map_err(|problem| on_model(model, problem))?;
        let (shape, outputs) = interface(&session, batch).map_err(|problem| on_model(model, problem))?;
        Ok(Self { session, shape, outputs, weight_bytes: size })
    }
}

impl Runner for OnnxSession {
    fn name(&self) -> &'static str {
        NAME
    }

    fn input_shape(&self) -> [usize; 3] {
        match self.shape[..] {
            [_, c, h, w] => [c, h, w],
            // Features are an image of one place.
            _ => [self.shape[1], 1, 1],
        }
    }

    fn outputs(&self) -> usize {
        self.outputs
    }

    /// Size of the ONNX file, whose weights are dense f32.
    fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    fn run(&mut self, images: &[f32], logits: &mut [f32]) -> Result<(), BenchError> {
        assert_eq!(images.len(), self.shape.iter().product::<usize>(), "images of a batch {:?}", self.shape);
        let failed = |e: ort::Error| engine(e.to_string());
        let input = TensorRef::from_array_view((&self.shape[..], images)).map_err(failed)?;
        let outputs = self.session.run(ort::inputs![input]).map_err(failed)?;
        let (shape, values) = outputs[0].try_extract_tensor::<f32>().map_err(failed)?;
        if values.len() != logits.len() {
            return Err(engine(format!("output has shape {shape}, expected [{}, {}]", self.shape[0], self.outputs)));
        }
        logits.copy_from_slice(values);
        Ok(())
    }
}

/// The environment of `runtime`, made at the first call: without a library named, `ort` panics when it finds none.
fn environment(runtime: &OnnxRuntime) -> Result<Environment, OnnxRuntimeError> {
    let broken = |problem: String| OnnxRuntimeError::Broken {
        path: runtime.path().display().to_string(),
        problem: one_line(&problem),
    };
    if !telemetry_is_off() {
        return Err(OnnxRuntimeError::Telemetry);
    }
    let mut loaded = ENVIRONMENT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some((path, environment)) = loaded.as_ref() {
        return match path == runtime.path() {
            true => Ok(environment.clone()),
            false => Err(broken(format!("this process has already loaded {}", path.display()))),
        };
    }
    let builder = ort::init_from(runtime.path()).map_err(|e| broken(e.to_string()))?;
    let environment = builder.with_telemetry(false).build().map_err(|e| broken(e.to_string()))?;
    environment.set_log_level(LogLevel::Error);
    *loaded = Some((runtime.path().to_path_buf(), environment.clone()));
    Ok(environment)
}

fn session(environment: &Environment, model: &Path, threads: usize) -> Result<Session, String> {
    // The builder's errors carry the builder, which cannot be sent to another thread.
    let text = |e: ort::Error<_>| e.to_string();
    let builder = Session::builder(environment).map_err(|e| e.to_string())?;
    let builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(text)?;
    let builder = builder.with_intra_threads(threads).map_err(text)?;
    let builder = builder.with_inter_threads(1).map_err(text)?;
    let mut builder = builder.with_log_level(LogLevel::Error).map_err(text)?;
    builder.commit_from_file(model).map_err(|e| e.to_string())
}

/// Shape of a batch and number of outputs; a dimension of -1 is free.
fn interface(session: &Session, batch: usize) -> Result<(Vec<usize>, usize), String> {
    let ([input], [output]) = (session.inputs(), session.outputs()) else {
        let (inputs, outputs) = (session.inputs().len(), session.outputs().len());
        return Err(format!("has {inputs} inputs and {outputs} outputs, expected one of each"));
    };
    let dims = |outlet: &ort::value::Outlet| -> Option<Vec<i64>> { Some(outlet.dtype().tensor_shape()?.to_vec()) };
    let (input, output) = (dims(input).unwrap_or_default(), dims(output).unwrap_or_default());
    let size = |d: i64| usize::try_from(d).ok().filter(|d| *d > 0);
    let (image, outputs) = match (&input[..], &output[..]) {
        ([_, image @ ..], &[_, k]) if [1, 3].contains(&image.len()) => {
            (image.iter().map(|d| size(*d)).collect(), size(k))
        }
        _ => (None::<Vec<usize>>, None),
    };
    let (Some(image), Some(outputs)) = (image, outputs) else {
        return Err(format!("maps {input:?} to {output:?}, expected [N, C, H, W] or [N, C] to [N, outputs]"));
    };
    match size(input[0]) {
        Some(fixed) if fixed != batch => Err(format!("runs batches of {fixed} only, asked for {batch}")),
        _ => Ok((std::iter::once(batch).chain(image).collect(), outputs)),
    }
}

fn engine(problem: String) -> BenchError {
    BenchError::Engine { engine: NAME.into(), problem: one_line(&problem) }
}

fn on_model(model: &Path, problem: String) -> BenchError {
    BenchError::Unfit { path: model.into(), problem: one_line(&problem) }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
