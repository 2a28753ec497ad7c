//! Finding the ONNX Runtime library: a file that the user names, ships or has installed with Python.

mod fetch;
mod shared_library;
#[cfg(all(test, target_os = "linux"))]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

pub use fetch::{FETCHED_VERSION, fetch_onnx_runtime};

/// An ONNX Runtime library that exists and is a shared library of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnnxRuntime {
    path: PathBuf,
    place: Place,
    version: Option<String>,
}

/// Where a library may come from, in the order in which the places are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Named on the command line.
    Option,
    /// Named by `ORT_DYLIB_PATH`.
    Variable,
    /// In the folder of the program.
    Program,
    /// In the cache folder, put there by [`fetch_onnx_runtime`].
    Cache,
    /// In the active virtual or conda environment.
    Environment,
    /// In the packages of `python3`.
    Python,
    /// In a library folder of the system.
    System,
}

/// Where to look for the library. A value, so that a search does not depend on the process it runs in.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// File or folder named by the user; when given, nothing else is tried.
    pub option: Option<PathBuf>,
    /// Value of `ORT_DYLIB_PATH`, a file or folder; when given, only `option` comes before it and nothing after it.
    pub variable: Option<PathBuf>,
    /// Folder of the program.
    pub program: Option<PathBuf>,
    /// The cache folder of sr2-prune.
    pub cache: Option<PathBuf>,
    /// Roots of the active Python environments.
    pub environments: Vec<PathBuf>,
    /// The Python interpreter to ask.
    pub python: Option<PathBuf>,
    /// Library folders of the system.
    pub system: Vec<PathBuf>,
}

/// No usable ONNX Runtime library.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxRuntimeError {
    /// Nothing was found anywhere.
    #[error(
        "ONNX Runtime was not found beside the program, in the cache, in Python's packages or in the system; \
         run `pip install onnxruntime`, or `sr2-prune doctor --fetch-ort`, or name the library with --ort FILE"
    )]
    NotFound,
    /// The place the user named holds no library.
    #[error("{path}: no ONNX Runtime library here; expected a file or a folder with a file {expected}")]
    NotHere {
        /// The file or folder named.
        path: String,
        /// Name of the library on this system.
        expected: &'static str,
    },
    /// A library that cannot be loaded.
    #[error("{path}: not a usable ONNX Runtime library: {problem}")]
    Broken {
        /// The library.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// This process would let ONNX Runtime report to its vendor.
    #[error("ONNX Runtime would report to its vendor; start this program with {}=1", crate::telemetry::VARIABLE)]
    Telemetry,
    /// The pinned library could not be fetched.
    #[error("cannot fetch ONNX Runtime {FETCHED_VERSION}: {problem}")]
    Fetch {
        /// What went wrong.
        problem: String,
    },
}

impl Places {
    /// The places of this process: its environment variables, its folder and the system's.
    pub fn of_process(option: Option<PathBuf>, cache: Option<PathBuf>) -> Self {
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let program = std::env::current_exe().ok().and_then(|p| p.parent().map(Path::to_path_buf));
        let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        let system = ["/usr/local/lib", "/usr/lib", "/usr/lib64", &multiarch, "/opt/homebrew/lib"];
        Self {
            option,
            variable: variable("ORT_DYLIB_PATH"),
            program,
            cache,
            environments: ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable).collect(),
            python: Some(PathBuf::from(fetch::PYTHON)),
            system: system.iter().map(PathBuf::from).collect(),
        }
    }
}

