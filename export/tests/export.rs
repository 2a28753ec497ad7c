//! Exports of a sparse network: what is written, what other tools read in it, and what is refused.

mod networks;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sr2_export::{ExportError, ExportOptions, ExportReport, LOGITS_TOLERANCE, OnnxForm, Passes, export};
use sr2_formats::srz::{self, Values};
use sr2_formats::{ErrorKind, TensorMap, csr_file, dense};
use sr2_models::checkpoint::{self, Checkpoint, Provenance};
use sr2_models::passes::fold_batch_norm;
use sr2_models::{Model, reference};
use tempfile::TempDir;

use networks::{SEED, every_operator, sparse_model};

fn write_checkpoint(path: &Path, model: &Model) {
    let provenance = Provenance {
        dataset: Some("cifar10".into()),
        class_names: (0..10).map(|i| format!("class {i}")).collect(),
        mean: vec![0.5, 0.4, 0.3],
        std: vec![0.25, 0.2, 0.3],
        training: [("val_accuracy".to_string(), 0.5.into()), ("method".to_string(), "sr2".into())].into(),
    };
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let state: TensorMap = [("optimizer.momentum".to_string(), sr2_formats::Tensor::full([3], 1.0))].into();
    checkpoint::write(path, &Checkpoint { model: model.clone(), provenance, state, metadata: Default::default() })
        .unwrap();
}

/// A folder of runs with one run of one checkpoint.
fn runs(model: &Model) -> (TempDir, ExportOptions, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs/demo/checkpoint-12.safetensors");
    write_checkpoint(&path, model);
    let options = ExportOptions { runs: folder.path().join("runs"), ..Default::default() };
    (folder, options, path)
}

fn assert_written(report: &ExportReport, folder: &Path) {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        ["README.md", "config.json", "model.csr.safetensors", "model.onnx", "model.safetensors", "model.srz"]
    );
    for file in &report.files {
        assert_eq!(file.bytes, fs::metadata(folder.join(&file.name)).unwrap().len());
        assert!(file.max_difference <= LOGITS_TOLERANCE, "{}: {}", file.name, file.max_difference);
    }
}

#[test]
fn writes_the_newest_run_with_its_zeros() {
    let model = sparse_model("resnet8");
    let (_folder, options, checkpoint) = runs(&model);
    write_checkpoint(&checkpoint.with_file_name("checkpoint-9.safetensors"), &sparse_model("resnet20"));
    let report = export(&options).unwrap();
    let out = checkpoint.with_file_name("export");
    assert_eq!((&report.checkpoint, &report.folder), (&checkpoint, &out));
    assert_written(&report, &out);

    let dense = dense::read(out.join("model.safetensors")).unwrap();
    assert_eq!(&dense.tensors, model.parameters());
    assert_eq!(dense.metadata["format"], "pt");

    let csr = csr_file::read(out.join("model.csr.safetensors")).unwrap();
    let folded = fold_batch_norm(&model);
    assert_eq!(csr.sparse.len() + csr.dense.len(), folded.parameters().len());
    for (name, parameter) in &csr.sparse {
        assert_eq!(&parameter.to_dense(), folded.parameter(name), "{name}");
        assert_eq!(parameter.matrix().nnz(), model.parameter(name).nnz(), "{name}");
    }
    assert!(csr.dense.keys().all(|name| name.ends_with(".bias")), "{:?}", csr.dense.keys());

    let srz = srz::read(out.join("model.srz")).unwrap();
    assert!(srz.sparse == csr.sparse && srz.dense == csr.dense);

    let config: serde_json::Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architecture"], "resnet8");
    assert_eq!(config["class_names"][3], "class 3");
    assert_eq!(config["training"]["method"], "sr2");
    assert_eq!(config["sparsity"]["overall"], report.sparsity.overall);
    assert_eq!(report.sparsity.overall, model.sparsity());
    let text = report.to_string();
    assert!(text.contains("model.csr.safetensors") && text.contains("resnet8"), "{text}");
}

