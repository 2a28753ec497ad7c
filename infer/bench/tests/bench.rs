//! The whole measurement on a tiny network (`data/generate.py`), and what it says when it cannot be made.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sr2_bench::{
    BenchError, BenchOptions, EngineKind, LabelledImages, OnnxRuntime, OnnxRuntimeError, Places, bench, explain, tune,
};
use sr2_formats::onnx::proto::tensor_shape_proto::dimension::Value as Size;
use sr2_formats::onnx::proto::type_proto::Value;
use sr2_infer::Isa;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny.onnx")
}

fn options(engines: &[EngineKind]) -> BenchOptions {
    BenchOptions {
        model: tiny(),
        engines: engines.to_vec(),
        against: Vec::new(),
        batch: 2,
        threads: 1,
        spin: true,
        pin: false,
        seconds: 0.05,
        tuning: None,
        isa: Isa::best(),
        data: None,
        places: Places::default(),
        program: None,
    }
}

fn numbers(key: &str) -> Vec<f32> {
    let json: serde_json::Value = serde_json::from_str(include_str!("data/tiny.json")).unwrap();
    json[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// The two images of the reference, and the classes its logits give them.
fn labelled() -> LabelledImages {
    let logits = numbers("logits");
    let largest = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    LabelledImages { images: numbers("images"), labels: logits.chunks(4).map(largest).collect() }
}

fn with_library() -> Option<Places> {
    let places = Places::of_process(None, None);
    match OnnxRuntime::find(&places) {
        Ok(_) => Some(places),
        Err(error) => {
            eprintln!("SKIP: {error}");
            None
        }
    }
}

#[test]
fn all_engines_agree_and_are_reported_in_order() {
    let Some(places) = with_library() else { return };
    let engines = [EngineKind::Ort, EngineKind::Sparse, EngineKind::Dense];
    let report = bench(&BenchOptions { places, data: Some(labelled()), ..options(&engines) }).unwrap();
    assert_eq!(report.results.iter().map(|row| row.engine).collect::<Vec<_>>(), engines);
    assert!(report.unavailable.is_empty());
    assert_eq!((report.agreement.reference.as_str(), report.agreement.images), ("ort", 2));
    assert_eq!(report.results[0].ratio_to_ort, Some(1.0));
    assert!(report.onnx_runtime.is_some());
    for row in &report.results {
        assert_eq!(row.accuracy, Some(1.0), "{row:?}");
        assert!(0.0 < row.p50_ms && row.p50_ms <= row.p90_ms && row.p90_ms <= row.p99_ms, "{row:?}");
        assert!((row.images_per_s * row.p50_ms / 2e3 - 1.0).abs() < 1e-9, "{row:?}");
    }
}

/// The file itself as the rival: the same answers.
#[test]
fn another_file_is_timed_beside_the_engines() {
    let Some(places) = with_library() else { return };
    let rival = BenchOptions { against: vec![tiny()], places, ..options(&[EngineKind::Sparse]) };
    let report = bench(&rival).unwrap();
    assert_eq!((report.results.len(), report.against.len()), (1, 1));
    let rival = &report.against[0];
    assert_eq!((rival.same_class, rival.result.engine), (1.0, EngineKind::Ort));
    assert!(rival.speed_of_first > 0.0, "{rival:?}");
    assert!(report.to_string().contains("| ort tiny.onnx |"), "{report}");
}

#[test]
fn layers_are_explained() {
    let explanation = explain(&options(&[EngineKind::Sparse])).unwrap();
    let conv = explanation.layers.iter().find(|layer| layer.op.starts_with("Conv")).unwrap();
    let percent = 100.0 * conv.gflops.unwrap() / explanation.peak_gflops;
    assert!((conv.percent_of_peak.unwrap() / percent - 1.0).abs() < 1e-9, "{conv:?}");
    assert!(conv.us > 0.0 && conv.weight_bytes > 0 && conv.dense_gflops >= conv.gflops, "{conv:?}");
    let total: f64 = explanation.layers.iter().map(|layer| layer.us).sum();
    assert!((total / explanation.total_us - 1.0).abs() < 1e-6, "{explanation}");
    let import = explanation.layers.first().unwrap();
    assert_eq!((import.op.as_str(), import.gflops), ("Import", None));
}

/// `race.py` reads `results[0].p50_ms` of the JSON.
#[test]
fn json_holds_the_engine_asked_for_first() {
    let report = bench(&options(&[EngineKind::Sparse])).unwrap();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["schema"], &json["results"][0]["engine"]), (&1.into(), &"sparse".into()));
    assert!(json["results"][0]["p50_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(json["results"][0]["ratio_to_ort"], serde_json::Value::Null);
}

#[test]
fn without_onnx_runtime_the_other_engines_run() {
    let report = bench(&options(&[EngineKind::Ort, EngineKind::Dense])).unwrap();
    assert_eq!(report.results.len(), 1);
    assert_eq!(report.unavailable[0].engine, EngineKind::Ort);
    assert!(report.unavailable[0].reason.contains("pip install onnxruntime"), "{:?}", report.unavailable);
    assert!(report.to_string().contains("ort: not measured: "), "{report}");

    let alone = bench(&options(&[EngineKind::Ort])).unwrap_err();
    assert!(matches!(alone, BenchError::OnnxRuntime(OnnxRuntimeError::NotFound)), "{alone}");
    let named = Places { option: Some("/no/such/library".into()), ..Places::default() };
    let broken = bench(&BenchOptions { places: named, ..options(&[EngineKind::Dense, EngineKind::Ort]) }).unwrap_err();
    assert!(broken.to_string().starts_with("/no/such/library: "), "{broken}");
}

/// The tiny network, of a batch that the file fixes.
fn of_fixed_batch(folder: &Path, batch: i64) -> PathBuf {
    let mut model = sr2_formats::onnx::read(tiny()).unwrap();
    let input = &mut model.graph.as_mut().unwrap().input[0];
    let Some(Value::TensorType(tensor)) = input.r#type.as_mut().unwrap().value.as_mut() else { panic!("no tensor") };
    tensor.shape.as_mut().unwrap().dim[0].value = Some(Size::DimValue(batch));
    let path = folder.join("fixed.onnx");
    sr2_formats::onnx::write(&path, &model).unwrap();
    path
}

#[test]
fn a_file_that_onnx_runtime_does_not_take_so_is_measured_without_it() {
    let Some(places) = with_library() else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = of_fixed_batch(folder.path(), 3);
    let options = BenchOptions { model, places, ..options(&[EngineKind::Sparse, EngineKind::Ort]) };
    let report = bench(&options).unwrap();
    assert_eq!(report.results.iter().map(|row| row.engine).collect::<Vec<_>>(), [EngineKind::Sparse]);
    assert!(report.unavailable[0].reason.contains("runs batches of 3 only, asked for 2"), "{:?}", report.unavailable);
    let alone = bench(&BenchOptions { engines: vec![EngineKind::Ort], ..options }).unwrap_err();
    assert!(matches!(alone, BenchError::Unfit { .. }), "{alone}");
}

#[test]
fn features_are_measured_as_images_of_one_place() {
    let Some(places) = with_library() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut model = sr2_formats::onnx::read(tiny()).unwrap();
    let graph = model.graph.as_mut().unwrap();
    graph.node.drain(..4);
    graph.node[0].input[0] = graph.input[0].name().into();
    let Some(Value::TensorType(tensor)) = graph.input[0].r#type.as_mut().unwrap().value.as_mut() else {
        panic!("no tensor")
    };
    let dims = &mut tensor.shape.as_mut().unwrap().dim;
    dims.truncate(2);
    dims[1].value = Some(Size::DimValue(6));
    let path = folder.path().join("features.onnx");
    sr2_formats::onnx::write(&path, &model).unwrap();
    let report = bench(&BenchOptions { model: path, places, ..options(&EngineKind::ALL) }).unwrap();
    assert_eq!(report.results.len(), 3, "{report}");
}

#[test]
fn options_that_make_no_sense_are_named() {
    let message = |options: BenchOptions| bench(&options).unwrap_err().to_string();
    let sparse = || options(&[EngineKind::Sparse]);
    let twice = options(&[EngineKind::Dense, EngineKind::Sparse, EngineKind::Dense]);
    assert_eq!(message(twice), "engine dense is named twice");
    assert_eq!(message(options(&[])), "no engine to measure");
    assert!(message(BenchOptions { batch: 0, ..sparse() }).starts_with("batch is 0, expected 1 to "));
    assert!(message(BenchOptions { threads: 0, ..sparse() }).starts_with("threads is 0, expected 1 to "));
    let no_time = || BenchOptions { seconds: f64::NAN, ..sparse() };
    assert!(message(no_time()).starts_with("seconds is NaN, expected 0 to "));
    assert!(explain(&no_time()).unwrap_err().to_string().starts_with("seconds is NaN"));
    assert!(tune(&no_time(), Duration::ZERO).unwrap_err().to_string().starts_with("seconds is NaN"));
    let mut data = labelled();
    data.labels[1] = 4;
    assert_eq!(
        message(BenchOptions { data: Some(data), ..sparse() }),
        "data has label 4, but the network has 4 outputs"
    );
    let data = LabelledImages { labels: vec![0; 3], ..labelled() };
    assert!(message(BenchOptions { data: Some(data), ..sparse() }).starts_with("data has 384 values and 3 labels"));
    assert!("fast".parse::<EngineKind>().unwrap_err().to_string().contains("expected one of sparse, dense, ort"));
}
