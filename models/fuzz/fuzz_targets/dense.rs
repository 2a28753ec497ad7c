//! What a dense safetensors file holds is written and read again, NaN included.
#![no_main]

mod in_file;

use libfuzzer_sys::fuzz_target;
use sr2_formats::{TensorMap, dense};

fn bits(tensors: &TensorMap) -> Vec<(&str, &[usize], Vec<u32>)> {
    let bits = |data: &[f32]| data.iter().map(|v| v.to_bits()).collect();
    tensors.iter().map(|(name, t)| (name.as_str(), t.shape(), bits(t.data()))).collect()
}

fuzz_target!(|bytes: &[u8]| {
    in_file::in_file("m.safetensors", bytes, |path| {
        if let Ok(file) = dense::read(path) {
            dense::write(path, &file.tensors, &file.metadata).unwrap();
            assert_eq!(bits(&file.tensors), bits(&dense::read(path).unwrap().tensors));
        }
    });
});
