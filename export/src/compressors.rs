//! What any user would try first: general compressors, to compare with.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Bytes that `zstd -19` takes.
pub(crate) fn zstd(bytes: &[u8]) -> u64 {
    zstd::bulk::compress(bytes, 19).expect("memory takes every byte").len() as u64
}

/// Bytes that `gzip -9` takes.
pub(crate) fn gzip(bytes: &[u8]) -> u64 {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.expect("memory takes every byte").len() as u64
}
