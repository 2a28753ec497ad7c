//! What this machine has of all that sr2-prune uses, for the user and for bug reports.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use serde::Serialize;
use sr2_formats::lossy_path;
use sr2_infer::Isa;

use crate::{Machine, OnnxRuntime, Places, machine, telemetry_is_off};

/// The state of the machine.
#[derive(Debug, Clone, Serialize)]
pub struct Diagnosis {
    /// Version of sr2-prune.
    pub version: &'static str,
    /// The machine.
    pub machine: Machine,
    /// Memory free to use.
    pub available_memory_bytes: Option<u64>,
    /// Instruction-set tiers of the engine's kernels that this processor runs, slowest first.
    pub isa_available: Vec<&'static str>,
    /// The tier used, or what is wrong with `SR2_ISA`.
    pub isa: Finding<&'static str>,
    /// The Python interpreter.
    pub python: Finding<Python>,
    /// The ONNX Runtime library.
    pub onnx_runtime: Finding<OnnxRuntime>,
    /// Whether ONNX Runtime's reports to its vendor are off.
    pub onnx_runtime_telemetry_off: bool,
    /// The cache folder of sr2-prune.
    pub cache: Option<PathBuf>,
}

/// Something found, or why it was not and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding<T> {
    /// It is there.
    Found(T),
    /// It is not there, or broken.
    Problem(String),
}

/// A Python interpreter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Python {
    /// The program.
    #[serde(serialize_with = "lossy_path")]
    pub path: PathBuf,
    /// Its version.
    pub version: String,
}

/// Looks at the machine and at `places`; changes nothing and loads no library.
pub fn doctor(places: &Places) -> Diagnosis {
    Diagnosis {
        version: env!("CARGO_PKG_VERSION"),
        machine: Machine::this(),
        available_memory_bytes: machine::kibibytes("/proc/meminfo", "MemAvailable"),
        isa_available: Isa::available().into_iter().map(Isa::name).collect(),
        isa: Isa::from_env().map(Isa::name).map_err(|e| e.to_string()).into(),
        python: python(places).into(),
        onnx_runtime: OnnxRuntime::find(places).map_err(|e| e.to_string()).into(),
        onnx_runtime_telemetry_off: telemetry_is_off(),
        cache: places.cache.clone(),
    }
}

fn python(places: &Places) -> Result<Python, String> {
    let program = places.python.as_ref().ok_or("no Python was named")?;
    let failed = |problem: &dyn fmt::Display| format!("{}: {problem}", program.display());
    let script = "import platform, sys; print(platform.python_version()); print(sys.executable)";
    let output = Command::new(program).args(["-c", script]).output().map_err(|e| failed(&e))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().collect::<Vec<_>>()[..] {
        [version, path] => Ok(Python { path: path.into(), version: version.into() }),
        _ => Err(failed(&"does not answer; install Python 3")),
    }
}

impl<T> From<Result<T, String>> for Finding<T> {
    fn from(result: Result<T, String>) -> Self {
        match result {
            Ok(value) => Self::Found(value),
            Err(problem) => Self::Problem(problem),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Finding<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(value) => value.fmt(f),
            Self::Problem(problem) => write!(f, "problem: {problem}"),
        }
    }
}

impl fmt::Display for Python {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.version, self.path.display())
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        let gigabytes = |bytes: Option<u64>| bytes.map_or("unknown".into(), |b| format!("{:.1} GB", b as f64 / 1e9));
        let memory = gigabytes(machine.memory_bytes);
        let cache = self.cache.as_ref().map_or("none".into(), |path| path.display().to_string());
        writeln!(f, "sr2-prune     {}", self.version)?;
        writeln!(f, "system        {}", machine.system)?;
        writeln!(f, "processor     {}", machine.cpu.as_deref().unwrap_or("unknown"))?;
        writeln!(f, "threads       {}", machine.cores)?;
        writeln!(f, "flags         {}", machine.cpu_flags.join(" "))?;
        writeln!(f, "memory        {memory}, {} available", gigabytes(self.available_memory_bytes))?;
        writeln!(f, "kernels       {} (of {})", self.isa, self.isa_available.join(", "))?;
        writeln!(f, "python        {}", self.python)?;
        writeln!(f, "onnx runtime  {}", self.onnx_runtime)?;
        write!(f, "cache         {cache}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_a_problem_with_the_next_step() {
        let places = Places { python: Some("/no/python3".into()), cache: Some("/a/cache".into()), ..Places::default() };
        let diagnosis = doctor(&places);
        let text = diagnosis.to_string();
        assert!(text.contains("python        problem: /no/python3: "), "{text}");
        assert!(text.contains("pip install onnxruntime"), "{text}");
        let json = serde_json::to_value(&diagnosis).unwrap();
        assert!(json["onnx_runtime"]["problem"].is_string(), "{json}");
        assert_eq!(json["cache"], "/a/cache");
        let isa = json["isa_available"].as_array().unwrap();
        assert_eq!(isa[0], "scalar");
    }
}
