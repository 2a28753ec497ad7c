//! `verify`: files of one network agree, those of different ones do not.

use std::path::Path;
use std::process::Command;

use sr2_models::checkpoint::{self, Checkpoint};

use crate::program::{json, refuse, sr2};
use crate::sample::{DATA, pruned, short_run};

fn verify(expected: &Path, found: &Path, more: &[&str]) -> Command {
    let mut command = sr2(Path::new("."), &["verify"]);
    command.arg(expected).arg(found).args(more);
    command
}

#[test]
fn the_files_of_an_export_agree_with_the_checkpoint() {
    let run = pruned();
    let export = run.exported();
    for file in ["model.csr.safetensors", "model.onnx", "model.safetensors"] {
        let random = verify(&run.checkpoint(), &export.join(file), &["--format", "json"]);
        let report = json(random);
        assert_eq!((&report["agree"], &report["images"]), (&true.into(), &64.into()), "{file}: {report}");
        assert_eq!(report["outputs"].as_array().map(Vec::len), Some(10), "{file}");
        let images = ["--data", DATA, "--limit", "20", "--format", "json"];
        let report = json(verify(&run.checkpoint(), &export.join(file), &images));
        assert_eq!((&report["images"], &report["same_class"]), (&20.into(), &1.0.into()), "{file}: {report}");
    }
}

/// What a file holds counts, not its name: here neither its ending nor its encoding says it.
#[cfg(target_os = "linux")]
#[test]
fn a_csr_file_of_any_name_is_one() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let run = pruned();
    let folder = tempfile::tempdir().unwrap();
    for name in [&b"weights.safetensors"[..], b"weights\xff.csr.safetensors"] {
        let file = folder.path().join(OsStr::from_bytes(name));
        std::fs::copy(run.exported().join("model.csr.safetensors"), &file).unwrap();
        let report = json(verify(&run.checkpoint(), &file, &["--random", "4", "--format", "json"]));
        assert_eq!(report["agree"], true, "{file:?}: {report}");
    }
}

/// From each format to each other, each form of ONNX among them: the outputs are the checkpoint's.
#[test]
fn every_conversion_of_a_trained_network_agrees_with_the_checkpoint() {
    let run = pruned();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let convert = |from: &Path, to: &Path, form: &str| {
        let mut command = sr2(Path::new("."), &["convert", "--format", "json"]);
        command.arg(from).arg(to);
        if to.extension().is_some_and(|extension| extension == "onnx") {
            command.args(["--onnx", form]);
        }
        json(command)
    };
    let endings = ["safetensors", "csr.safetensors", "srz", "onnx"];
    for (from, ending) in endings.iter().enumerate() {
        let source = path(&format!("source.{ending}"));
        convert(&run.exported().join("model.srz"), &source, ["gap", "scatter", "dense", "sparse-const"][from]);
        for to in endings {
            let forms: &[_] = match to {
                "onnx" => &["dense", "scatter", "gap", "sparse-init", "sparse-const"],
                _ => &["dense"],
            };
            for form in forms {
                let found = path(&format!("found.{to}"));
                convert(&source, &found, form);
                let report = json(verify(&run.checkpoint(), &found, &["--random", "4", "--format", "json"]));
                assert_eq!(
                    (&report["agree"], &report["same_class"]),
                    (&true.into(), &1.0.into()),
                    "{ending} to {to} {form}"
                );
            }
        }
    }
}

#[test]
fn one_changed_weight_is_seen() {
    let run = short_run();
    let folder = tempfile::tempdir().unwrap();
    let original = checkpoint::list(run).unwrap().pop().unwrap().1;
    let changed = folder.path().join("changed.safetensors");
    let Checkpoint { model, provenance, state, metadata } = checkpoint::read(&original).unwrap();
    let (graph, mut parameters) = model.into_parts();
    parameters.get_mut("fc.bias").unwrap().data_mut()[3] += 0.05;
    let model = sr2_models::Model::try_new(graph, parameters).unwrap();
    checkpoint::write(&changed, &Checkpoint { model, provenance, state, metadata }).unwrap();
    refuse(verify(&original, &changed, &[]), 1, &["changed.safetensors differs from", "allowed is 1.0e-4"]);
    json(verify(&original, &changed, &["--tolerance", "1", "--format", "json"]));
}

#[test]
fn what_cannot_be_compared() {
    let run = short_run();
    let (onnx, csr) = (run.join("export/model.onnx"), run.join("export/model.csr.safetensors"));
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("infer/bench/tests/data/tiny.onnx");
    refuse(verify(&onnx, &tiny, &[]), 2, &["tiny.onnx: maps images", "cannot be compared"]);
    refuse(verify(&csr, &csr, &["--with", "ort"]), 2, &["ONNX Runtime runs .onnx files"]);
    refuse(verify(&csr, &csr, &["--tolerance=-1"]), 2, &["tolerance is -1"]);
    refuse(verify(&csr, Path::new("absent.onnx"), &[]), 4, &["absent.onnx", "No such file"]);
    let both = verify(&csr, &csr, &["--random", "3", "--data", DATA]).output().unwrap();
    assert_eq!(both.status.code(), Some(2));
}
