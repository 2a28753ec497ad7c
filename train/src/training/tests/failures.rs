//! Runs that go wrong, or nearly: what they say, and what they leave.

use super::*;
use crate::candle_executor::transfer::watch;
use crate::config::ExecutorKind;
use crate::executor::Support;

#[test]
fn a_nan_loss_is_divergence_and_keeps_the_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let run = config.runs.join("run");
    interrupt(fresh(&config), 4);
    let mut session = reopened(&run).unwrap();
    session.parameters.fill(f32::NAN);
    let error = session.run(&mut (), &AtomicBool::new(false)).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(
        error.to_string().starts_with("training diverged: loss is NaN at step 4; the last checkpoint is"),
        "{error}"
    );
    assert_eq!(finish(reopened(&run).unwrap()).steps, 15);
}

/// An executor whose loss rises wherever one steps.
struct Uphill(ParameterLayout);

impl Executor for Uphill {
    fn layout(&self) -> &ParameterLayout {
        &self.0
    }

    fn loss_and_gradient(&mut self, _: &[f32], _: &Batch, gradient: &mut [f32]) -> Result<BatchLoss, ExecutorError> {
        gradient.fill(1.0);
        Ok(BatchLoss { loss: 1.0, correct: 0 })
    }

    fn set_support(&mut self, _: Support) {}

    fn loss(&mut self, _: &[f32], _: &Batch) -> Result<BatchLoss, ExecutorError> {
        Ok(BatchLoss { loss: 2.0, correct: 0 })
    }

    fn move_statistics(&mut self, _: &[f32], _: &Batch) -> Result<(), ExecutorError> {
        Ok(())
    }

    fn logits(&mut self, _: &[f32], _: &[f32], count: usize) -> Result<Vec<f32>, ExecutorError> {
        Ok(vec![0.0; count * 10])
    }

    fn buffers(&self) -> Result<Vec<f32>, ExecutorError> {
        Ok(vec![0.0; self.0.buffers_len()])
    }

    fn set_buffers(&mut self, _: &[f32]) -> Result<(), ExecutorError> {
        Ok(())
    }
}

#[test]
fn endless_rejection_is_divergence() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = fresh(&Config { epochs: 100, ..config(folder.path()) });
    session.executor = Box::new(Uphill(ParameterLayout::new(&session.graph)));
    let error = session.run(&mut (), &AtomicBool::new(false)).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("100 steps rejected in a row up to step 100"), "{error}");
}

#[test]
fn a_device_that_fails_ends_the_run_in_one_line_and_keeps_the_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let on = |name: &str| {
        let base = Config { debias: None, share: None, lambda: None, ..config(&folder.path().join(name)) };
        let steps = Config { sparsity: Some(0.5), test_every: Some(2), control: None, epochs: 2, ..base };
        Config { executor: ExecutorKind::Candle, ..steps }.resolve().unwrap()
    };
    let straight = finish(fresh(&on("straight")));
    let mut checkpoints = 0;
    for copies in (0..).step_by(13) {
        let config = on(&copies.to_string());
        watch::fail_after(Some(copies));
        let outcome = started(&config).and_then(|session| session.run(&mut (), &AtomicBool::new(false)));
        watch::fail_after(None);
        let Err(error) = outcome else { break };
        let run = config.runs.join("run");
        let last = RunFolder::open(&run).unwrap().0.checkpoints().unwrap().pop();
        let kept = last.as_ref().map_or("no checkpoint was written".into(), |path| {
            checkpoints += 1;
            format!("the last checkpoint is {}", path.display())
        });
        let expected = format!("candle executor: {}; a smaller batch_size needs less; {kept}", watch::PROBLEM);
        let early = matches!(error, TrainError::Executor(_));
        assert!(error.to_string() == expected || early && expected.starts_with(&error.to_string()), "{error}");
        assert_eq!(error.exit_code(), 1, "{error}");
        if last.is_some() && checkpoints % 4 == 1 {
            assert!(traces(&finish(reopened(&run).unwrap())) == traces(&straight), "after {copies} copies");
        }
    }
    assert!(checkpoints > 3, "{checkpoints}");
}

#[test]
fn a_cut_checkpoint_is_a_bad_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    interrupt(fresh(&config), 3);
    let path = config.runs.join("run/checkpoint-3.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = reopened(&config.runs.join("run")).err().unwrap();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().starts_with(path.to_str().unwrap()), "{error}");
}

#[test]
fn a_refused_checkpoint_ends_the_run_and_keeps_the_earlier_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    interrupt(fresh(&config), 4);
    let run = config.runs.join("run");
    let session = reopened(&run).unwrap();
    std::fs::create_dir(run.join("checkpoint-5.safetensors")).unwrap();
    let error = session.run(&mut (), &AtomicBool::new(false)).unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    std::fs::remove_dir(run.join("checkpoint-5.safetensors")).unwrap();
    assert_eq!(finish(reopened(&run).unwrap()).steps, 15);
}

/// Collects warnings.
#[derive(Default)]
struct Warnings(Vec<String>);

impl Observer for Warnings {
    fn on_warning(&mut self, message: &str) {
        self.0.push(message.into());
    }
}

#[test]
fn a_lambda_that_would_empty_a_layer_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let warnings = |method, debias| {
        let runs = folder.path().join(format!("{method:?}"));
        let config =
            Config { lambda: Some(1e6), epochs: 1, method, debias: Some(debias), runs, ..config(folder.path()) };
        let mut warnings = Warnings::default();
        fresh(&config).run(&mut warnings, &AtomicBool::new(false)).unwrap();
        warnings.0
    };
    let expected =
        "lambda is too large for layer two.weight, which would have been emptied; it keeps its 5 largest weights";
    assert_eq!(warnings(Method::Sr2, 0.25), [expected]);
    // The published rule has no guard.
    let published = warnings(Method::Sr2Paper, 0.0);
    assert!(published.iter().any(|w| w.starts_with("layer two.weight has lost its last weight")), "{published:?}");
    let metrics = std::fs::read_to_string(folder.path().join("Sr2Paper/run/metrics.jsonl")).unwrap();
    assert!(metrics.contains("\"two.weight\""), "{metrics}");
}

#[test]
fn a_sigma_at_its_bound_for_an_epoch_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let method = Method::Sr2Paper;
    let config = Config { lambda: Some(0.0), debias: Some(0.0), epochs: 100, method, ..config(folder.path()) };
    let mut session = fresh(&config);
    session.executor = Box::new(Uphill(ParameterLayout::new(&session.graph)));
    let mut warnings = Warnings::default();
    session.run(&mut warnings, &AtomicBool::new(false)).unwrap_err();
    let expected = "sigma stood at its greatest value, 1000, for the whole epoch: hardly any step is taken";
    assert!(warnings.0.iter().any(|w| w == expected), "{:?}", warnings.0);
}
