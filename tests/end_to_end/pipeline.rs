//! Train, export, infer and bench on the bundled sample, and what must hold across them: zeros are the same
//! everywhere, all ways to compute the network agree, and the same settings give the same bits.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use sr2_bench::{OnnxRuntime, OnnxSession, Places, Runner};
use sr2_formats::csr_file;
use sr2_infer::{Isa, Options, WeightPolicy};
use sr2_models::{Model, checkpoint, csr, onnx, reference};
use sr2_train::candle_executor::{CandleExecutor, DeviceKind};
use sr2_train::data::EvaluationBatches;
use sr2_train::executor::Executor;
use sr2_train::layout::{ParameterLayout, flatten};
use sr2_train::tape::TapeExecutor;

use crate::program::{json, refuse, sr2, succeed};
use crate::sample::{DATA, Pruned, few_images, final_checkpoint, pruned, short_run, short_training, test_images};

/// Largest difference of a logit from the reference interpreter's, relative to the range of its logits: f32 sums in
/// any order stay below, one wrong weight does not.
const LOGITS_TOLERANCE: f32 = 1e-4;
/// Images on which logits are compared; the reference interpreter takes its time.
const IMAGES: usize = 24;
/// Logits that are equal up to rounding may rank differently in two engines; more than one such image is a fault.
const ACCURACY_TOLERANCE: f64 = 1.0 / 500.0;

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Asserts that two fractions of the 500 test images differ by one image at most.
#[track_caller]
fn assert_same_accuracy(found: f64, expected: f64) {
    assert!((found - expected).abs() <= ACCURACY_TOLERANCE + 1e-9, "accuracy {found}, expected {expected}");
}

/// Whether a library of ONNX Runtime is there; it must be where the tests' packages are installed.
fn onnx_runtime() -> Option<OnnxRuntime> {
    match OnnxRuntime::find(&Places::of_process(None, None)) {
        Ok(runtime) => Some(runtime),
        Err(error) => {
            assert!(std::env::var_os("SR2_REQUIRE_PYTHON").is_none(), "{error}");
            eprintln!("SKIP: {error}");
            None
        }
    }
}

#[test]
fn the_trained_network_is_sparse_and_has_learnt() {
    let Pruned { train, .. } = pruned();
    assert!((0.5..0.999).contains(&number(&train["sparsity"])), "{train}");
    assert!(number(&train["test_accuracy"]) > 0.15, "chance is 0.1: {train}");
}

