//! Dense safetensors: weights as PyTorch names them, and the container of checkpoints.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;

use crate::container::{self, RawTensor};
use crate::{Error, Result, Tensor, TensorMap, csr_file};

/// What a dense safetensors file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseFile {
    /// The tensors.
    pub tensors: TensorMap,
    /// The metadata, all keys as they are in the file.
    pub metadata: BTreeMap<String, String>,
}

/// Reads a dense safetensors file.
///
/// F32 keeps its bits (NaN payloads and −0 too), F16 and BF16 widen exactly, F64 is rounded to nearest. Values that
/// are not finite are read; the caller decides. PyTorch's I64 counters `num_batches_tracked` are left out.
///
/// # Errors
/// A header that breaks a rule (at most 16 MiB, 65,536 tensors, 8 dimensions and 256 bytes a name; unique names; data
/// covered exactly), another type, or an F64 beyond f32's range.
pub fn read(path: impl AsRef<Path>) -> Result<DenseFile> {
    let path = path.as_ref();
    let mut tensors = TensorMap::new();
    let metadata = container::read(path, |raw| {
        if !(raw.dtype == Dtype::I64 && raw.name.ends_with("num_batches_tracked")) {
            let (name, tensor) = tensor(path, raw)?;
            tensors.insert(name, tensor);
        }
        Ok(())
    })?;
    Ok(DenseFile { tensors, metadata })
}

/// Bytes of each tensor of a safetensors file; of a CSR file those of a parameter's arrays together.
///
/// # Errors
/// A file that cannot be read or is no safetensors file.
pub fn stored_bytes(path: impl AsRef<Path>) -> Result<BTreeMap<String, u64>> {
    let mut stored = BTreeMap::new();
    container::read(path.as_ref(), |raw| {
        let array = raw.name.rsplit_once('.').filter(|(_, array)| csr_file::ARRAYS.contains(array));
        let name = array.map_or(raw.name.as_str(), |(parameter, _)| parameter);
        *stored.entry(name.to_string()).or_insert(0) += raw.bytes.len() as u64;
        Ok(())
    })?;
    Ok(stored)
}

/// Writes a dense safetensors file, atomically. F32 keeps its bits.
///
/// `metadata` is written as given, our own keys beginning with `sr2.`; `format` is set to `pt`, which
/// transformers-like readers ask for.
pub fn write(path: impl AsRef<Path>, tensors: &TensorMap, metadata: &BTreeMap<String, String>) -> Result<()> {
    let raw = tensors.iter().map(|(name, tensor)| raw(name, tensor)).collect();
    container::write(path.as_ref(), raw, with_format(metadata))
}

/// The metadata that PyTorch-like readers ask for, added.
pub(crate) fn with_format(metadata: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut metadata = metadata.clone();
    metadata.insert("format".into(), "pt".into());
    metadata
}

/// A tensor to write as F32.
pub(crate) fn raw(name: &str, tensor: &Tensor) -> RawTensor {
    let (shape, bytes) = (tensor.shape().to_vec(), bytes(tensor.data(), f32::to_le_bytes));
    RawTensor { name: name.into(), dtype: Dtype::F32, shape, bytes }
}

/// A tensor read as f32, with its name.
pub(crate) fn tensor(path: &Path, raw: RawTensor) -> Result<(String, Tensor)> {
    let RawTensor { name, dtype, shape, bytes } = raw;
    let data: Vec<f32> = match dtype {
        Dtype::F32 => elements(&bytes).map(f32::from_le_bytes).collect(),
        Dtype::F16 => elements(&bytes).map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => elements(&bytes).map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        Dtype::F64 => {
            let values = elements(&bytes).map(f64::from_le_bytes).map(narrow).enumerate();
            let checked = values.map(|(i, v)| {
                v.map_err(|v| Error::malformed(path, format!("tensor {name:?} [{i}] is {v:e}, beyond f32's range")))
            });
            checked.collect::<Result<_>>()?
        }
        other => {
            let problem = format!("tensor {name:?} is {other}; supported are F32, F16, BF16 and F64");
            return Err(Error::unsupported(path, problem));
        }
    };
    Ok((name, Tensor::new(shape, data)))
}

/// Rounds to f32; a finite value that would become infinite is an error.
pub(crate) fn narrow(value: f64) -> std::result::Result<f32, f64> {
    let narrow = value as f32;
    if narrow.is_infinite() && value.is_finite() { Err(value) } else { Ok(narrow) }
}

/// Little-endian elements of `N` bytes.
pub(crate) fn elements<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// The bytes of all elements, one after the other.
pub(crate) fn bytes<T: Copy, const N: usize>(elements: &[T], encode: fn(T) -> [u8; N]) -> Vec<u8> {
    elements.iter().map(|v| encode(*v)).collect::<Vec<_>>().into_flattened()
}

#[cfg(test)]
mod tests;