impl OnnxRuntime {
    /// The first library found, checked to be a whole shared library of this machine. A library that is found but
    /// broken is an error, not a reason to look further.
    pub fn find(places: &Places) -> Result<Self, OnnxRuntimeError> {
        if let Some(named) = &places.option {
            return Self::at(named, Place::Option);
        }
        if let Some(named) = &places.variable {
            return Self::at(named, Place::Variable);
        }
        let cached = places.cache.iter().map(|c| (Place::Cache, fetch::folder(c)));
        let installed = places.environments.iter().filter_map(|root| python_package(&interpreter(root)));
        let python = places.python.iter().filter_map(|python| python_package(python));
        let folders = (places.program.iter().map(|p| (Place::Program, p.clone())))
            .chain(cached)
            .chain(installed.map(|p| (Place::Environment, p)))
            .chain(python.map(|p| (Place::Python, p)))
            .chain(places.system.iter().map(|p| (Place::System, p.clone())));
        for (place, folder) in folders {
            if let Some(path) = library_in(&folder) {
                return Self::checked(path, place);
            }
        }
        Err(OnnxRuntimeError::NotFound)
    }

    /// The library file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it was found.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Its version, where the file's name tells.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// A file, or a folder that holds one (an unpacked release, a site-packages folder, ...).
    fn at(named: &Path, place: Place) -> Result<Self, OnnxRuntimeError> {
        let inside = ["", "lib", "capi", "onnxruntime/capi"].into_iter();
        let path = match named.is_dir() {
            false => Some(named.to_path_buf()).filter(|p| p.exists()),
            true => inside.map(|sub| named.join(sub)).find_map(|folder| library_in(&folder)),
        };
        let missing = || OnnxRuntimeError::NotHere { path: named.display().to_string(), expected: LIBRARY };
        Self::checked(path.ok_or_else(missing)?, place)
    }

    fn checked(path: PathBuf, place: Place) -> Result<Self, OnnxRuntimeError> {
        let broken = |problem| OnnxRuntimeError::Broken { path: path.display().to_string(), problem };
        let path = path.canonicalize().map_err(|e| broken(e.to_string()))?;
        shared_library::check(&path).map_err(broken)?;
        let version = path.file_name().and_then(|n| n.to_str()).and_then(version_of).map(str::to_string);
        Ok(Self { path, place, version })
    }
}

impl fmt::Display for OnnxRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version().unwrap_or("of unknown version");
        write!(f, "{version} ({}, found {})", self.path.display(), self.place)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Option => "by --ort",
            Self::Variable => "by ORT_DYLIB_PATH",
            Self::Program => "beside the program",
            Self::Cache => "in the cache",
            Self::Environment => "in the active Python environment",
            Self::Python => "in the packages of python3",
            Self::System => "in the system's libraries",
        })
    }
}

const LIBRARY: &str = if cfg!(target_os = "macos") {
    "libonnxruntime.dylib"
} else if cfg!(windows) {
    "onnxruntime.dll"
} else {
    "libonnxruntime.so"
};

/// The library of a folder; the unversioned name before a versioned one.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    files.filter(|name| name == LIBRARY || version_of(name).is_some()).min().map(|name| folder.join(name))
}

/// `1.32.0` of `libonnxruntime.so.1.32.0` or `libonnxruntime.1.32.0.dylib`.
fn version_of(file_name: &str) -> Option<&str> {
    let version = if cfg!(target_os = "macos") {
        file_name.strip_prefix("libonnxruntime.")?.strip_suffix(".dylib")?
    } else {
        file_name.strip_prefix(LIBRARY)?.strip_prefix('.')?
    };
    let numbers = version.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    numbers.then_some(version)
}

fn interpreter(environment: &Path) -> PathBuf {
    environment.join(if cfg!(windows) { "python.exe" } else { "bin/python" })
}

/// The folder with the library in a Python's `onnxruntime` package, found without importing it (which takes seconds)
/// and without looking in the working folder.
fn python_package(python: &Path) -> Option<PathBuf> {
    const FIND: &str = "import sys; sys.path = [p for p in sys.path if p]; import importlib.util as u; \
                        s = u.find_spec('onnxruntime'); print(s.submodule_search_locations[0] if s else '')";
    let output = Command::new(python).args(["-c", FIND]).output().ok()?;
    let package = String::from_utf8(output.stdout).ok()?;
    let package = package.trim();
    (output.status.success() && !package.is_empty()).then(|| Path::new(package).join("capi"))
}