#[test]
fn the_stages_report_the_same_network() {
    let run = pruned();
    let export = run.exported();
    let arguments = ["bench", "--engines", "dense,ort,sparse", "--seconds", "0.2", "--batch", "4"];
    let mut bench = sr2(&run.folder, &arguments);
    bench.args(["--data", DATA, "--format", "json"]);
    let bench = json(bench);
    let infer = json(sr2(&run.folder, &["infer", "--data", DATA, "--format", "json"]));

    let predictions = infer["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 500);
    let right = predictions.iter().filter(|p| p["label"] == p["class"]).count();
    let accuracy = right as f64 / 500.0;
    assert_eq!(number(&infer["accuracy"]), accuracy);
    assert_same_accuracy(accuracy, number(&run.train["test_accuracy"]));

    assert_eq!(bench["schema"], 1);
    assert_eq!(infer["network"], "resnet8");
    assert_eq!(bench["network"]["name"], "resnet8");
    let sparsity = &run.train["sparsity"];
    assert_eq!(&run.export["sparsity"]["overall"], sparsity);
    assert_eq!(&bench["network"]["sparsity"], sparsity);
    let config: Value = serde_json::from_slice(&fs::read(export.join("config.json")).unwrap()).unwrap();
    assert_eq!(&config["sparsity"]["overall"], sparsity);

    let results = bench["results"].as_array().unwrap();
    let engines: Vec<_> = results.iter().map(|r| r["engine"].as_str().unwrap()).collect();
    match onnx_runtime() {
        Some(_) => assert_eq!(engines, ["dense", "ort", "sparse"]),
        None => assert_eq!(engines, ["dense", "sparse"]),
    }
    for result in results {
        let [p50, p90, p99] = ["p50_ms", "p90_ms", "p99_ms"].map(|p| number(&result[p]));
        assert!(0.0 < p50 && p50 <= p90 && p90 <= p99, "{result}");
        let images_per_s = number(&result["images_per_s"]);
        assert!((images_per_s * p50 / 4e3 - 1.0).abs() < 1e-9, "{result}");
        assert_same_accuracy(number(&result["accuracy"]), accuracy);
    }
}

/// The places of the zeros in each prunable weight.
fn zeros(model: &Model) -> BTreeMap<String, Vec<bool>> {
    let prunable = model.graph().parameters().iter().filter(|p| p.role.is_prunable());
    let pattern = |name: &str| model.parameter(name).data().iter().map(|w| *w == 0.0).collect();
    prunable.map(|p| (p.name.clone(), pattern(&p.name))).collect()
}

#[test]
fn zeros_are_one_pattern() {
    let run = pruned();
    let export = run.exported();
    let model = checkpoint::read(run.checkpoint()).unwrap().model;
    let expected = zeros(&model);
    let (csr_path, onnx_path) = (export.join("model.csr.safetensors"), export.join("model.onnx"));
    let srz_path = export.join("model.srz");
    assert_eq!(zeros(&checkpoint::read(export.join("model.safetensors")).unwrap().model), expected);
    assert_eq!(zeros(&csr::read(&csr_path).unwrap()), expected);
    assert_eq!(zeros(&csr::read(&srz_path).unwrap()), expected);
    assert_eq!(zeros(&onnx::import(&onnx_path).unwrap()), expected);
    for (name, parameter) in csr_file::read(&csr_path).unwrap().sparse {
        assert!(parameter.matrix().values().iter().all(|v| *v != 0.0), "{name} stores a zero");
    }

    let prunable = model.graph().parameters().iter().filter(|p| p.role.is_prunable());
    let layers: Vec<_> = prunable.map(|p| (model.parameter(&p.name).len(), model.parameter(&p.name).nnz())).collect();
    for path in [&csr_path, &srz_path, &onnx_path] {
        for weights in [WeightPolicy::Auto, WeightPolicy::Sparse, WeightPolicy::Dense] {
            let engine =
                sr2_infer::Model::load(path).unwrap().plan(&Options { weights, ..Options::default() }).unwrap();
            let planned = engine.plan().iter().filter(|layer| layer.weights > 0).map(|l| (l.weights, l.nnz));
            assert_eq!(planned.collect::<Vec<_>>(), layers, "{weights:?} from {}", path.display());
        }
    }
    let counts = |layer: &Value| (number(&layer["weights"]) as usize, number(&layer["nonzero"]) as usize);
    assert_eq!(run.train["layers"].as_array().unwrap().iter().map(counts).collect::<Vec<_>>(), layers);
}

#[test]
fn every_way_to_compute_the_network_agrees() {
    let run = pruned();
    let model = checkpoint::read(run.checkpoint()).unwrap().model;
    let dataset = test_images().select(&(0..IMAGES).collect::<Vec<_>>());
    let images = EvaluationBatches::new(&dataset, IMAGES).next().unwrap().images;
    let expected = reference::logits(&model, &images, IMAGES);
    let (low, high) = expected.iter().fold((0f32, 0f32), |(low, high), v| (low.min(*v), high.max(*v)));
    let assert_near = |what: &str, found: &[f32]| {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (index, (a, b)) in found.iter().zip(&expected).enumerate() {
            let allowed = LOGITS_TOLERANCE * (high - low);
            assert!((a - b).abs() <= allowed, "{what}: logit {} of image {}: {a}, not {b}", index % 10, index / 10);
        }
    };

    let layout = ParameterLayout::new(model.graph());
    let parameters = flatten(layout.trainable(), model.parameters());
    let buffers = flatten(layout.buffers(), model.parameters());
    let mut candle = CandleExecutor::new(model.graph().clone(), buffers.clone(), DeviceKind::Cpu).unwrap();
    assert_near("candle", &candle.logits(&parameters, &images, IMAGES).unwrap());
    let mut tape = TapeExecutor::new(model.graph(), IMAGES, 2).unwrap();
    tape.set_buffers(&buffers).unwrap();
    assert_near("tape", &tape.logits(&parameters, &images, IMAGES).unwrap());

    let export = run.exported();
    for isa in Isa::available() {
        for (file, batch, threads) in [
            ("model.csr.safetensors", 1, 1),
            ("model.csr.safetensors", IMAGES, 2),
            ("model.srz", 1, 1),
            ("model.onnx", 1, 2),
            ("model.onnx", IMAGES, 1),
        ] {
            for weights in [WeightPolicy::Auto, WeightPolicy::Sparse, WeightPolicy::Dense] {
                let options = Options { threads, batch, isa: Some(isa), weights, ..Options::default() };
                let found = engine_logits(&export.join(file), &options, &images);
                assert_near(&format!("{file} at {isa}, {options:?}"), &found);
            }
        }
    }
    if let Some(runtime) = onnx_runtime() {
        let mut session = OnnxSession::open(&runtime, &export.join("model.onnx"), IMAGES, 1).unwrap();
        let mut logits = vec![f32::NAN; expected.len()];
        session.run(&images, &mut logits).unwrap();
        assert_near("ONNX Runtime", &logits);
    }
}

fn engine_logits(model: &Path, options: &Options, images: &[f32]) -> Vec<f32> {
    let engine = sr2_infer::Model::load(model).unwrap().plan(options).unwrap();
    let mut scratch = engine.scratch().unwrap();
    let mut logits = vec![f32::NAN; IMAGES * 10];
    let size = images.len() / IMAGES;
    for (images, logits) in images.chunks(options.batch * size).zip(logits.chunks_mut(options.batch * 10)) {
        engine.run(images, logits, &mut scratch).unwrap();
    }
    logits
}

#[test]
fn the_same_settings_give_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = |name: &str, extra: &[&str]| {
        let mut train = short_training(folder.path(), name, 1);
        train.args(extra);
        final_checkpoint(folder.path(), train)
    };
    let first = checkpoint("first", &["--threads", "1"]);
    assert!(first == checkpoint("again", &["--threads", "1"]), "a second run of the same settings differs");
    assert!(first == checkpoint("threads", &["--threads", "2"]), "two threads differ from one");
    assert!(first != checkpoint("seed", &["--seed", "1"]), "another seed changes nothing");
}

#[test]
fn a_run_from_an_export_trains_and_records_the_network_in_it() {
    let export = short_run().join("export");
    let folder = tempfile::tempdir().unwrap();
    let train = |file: &str, more: &[&str]| {
        let (data, file) = (few_images().to_str().unwrap(), export.join(file));
        let from = ["train", "--data", data, "--from", file.to_str().unwrap(), "--epochs", "1", "--batch-size", "50"];
        sr2(folder.path(), &[&from[..], more].concat())
    };
    for file in ["model.srz", "model.csr.safetensors", "model.onnx"] {
        succeed(train(file, &["--name", file]));
        let config = fs::read_to_string(folder.path().join("runs").join(file).join("config.toml")).unwrap();
        assert!(config.contains("network = \"resnet8\"\n"), "{config}");
        let expected = ["network is \"resnet20\", expected \"resnet8\", which", file];
        refuse(train(file, &["--network", "resnet20"]), 2, &expected);
    }
}
