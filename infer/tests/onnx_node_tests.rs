//! The onnx package's own tests of each operator, by the reference interpreter and by the engine on every tier.

use std::path::Path;
use std::process::Command;

use sr2_formats::dense;
use sr2_infer::{Isa, Model, Options};
use sr2_models::{onnx, reference};

/// NumPy's default tolerances in the onnx package's runner.
const RELATIVE: f32 = 1e-3;
const ABSOLUTE: f32 = 1e-7;

/// The onnx package has more of them; fewer would mean that the script no longer finds them.
const LEAST: usize = 70;

fn check(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = (found - expected).abs() <= ABSOLUTE + RELATIVE * expected.abs();
        assert!(close || (found.is_nan() && expected.is_nan()), "{what}: [{i}] is {found}, expected {expected}");
    }
}

fn python_has_onnx() -> bool {
    Command::new("python3").args(["-c", "import onnx, numpy"]).output().is_ok_and(|run| run.status.success())
}

#[test]
fn onnx_node_tests_pass() {
    if !python_has_onnx() {
        assert!(std::env::var_os("SR2_REQUIRE_PYTHON").is_none(), "python3 lacks a package of .ci/requirements.txt");
        eprintln!("SKIP: python3 with onnx and numpy is not here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx_node_tests.py");
    let run = Command::new("python3").arg(script).arg(folder.path()).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));

    let mut passed = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "onnx") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let model = onnx::import(&path).unwrap_or_else(|e| panic!("{e}"));
        let values = dense::read(path.with_extension("safetensors")).unwrap().tensors;
        let (input, expected) = (&values["input"], &values["output"]);
        let count = input.shape()[0];
        check(&format!("{name}, reference"), &reference::logits(&model, input.data(), count), expected.data());
        for isa in Isa::available() {
            for batch in [1, isa.lanes()] {
                let options = Options { batch, isa: Some(isa), ..Default::default() };
                let engine = Model::from(&model).plan(&options).unwrap_or_else(|e| panic!("{name}: {e}"));
                let mut found = vec![f32::NAN; expected.len()];
                engine.run(input.data(), &mut found, &mut engine.scratch().unwrap()).unwrap();
                check(&format!("{name}, {isa}, batch {batch}"), &found, expected.data());
            }
        }
        passed += 1;
    }
    assert!(passed >= LEAST, "{passed} tests, expected {LEAST} or more");
}
