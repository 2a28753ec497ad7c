//! Whole runs of several processes, threads here, against those of one with the same images a step.

use super::*;
use crate::collective::agree;
use crate::collective::threads::together;
use crate::metrics::read_records;

/// Largest distance of the final weights of [`graph`] after 15 steps from those of one process, relative to their norm:
/// what rounding in other sums grows to.
const TRAJECTORY_TOLERANCE: f64 = 1e-4;

/// Trains in `size` processes; all give the same summary, but for times.
fn trained(size: usize, config: &Config, stop_after: Option<u64>) -> Vec<Outcome> {
    together(size, |team| {
        let create = || RunFolder::create(config, "tiny");
        let run = agree(&*team, (team.rank() == 0).then(create).transpose()).unwrap();
        let run = run.unwrap_or_else(|| RunFolder::follow(&config.runs.join("run")).unwrap().0);
        let model = Model::try_new(graph(), initialise(&graph(), config.seed)).unwrap();
        let session = Session::start(config.clone(), run, model, tiny_images(), team.clone()).unwrap();
        observed(session, stop_after)
    })
}

/// Only process 0 is told to stop.
fn observed(session: Session, stop_after: Option<u64>) -> Outcome {
    let stop = AtomicBool::new(false);
    match stop_after {
        Some(step) => session.run(&mut StopAfter(step, &stop), &stop).unwrap(),
        None => session.run(&mut (), &stop).unwrap(),
    }
}

fn resumed(size: usize, folder: &Path) -> Vec<Outcome> {
    together(size, |team| {
        let open = || if team.rank() == 0 { RunFolder::open(folder) } else { RunFolder::follow(folder) };
        let (run, config) = open().unwrap();
        let session = Session::resume(config, run, tiny_images(), team.clone());
        observed(agree(&*team, session).unwrap(), None)
    })
}

fn summary(outcomes: Vec<Outcome>) -> Summary {
    let mut summaries = outcomes.into_iter().map(|outcome| match outcome {
        Outcome::Finished(summary) => Summary { seconds: 0.0, ..summary },
        Outcome::Interrupted { .. } => panic!("nobody told it to stop"),
    });
    let first = summaries.next().unwrap();
    assert!(summaries.all(|summary| summary == first), "the processes end with other summaries");
    first
}

#[track_caller]
fn assert_close(what: &str, found: &Summary, expected: &Summary) {
    let weights = |summary: &Summary| {
        let (_, tensors) = checkpoint::read(&summary.checkpoint).unwrap().model.into_parts();
        tensors.into_values().flat_map(|tensor| tensor.data().to_vec()).collect::<Vec<f32>>()
    };
    let (found_weights, expected_weights) = (weights(found), weights(expected));
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let difference = square(&mut found_weights.iter().zip(&expected_weights).map(|(f, e)| f - e));
    let distance = (difference / square(&mut expected_weights.iter().copied())).sqrt();
    assert!(distance < TRAJECTORY_TOLERANCE, "{what}: relative distance {distance:e}");
    assert_eq!(found.layers, expected.layers, "{what}");
    assert_eq!((found.steps, found.passes), (expected.steps, expected.passes), "{what}");
    assert!((found.test_loss / expected.test_loss - 1.0).abs() < TRAJECTORY_TOLERANCE, "{what}");
}

/// Loss on validation images in each record of a run.
fn validation_losses(config: &Config) -> Vec<f64> {
    let loss = |record| if let Record::Epoch(epoch) = record { epoch.validation_loss } else { f64::NAN };
    read_records(&config.runs.join("run")).unwrap().into_iter().map(loss).collect()
}

#[test]
fn two_processes_walk_as_one_with_twice_the_batch() {
    let folder = tempfile::tempdir().unwrap();
    for method in [Method::Sr2, Method::ProxGen] {
        let with = |name: &str, batch_size, processes| {
            let runs = folder.path().join(format!("{method:?}-{name}"));
            let base = Config { debias: None, share: None, lambda: None, sparsity: Some(0.5), ..config(&runs) };
            let base = Config { control: None, test_every: None, ..base };
            Config { method, batch_size, processes, ..base }.resolve().unwrap()
        };
        let alone = finish(fresh(&with("alone", BATCH, None)));
        let two = with("two", BATCH / 2, Some(2));
        assert_close("two processes", &summary(trained(2, &two, None)), &alone);
        let [metrics, of_one] = [&two, &with("alone", BATCH, None)].map(validation_losses);
        assert_eq!(metrics.len(), 3, "one record an epoch, from one process: {metrics:?}");
        for (found, expected) in metrics.iter().zip(&of_one) {
            assert!((found / expected - 1.0).abs() < TRAJECTORY_TOLERANCE, "{method:?}: {metrics:?}, {of_one:?}");
        }

        // One process alone is told to stop; three go on, with unequal parts.
        let stopped = with("stopped", BATCH / 2, Some(2));
        let outcomes = trained(2, &stopped, Some(7));
        assert!(outcomes.iter().all(|o| matches!(o, Outcome::Interrupted { step: 7, .. })), "{outcomes:?}");
        let three = summary(resumed(3, &stopped.runs.join("run")));
        assert_close("stopped after 7 steps of two processes, then three", &three, &alone);
    }
}

#[test]
fn divergence_is_reported_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { batch_size: BATCH / 2, processes: Some(2), ..config(folder.path()) };
    trained(2, &config, Some(4));
    let run = config.runs.join("run");
    let errors = together(2, |team| {
        let open = || if team.rank() == 0 { RunFolder::open(&run) } else { RunFolder::follow(&run) };
        let (run, config) = open().unwrap();
        let mut session = agree(&*team, Session::resume(config, run, tiny_images(), team.clone())).unwrap();
        session.parameters.fill(f32::MAX);
        session.run(&mut (), &AtomicBool::new(false)).unwrap_err()
    });
    assert!(matches!(errors[0], TrainError::Diverged { .. }), "{}", errors[0]);
    assert!(matches!(errors[1], TrainError::Elsewhere { process: 0, code: 5 }), "{}", errors[1]);
}

#[test]
fn processes_that_hold_other_parameters_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { batch_size: BATCH / 2, processes: Some(2), ..config(folder.path()) };
    trained(2, &config, Some(4));
    let run = config.runs.join("run");
    let errors = together(2, |team| {
        let open = || if team.rank() == 0 { RunFolder::open(&run) } else { RunFolder::follow(&run) };
        let (run, config) = open().unwrap();
        let mut session = agree(&*team, Session::resume(config, run, tiny_images(), team.clone())).unwrap();
        session.parameters[team.rank()] += 1.0;
        session.run(&mut (), &AtomicBool::new(false)).unwrap_err().to_string()
    });
    let expected = "the parameters are not the same in process 1 as in process 0; give all of them the same program";
    assert!(errors.iter().all(|error| error.starts_with(expected)), "{errors:?}");
}

#[test]
fn a_run_that_cannot_be_shared_is_refused() {
    let refused = |config: Config, processes| setup::check_processes(&config, processes).unwrap_err().to_string();
    let candle = Config { executor: crate::config::ExecutorKind::Candle, ..Config::default() };
    assert_eq!(refused(candle, 2), "executor is candle, expected tape with several processes");
    let small = Config { batch_size: 2, processes: Some(2), ..Config::default() };
    assert_eq!(refused(small, 5), "batch_size is 4, expected an image for each of 5 processes");
}
