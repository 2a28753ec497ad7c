//! ONNX Runtime itself on a tiny network (`data/generate.py`). Skipped, and said so, where no library is installed.

use std::path::Path;

use sr2_bench::{BenchError, OnnxRuntime, OnnxSession, Places, Runner};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

/// Two summation orders of a few hundred products of size 1.
const TOLERANCE: f32 = 1e-5;

fn runtime() -> Option<OnnxRuntime> {
    let cache = std::env::var_os("SR2_CACHE").map(Into::into);
    match OnnxRuntime::find(&Places::of_process(None, cache)) {
        Ok(runtime) => Some(runtime),
        Err(error) => {
            eprintln!("SKIP: {error}");
            None
        }
    }
}

fn numbers(key: &str) -> Vec<f32> {
    let text = std::fs::read_to_string(format!("{DATA}/tiny.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

#[test]
fn logits_equal_the_reference_evaluator() {
    let Some(runtime) = runtime() else { return };
    let model = Path::new(DATA).join("tiny.onnx");
    let mut session = OnnxSession::open(&runtime, &model, 2, 1).unwrap();
    assert_eq!((session.input_shape(), session.outputs()), ([3, 8, 8], 4));
    let mut logits = vec![7.0; 8];
    session.run(&numbers("images"), &mut logits).unwrap();
    let expected = numbers("logits");
    for (found, expected) in logits.iter().zip(&expected) {
        assert!((found - expected).abs() <= TOLERANCE, "{found} {expected}");
    }
}

#[test]
fn files_that_are_no_network_are_errors() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cut = folder.path().join("cut.onnx");
    std::fs::write(&cut, &std::fs::read(format!("{DATA}/tiny.onnx")).unwrap()[..500]).unwrap();
    let error = OnnxSession::open(&runtime, &cut, 1, 1).unwrap_err().to_string();
    assert!(error.starts_with("ort: ") && error.contains("cut.onnx: ") && error.lines().count() == 1, "{error}");
    let missing = OnnxSession::open(&runtime, &folder.path().join("missing.onnx"), 1, 1).unwrap_err();
    assert!(matches!(missing, BenchError::Model(_)), "{missing}");
}

#[test]
#[ignore = "downloads a wheel of 20 MB"]
fn fetching_brings_a_library_that_runs() {
    let cache = tempfile::tempdir().unwrap();
    let fetched = sr2_bench::fetch_onnx_runtime(cache.path()).unwrap();
    assert_eq!(fetched.version(), Some(sr2_bench::FETCHED_VERSION));
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 1);
    let model = Path::new(DATA).join("tiny.onnx");
    OnnxSession::open(&fetched, &model, 1, 1).unwrap();
}
