use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// The smallest file that passes for a shared library of this machine: an ELF header and one segment of 8 bytes.
fn elf() -> Vec<u8> {
    let mut bytes = vec![0u8; 64 + 56 + 8];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[16] = 3;
    bytes[18] = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    bytes[32] = 64;
    bytes[54] = 56;
    bytes[56] = 1;
    bytes[64 + 8] = 120;
    bytes[64 + 32] = 8;
    bytes
}

fn library(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let path = folder.join("libonnxruntime.so.1.20.3");
    fs::write(&path, elf()).unwrap();
    path
}

/// A stand-in interpreter that answers with the package folder given.
fn python(program: &Path, package: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::write(program, format!("#!/bin/sh\necho '{}'\n", package.display())).unwrap();
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    program.to_path_buf()
}

/// Every place holds a library; removing them one after the other shows the order.
#[test]
fn places_are_searched_in_the_documented_order() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let cache_library = library(&at("cache").join(format!("onnxruntime-{FETCHED_VERSION}")));
    let libraries = [
        (Place::Option, library(&at("option/onnxruntime/capi"))),
        (Place::Variable, library(&at("variable"))),
        (Place::Program, library(&at("program"))),
        (Place::Cache, cache_library),
        (Place::Environment, library(&at("env-package/capi"))),
        (Place::Python, library(&at("python-package/capi"))),
        (Place::System, library(&at("system"))),
    ];
    python(&at("env/bin/python"), &at("env-package"));
    let mut places = Places {
        option: Some(at("option")),
        variable: Some(libraries[1].1.clone()),
        program: Some(at("program")),
        cache: Some(at("cache")),
        environments: vec![at("no-env"), at("env")],
        python: Some(python(&at("bin/python3"), &at("python-package"))),
        system: vec![at("no-system"), at("system")],
    };
    for (place, path) in &libraries {
        let found = OnnxRuntime::find(&places).unwrap();
        assert_eq!((found.place(), found.path()), (*place, path.canonicalize().unwrap().as_path()));
        assert_eq!(found.version(), Some("1.20.3"));
        fs::remove_file(path).unwrap();
        match place {
            Place::Option => places.option = None,
            Place::Variable => places.variable = None,
            _ => {}
        }
    }
    assert_eq!(OnnxRuntime::find(&places), Err(OnnxRuntimeError::NotFound));
}

#[test]
fn a_place_the_user_named_is_not_passed_over() {
    let root = tempfile::tempdir().unwrap();
    library(root.path());
    let system = vec![root.path().to_path_buf()];
    let missing = Some(root.path().join("missing"));
    for places in [
        Places { option: missing.clone(), system: system.clone(), ..Places::default() },
        Places { variable: missing, system, ..Places::default() },
    ] {
        let error = OnnxRuntime::find(&places).unwrap_err();
        assert!(matches!(error, OnnxRuntimeError::NotHere { .. }), "{error}");
        assert!(error.to_string().contains("missing: no ONNX Runtime library here"), "{error}");
    }
}

#[test]
fn broken_libraries_are_named_with_what_is_wrong() {
    let patched = |at: usize, byte: u8| {
        let mut bytes = elf();
        bytes[at] = byte;
        bytes
    };
    let cases = [
        (Vec::new(), "not a 64-bit ELF file"),
        (b"GROUP ( libonnxruntime.so.1 )".repeat(9), "not a 64-bit ELF file"),
        (elf()[..127].to_vec(), "was cut: ELF segment 0 ends after its 127 bytes"),
        (elf()[..80].to_vec(), "was cut"),
        (patched(4, 1), "not a 64-bit ELF file"),
        (patched(16, 2), "ELF type is 2, expected 3"),
        (patched(18, 40), "ELF machine is 40"),
        (patched(39, 0xff), "was cut"),
        (patched(56, 0), "0 ELF segments"),
        (patched(64 + 15, 0xff), "was cut"),
    ];
    for (bytes, expected) in cases {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("libonnxruntime.so");
        fs::write(&path, bytes).unwrap();
        let places = Places { system: vec![root.path().to_path_buf()], ..Places::default() };
        let message = OnnxRuntime::find(&places).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("libonnxruntime.so: not a usable"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn only_the_library_itself_is_taken() {
    let root = tempfile::tempdir().unwrap();
    for name in ["libonnxruntime_providers_shared.so", "libonnxruntime.so.1.32.0.debug", "onnxruntime.py"] {
        fs::write(root.path().join(name), elf()).unwrap();
    }
    assert_eq!(library_in(root.path()), None);
    library(root.path());
    assert_eq!(library_in(root.path()).unwrap().file_name().unwrap(), "libonnxruntime.so.1.20.3");
}
