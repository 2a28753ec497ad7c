//! What a CSR safetensors file holds is written and read again.
#![no_main]

mod in_file;

use libfuzzer_sys::fuzz_target;
use sr2_formats::csr_file;

fuzz_target!(|bytes: &[u8]| {
    in_file::in_file("m.csr.safetensors", bytes, |path| {
        if let Ok(file) = csr_file::read(path) {
            csr_file::write(path, &file).unwrap();
            let again = csr_file::read(path).unwrap();
            assert_eq!((file.sparse, file.dense), (again.sparse, again.dense));
        }
    });
});
