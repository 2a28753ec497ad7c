//! The official binary files: records of one label byte (two for CIFAR-100: coarse, fine) and 3x32x32 pixel bytes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sr2_formats::{Error, Result};

use super::pixels::IMAGE_BYTES;
use super::{Dataset, DatasetKind};

/// Coarse classes of CIFAR-100; their labels are checked, not kept.
const COARSE_CLASSES: u8 = 20;

/// Reads `files` one after another. Each may hold fewer than `records_per_file` records, never more.
pub(super) fn read(files: &[PathBuf], kind: DatasetKind, records_per_file: usize) -> Result<Dataset> {
    let mut images = Vec::new();
    let mut labels = Vec::new();
    for path in files {
        read_file(path, kind, records_per_file, &mut images, &mut labels)?;
    }
    Ok(Dataset::new(kind, images, labels))
}

fn read_file(
    path: &Path,
    kind: DatasetKind,
    records_per_file: usize,
    images: &mut Vec<u8>,
    labels: &mut Vec<u8>,
) -> Result<()> {
    let record_bytes = kind.label_bytes() + IMAGE_BYTES;
    let most = (record_bytes * records_per_file) as u64;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| Error::io(path, "open", error))?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| Error::io(path, "read", error))?;
    check_length(path, kind, bytes.len(), record_bytes, records_per_file)?;

    for (index, record) in bytes.chunks_exact(record_bytes).enumerate() {
        let (label, pixels) = record.split_at(kind.label_bytes());
        check_label(path, kind, label, index, index * record_bytes)?;
        labels.push(label[kind.label_bytes() - 1]);
        images.extend_from_slice(pixels);
    }
    Ok(())
}

fn check_length(path: &Path, kind: DatasetKind, length: usize, record_bytes: usize, records: usize) -> Result<()> {
    if length == 0 {
        return Err(Error::malformed(path, format!("empty, expected {record_bytes} bytes for each image")));
    }
    if length > record_bytes * records {
        let expected = format!("expected at most {records} records of {record_bytes} bytes");
        return Err(Error::malformed(path, format!("longer than a {} file: {expected}", kind.title())));
    }
    if length.is_multiple_of(record_bytes) {
        return Ok(());
    }
    let other = kind.other();
    if length.is_multiple_of(other.label_bytes() + IMAGE_BYTES) {
        let message = format!("holds {} records, but {} was asked for", other.title(), kind.title());
        return Err(Error::malformed(path, message));
    }
    let (whole, rest) = (length / record_bytes, length % record_bytes);
    let message = format!(
        "{length} bytes are {whole} {} records of {record_bytes} bytes and {rest} bytes more: cut, or not {}",
        kind.title(),
        kind.title()
    );
    Err(Error::malformed(path, message))
}

fn check_label(path: &Path, kind: DatasetKind, label: &[u8], record: usize, byte: usize) -> Result<()> {
    let (name, found, classes) = match *label {
        [coarse, _] if coarse >= COARSE_CLASSES => ("coarse label", coarse, COARSE_CLASSES.into()),
        [.., class] if usize::from(class) >= kind.classes() => ("label", class, kind.classes()),
        _ => return Ok(()),
    };
    let message = format!("record {record} (byte {byte}): {name} {found}, expected 0 to {}", classes - 1);
    Err(Error::malformed(path, message))
}
