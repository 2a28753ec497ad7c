//! What a container decodes to is encoded and decoded again, bit for bit. Its checksum is made right first.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sr2_formats::csr_file::CsrFile;
use sr2_formats::srz::{self, Values};

fn bits(file: &CsrFile) -> Vec<u32> {
    let sparse = file.sparse.values().flat_map(|p| p.matrix().values());
    sparse.chain(file.dense.values().flat_map(|t| t.data())).map(|v| v.to_bits()).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= 32 {
        let length = bytes.len() as u64;
        bytes[8..16].copy_from_slice(&length.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[20..]);
        bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
    }
    let path = Path::new("m.srz");
    if let Ok(file) = srz::decode(path, &bytes) {
        let again = srz::decode(path, &srz::encode(path, &file, Values::F32).unwrap()).unwrap();
        assert_eq!(file, again);
        assert_eq!(bits(&file), bits(&again));
    }
});
