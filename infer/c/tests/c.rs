//! The header is that of the source, and a C program that uses it computes what Rust does.

use std::path::{Path, PathBuf};
use std::process::Command;

use sr2_infer::{Model, Options};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// To renew the header: `SR2_WRITE_HEADER=1 cargo test -p sr2-infer-c`.
#[test]
fn the_header_is_up_to_date() {
    let config = cbindgen::Config::from_file(here("cbindgen.toml")).unwrap();
    let source = here("src/lib.rs");
    let bindings = cbindgen::Builder::new().with_config(config).with_src(source).generate().unwrap();
    let mut made = Vec::new();
    bindings.write(&mut made);
    let (made, header) = (String::from_utf8(made).unwrap(), here("include/sr2_infer.h"));
    if std::env::var_os("SR2_WRITE_HEADER").is_some() {
        std::fs::write(&header, &made).unwrap();
    }
    assert_eq!(std::fs::read_to_string(header).unwrap(), made, "see this test for how to renew it");
}

#[test]
fn a_c_program_classifies() {
    if Command::new("cc").arg("--version").output().is_err() {
        eprintln!("SKIP: there is no C compiler");
        return;
    }
    let libraries = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("classify");
    let built = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(here("include"))
        .arg(here("examples/classify.c"))
        .arg("-L")
        .arg(&libraries)
        .arg("-lsr2_infer_c")
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));

    let run = |model: &Path| {
        let run = Command::new(&program).arg(model).env("LD_LIBRARY_PATH", &libraries).output().unwrap();
        (run.status.code(), String::from_utf8(run.stdout).unwrap() + &String::from_utf8(run.stderr).unwrap())
    };
    let model = here("../bench/tests/data/tiny.onnx");
    let engine = Model::load(&model).unwrap().plan(&Options::default()).unwrap();
    let [c, h, w] = engine.input_shape().try_into().unwrap();
    let mut logits = vec![0.0; engine.output_shape().iter().product()];
    engine.run(&vec![0.0; c * h * w], &mut logits, &mut engine.scratch().unwrap()).unwrap();
    let best = (1..logits.len()).fold(0, |best, k| if logits[k] > logits[best] { k } else { best });
    let expected = format!("image {c}x{h}x{w}, class {best} of {}, logit {:.6}\n", logits.len(), logits[best]);
    assert_eq!(run(&model), (Some(0), expected));

    let (code, message) = run(Path::new("/no/such/model.onnx"));
    assert_eq!(code, Some(1));
    assert!(message.starts_with("/no/such/model.onnx: ") && message.lines().count() == 1, "{message}");
}
