mod crashes;
mod devices;
mod failures;
mod processes;
mod validation;

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sr2_formats::Tensor;
use sr2_models::checkpoint;
use sr2_models::initialisation::initialise;
use sr2_models::{BatchNormalization, Conv, Gemm, GraphBuilder, Node, Op};

use super::entry::alone;
use super::*;
use crate::config::Control;
use crate::data::{Dataset, DatasetKind};

const BATCH: usize = 16;
const TRAIN: usize = 5 * BATCH + 3;

fn graph() -> Graph {
    let mut builder = GraphBuilder::new("tiny", &[3, 32, 32]);
    let mut value = 0;
    let mut push = |name: &str, op: Op| {
        value = builder.push(Node { name: name.into(), op, inputs: vec![value] }).unwrap();
    };
    for (name, out_channels, stride) in [("one", 6, 4), ("two", 8, 2)] {
        let parameter = |suffix: &str| format!("{name}.{suffix}");
        push(
            name,
            Op::Conv(Conv {
                weight: parameter("weight"),
                bias: None,
                out_channels,
                kernel: [3, 3],
                stride: [stride; 2],
                pads: [1; 4],
                dilation: [1, 1],
                groups: 1,
            }),
        );
        let norm = BatchNormalization {
            scale: parameter("norm.weight"),
            shift: parameter("norm.bias"),
            mean: parameter("norm.running_mean"),
            var: parameter("norm.running_var"),
            epsilon: 1e-5,
            momentum: 0.1,
        };
        push(&parameter("norm"), Op::BatchNormalization(norm));
        push(&parameter("relu"), Op::Relu);
    }
    push("mean", Op::GlobalAveragePool);
    push("flat", Op::Flatten);
    push("fc", Op::Gemm(Gemm { weight: "fc.weight".into(), bias: Some("fc.bias".into()), out_features: 10 }));
    builder.finish().unwrap()
}

fn dataset(images: usize, seed: u64) -> Dataset {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let labels: Vec<u8> = (0..images).map(|i| (i % 10) as u8).collect();
    let pixels = (0..images * 3 * 32 * 32).map(|_| rng.random()).collect();
    Dataset::new(DatasetKind::Cifar10, pixels, labels)
}

fn tiny_images() -> Images {
    let (train, validation) = (Arc::new(dataset(TRAIN, 1)), dataset(20, 2));
    Images { train, validation, test: Box::new(|| Ok(dataset(30, 3))) }
}

fn config(runs: &Path) -> Config {
    let config = Config {
        runs: runs.into(),
        name: Some("run".into()),
        epochs: 3,
        batch_size: BATCH,
        lambda: Some(2e-3),
        ..Config::default()
    };
    config.resolve().unwrap()
}

fn fresh(config: &Config) -> Session {
    started(config).unwrap()
}

fn started(config: &Config) -> Result<Session, TrainError> {
    let parameters = initialise(&graph(), config.seed);
    let model = Model::try_new(graph(), parameters).unwrap();
    Session::start(config.clone(), RunFolder::create(config, "tiny").unwrap(), model, tiny_images(), alone())
}

fn reopened(folder: &Path) -> Result<Session, TrainError> {
    let (run, config) = RunFolder::open(folder)?;
    Session::resume(config, run, tiny_images(), alone())
}

fn finish(session: Session) -> Summary {
    match session.run(&mut (), &AtomicBool::new(false)).unwrap() {
        Outcome::Finished(summary) => summary,
        Outcome::Interrupted { .. } => panic!("nobody told it to stop"),
    }
}

/// Sets the flag after a number of steps.
struct StopAfter<'a>(u64, &'a AtomicBool);

impl Observer for StopAfter<'_> {
    fn on_step(&mut self, step: &StepRecord, _: &SoFar) {
        self.1.store(step.step >= self.0, Ordering::Relaxed);
    }
}

fn interrupt(session: Session, after: u64) {
    let stop = AtomicBool::new(false);
    let outcome = session.run(&mut StopAfter(after, &stop), &stop).unwrap();
    assert!(matches!(outcome, Outcome::Interrupted { step, .. } if step == after), "{outcome:?}");
}

