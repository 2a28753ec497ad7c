//! ONNX files: the protobuf messages, bounded reading, atomic writing, and tensors in and out of them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use half::{bf16, f16};
use prost::Message;

use crate::dense::{bytes, elements, narrow};
use crate::{Error, Result, Tensor, regular_file, write_atomic};

#[allow(missing_docs, reason = "generated; onnx.proto documents each message")]
pub mod proto;
mod weigh;

use proto::tensor_proto::{DataLocation, DataType};
use proto::{ModelProto, SparseTensorProto, TensorProto};

/// Largest ONNX file read or written: protobuf's own limit.
const MAX_FILE: u64 = 2 << 30;
/// Memory that the messages of any file may take, and how many times its size beyond that: indices as varints of one
/// byte take eight.
const SPARE_MEMORY: usize = 64 << 20;
const MEMORY_OVER_SIZE: usize = 16;
/// More values than this in one sparse tensor are taken for an error, since a file can ask for them in a few bytes.
const MAX_SPARSE_VALUES: usize = 1 << 28;

/// Reads an ONNX file. The graph in it is not checked, but its memory is bounded by the file's size.
pub fn read(path: impl AsRef<Path>) -> Result<ModelProto> {
    let path = path.as_ref();
    let (file, length) = regular_file::open(path)?;
    if length > MAX_FILE {
        return Err(Error::unsupported(path, format!("{length} bytes; at most {MAX_FILE} are read")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read", e))?;
    let limit = SPARE_MEMORY + MEMORY_OVER_SIZE * bytes.len();
    if let Some(memory) = weigh::weigh(&bytes).filter(|memory| *memory > limit) {
        let problem = format!("its {} bytes ask for {memory} bytes of memory, expected at most {limit}", bytes.len());
        return Err(Error::unsupported(path, problem));
    }
    let model = ModelProto::decode(bytes.as_slice());
    let model = model.map_err(|e| Error::malformed(path, format!("is not an ONNX file, or is truncated: {e}")))?;
    if model.graph.is_none() {
        return Err(Error::malformed(path, "is not an ONNX file: it has no graph"));
    }
    Ok(model)
}

/// Writes an ONNX file, atomically.
pub fn write(path: impl AsRef<Path>, model: &ModelProto) -> Result<()> {
    let path = path.as_ref();
    let bytes = model.encode_to_vec();
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::unsupported(path, format!("ONNX files hold at most {MAX_FILE} bytes, not {}", bytes.len())));
    }
    write_atomic(path, |file| file.write_all(&bytes))
}

/// Bytes of a model's file.
pub fn size(model: &ModelProto) -> usize {
    model.encoded_len()
}

/// Bytes of each initializer of an ONNX file.
///
/// # Errors
/// As [`read`].
pub fn stored_bytes(path: impl AsRef<Path>) -> Result<BTreeMap<String, u64>> {
    let graph = read(path)?.graph.unwrap_or_default();
    Ok(graph.initializer.iter().map(|t| (t.name().to_string(), t.encoded_len() as u64)).collect())
}

/// A float tensor as an initializer of that name; its bits are kept.
pub fn float_tensor(name: impl Into<String>, tensor: &Tensor) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: tensor.shape().iter().map(|d| *d as i64).collect(),
        data_type: Some(DataType::Float.into()),
        raw_data: Some(bytes(tensor.data(), f32::to_le_bytes)),
        ..Default::default()
    }
}

/// Reads FLOAT (bits kept), FLOAT16 and BFLOAT16 (widened) or DOUBLE (rounded) as f32. `path` is for messages.
///
/// # Errors
/// Another type, external data, values that do not fill the shape, a DOUBLE beyond f32's range.
pub fn tensor_f32(path: &Path, tensor: &TensorProto) -> Result<Tensor> {
    let (shape, len) = shape(path, tensor)?;
    let float16 = |bits: Vec<u16>| bits.into_iter().map(|b| f16::from_bits(b).to_f32()).collect();
    let bfloat16 = |bits: Vec<u16>| bits.into_iter().map(|b| bf16::from_bits(b).to_f32()).collect();
    let data: Vec<f32> = match DataType::try_from(tensor.data_type()) {
        Ok(DataType::Float) => values(path, tensor, len, &tensor.float_data, f32::from_le_bytes)?,
        Ok(DataType::Float16) => float16(half_bits(path, tensor, len)?),
        Ok(DataType::Bfloat16) => bfloat16(half_bits(path, tensor, len)?),
        Ok(DataType::Double) => {
            let wide = values(path, tensor, len, &tensor.double_data, f64::from_le_bytes)?;
            let beyond = |v| Error::malformed(path, format!("{} holds {v:e}, beyond f32's range", label(tensor)));
            wide.into_iter().map(|v| narrow(v).map_err(beyond)).collect::<Result<_>>()?
        }
        _ => return Err(wrong_type(path, tensor, "FLOAT, FLOAT16, BFLOAT16 or DOUBLE")),
    };
    Ok(Tensor::new(shape, data))
}

