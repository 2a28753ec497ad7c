//! CSR safetensors: pruned weights in the arrays that PyTorch and SciPy take as they are.
//!
//! A parameter `NAME` is stored as `NAME.crow_indices` and `NAME.col_indices` (I32), `NAME.values` (F32, F16, BF16, or I8
//! with `NAME.scale`, an F32 for each row) and `NAME.shape` (I64, the parameter's own shape); its matrix is
//! `[shape[0], product of the rest]`. Other tensors are dense. Metadata `sr2.format` is [`FORMAT`].

mod value_type;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::Dtype;

use crate::container::{self, RawTensor};
use crate::dense::{self, bytes, elements};
use crate::header::MAX_RANK;
use crate::srz::{FREE_WEIGHTS, WEIGHTS_A_BYTE};
use crate::{CsrError, CsrMatrix, Error, Result, Tensor, TensorMap};
use value_type::Stored;

pub use value_type::ValueType;

/// Value of the metadata key `sr2.format`.
pub const FORMAT: &str = "csr.v1";
/// Metadata key of the layout's version.
pub const FORMAT_KEY: &str = "sr2.format";
/// Metadata key of the network, as JSON of the graph; this crate keeps it as it is.
pub const GRAPH_KEY: &str = "sr2.graph";

const CROW_INDICES: &str = "crow_indices";
const COL_INDICES: &str = "col_indices";
const VALUES: &str = "values";
const SHAPE: &str = "shape";
const SCALE: &str = "scale";
/// What the names of a parameter's arrays end with.
pub(crate) const ARRAYS: [&str; 5] = [CROW_INDICES, COL_INDICES, VALUES, SHAPE, SCALE];

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

/// Writes a CSR safetensors file with f32 values, atomically.
///
/// `sr2.format` is set in the metadata, the other keys are written as given.
///
/// # Errors
/// Two tensors that would have one name, such as a dense `a.shape` beside a sparse `a`; the operating system's.
pub fn write(path: impl AsRef<Path>, file: &CsrFile) -> Result<()> {
    write_as(path, file, ValueType::F32)
}

/// The same with other values of the sparse parameters.
///
/// # Errors
/// As [`write()`], and a value beyond f16's range.
pub fn write_as(path: impl AsRef<Path>, file: &CsrFile, values: ValueType) -> Result<()> {
    let path = path.as_ref();
    let mut tensors: Vec<_> = file.dense.iter().map(|(name, tensor)| dense::raw(name, tensor)).collect();
    for (name, CsrParameter { matrix, shape }) in &file.sparse {
        let stored = value_type::store(matrix, values);
        let stored = stored.map_err(|problem| Error::unsupported(path, format!("tensor {name:?} {problem}")))?;
        let scale = stored.scale.map(|scale| (SCALE, Dtype::F32, scale.len(), bytes(&scale, f32::to_le_bytes)));
        let arrays = [
            (SHAPE, Dtype::I64, shape.len(), bytes(shape, |d| (d as i64).to_le_bytes())),
            (CROW_INDICES, Dtype::I32, matrix.rows() + 1, bytes(matrix.crow_indices(), i32::to_le_bytes)),
            (COL_INDICES, Dtype::I32, matrix.nnz(), bytes(matrix.col_indices(), i32::to_le_bytes)),
            (VALUES, stored.dtype, matrix.nnz(), stored.values),
        ];
        tensors.extend(arrays.into_iter().chain(scale).map(|(array, dtype, len, bytes)| RawTensor {
            name: format!("{name}.{array}"),
            dtype,
            shape: vec![len],
            bytes,
        }));
    }
    let mut metadata = dense::with_format(&file.metadata);
    metadata.insert(FORMAT_KEY.into(), FORMAT.into());
    container::write(path, tensors, metadata)
}

/// Whether a safetensors file says that it has this layout.
///
/// # Errors
/// A file that cannot be read or is no safetensors file.
pub fn is_csr(path: impl AsRef<Path>) -> Result<bool> {
    Ok(container::read(path.as_ref(), |_| Ok(()))?.contains_key(FORMAT_KEY))
}

/// Reads a CSR safetensors file and checks every rule of the layout; dense tensors as [`dense::read`] does, but their
/// values must be finite too.
///
/// # Errors
/// Name the tensor and the position at fault.
pub fn read(path: impl AsRef<Path>) -> Result<CsrFile> {
    let path = path.as_ref();
    let (mut raw, mut bytes) = (RawTensors::new(), 0usize);
    let metadata = container::read(path, |tensor| {
        bytes += tensor.bytes.len();
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
    check_size(&file.sparse, bytes).map_err(|problem| Error::malformed(path, problem))?;
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
    let mut take = |array: &str, dtypes: &[Dtype]| {
        let tensor = raw.remove(&format!("{name}.{array}")).ok_or_else(|| format!("{array} is missing"))?;
        if tensor.shape.len() != 1 || !dtypes.contains(&tensor.dtype) {
            let expected = dtypes.iter().map(Dtype::to_string).collect::<Vec<_>>().join(" or ");
            return Err(format!("{array} is {} {:?}, expected {expected} of rank 1", tensor.dtype, tensor.shape));
        }
        Ok((tensor.dtype, tensor.bytes))
    };
    let (_, crow_indices) = take(CROW_INDICES, &[Dtype::I32])?;
    let (_, col_indices) = take(COL_INDICES, &[Dtype::I32])?;
    let (dtype, values) = take(VALUES, &[Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I8])?;
    let (_, shape) = take(SHAPE, &[Dtype::I64])?;
    let scale = if dtype == Dtype::I8 { Some(take(SCALE, &[Dtype::F32])?.1) } else { None };
    let scale = scale.map(|scale| elements(&scale).map(f32::from_le_bytes).collect());
    let crow_indices: Vec<i32> = elements(&crow_indices).map(i32::from_le_bytes).collect();
    let values = value_type::load(Stored { dtype, values, scale }, &crow_indices)?;
    let shape: Vec<i64> = elements(&shape).map(i64::from_le_bytes).collect();
    let (shape, rows, cols) = matrix_size(&shape)?;
    let matrix =
        CsrMatrix::try_new(rows, cols, crow_indices, elements(&col_indices).map(i32::from_le_bytes).collect(), values);
    Ok(CsrParameter { matrix: matrix.map_err(|e| e.to_string())?, shape })
}

/// Whether the weights, dense as they may be used, are no more than tensors of so many bytes may stand for: as many as in
/// a `.srz` file.
fn check_size(sparse: &BTreeMap<String, CsrParameter>, bytes: usize) -> std::result::Result<(), String> {
    let sizes = sparse.values().map(|parameter| parameter.matrix.rows().saturating_mul(parameter.matrix.cols()));
    let weights = sizes.fold(0, usize::saturating_add);
    match bytes.saturating_mul(WEIGHTS_A_BYTE).saturating_add(FREE_WEIGHTS) {
        most if weights > most => {
            Err(format!("tensors of {bytes} bytes stand for {weights} weights, at most {most} are allowed for them"))
        }
        _ => Ok(()),
    }
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
