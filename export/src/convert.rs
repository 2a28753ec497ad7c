//! From any file with weights to any other.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sr2_formats::csr_file::{self, CsrFile, GRAPH_KEY, ValueType};
use sr2_formats::srz::{self, Values};
use sr2_formats::{Error, TensorMap, bitmask, dense, npz, onnx};
use sr2_models::{Graph, Model};

use crate::{OnnxForm, to_onnx, weights};

/// What to make of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertOptions {
    /// The file to read: `.safetensors`, `.csr.safetensors`, `.srz` or `.onnx`.
    pub from: PathBuf,
    /// The file to write: one of these, `.bitmask.safetensors`, or a folder for SciPy's `.npz`, one for each weight.
    pub to: PathBuf,
    /// Values of a `.srz`, or of a `.csr.safetensors` file (f32, f16, bf16, int8).
    pub values: Option<String>,
    /// How an ONNX file stores weights.
    pub onnx: OnnxForm,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Conversion {
    /// The file read.
    pub from: PathBuf,
    /// Its size.
    pub from_bytes: u64,
    /// The file or folder written.
    pub to: PathBuf,
    /// Its size.
    pub to_bytes: u64,
    /// Fraction of zeros in the weights.
    pub sparsity: f64,
}

/// Reads a file of any origin and writes its weights, with the network if it holds one, in another format.
///
/// Files without a graph convert weights only, so not to ONNX.
///
/// # Errors
/// A file that cannot be read or written, an ending that is not known, values that the format does not have.
pub fn convert(options: &ConvertOptions) -> Result<Conversion, Error> {
    let ConvertOptions { from, to, values, .. } = options;
    let mut file = weights::read(from)?;
    let name = to.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let exact = || match values.as_deref() {
        None | Some("f32") => Ok(()),
        Some(other) => Err(Error::unsupported(to, format!("holds f32 values, not {other}"))),
    };
    let unknown = |problem: String| Error::unsupported(to, format!("--values: {problem}"));
    let text = values.as_deref().unwrap_or("f32");
    let matrices = file.sparse.values().map(|p| p.matrix());
    let (len, nnz) = matrices.fold((0, 0), |(len, nnz), m| (len + m.rows() * m.cols(), nnz + m.nnz()));
    if name.ends_with(".srz") {
        srz::write(to, &file, text.parse::<Values>().map_err(unknown)?)?;
    } else if name.ends_with(".csr.safetensors") {
        let values = text.parse::<ValueType>().map_err(unknown)?;
        keep_dense_what_is_smaller(&mut file);
        csr_file::write_as(to, &file, values)?;
    } else if name.ends_with(".bitmask.safetensors") {
        exact()?;
        bitmask::write(to, &file)?;
    } else if name.ends_with(".safetensors") {
        exact()?;
        let metadata = file.metadata.clone();
        dense::write(to, &tensors(file), &metadata)?;
    } else if name.ends_with(".onnx") {
        exact()?;
        let metadata: BTreeMap<_, _> = file.metadata.clone().into_iter().filter(|(key, _)| key != GRAPH_KEY).collect();
        onnx::write(to, &to_onnx(&network(file, from)?, options.onnx, &metadata))?;
    } else if !name.contains('.') {
        exact()?;
        write_npz(to, &file)?;
    } else {
        let endings = ".safetensors, .csr.safetensors, .bitmask.safetensors, .srz, .onnx, or a folder for .npz files";
        return Err(Error::unsupported(to, format!("expected {endings}")));
    }
    let (from_bytes, to_bytes) = (size(from)?, size(to)?);
    let sparsity = 1.0 - nnz as f64 / len.max(1) as f64;
    Ok(Conversion { from: from.clone(), from_bytes, to: to.clone(), to_bytes, sparsity })
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
    Model::try_new(graph, tensors(file)).map_err(|e| Error::malformed(path, e.to_string()))
}

/// One `NAME.npz` for each weight.
fn write_npz(folder: &Path, file: &CsrFile) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create", e))?;
    for (name, parameter) in &file.sparse {
        let safe = name.replace(['/', '\\'], "_");
        npz::write(folder.join(format!("{safe}.npz")), parameter.matrix())?;
    }
    Ok(())
}

fn size(path: &Path) -> Result<u64, Error> {
    let found = fs::metadata(path).map_err(|e| Error::io(path, "read", e))?;
    if !found.is_dir() {
        return Ok(found.len());
    }
    let entries = || fs::read_dir(path)?.map(|entry| Ok(entry?.metadata()?.len())).sum::<std::io::Result<u64>>();
    entries().map_err(|e| Error::io(path, "read", e))
}

impl fmt::Display for Conversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, from_bytes, to, to_bytes, sparsity } = self;
        let smaller = *from_bytes as f64 / (*to_bytes).max(1) as f64;
        let (from, to, zeros) = (from.display(), to.display(), 100.0 * sparsity);
        write!(f, "{from}: {from_bytes} bytes\n{to}: {to_bytes} bytes, {smaller:.2}x smaller; {zeros:.2} % zeros")
    }
}