/// Reads an INT64, INT32 or UINT8 tensor, such as a shape or indices, flat. `path` is for messages.
pub fn tensor_i64(path: &Path, tensor: &TensorProto) -> Result<Vec<i64>> {
    let (_, len) = shape(path, tensor)?;
    match DataType::try_from(tensor.data_type()) {
        Ok(DataType::Int64) => values(path, tensor, len, &tensor.int64_data, i64::from_le_bytes),
        Ok(DataType::Int32) => {
            let narrow = values(path, tensor, len, &tensor.int32_data, i32::from_le_bytes)?;
            Ok(narrow.into_iter().map(i64::from).collect())
        }
        Ok(DataType::Uint8) => {
            let typed: Vec<u8> = tensor.int32_data.iter().map(|v| *v as u8).collect();
            let narrow = values(path, tensor, len, &typed, u8::from_le_bytes)?;
            Ok(narrow.into_iter().map(i64::from).collect())
        }
        _ => Err(wrong_type(path, tensor, "INT64, INT32 or UINT8")),
    }
}

/// Reads a sparse tensor as the dense one it stands for. Indices are linear `[nnz]` or coordinates `[nnz, rank]`,
/// ascending and unique. `path` is for messages.
pub fn sparse_tensor_f32(path: &Path, tensor: &SparseTensorProto) -> Result<Tensor> {
    let (Some(values), Some(indices)) = (&tensor.values, &tensor.indices) else {
        return Err(Error::malformed(path, "a sparse tensor has no values or no indices"));
    };
    let error = |problem: String| Error::malformed(path, format!("sparse {}: {problem}", label(values)));
    let dims = dims(&tensor.dims).filter(|(_, len)| *len <= MAX_SPARSE_VALUES);
    let (shape, len) = dims.ok_or_else(|| {
        error(format!("has shape {:?}, expected non-negative and at most {MAX_SPARSE_VALUES} values", tensor.dims))
    })?;
    let (stored, places) = (tensor_f32(path, values)?, tensor_i64(path, indices)?);
    let nnz = stored.len() as i64;
    let width = match indices.dims.as_slice() {
        [n] if *n == nnz => 1,
        [n, rank] if *n == nnz && *rank == shape.len() as i64 && !shape.is_empty() => shape.len(),
        found => return Err(error(format!("indices have shape {found:?} for {nnz} values in shape {shape:?}"))),
    };
    let bounds = if width == 1 && indices.dims.len() == 1 { vec![len] } else { shape.clone() };
    let (mut dense, mut least) = (Tensor::full(shape, 0.0), 0);
    for (k, (value, place)) in stored.data().iter().zip(places.chunks_exact(width)).enumerate() {
        let linear = place.iter().zip(&bounds).try_fold(0usize, |linear, (index, bound)| {
            usize::try_from(*index).ok().filter(|i| i < bound).map(|i| linear * bound + i)
        });
        let linear = linear.ok_or_else(|| error(format!("index {k} is {place:?}, expected below {bounds:?}")))?;
        if linear < least {
            return Err(error(format!("index {k}, {place:?}, is not after the one before it")));
        }
        least = linear + 1;
        dense.data_mut()[linear] = *value;
    }
    Ok(dense)
}

/// Shape and size of a tensor whose data lies in this file.
fn shape(path: &Path, tensor: &TensorProto) -> Result<(Vec<usize>, usize)> {
    if tensor.data_location() == DataLocation::External || !tensor.external_data.is_empty() {
        let problem = format!(
            "{} is external data, which is not read; save the model as one file, e.g. \
             onnx.save_model(onnx.load(path), out, save_as_external_data=False)",
            label(tensor)
        );
        return Err(Error::unsupported(path, problem));
    }
    dims(&tensor.dims).ok_or_else(|| {
        let problem =
            format!("{} has shape {:?}, expected non-negative and not to overflow", label(tensor), tensor.dims);
        Error::malformed(path, problem)
    })
}

fn dims(dims: &[i64]) -> Option<(Vec<usize>, usize)> {
    let shape: Vec<usize> = dims.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<_>>()?;
    let len = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    Some((shape, len))
}

/// The `len` values of a tensor, from its raw bytes or else from its typed field.
fn values<T: Clone, const N: usize>(
    path: &Path,
    tensor: &TensorProto,
    len: usize,
    typed: &[T],
    decode: fn([u8; N]) -> T,
) -> Result<Vec<T>> {
    let wrong = |found: usize, unit: &str| {
        let problem = format!("{} has {found} {unit}, expected {len} values for {:?}", label(tensor), tensor.dims);
        Err(Error::malformed(path, problem))
    };
    match &tensor.raw_data {
        Some(raw) if len.checked_mul(N) == Some(raw.len()) => Ok(elements(raw).map(decode).collect()),
        Some(raw) => wrong(raw.len(), "bytes"),
        None if typed.len() == len => Ok(typed.to_vec()),
        None => wrong(typed.len(), "values"),
    }
}

/// The bits of 16-bit floats, which typed fields hold one in each int32.
fn half_bits(path: &Path, tensor: &TensorProto, len: usize) -> Result<Vec<u16>> {
    let typed: Vec<u16> = tensor.int32_data.iter().map(|v| *v as u16).collect();
    values(path, tensor, len, &typed, u16::from_le_bytes)
}

fn wrong_type(path: &Path, tensor: &TensorProto, expected: &str) -> Error {
    let found = DataType::try_from(tensor.data_type());
    let found = found.map_or_else(|_| format!("of type {}", tensor.data_type()), |t| t.as_str_name().into());
    Error::unsupported(path, format!("{} is {found}, expected {expected}", label(tensor)))
}

fn label(tensor: &TensorProto) -> String {
    format!("tensor {:?}", tensor.name())
}

#[cfg(test)]
mod tests;
