//! Libraries that load but are not ONNX Runtime; alone in this process, which may load only one.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};

use sr2_bench::{OnnxRuntime, OnnxSession, Places};

/// The C library of this process: a good shared library, only another one.
fn foreign_library() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.split_whitespace().find(|word| word.starts_with('/') && word.contains("/libc"));
    PathBuf::from(path.expect("a C library is mapped"))
}

#[test]
fn a_foreign_library_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(foreign_library(), folder.path().join("libonnxruntime.so")).unwrap();
    let places = Places { option: Some(folder.path().to_path_buf()), ..Places::default() };
    let foreign = OnnxRuntime::find(&places).unwrap();
    let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.onnx"));
    let error = OnnxSession::open(&foreign, model, 1, 1).unwrap_err().to_string();
    assert!(error.contains("libonnxruntime.so: not a usable ONNX Runtime library"), "{error}");
    assert!(error.contains("OrtGetApiBase"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}
