//! `.srz`, the small container: what a CSR safetensors file holds, entropy-coded. `SRZ.md` is its specification.

mod coder;
mod pattern;
mod quantise;
mod values;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};

use crate::csr_file::{CsrFile, CsrParameter};
use crate::header::{MAX_NAME, MAX_RANK, MAX_TENSORS, Metadata};
use crate::{CsrMatrix, Error, Result, Tensor, regular_file, write_atomic};
use coder::{Decoder, Encoder};
use pattern::{Pattern, Size};
use quantise::{Quantised, floats, rounded};
use values::{Coding, Models};

pub use quantise::Values;

const MAGIC: [u8; 4] = *b"\x89SRZ";
/// Version of the format.
const VERSION: u32 = 1;
/// Bytes before the header.
const FIXED: usize = 32;
/// The checksum covers everything from here on.
const CHECKED_FROM: usize = 20;
/// Longest header, inflated.
const MAX_HEADER: usize = 4 << 20;
/// A file of `n` bytes holds at most so many weights plus [`WEIGHTS_A_BYTE`] for each, zeros included: no file that is
/// worth writing holds more, and a hostile one cannot keep a reader busy.
pub(crate) const FREE_WEIGHTS: usize = 1 << 23;
pub(crate) const WEIGHTS_A_BYTE: usize = 4096;
/// The same for the 32-bit words of the arrays it decodes to.
const FREE_WORDS: usize = 1 << 21;
const WORDS_A_BYTE: usize = 16;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    metadata: Metadata,
    tensors: Vec<TensorHeader>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorHeader {
    name: String,
    shape: Vec<usize>,
    /// Whether it is read as a CSR matrix.
    sparse: bool,
    /// Stored values.
    nnz: usize,
    values: Coding,
}

/// Writes a container, atomically. With [`Values::F32`] it reads back bit for bit.
///
/// # Errors
/// A value that the coding asked for cannot hold, a tensor that no reader would accept, the operating system's.
pub fn write(path: impl AsRef<Path>, file: &CsrFile, values: Values) -> Result<()> {
    let path = path.as_ref();
    let bytes = encode(path, file, values)?;
    write_atomic(path, |file| file.write_all(&bytes))
}

/// Reads and checks a container; its sparse tensors come as CSR and are never dense.
///
/// # Errors
/// A file that is none, truncated or changed (checksum), or breaks a rule of the format or of CSR.
pub fn read(path: impl AsRef<Path>) -> Result<CsrFile> {
    let path = path.as_ref();
    let (mut file, length) = regular_file::open(path)?;
    let mut bytes = vec![0; FIXED.min(length as usize)];
    let mut read = |bytes: &mut [u8]| file.read_exact(bytes).map_err(|e| Error::io(path, "read", e));
    read(&mut bytes)?;
    Fixed::parse(&bytes, length).map_err(|problem| Error::malformed(path, problem))?;
    bytes.resize(length as usize, 0);
    read(&mut bytes[FIXED..])?;
    decode(path, &bytes)
}

