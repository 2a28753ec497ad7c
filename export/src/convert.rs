//! From any file with weights to any other.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sr2_formats::csr_file::{self, CsrFile, GRAPH_KEY, ValueType};
use sr2_formats::srz::{self, Values};
use sr2_formats::{Error, TensorMap, bitmask, dense, lossy_path, npz, onnx};
use sr2_models::{Graph, Model};

use crate::{ExportError, OnnxForm, locate, to_onnx, weights};

/// What to make of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertOptions {
    /// The file to read: `.safetensors`, `.csr.safetensors`, `.srz` or `.onnx`.
    pub from: PathBuf,
    /// The file to write: one of these, `.bitmask.safetensors`, or a folder for SciPy's `.npz`, one for each weight.
    pub to: PathBuf,
    /// Values of a `.srz`, or of a `.csr.safetensors` file (f32, f16, bf16, int8).
    pub values: Option<String>,
    /// How an ONNX file stores weights; dense by default.
    pub onnx: Option<OnnxForm>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Conversion {
    /// The file read.
    #[serde(serialize_with = "lossy_path")]
    pub from: PathBuf,
    /// Its size.
    pub from_bytes: u64,
    /// The file or folder written.
    #[serde(serialize_with = "lossy_path")]
    pub to: PathBuf,
    /// Its size.
    pub to_bytes: u64,
    /// Fraction of zeros in the weights.
    pub sparsity: f64,
}

/// What a target's ending, and the options, ask for.
enum Target {
    Srz(Values),
    Csr(ValueType),
    Bitmask,
    Dense,
    Onnx(OnnxForm),
    Npz,
}

impl Target {
    fn of(options: &ConvertOptions) -> Result<Self, ExportError> {
        let ConvertOptions { to, values, onnx, .. } = options;
        let refused = |problem: String| ExportError::Target { path: to.clone(), problem };
        let endings = ".safetensors, .csr.safetensors, .bitmask.safetensors, .srz, .onnx, or a folder for .npz files";
        let unknown = || refused(format!("expected {endings}"));
        let name = to.file_name().ok_or_else(unknown)?.as_encoded_bytes();
        let text = values.as_deref().unwrap_or("f32");
        let values = |problem: String| refused(format!("--values: {problem}"));
        let target = if name.ends_with(b".srz") {
            Self::Srz(text.parse().map_err(values)?)
        } else if name.ends_with(b".csr.safetensors") {
            Self::Csr(text.parse().map_err(values)?)
        } else if name.ends_with(b".bitmask.safetensors") {
            Self::Bitmask
        } else if name.ends_with(b".safetensors") {
            Self::Dense
        } else if name.ends_with(b".onnx") {
            Self::Onnx(onnx.unwrap_or(OnnxForm::Dense))
        } else if !name.contains(&b'.') {
            Self::Npz
        } else {
            return Err(unknown());
        };
        if text != "f32" && !matches!(target, Self::Srz(_) | Self::Csr(_)) {
            return Err(refused(format!("holds f32 values, not {text}")));
        }
        match onnx {
            Some(form) if !matches!(target, Self::Onnx(_)) => Err(refused(format!("--onnx {form} is for .onnx files"))),
            _ => Ok(target),
        }
    }
}

/// Reads a file of any origin and writes its weights, with the network if it holds one, in another format.
///
/// Files without a graph convert weights only, so not to ONNX.
///
/// # Errors
/// A file that cannot be read or written, an ending that is not known, values that the format does not have, a folder
/// for `.npz` files that holds something.
pub fn convert(options: &ConvertOptions) -> Result<Conversion, ExportError> {
    let target = Target::of(options)?;
    let ConvertOptions { from, to, .. } = options;
    let file = weights::read(from)?;
    let from_bytes = size(from)?;
    let matrices = file.sparse.values().map(|p| p.matrix());
    let (len, nnz) = matrices.fold((0, 0), |(len, nnz), m| (len + m.rows() * m.cols(), nnz + m.nnz()));
    let sparsity = 1.0 - nnz as f64 / len.max(1) as f64;
    let to_bytes = write(target, file, from, to)?;
    Ok(Conversion { from: from.clone(), from_bytes, to: to.clone(), to_bytes, sparsity })
}

