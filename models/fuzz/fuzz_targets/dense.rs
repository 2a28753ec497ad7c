#![no_main]

#[path = "../oracles.rs"]
#[allow(dead_code, reason = "a target uses one of them")]
mod oracles;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oracles::dense(bytes));