/// Everything that a run leaves, apart from times and folder names.
fn traces(summary: &Summary) -> (Vec<u8>, Vec<u8>, Vec<serde_json::Value>) {
    let read = |path: &Path| std::fs::read(path).unwrap();
    let metrics = std::fs::read_to_string(summary.folder.join("metrics.jsonl")).unwrap();
    let record = |line: &str| {
        let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("images_per_s");
        record
    };
    let metrics = metrics.lines().map(record).collect();
    (read(&summary.checkpoint), read(&summary.folder.join("best.safetensors")), metrics)
}

/// Every weight of [`graph`].
const WEIGHTS: usize = 6 * 27 + 8 * 54 + 80;

#[test]
fn a_sparsity_is_met_to_the_weight_by_every_method_and_a_resumed_run_keeps_its_bits() {
    let folder = tempfile::tempdir().unwrap();
    let methods = [Method::Sr2, Method::Magnitude, Method::ProxGen, Method::ProxSgd, Method::OneShot, Method::Lamp];
    let one_cycle = methods.map(|method| (method, Control::OneCycle)).into_iter();
    for (method, control) in one_cycle.chain([(Method::Sr2, Control::ScheduleFree)]) {
        let with = |runs: &str| {
            let runs = folder.path().join(format!("{method:?}-{control:?}-{runs}"));
            let one_cycle = control == Control::OneCycle;
            let (nesterov, ema, control) =
                (method == Method::Sr2 && one_cycle, one_cycle.then_some(0.9), Some(control));
            let base = Config { debias: None, share: None, lambda: None, sparsity: Some(0.5), ..config(&runs) };
            let settings = Config { dense_gradient_every: 2, test_every: (method == Method::Sr2).then_some(2), ..base };
            Config { method, control, nesterov, ema, ..settings }.resolve().unwrap()
        };
        let straight = finish(fresh(&with("straight")));
        let left: usize = straight.layers.iter().map(|l| l.nonzero).sum();
        assert_eq!(left, WEIGHTS / 2, "{method:?}");
        let forward = if method == Method::Sr2 { 23 } else { 15 };
        assert_eq!(straight.passes, Passes { forward, backward: 15 }, "{method:?}");
        let [first, .., last] = straight.layers.as_slice() else { panic!("three layers") };
        assert_eq!([first.nonzero, last.nonzero], [6 * 27, 80], "first and last stay dense");
        // While dense, on the ramp, and on the frozen support.
        let config = with("resumed");
        let run = config.runs.join("run");
        interrupt(fresh(&config), 1);
        interrupt(reopened(&run).unwrap(), 7);
        interrupt(reopened(&run).unwrap(), 13);
        let resumed = finish(reopened(&run).unwrap());
        assert_eq!(resumed.passes, straight.passes, "{method:?}");
        assert!(traces(&resumed) == traces(&straight), "{method:?}");
    }
}

#[test]
fn a_teacher_changes_the_loss_and_the_zeros_stay_exact() {
    let folder = tempfile::tempdir().unwrap();
    let dense = finish(fresh(&config(&folder.path().join("dense"))));
    let base = Config { lambda: None, sparsity: Some(0.5), ..config(&folder.path().join("student")) };
    let alone = finish(fresh(&base));
    let runs = folder.path().join("taught");
    let taught = finish(fresh(&Config { teacher: Some(dense.checkpoint), runs, ..base }));
    assert_eq!([&alone, &taught].map(|s| s.layers.iter().map(|l| l.nonzero).sum::<usize>()), [WEIGHTS / 2; 2]);
    assert_ne!(alone.test_loss, taught.test_loss);
}

#[test]
fn a_budget_of_minutes_becomes_epochs() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let model = Model::try_new(graph(), initialise(&graph(), 0)).unwrap();
    let epochs = |minutes| budget::epochs(&config, minutes, &model, &tiny_images(), &alone());
    assert!(epochs(1.0).unwrap() > 1);
    let error = epochs(1e-9).unwrap_err();
    assert!(error.to_string().starts_with("minutes is 0.000000001, expected at least 0.0"), "{error}");
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn layers_are_kept_by_pattern() {
    let folder = tempfile::tempdir().unwrap();
    let keep = |patterns: &[&str]| {
        let keep = Some(patterns.iter().map(|p| p.to_string()).collect());
        Config {
            keep,
            lambda: Some(1e6),
            epochs: 1,
            runs: folder.path().join(patterns.concat()),
            ..config(folder.path())
        }
    };
    let nonzero = |config: &Config| -> Vec<usize> { finish(fresh(config)).layers.iter().map(|l| l.nonzero).collect() };
    // Elsewhere the guard leaves a hundredth, and one weight an output.
    assert_eq!(nonzero(&keep(&["t*"])), [2, 8 * 54, 10]);
    assert_eq!(nonzero(&keep(&[])), [2, 5, 10]);
    let config = keep(&["three"]);
    let error = started(&config).err().unwrap();
    assert!(
        error.to_string().starts_with("keep is \"three\", expected a layer's name such as \"two.weight\""),
        "{error}"
    );
    assert_eq!(error.exit_code(), 2);
    let config = Config { scale: [("tow.*".to_string(), 0.5)].into(), runs: folder.path().join("scale"), ..config };
    let error = started(&Config { keep: None, ..config }).err().unwrap().to_string();
    assert!(error.starts_with("scale is \"tow.*\", expected a layer's name such as \"two.weight\""), "{error}");
    assert!(error.ends_with("; the layers are one.weight, two.weight, fc.weight"), "{error}");
}

