//! CSR safetensors: pruned weights in the arrays that PyTorch and SciPy take as they are.
//!
//! A parameter `NAME` is stored as `NAME.crow_indices` and `NAME.col_indices` (I32), `NAME.values` (F32) and
//! `NAME.shape` (I64, the parameter's own shape); its matrix is `[shape[0], product of the rest]`. Other tensors are
//! dense. Metadata `sr2.format` is [`FORMAT`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::Dtype;

use crate::container::{self, RawTensor};
use crate::dense::{self, bytes, elements};
use crate::header::MAX_RANK;
use crate::{CsrError, CsrMatrix, Error, Result, Tensor, TensorMap};

/// Value of the metadata key `sr2.format`.
pub const FORMAT: &str = "csr.v1";
/// Metadata key of the layout's version.
const FORMAT_KEY: &str = "sr2.format";
/// Metadata key of the network, as JSON of the graph; this crate keeps it as it is.
pub const GRAPH_KEY: &str = "sr2.graph";

const CROW_INDICES: &str = "crow_indices";
const COL_INDICES: &str = "col_indices";
const VALUES: &str = "values";
const SHAPE: &str = "shape";

/// A sparse parameter: a matrix and the shape of the tensor it stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct CsrParameter {
    matrix: CsrMatrix,
    shape: Vec<usize>,
}

/// What a CSR safetensors file holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CsrFile {
    /// The sparse parameters by name.
    pub sparse: BTreeMap<String, CsrParameter>,
    /// All other tensors.
    pub dense: TensorMap,
    /// The metadata, all keys as they are in the file.
    pub metadata: BTreeMap<String, String>,
}

impl CsrParameter {
    /// A matrix and the shape of the tensor it stands for.
    ///
    /// # Panics
    /// If the matrix is not `[shape[0], product of the rest]` (a caller's bug).
    pub fn new(matrix: CsrMatrix, shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        let expected = shape.split_first().map(|(rows, rest)| (*rows, rest.iter().product()));
        assert_eq!(expected, Some((matrix.rows(), matrix.cols())), "matrix of a tensor of shape {shape:?}");
        Self { matrix, shape }
    }

    /// Compresses a tensor: its exact zeros (of either sign) are dropped.
    pub fn from_dense(tensor: &Tensor) -> std::result::Result<Self, CsrError> {
        Ok(Self { matrix: CsrMatrix::from_dense(tensor)?, shape: tensor.shape().to_vec() })
    }

    /// The tensor, its dropped values +0.
    pub fn to_dense(&self) -> Tensor {
        self.matrix.to_dense(&self.shape)
    }

    /// The matrix `[shape[0], product of the rest]`.
    pub fn matrix(&self) -> &CsrMatrix {
        &self.matrix
    }

    /// Shape of the tensor.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
}

/// Writes a CSR safetensors file, atomically.
///
/// `sr2.format` is set in the metadata, the other keys are written as given.
///
/// # Errors
/// Two tensors that would have one name, such as a dense `a.shape` beside a sparse `a`; the operating system's.
pub fn write(path: impl AsRef<Path>, file: &CsrFile) -> Result<()> {
    let mut tensors: Vec<_> = file.dense.iter().map(|(name, tensor)| dense::raw(name, tensor)).collect();
    for (name, CsrParameter { matrix, shape }) in &file.sparse {
        let arrays = [
            (SHAPE, Dtype::I64, shape.len(), bytes(shape, |d| (d as i64).to_le_bytes())),
            (CROW_INDICES, Dtype::I32, matrix.rows() + 1, bytes(matrix.crow_indices(), i32::to_le_bytes)),
            (COL_INDICES, Dtype::I32, matrix.nnz(), bytes(matrix.col_indices(), i32::to_le_bytes)),
            (VALUES, Dtype::F32, matrix.nnz(), bytes(matrix.values(), f32::to_le_bytes)),
        ];
        tensors.extend(arrays.map(|(array, dtype, len, bytes)| RawTensor {
            name: format!("{name}.{array}"),
            dtype,
            shape: vec![len],
            bytes,
        }));
    }
    let mut metadata = dense::with_format(&file.metadata);
    metadata.insert(FORMAT_KEY.into(), FORMAT.into());
    container::write(path.as_ref(), tensors, metadata)
}