/// The bytes of a container; `path` is for messages.
pub fn encode(path: &Path, file: &CsrFile, values: Values) -> Result<Vec<u8>> {
    let mut encoder = Encoder::new();
    let mut tensors = Vec::new();
    let mut models = Models::new();
    for (name, parameter) in &file.sparse {
        let matrix = parameter.matrix();
        let pattern = Pattern { crow: matrix.crow_indices().to_vec(), col: matrix.col_indices().to_vec() };
        let quantised = rounded(path, name, parameter, values)?;
        tensors.push(encode_tensor(&mut encoder, &mut models, name, parameter.shape(), true, &pattern, &quantised));
    }
    let mut models = Models::new();
    for (name, tensor) in &file.dense {
        if let Some(position) = tensor.data().iter().position(|v| !v.is_finite()) {
            let found = tensor.data()[position];
            return Err(Error::unsupported(path, format!("tensor {name:?} [{position}] is {found}, expected finite")));
        }
        let Some(size) = Size::of(tensor.shape(), false) else {
            return Err(Error::unsupported(path, format!("tensor {name:?} is too large: {:?}", tensor.shape())));
        };
        let (pattern, stored) = stored(tensor, size);
        let quantised = floats(stored);
        tensors.push(encode_tensor(&mut encoder, &mut models, name, tensor.shape(), false, &pattern, &quantised));
    }
    let (words, raw) = encoder.finish();
    let header = Header { metadata: Metadata(file.metadata.clone()), tensors };
    let json = serde_json::to_vec(&header).expect("strings and numbers serialise");
    let deflated = deflate(&json);
    let length = FIXED + deflated.len() + 4 * words.len() + raw.len();
    let fixed = Fixed { length: length as u64, deflated: deflated.len(), inflated: json.len(), words: words.len() };
    check(&header, length)
        .and_then(|()| fixed.check())
        .map_err(|problem| Error::unsupported(path, format!("not written, because it could not be read: {problem}")))?;
    let mut bytes = fixed.bytes();
    bytes.extend(deflated);
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend(raw);
    let checksum = crc32fast::hash(&bytes[CHECKED_FROM..]);
    bytes[CHECKED_FROM - 4..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

/// Bytes that a sparse tensor takes in a container of its own, without the header.
pub fn coded_bytes(parameter: &CsrParameter) -> usize {
    let mut encoder = Encoder::new();
    let matrix = parameter.matrix();
    let pattern = Pattern { crow: matrix.crow_indices().to_vec(), col: matrix.col_indices().to_vec() };
    let quantised = floats(matrix.values().to_vec());
    encode_tensor(&mut encoder, &mut Models::new(), "", parameter.shape(), true, &pattern, &quantised);
    let (words, raw) = encoder.finish();
    4 * words.len() + raw.len()
}

/// The values of a dense tensor that are not +0, and where they are.
fn stored(tensor: &Tensor, size: Size) -> (Pattern, Vec<f32>) {
    let (mut pattern, mut values) = (Pattern { crow: vec![0], col: Vec::new() }, Vec::new());
    for row in tensor.data().chunks(size.cols().max(1)) {
        for (col, value) in row.iter().enumerate().filter(|(_, v)| v.to_bits() != 0) {
            pattern.col.push(col as i32);
            values.push(*value);
        }
        pattern.crow.push(values.len() as i32);
    }
    pattern.crow.resize(size.rows + 1, values.len() as i32);
    (pattern, values)
}

fn encode_tensor(
    encoder: &mut Encoder,
    models: &mut Models,
    name: &str,
    shape: &[usize],
    sparse: bool,
    pattern: &Pattern,
    quantised: &Quantised,
) -> TensorHeader {
    let size = Size::of(shape, sparse).expect("fits 32-bit indices");
    let nnz = pattern.col.len();
    let Quantised { values, coding, palette } = quantised;
    pattern::code(encoder, size, nnz, pattern).expect("an encoder finds what it is given");
    values::code(encoder, models, *coding, pattern, values, palette).expect("an encoder finds what it is given");
    TensorHeader { name: name.into(), shape: shape.to_vec(), sparse, nnz, values: *coding }
}

/// Decodes the bytes of a container; `path` is for messages.
pub fn decode(path: &Path, bytes: &[u8]) -> Result<CsrFile> {
    let malformed = |problem: String| Error::malformed(path, problem);
    let fixed = Fixed::parse(bytes, bytes.len() as u64).map_err(malformed)?;
    if fixed.version(bytes) != VERSION {
        let problem = format!("has version {} of the format; this program reads {VERSION}", fixed.version(bytes));
        return Err(Error::unsupported(path, problem));
    }
    if crc32fast::hash(&bytes[CHECKED_FROM..]) != word(bytes, CHECKED_FROM - 4) {
        return Err(malformed("its checksum is wrong: the file was changed or damaged".into()));
    }
    let (deflated, streams) = bytes[FIXED..].split_at(fixed.deflated);
    let (words, raw) = streams.split_at(4 * fixed.words);
    let json = inflate(deflated, fixed.inflated).map_err(malformed)?;
    let header: Header = serde_json::from_slice(&json).map_err(|e| malformed(format!("header is invalid: {e}")))?;
    drop(json);
    check(&header, bytes.len()).map_err(malformed)?;

    let mut decoder = Decoder::new(words.as_chunks().0, raw);
    let mut file = CsrFile { metadata: header.metadata.0, ..Default::default() };
    let [mut of_sparse, mut of_dense] = [Models::new(), Models::new()];
    for tensor in header.tensors {
        let models = if tensor.sparse { &mut of_sparse } else { &mut of_dense };
        let name = tensor.name.clone();
        let decoded = decode_tensor(&mut decoder, models, tensor, &mut file);
        decoded.map_err(|problem| malformed(format!("tensor {name:?} {problem}")))?;
    }
    if !decoder.finish() {
        return Err(malformed("its streams do not end with its last tensor".into()));
    }
    Ok(file)
}

fn decode_tensor(
    decoder: &mut Decoder<'_>,
    models: &mut Models,
    tensor: TensorHeader,
    file: &mut CsrFile,
) -> std::result::Result<(), String> {
    let TensorHeader { name, shape, sparse, nnz, values: coding } = tensor;
    let size = Size::of(&shape, sparse).ok_or("is too large")?;
    let pattern = pattern::code(decoder, size, nnz, &Pattern::default())?;
    let values = values::code(decoder, models, coding, &pattern, &[], &[])?;
    if sparse {
        let matrix = CsrMatrix::try_new(size.rows, size.cols(), pattern.crow, pattern.col, values);
        let matrix = matrix.map_err(|e| e.to_string())?;
        file.sparse.insert(name, CsrParameter::new(matrix, shape));
        return Ok(());
    }
    let mut dense = Tensor::full(shape, 0.0);
    for (row, ends) in pattern.crow.windows(2).enumerate() {
        let stored = ends[0] as usize..ends[1] as usize;
        for (col, value) in pattern.col[stored.clone()].iter().zip(&values[stored]) {
            dense.data_mut()[row * size.cols() + *col as usize] = *value;
        }
    }
    file.dense.insert(name, dense);
    Ok(())
}

/// The rules of a header in a file of `length` bytes, before anything that it asks for is allocated.
fn check(header: &Header, length: usize) -> std::result::Result<(), String> {
    if header.tensors.len() > MAX_TENSORS {
        return Err(format!("has {} tensors, at most {MAX_TENSORS} are allowed", header.tensors.len()));
    }
    let mut names = BTreeSet::new();
    let (mut weights, mut words) = (0usize, 0usize);
    for TensorHeader { name, shape, sparse, nnz, values } in &header.tensors {
        if name.len() > MAX_NAME {
            return Err(format!("a name has {} bytes, at most {MAX_NAME} are allowed", name.len()));
        }
        if !names.insert(name) {
            return Err(format!("tensor {name:?} appears twice"));
        }
        let least = usize::from(*sparse);
        if !(least..=MAX_RANK).contains(&shape.len()) || *sparse && shape.contains(&0) {
            return Err(format!("tensor {name:?} has shape {shape:?}, expected {least} to {MAX_RANK} dimensions"));
        }
        let size = Size::of(shape, *sparse).ok_or_else(|| format!("tensor {name:?} is too large: {shape:?}"))?;
        let is_palette_of_dense = !sparse && !matches!(values, Coding::Float(_));
        if *nnz > size.len() || !values.is_valid() || is_palette_of_dense {
            return Err(format!("tensor {name:?} of {} values cannot have {nnz} stored as {values:?}", size.len()));
        }
        weights = weights.saturating_add(size.len());
        words = words.saturating_add(size.rows + 2 * nnz + if *sparse { 0 } else { size.len() });
    }
    let [most_weights, most_words] = [(FREE_WEIGHTS, WEIGHTS_A_BYTE), (FREE_WORDS, WORDS_A_BYTE)]
        .map(|(free, a_byte)| length.saturating_mul(a_byte).saturating_add(free));
    if weights > most_weights || words > most_words {
        return Err(format!("{length} bytes hold {weights} weights, at most {most_weights} are allowed for them"));
    }
    Ok(())
}

/// The part of a file before its header.
struct Fixed {
    length: u64,
    deflated: usize,
    inflated: usize,
    words: usize,
}

impl Fixed {
    /// Checks the lengths against the file's; the version and the checksum are the caller's to check.
    fn parse(bytes: &[u8], length: u64) -> std::result::Result<Self, String> {
        if !bytes.starts_with(&MAGIC) {
            return Err("is not an .srz file: it does not start with \\x89SRZ".into());
        }
        if bytes.len() < FIXED {
            return Err(format!("{length} bytes are too short for an .srz file"));
        }
        let stated = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
        if stated != length {
            return Err(format!("has {length} bytes, expected {stated}: truncated or foreign"));
        }
        let at = |offset| word(bytes, offset) as usize;
        let fixed = Self { length, deflated: at(20), inflated: at(24), words: at(28) };
        fixed.check()?;
        Ok(fixed)
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.inflated > MAX_HEADER {
            return Err(format!("header of {} bytes, at most {MAX_HEADER} are allowed", self.inflated));
        }
        let streams =
            (FIXED as u64).checked_add(self.deflated as u64).and_then(|n| n.checked_add(4 * self.words as u64));
        if streams.is_none_or(|end| end > self.length) {
            return Err(format!("header of {} bytes and {} words do not fit the file", self.deflated, self.words));
        }
        Ok(())
    }

    fn version(&self, bytes: &[u8]) -> u32 {
        word(bytes, 4)
    }

    /// With a checksum of zero.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.length.to_le_bytes());
        for word in [0, self.deflated, self.inflated, self.words] {
            bytes.extend((word as u32).to_le_bytes());
        }
        bytes
    }
}

fn word(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

fn deflate(json: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(json).and_then(|()| encoder.finish());
    written.expect("memory takes every byte")
}

/// Inflates to exactly `length` bytes, and never more.
fn inflate(deflated: &[u8], length: usize) -> std::result::Result<Vec<u8>, String> {
    let mut json = Vec::new();
    let mut decoder = ZlibDecoder::new(deflated).take(length as u64 + 1);
    decoder.read_to_end(&mut json).map_err(|e| format!("header cannot be inflated: {e}"))?;
    if json.len() != length || decoder.into_inner().total_in() != deflated.len() as u64 {
        return Err(format!("header does not inflate to its {length} bytes"));
    }
    Ok(json)
}

#[cfg(test)]
mod tests;