/// The bytes written.
fn write(target: Target, mut file: CsrFile, from: &Path, to: &Path) -> Result<u64, ExportError> {
    if matches!(target, Target::Srz(_) | Target::Csr(_) | Target::Onnx(_)) {
        weights::check_finite(&file.dense, from)?;
    }
    match target {
        Target::Srz(values) => srz::write(to, &file, values)?,
        Target::Csr(values) => {
            keep_dense_what_is_smaller(&mut file);
            csr_file::write_as(to, &file, values)?;
        }
        Target::Bitmask => bitmask::write(to, &file)?,
        Target::Dense => {
            let metadata = file.metadata.clone();
            dense::write(to, &tensors(file), &metadata)?;
        }
        Target::Onnx(form) => {
            let metadata = file.metadata.clone().into_iter().filter(|(key, _)| key != GRAPH_KEY).collect();
            onnx::write(to, &to_onnx(&network(file, from)?, form, &metadata))?;
        }
        Target::Npz => return write_npz(to, &file, from),
    }
    Ok(size(to)?)
}

/// A tensor of few zeros takes less room dense than as CSR.
fn keep_dense_what_is_smaller(file: &mut CsrFile) {
    let larger = |p: &csr_file::CsrParameter| {
        let matrix = p.matrix();
        2 * matrix.nnz() + matrix.rows() >= matrix.rows() * matrix.cols()
    };
    let moved = file.sparse.extract_if(.., |_, parameter| larger(parameter));
    file.dense.extend(moved.map(|(name, parameter)| (name, parameter.to_dense())));
}

fn tensors(file: CsrFile) -> TensorMap {
    let mut tensors = file.dense;
    tensors.extend(file.sparse.into_iter().map(|(name, parameter)| (name, parameter.to_dense())));
    tensors
}

fn network(file: CsrFile, path: &Path) -> Result<Model, Error> {
    let graph = file.metadata.get(GRAPH_KEY).ok_or_else(|| {
        Error::unsupported(
            path,
            "holds weights but no network, which ONNX needs; convert it to .srz or .csr.safetensors",
        )
    })?;
    let graph: Graph = serde_json::from_str(graph)
        .map_err(|e| Error::malformed(path, format!("metadata {GRAPH_KEY:?} is no graph: {e}")))?;
    Model::try_read(graph, tensors(file)).map_err(|e| Error::malformed(path, e.to_string()))
}

/// One `NAME.npz` for each weight, in a folder that holds nothing yet; the bytes of all.
fn write_npz(folder: &Path, file: &CsrFile, from: &Path) -> Result<u64, ExportError> {
    let mut names = BTreeMap::new();
    for name in file.sparse.keys() {
        let safe = format!("{}.npz", name.replace(['/', '\\'], "_"));
        if let Some(other) = names.insert(safe.clone(), name) {
            let problem = format!("tensors {other:?} and {name:?} would both be {safe}; convert it to another format");
            return Err(Error::unsupported(from, problem).into());
        }
    }
    if folder.is_dir() && !locate::entries(folder)?.is_empty() {
        let problem = "holds files already; name an empty or a new folder for .npz files".into();
        return Err(ExportError::Target { path: folder.into(), problem });
    }
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create", e))?;
    let mut bytes = 0;
    for (safe, name) in names {
        let path = folder.join(safe);
        npz::write(&path, file.sparse[name].matrix())?;
        bytes += size(&path)?;
    }
    Ok(bytes)
}

fn size(path: &Path) -> Result<u64, Error> {
    Ok(fs::metadata(path).map_err(|e| Error::io(path, "read", e))?.len())
}

impl fmt::Display for Conversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, from_bytes, to, to_bytes, sparsity } = self;
        let smaller = *from_bytes as f64 / (*to_bytes).max(1) as f64;
        let (from, to, zeros) = (from.display(), to.display(), 100.0 * sparsity);
        write!(f, "{from}: {from_bytes} bytes\n{to}: {to_bytes} bytes, {smaller:.2}x smaller; {zeros:.2} % zeros")
    }
}
