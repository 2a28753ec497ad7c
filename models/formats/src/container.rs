//! A safetensors file as raw tensors: the base of the dense and the CSR layout.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use crate::header::{Header, MAX_HEADER};
use crate::{Error, Result, regular_file, write_atomic};

/// Bytes of one tensor, little-endian and row-major, with the type and shape that they have been checked to fill.
pub(crate) struct RawTensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// Reads a whole file; each tensor is given to `take` in the order of its bytes. Returns the metadata.
pub(crate) fn read(path: &Path, mut take: impl FnMut(RawTensor) -> Result<()>) -> Result<BTreeMap<String, String>> {
    let (file, length) = regular_file::open(path)?;
    let mut file = BufReader::with_capacity(1 << 18, file);
    let short = || Error::malformed(path, format!("{length} bytes are too short for a safetensors file"));
    let rest = length.checked_sub(8).ok_or_else(short)?;
    let mut header = [0; 8];
    read_exact(path, &mut file, &mut header)?;
    let header = u64::from_le_bytes(header);
    if header > MAX_HEADER as u64 {
        return Err(Error::malformed(path, format!("header of {header} bytes, at most {MAX_HEADER} are allowed")));
    }
    let Some(data_len) = rest.checked_sub(header) else {
        let problem = format!("header of {header} bytes in {rest} bytes: truncated, or not a safetensors file");
        return Err(Error::malformed(path, problem));
    };
    let mut json = vec![0; header as usize];
    read_exact(path, &mut file, &mut json)?;
    let header = Header::parse(&json, data_len).map_err(|problem| Error::malformed(path, problem))?;
    for (name, TensorInfo { dtype, shape, data_offsets: (start, stop) }) in header.tensors {
        let mut bytes = vec![0; stop - start];
        read_exact(path, &mut file, &mut bytes)?;
        take(RawTensor { name, dtype, shape, bytes })?;
    }
    Ok(header.metadata)
}

fn read_exact(path: &Path, file: &mut impl Read, bytes: &mut [u8]) -> Result<()> {
    file.read_exact(bytes).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => Error::malformed(path, "was truncated while it was read"),
        _ => Error::io(path, "read", e),
    })
}

/// Writes tensors by descending alignment, then name: the same tensors always give the same bytes.
pub(crate) fn write(path: &Path, mut tensors: Vec<RawTensor>, metadata: BTreeMap<String, String>) -> Result<()> {
    tensors.sort_by(|a, b| (Reverse(a.dtype), &a.name).cmp(&(Reverse(b.dtype), &b.name)));
    let mut end = 0;
    let place = |tensor: &RawTensor| {
        let start = end;
        end += tensor.bytes.len();
        let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone(), data_offsets: (start, end) };
        (tensor.name.clone(), info)
    };
    let json = Header { tensors: tensors.iter().map(place).collect(), metadata }.encode();
    let problem = match Header::parse(&json, end as u64) {
        Ok(_) if json.len() > MAX_HEADER => Some(format!("header of {} bytes", json.len())),
        checked => checked.err(),
    };
    if let Some(problem) = problem {
        return Err(Error::unsupported(path, format!("not written, because it could not be read: {problem}")));
    }
    write_atomic(path, |file| {
        file.write_all(&(json.len() as u64).to_le_bytes())?;
        file.write_all(&json)?;
        tensors.iter().try_for_each(|tensor| file.write_all(&tensor.bytes))
    })
}