/// Every form beside the dense file of its kind under general compressors.
#[test]
fn one_table_compares_every_form_with_general_compressors() {
    let model = sparse_model("resnet8");
    let (_folder, options, checkpoint) = runs(&model);
    let report = export(&ExportOptions { onnx: OnnxForm::ALL.to_vec(), ..options }).unwrap();
    let out = checkpoint.with_file_name("export");
    let text = report.to_string();
    for (kind, dense) in report.compressed.iter().zip(["model.safetensors", "model.onnx"]) {
        let bytes = fs::read(out.join(dense)).unwrap();
        let zstd = zstd::bulk::compress(&bytes, 19).unwrap().len() as u64;
        assert_eq!(kind.zstd, zstd, "{dense}");
        assert!(zstd < kind.gzip && 4 * kind.gzip < bytes.len() as u64, "{kind:?}");
        assert!(text.contains(&format!("| (dense .{} by zstd -19) ", kind.kind)), "{text}");
        for file in report.files.iter().filter(|file| file.name.ends_with(".onnx") == (kind.kind == "onnx")) {
            let row = text.lines().find(|line| line.starts_with(&format!("| {} ", file.name))).unwrap();
            let ratios = [kind.gzip, zstd].map(|of| format!("{:.2}x", of as f64 / file.bytes as f64));
            assert_eq!(row.split('|').skip(4).take(2).map(str::trim).collect::<Vec<_>>(), ratios, "{row}");
        }
    }
    assert_eq!(report.files.len(), 3 + OnnxForm::ALL.len());
}

/// Rounded values keep the zeros and change the outputs; only `model.srz` has them.
#[test]
fn rounds_the_values_of_the_small_container_on_request() {
    let model = sparse_model("resnet8");
    let (_folder, options, checkpoint) = runs(&model);
    let exact = export(&options).unwrap();
    let rounded = export(&ExportOptions { values: Values::Int(8), ..options }).unwrap();
    let out = checkpoint.with_file_name("export");
    let folded = fold_batch_norm(&model);
    for (name, parameter) in srz::read(out.join("model.srz")).unwrap().sparse {
        assert_eq!(parameter.matrix().nnz(), folded.parameter(&name).nnz(), "{name}");
    }
    let of = |report: &ExportReport, name: &str| report.files.iter().find(|f| f.name == name).unwrap().clone();
    assert_eq!(of(&exact, "model.srz").max_difference, of(&exact, "model.csr.safetensors").max_difference);
    assert!((1e-4..0.1).contains(&of(&rounded, "model.srz").max_difference), "{rounded}");
    assert!(of(&rounded, "model.srz").bytes * 2 < of(&exact, "model.srz").bytes, "{rounded}");
    assert!(fs::read_to_string(out.join("README.md")).unwrap().contains("`model.srz`, whose values are int8"));
}

#[test]
fn writes_every_operator() {
    let (_folder, options, checkpoint) = runs(&every_operator());
    let report = export(&options).unwrap();
    assert_written(&report, &checkpoint.with_file_name("export"));
}

#[test]
fn dead_channels_go_from_the_files_that_engines_run() {
    let (graph, mut parameters) = sparse_model("resnet8").into_parts();
    let weight = parameters.get_mut("layer2.0.conv1.weight").unwrap();
    let half = weight.len() / 2;
    weight.data_mut()[..half].fill(0.0);
    let model = Model::try_new(graph, parameters).unwrap();
    let (_folder, options, checkpoint) = runs(&model);
    let passes = Passes { remove_dead_channels: true, ..Default::default() };
    let report = export(&ExportOptions { passes, ..options }).unwrap();
    let out = checkpoint.with_file_name("export");
    assert_written(&report, &out);

    let last = report.passes.last().unwrap();
    assert_eq!(last.pass, "remove dead channels");
    assert!(last.after.macs < last.before.macs && last.after.parameters < last.before.parameters, "{last:?}");
    assert!(report.to_string().contains("remove dead channels: "), "{report}");
    // One constant channel stays for the borders of the padded convolution that reads the others.
    let filters = [model.parameter("layer2.0.conv1.weight").shape()[0] / 2 + 1, 24, 3, 3];
    let onnx = sr2_models::onnx::import(out.join("model.onnx")).unwrap();
    assert_eq!(onnx.parameter("layer2.0.conv1.weight").shape(), filters);
    assert_eq!(sr2_models::csr::read(out.join("model.csr.safetensors")).unwrap().parameters(), onnx.parameters());
    assert_eq!(&dense::read(out.join("model.safetensors")).unwrap().tensors, model.parameters());
}

#[test]
fn batch_norms_stay_where_asked() {
    let model = sparse_model("resnet8");
    let (_folder, options, checkpoint) = runs(&model);
    let passes = Passes { fold_batch_norm: false, remove_dead_channels: false };
    export(&ExportOptions { passes, ..options }).unwrap();
    let out = checkpoint.with_file_name("export");
    let onnx = sr2_models::onnx::import(out.join("model.onnx")).unwrap();
    assert_eq!(onnx.parameters(), model.parameters());
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.contains("opencv, onnx; batch norm as trained, opset 17"), "{card}");
}

