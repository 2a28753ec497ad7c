//! Every committed input of the fuzz targets, past failures among them, without a fuzzer.

#[path = "../fuzz/oracles.rs"]
mod oracles;

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

#[test]
fn every_reader_refuses_or_keeps_what_the_fuzzer_found() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (target, oracle) in oracles::ORACLES {
        let mut inputs: Vec<_> = fs::read_dir(seeds.join(target)).unwrap().map(|e| e.unwrap().path()).collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{target} has no inputs");
        for input in &inputs {
            let bytes = fs::read(input).unwrap();
            assert!(catch_unwind(|| oracle(&bytes)).is_ok(), "{}", input.display());
        }
        eprintln!("{target}: {} inputs", inputs.len());
    }
}