#[test]
fn a_sparsity_that_would_empty_layers_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { lambda: None, sparsity: Some(0.9), ..config(folder.path()) };
    let error = started(&config).err().unwrap();
    let expected =
        "sparsity is 0.9, expected at most 0.6335: 242 weights stay in the layers kept dense (see keep), 5 so";
    assert!(error.to_string().starts_with(expected), "{error}");
}

#[test]
fn a_sparsity_below_that_of_the_file_needs_a_method_whose_zeros_come_back() {
    let mut parameters = initialise(&graph(), 0);
    let weight = &parameters["two.weight"];
    let values: Vec<f32> = weight.data().iter().enumerate().map(|(i, w)| if i % 4 == 0 { *w } else { 0.0 }).collect();
    parameters.insert("two.weight".into(), Tensor::new(weight.shape().to_vec(), values));
    let model = Model::try_new(graph(), parameters).unwrap();
    let with = |method, sparsity| {
        let config =
            Config { method, lambda: None, sparsity: Some(sparsity), from: Some("file".into()), ..Config::default() };
        recipe::check_zeros(&config.resolve().unwrap(), &model)
    };
    // Zeros are 324 of 674 weights: 48.07 %.
    for method in [Method::OneShot, Method::Lamp, Method::Magnitude] {
        let error = with(method, 0.4).unwrap_err().to_string();
        let expected = "sparsity is 0.4, expected at least 0.4808: the network has 48.07 % zeros already, ";
        assert!(error.starts_with(expected), "{error}");
        with(method, 0.4808).unwrap();
    }
    with(Method::Sr2, 0.4).unwrap();
}

#[test]
fn a_resumed_run_leaves_the_bits_of_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let straight = finish(fresh(&config(&folder.path().join("straight"))));
    assert_eq!(straight.steps, 15);
    assert!(straight.sparsity > 0.05 && straight.sparsity < 1.0, "{}", straight.sparsity);
    // In the middle of an epoch, at its end, and before the first step.
    for stops in [vec![7], vec![5, 14], vec![1, 2]] {
        let config = config(&folder.path().join(format!("{stops:?}")));
        let run = config.runs.join("run");
        interrupt(fresh(&config), stops[0]);
        for stop in &stops[1..] {
            interrupt(reopened(&run).unwrap(), *stop);
        }
        let resumed = finish(reopened(&run).unwrap());
        assert!(traces(&resumed) == traces(&straight), "after {stops:?}");
        assert_eq!(resumed.test_accuracy, straight.test_accuracy);
    }
}

#[test]
fn seconds_include_those_before_a_run_was_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let mut session = fresh(&config);
    session.stopwatch = Stopwatch::start(1e6);
    interrupt(session, 7);
    let seconds = finish(reopened(&config.runs.join("run")).unwrap()).seconds;
    assert!(seconds > 1e6 && seconds < 1e6 + 1e4, "{seconds}");
}

