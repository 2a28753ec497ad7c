//! SciPy's `.npz` for one matrix, as `scipy.sparse.load_npz` reads it.

use std::io::{self, Cursor, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::dense::bytes;
use crate::{CsrMatrix, Result, write_atomic};

/// Writes a matrix, atomically: int32 `indices` and `indptr`, f32 `data`, `shape` and the format `csr`, not compressed.
///
/// # Errors
/// The operating system's.
pub fn write(path: impl AsRef<Path>, matrix: &CsrMatrix) -> Result<()> {
    write_atomic(path, |file| file.write_all(&archive(matrix)?))
}

fn archive(matrix: &CsrMatrix) -> io::Result<Vec<u8>> {
    let shape = [matrix.rows() as i64, matrix.cols() as i64];
    let arrays = [
        ("indices", array("<i4", Some(matrix.nnz()), bytes(matrix.col_indices(), i32::to_le_bytes))),
        ("indptr", array("<i4", Some(matrix.rows() + 1), bytes(matrix.crow_indices(), i32::to_le_bytes))),
        ("format", array("|S3", None, b"csr".to_vec())),
        ("shape", array("<i8", Some(2), bytes(&shape, i64::to_le_bytes))),
        ("data", array("<f4", Some(matrix.nnz()), bytes(matrix.values(), f32::to_le_bytes))),
    ];
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in arrays {
        archive.start_file(
            format!("{name}.npy"),
            SimpleFileOptions::default().compression_method(CompressionMethod::Stored),
        )?;
        archive.write_all(&content)?;
    }
    Ok(archive.finish()?.into_inner())
}

/// A NumPy array file, version 1.0; its header ends at a multiple of 64 bytes. No length is a scalar.
fn array(dtype: &str, length: Option<usize>, data: Vec<u8>) -> Vec<u8> {
    let shape = length.map_or("()".into(), |n| format!("({n},)"));
    let mut header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}");
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut array = b"\x93NUMPY\x01\x00".to_vec();
    array.extend((header.len() as u16).to_le_bytes());
    array.extend(header.as_bytes());
    array.extend(data);
    array
}