#[test]
fn replaces_an_older_export_only_when_it_succeeds() {
    let (_folder, options, checkpoint) = runs(&sparse_model("resnet8"));
    let out = checkpoint.with_file_name("export");
    export(&options).unwrap();
    fs::write(out.join("README.md"), "older").unwrap();

    let bytes = fs::read(&checkpoint).unwrap();
    fs::write(&checkpoint, &bytes[..bytes.len() / 2]).unwrap();
    let error = export(&options).unwrap_err();
    assert!(matches!(&error, ExportError::File(e) if e.kind() == ErrorKind::Malformed), "{error}");
    assert!(error.to_string().starts_with(checkpoint.to_str().unwrap()), "{error}");
    assert_eq!(fs::read_to_string(out.join("README.md")).unwrap(), "older");

    fs::write(&checkpoint, &bytes).unwrap();
    assert_written(&export(&options).unwrap(), &out);
    assert!(fs::read_to_string(out.join("README.md")).unwrap().starts_with("---\n"));
    let left: Vec<_> = fs::read_dir(out.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    let options = ExportOptions { runs: runs.clone(), ..Default::default() };
    let nothing = export(&options).unwrap_err();
    assert!(matches!(nothing, ExportError::NoCheckpoint { .. }), "{nothing}");
    fs::create_dir_all(runs.join("empty")).unwrap();
    assert!(matches!(export(&options).unwrap_err(), ExportError::NoCheckpoint { .. }));
    let run = ExportOptions { source: Some(runs.join("empty")), ..options.clone() };
    assert!(matches!(export(&run).unwrap_err(), ExportError::NoCheckpoint { .. }));
    let absent = ExportOptions { source: Some(runs.join("absent")), ..options };
    assert!(matches!(export(&absent).unwrap_err(), ExportError::File(e) if e.kind() == ErrorKind::Io));
}

#[test]
fn a_diverged_network_is_refused() {
    let variance = "expected a variance: finite, 0 or more";
    let bad = [
        ("fc.weight", f32::NAN, "expected finite"),
        ("layer1.0.bn1.bias", f32::NAN, "expected finite"),
        ("layer3.0.bn2.running_var", -1e30, variance),
        ("bn1.running_var", f32::INFINITY, variance),
    ];
    for (name, value, expected) in bad {
        let (graph, mut parameters) = sparse_model("resnet8").into_parts();
        parameters.get_mut(name).unwrap().data_mut()[1] = value;
        let (_folder, options, checkpoint) = runs(&Model::try_new(graph, parameters).unwrap());
        let error = export(&options).unwrap_err();
        assert!(matches!(&error, ExportError::File(e) if e.path() == checkpoint), "{error}");
        assert!(error.to_string().contains(&format!("tensor {name:?} [1] is {value:?}, {expected}")), "{error}");
        assert!(!checkpoint.with_file_name("export").exists());
    }
}

/// `load_exports.py` reads the export with safetensors, SciPy, onnx and ONNX Runtime, and with PyTorch if it is there.
#[test]
fn other_tools_load_it() {
    if !python_has_packages() {
        assert!(std::env::var_os("SR2_REQUIRE_PYTHON").is_none(), "python3 lacks a package of .ci/requirements.txt");
        eprintln!("SKIP: python3 with the packages of .ci/requirements.txt is not here");
        return;
    }
    for model in [sparse_model("resnet8"), every_operator()] {
        let (_folder, options, checkpoint) = runs(&model);
        export(&options).unwrap();
        let out = checkpoint.with_file_name("export");
        let name = model.graph().name();
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let shape = [&[3], model.graph().input_shape()].concat();
        let images: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-2.0..2.0)).collect();
        let logits = reference::logits(&model, &images, shape[0]);
        let tolerance = LOGITS_TOLERANCE;
        let expected =
            serde_json::json!({ "images": images, "shape": shape, "logits": logits, "tolerance": tolerance });
        let json = checkpoint.with_file_name("expected.json");
        fs::write(&json, expected.to_string()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/load_exports.py");
        let run = Command::new("python3").arg(script).arg(&out).arg(&json).output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success(), "{name}: {stdout}{stderr}");
        eprint!("{name}: {stdout}");
    }
}

fn python_has_packages() -> bool {
    let import = "import numpy, onnx, onnxruntime, safetensors, scipy";
    Command::new("python3").args(["-c", import]).output().is_ok_and(|run| run.status.success())
}