/// Reads a CSR safetensors file and checks every rule of the layout; dense tensors as [`dense::read`] does, but their
/// values must be finite too.
///
/// # Errors
/// Name the tensor and the position at fault.
pub fn read(path: impl AsRef<Path>) -> Result<CsrFile> {
    let path = path.as_ref();
    let mut raw = RawTensors::new();
    let metadata = container::read(path, |tensor| {
        raw.insert(tensor.name.clone(), tensor);
        Ok(())
    })?;
    check_format(path, &metadata)?;
    let mut file = CsrFile { metadata, ..Default::default() };
    for name in sparse_names(&raw) {
        let parameter = parameter(&name, &mut raw);
        let parameter = parameter.map_err(|problem| Error::malformed(path, format!("tensor {name:?}: {problem}")))?;
        file.sparse.insert(name, parameter);
    }
    for raw in raw.into_values() {
        let (name, tensor) = dense::tensor(path, raw)?;
        if let Some(position) = tensor.data().iter().position(|v| !v.is_finite()) {
            let found = tensor.data()[position];
            return Err(Error::malformed(path, format!("tensor {name:?} [{position}] is {found}, expected finite")));
        }
        if file.sparse.contains_key(&name) {
            return Err(Error::malformed(path, format!("tensor {name:?} is both sparse and dense")));
        }
        file.dense.insert(name, tensor);
    }
    Ok(file)
}

fn check_format(path: &Path, metadata: &BTreeMap<String, String>) -> Result<()> {
    match metadata.get(FORMAT_KEY).map(String::as_str) {
        Some(FORMAT) => Ok(()),
        Some(other) => {
            let problem = format!("metadata {FORMAT_KEY:?} is {other:?}; this program reads {FORMAT:?}");
            Err(Error::unsupported(path, problem))
        }
        None => {
            let problem = format!("has no metadata {FORMAT_KEY:?} = {FORMAT:?}; is it a dense safetensors file?");
            Err(Error::malformed(path, problem))
        }
    }
}

type RawTensors = BTreeMap<String, RawTensor>;

/// Names of the sparse parameters: those with either index array.
fn sparse_names(raw: &RawTensors) -> BTreeSet<String> {
    let indices = raw.keys().filter_map(|name| name.rsplit_once('.'));
    indices.filter(|(_, array)| [CROW_INDICES, COL_INDICES].contains(array)).map(|(name, _)| name.into()).collect()
}

/// Takes the four arrays of a parameter and checks them, each alone and then together.
fn parameter(name: &str, raw: &mut RawTensors) -> std::result::Result<CsrParameter, String> {
    let mut take = |array: &str, dtype: Dtype| {
        let tensor = raw.remove(&format!("{name}.{array}")).ok_or_else(|| format!("{array} is missing"))?;
        if tensor.dtype != dtype || tensor.shape.len() != 1 {
            return Err(format!("{array} is {} {:?}, expected {dtype} of rank 1", tensor.dtype, tensor.shape));
        }
        Ok(tensor.bytes)
    };
    let (crow_indices, col_indices) = (take(CROW_INDICES, Dtype::I32)?, take(COL_INDICES, Dtype::I32)?);
    let (values, shape) = (take(VALUES, Dtype::F32)?, take(SHAPE, Dtype::I64)?);
    let shape: Vec<i64> = elements(&shape).map(i64::from_le_bytes).collect();
    let (shape, rows, cols) = matrix_size(&shape)?;
    let matrix = CsrMatrix::try_new(
        rows,
        cols,
        elements(&crow_indices).map(i32::from_le_bytes).collect(),
        elements(&col_indices).map(i32::from_le_bytes).collect(),
        elements(&values).map(f32::from_le_bytes).collect(),
    );
    Ok(CsrParameter { matrix: matrix.map_err(|e| e.to_string())?, shape })
}

/// The shape checked, with the rows and columns of its matrix.
fn matrix_size(shape: &[i64]) -> std::result::Result<(Vec<usize>, usize, usize), String> {
    let dims: Option<Vec<usize>> = shape.iter().map(|d| usize::try_from(*d).ok()).collect();
    let dims = dims.filter(|dims| (1..=MAX_RANK).contains(&dims.len()) && !dims.contains(&0));
    let dims = dims.ok_or_else(|| format!("shape is {shape:?}, expected 1 to {MAX_RANK} positive dimensions"))?;
    let cols = dims[1..].iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let cols = cols.ok_or_else(|| format!("shape {shape:?} overflows"))?;
    let rows = dims[0];
    Ok((dims, rows, cols))
}

#[cfg(test)]
mod tests;