#[test]
fn metrics_past_the_last_checkpoint_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let straight = finish(fresh(&config(&folder.path().join("straight"))));
    let config = config(&folder.path().join("crashed"));
    interrupt(fresh(&config), 8);
    let run = config.runs.join("run");
    let metrics = run.join("metrics.jsonl");
    let text = std::fs::read_to_string(&metrics).unwrap();
    std::fs::write(&metrics, text + "{\"kind\":\"step\",\"step\":9}\n{\"kind\":\"st").unwrap();
    assert!(traces(&finish(reopened(&run).unwrap())) == traces(&straight));
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let base = config(&folder.path().join("a"));
    let with = |runs: &str, change: fn(&mut Config)| {
        let mut config = Config { runs: folder.path().join(runs), ..base.clone() };
        change(&mut config);
        finish(fresh(&config)).checkpoint
    };
    let tensors = |path: PathBuf| checkpoint::read(path).unwrap().model.into_parts().1;
    let first = tensors(with("a", |_| {}));
    assert!(tensors(with("b", |c| c.workers = 3)) == first);
    assert!(tensors(with("c", |c| c.seed = 1)) != first);
}

#[test]
fn the_final_checkpoint_holds_the_zeros_and_the_facts() {
    let folder = tempfile::tempdir().unwrap();
    let summary = finish(fresh(&config(folder.path())));
    let saved = checkpoint::read(&summary.checkpoint).unwrap();
    assert_eq!(saved.model.sparsity(), summary.sparsity);
    assert_eq!(saved.provenance.training["test_accuracy"], serde_json::json!(summary.test_accuracy));
    assert_eq!(summary.layers.iter().map(|l| l.weights).sum::<usize>(), saved.model.graph().prunable_weights());
    let written: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(summary.folder.join("summary.json")).unwrap()).unwrap();
    assert_eq!(written, serde_json::to_value(&summary).unwrap());
    let error = reopened(&summary.folder).err().unwrap();
    assert!(matches!(error, TrainError::RunFinished { .. }), "{error}");
}

#[test]
fn a_run_folder_is_one_processes() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let held = fresh(&config);
    let error = RunFolder::open(held.run.path()).unwrap_err();
    assert_eq!(error.exit_code(), 6, "{error}");
    assert_eq!(RunFolder::create(&config, "tiny").unwrap_err().exit_code(), 6);
    drop(held);
    let error = RunFolder::create(&config, "tiny").unwrap_err();
    assert!(matches!(error, TrainError::RunExists { .. }) && error.exit_code() == 2, "{error}");
}

#[test]
fn a_floor_above_the_usual_cap_of_sigma_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { sigma_floor: Some(1e4), epochs: 1, ..config(folder.path()) };
    let mut sigmas = Sigmas::default();
    fresh(&config).run(&mut sigmas, &AtomicBool::new(false)).unwrap();
    assert!(sigmas.0.iter().all(|sigma| *sigma >= 1e4), "{:?}", sigmas.0);
}

/// Collects the sigma of each step.
#[derive(Default)]
struct Sigmas(Vec<f64>);

impl Observer for Sigmas {
    fn on_step(&mut self, step: &StepRecord, _: &SoFar) {
        self.0.push(step.sigma);
    }
}

#[test]
fn a_run_starts_from_weights_of_the_zoo_a_checkpoint_or_onnx() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let from = |path: PathBuf| {
        start::model(&Config { network: Some("resnet8".into()), from: Some(path), ..Config::default() })
    };
    let zoo = start::model(&Config { network: Some("resnet8".into()), seed: 7, ..Config::default() }).unwrap();
    sr2_formats::dense::write(at("weights.safetensors"), zoo.parameters(), &Default::default()).unwrap();
    assert_eq!(from(at("weights.safetensors")).unwrap(), zoo);

    let summary = finish(fresh(&config(folder.path())));
    let checkpoint = checkpoint::read(&summary.checkpoint).unwrap().model;
    let of_file = Config { from: Some(summary.checkpoint.clone()), ..Config::default() };
    assert_eq!(start::model(&of_file).unwrap(), checkpoint);
    let error = from(summary.checkpoint.clone()).unwrap_err();
    let expected = "network is \"resnet8\", expected \"tiny\", which ";
    assert!(error.to_string().starts_with(expected) && error.exit_code() == 2, "{error}");

    let wrong = Config { from: Some(at("weights.safetensors")), ..Config::default() };
    let error = start::model(&wrong).unwrap_err();
    assert!(error.to_string().contains("weights.safetensors: tensor") && error.exit_code() == 3, "{error}");
    assert!(error.to_string().ends_with("--network names the network it holds"), "{error}");
    let hundred = Config { from: Some(summary.checkpoint), dataset: DatasetKind::Cifar100, ..Config::default() };
    let error = start::model(&hundred).unwrap_err().to_string();
    assert!(error.contains("to [10], but cifar100 has images [3, 32, 32] and 100 classes"), "{error}");
}
