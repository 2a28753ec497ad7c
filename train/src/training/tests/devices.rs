//! Runs on the tape, and in candle on the device of `SR2_TEST_DEVICE`: the same course, and checkpoints that go from one to
//! the other.

use super::*;
use crate::candle_executor::DeviceKind;
use crate::candle_executor::tests::test_device;
use crate::config::ExecutorKind;

/// Largest distance of the weights of [`graph`] after 20 steps in f32, relative to their norm.
const TRAJECTORY_TOLERANCE: f64 = 1e-3;

const TAPE: (ExecutorKind, DeviceKind) = (ExecutorKind::Tape, DeviceKind::Cpu);

/// A run of 20 steps, so much pruned that zeros matter.
fn on(runs: PathBuf, (executor, device): (ExecutorKind, DeviceKind)) -> Config {
    let base = Config { debias: None, share: None, lambda: None, sparsity: Some(0.5), ..config(&runs) };
    Config { epochs: 4, executor, device, ..base }.resolve().unwrap()
}

fn weights(summary: &Summary) -> Vec<f32> {
    let (_, tensors) = checkpoint::read(&summary.checkpoint).unwrap().model.into_parts();
    tensors.into_values().flat_map(|tensor| tensor.data().to_vec()).collect()
}

#[track_caller]
fn assert_close(found: &Summary, expected: &Summary) {
    assert_eq!((found.steps, found.passes, &found.layers), (20, expected.passes, &expected.layers));
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let (found, expected) = (weights(found), weights(expected));
    let difference = square(&mut found.iter().zip(&expected).map(|(f, e)| f - e));
    let distance = (difference / square(&mut expected.iter().copied())).sqrt();
    assert!(distance < TRAJECTORY_TOLERANCE, "relative distance {distance:e}");
}

#[test]
fn twenty_steps_are_the_same_on_the_tape_and_in_candle() {
    let folder = tempfile::tempdir().unwrap();
    let candle = (ExecutorKind::Candle, test_device());
    let tape = finish(fresh(&on(folder.path().join("tape"), TAPE)));
    assert_close(&finish(fresh(&on(folder.path().join("candle"), candle))), &tape);
}

#[test]
fn a_checkpoint_goes_from_one_executor_and_device_to_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let candle = (ExecutorKind::Candle, test_device());
    let straight = finish(fresh(&on(folder.path().join("straight"), TAPE)));
    for (name, first, second) in [("to-candle", TAPE, candle), ("to-tape", candle, TAPE)] {
        let config = on(folder.path().join(name), first);
        interrupt(fresh(&config), 9);
        let run = config.runs.join("run");
        let moved = Config { executor: second.0, device: second.1, ..config };
        std::fs::write(run.join("config.toml"), moved.to_toml()).unwrap();
        assert_close(&finish(reopened(&run).unwrap()), &straight);
    }
}

#[test]
fn a_resumed_run_in_candle_keeps_its_bits_and_meets_its_sparsity() {
    let folder = tempfile::tempdir().unwrap();
    for (method, ema) in [(Method::Sr2, Some(0.9)), (Method::ProxGen, None), (Method::ProxSgd, None)] {
        let with = |name: &str| {
            let place = on(folder.path().join(format!("{method:?}-{name}")), (ExecutorKind::Candle, DeviceKind::Cpu));
            Config { method, ema, control: None, test_every: None, lambda: None, ..place }.resolve().unwrap()
        };
        let straight = finish(fresh(&with("straight")));
        assert_eq!(straight.layers.iter().map(|layer| layer.nonzero).sum::<usize>(), WEIGHTS / 2, "{method:?}");
        let config = with("resumed");
        interrupt(fresh(&config), 3);
        interrupt(reopened(&config.runs.join("run")).unwrap(), 12);
        let resumed = finish(reopened(&config.runs.join("run")).unwrap());
        assert!(traces(&resumed) == traces(&straight), "{method:?}");
    }
}
