//! What a run measures after each epoch, and what it keeps of it.

use super::*;
use crate::candle_executor::DeviceKind;
use crate::candle_executor::tests::test_device;
use crate::config::ExecutorKind;
use crate::data::LoaderOptions;
use crate::evaluation::recalibrate;
use crate::metrics::read_records;

/// How weights are averaged, if they are.
const SCHEDULE_FREE: (Control, Option<f64>) = (Control::ScheduleFree, None);
const EMA: (Control, Option<f64>) = (Control::OneCycle, Some(0.9));
const NONE: (Control, Option<f64>) = (Control::OneCycle, None);

/// A run to half of the weights.
fn pruned(runs: PathBuf, (control, ema): (Control, Option<f64>), epochs: u64) -> Config {
    let base = Config { debias: None, share: None, lambda: None, sparsity: Some(0.5), ..config(&runs) };
    Config { control: Some(control), test_every: None, ema, epochs, ..base }.resolve().unwrap()
}

/// A run that keeps all weights.
fn dense(runs: PathBuf, averaging: (Control, Option<f64>), epochs: u64) -> Config {
    let base = Config { sparsity: None, debias: None, ..pruned(runs, averaging, epochs) };
    Config { method: Method::Sgd, share: None, test_every: None, ..base }.resolve().unwrap()
}

fn epochs(summary: &Summary) -> Vec<EpochRecord> {
    let records = read_records(&summary.folder).unwrap().into_iter();
    records.filter_map(|record| if let Record::Epoch(epoch) = record { Some(epoch) } else { None }).collect()
}

fn network(path: &Path) -> Model {
    checkpoint::read(path).unwrap().model
}

#[test]
fn an_epoch_measures_what_a_run_that_ends_there_gives() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: String, epochs| finish(fresh(&dense(folder.path().join(name), SCHEDULE_FREE, epochs)));
    let long = epochs(&run("long".into(), 3));
    for (ends, epoch) in (1..).zip(&long) {
        let short = run(ends.to_string(), ends);
        assert_eq!(epoch.validation_accuracy, short.validation_accuracy, "epoch {ends}");
        assert_eq!(*epoch, EpochRecord { images_per_s: epoch.images_per_s, ..epochs(&short).pop().unwrap() });
    }
}

#[test]
fn the_best_network_is_the_average_that_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    for (name, averaging) in [("schedule-free", SCHEDULE_FREE), ("ema", EMA)] {
        for executor in [ExecutorKind::Tape, ExecutorKind::Candle] {
            let runs = folder.path().join(format!("{name}-{executor:?}"));
            let config = Config { executor, ..pruned(runs, averaging, 1) };
            let summary = finish(fresh(&config));
            let best = checkpoint::read(summary.folder.join("best.safetensors")).unwrap();
            assert!(best.model == network(&summary.checkpoint), "{name}, {executor:?}");
            assert_eq!(best.model.sparsity(), summary.sparsity);
            assert!(best.state.is_empty(), "training does not go on from it");
            let [epoch] = &epochs(&summary)[..] else { panic!("one epoch") };
            assert_eq!(best.provenance.training["validation_accuracy"], serde_json::json!(epoch.validation_accuracy));
            assert!(!best.provenance.training.contains_key("test_accuracy"));
            let layout = ParameterLayout::new(best.model.graph());
            let [parameters, buffers] =
                [layout.trainable(), layout.buffers()].map(|segments| flatten(segments, best.model.parameters()));
            let mut executor = setup::executor(&config, best.model.graph(), buffers, &alone()).unwrap();
            let images = &tiny_images().validation;
            let found = evaluate(executor.as_mut(), &parameters, images, BATCH, &*alone()).unwrap();
            assert_eq!((found.loss, found.accuracy), (epoch.validation_loss, epoch.validation_accuracy));
        }
    }
}

#[test]
fn without_an_average_the_network_is_measured_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    for (name, averaging, same) in [("one-cycle", NONE, true), ("schedule-free", SCHEDULE_FREE, false)] {
        let config = pruned(folder.path().join(name), averaging, 3);
        interrupt(fresh(&config), 5);
        let run = config.runs.join("run");
        let [best, last] = ["best.safetensors", "checkpoint-5.safetensors"].map(|name| network(&run.join(name)));
        assert_eq!(best == last, same, "{name}");
    }
}

#[test]
fn training_goes_on_as_if_nothing_had_been_measured() {
    let folder = tempfile::tempdir().unwrap();
    for (name, averaging) in [("schedule-free", SCHEDULE_FREE), ("ema", EMA)] {
        for executor in [ExecutorKind::Tape, ExecutorKind::Candle] {
            let runs = |which: &str| folder.path().join(format!("{name}-{executor:?}-{which}"));
            let [left_alone, measured] = [false, true].map(|measures| {
                let mut session = fresh(&Config { executor, ..pruned(runs(&measures.to_string()), averaging, 3) });
                if let Some(candle) = session.executor.candle() {
                    candle.keep(&session.optimizer, &session.parameters).unwrap();
                }
                for batch in 0..9 {
                    session.step().unwrap();
                    session.position.batch = batch + 1;
                    session.fetch().unwrap();
                    if measures {
                        session.validate_epoch(0.0).unwrap();
                    }
                }
                let left = session.checkpoint(None, None).unwrap();
                (left.model, left.state, session.loader.next_batch())
            });
            assert!(left_alone == measured, "{name}, {executor:?}");
        }
    }
}

#[test]
fn the_better_network_is_the_sparser_and_within_a_tie_the_more_accurate() {
    let best = |sparsity, validation_accuracy| Best { sparsity, validation_accuracy };
    assert!(best(0.90, 0.5).beats(&best(0.80, 0.9)));
    assert!(!best(0.80, 0.9).beats(&best(0.90, 0.5)));
    assert!(best(0.90, 0.51).beats(&best(0.904, 0.5)));
    assert!(!best(0.904, 0.5).beats(&best(0.90, 0.5)));
}

#[test]
fn recalibration_averages_the_batches() {
    let folder = tempfile::tempdir().unwrap();
    for what in [(ExecutorKind::Tape, DeviceKind::Cpu), (ExecutorKind::Candle, test_device())] {
        let (executor, device) = what;
        let runs = folder.path().join(format!("{executor:?}"));
        let mut session = fresh(&Config { executor, device, ..config(&runs) });
        let executor = session.executor.as_mut();
        let batches: Vec<Batch> = {
            let options = LoaderOptions { batch_size: BATCH, ..LoaderOptions::default() };
            let mut loader = BatchLoader::new(session.images.train.clone(), &options).unwrap();
            (0..3).map(|_| loader.next_batch().batch).collect()
        };
        // Running statistics of one batch at a time, from PyTorch's rule with momentum 0.1.
        let start = executor.buffers().unwrap();
        let mut expected = vec![0.0f64; start.len()];
        for batch in &batches {
            executor.set_buffers(&start).unwrap();
            executor.loss_and_gradient(&session.parameters, batch, &mut vec![0.0; session.parameters.len()]).unwrap();
            for ((e, after), before) in expected.iter_mut().zip(executor.buffers().unwrap()).zip(&start) {
                *e += (f64::from(after) - 0.9 * f64::from(*before)) / 0.1 / 3.0;
            }
        }
        recalibrate(executor, &session.graph, &session.parameters, &mut session.loader, 3).unwrap();
        for (i, (found, expected)) in executor.buffers().unwrap().iter().zip(&expected).enumerate() {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{what:?}, buffer {i}: {found}, expected {expected}");
        }
    }
}
