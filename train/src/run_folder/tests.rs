use std::collections::BTreeMap;

use sr2_formats::{Tensor, TensorMap};
use sr2_models::checkpoint::Provenance;
use sr2_models::{Graph, Model, Node, Op};

use super::*;

fn checkpoint() -> Checkpoint {
    let node = Node { name: "relu".into(), op: Op::Relu, inputs: vec![0] };
    let model = Model::try_new(Graph::try_new("net", &[1, 1, 1], vec![node]).unwrap(), TensorMap::new()).unwrap();
    let state = [("optimizer.momentum".to_string(), Tensor::new([1], vec![0.5]))].into();
    Checkpoint { model, provenance: Provenance::default(), state, metadata: BTreeMap::new() }
}

fn numbered(runs: &Path) -> Config {
    Config { runs: runs.into(), ..Config::default() }
}

#[test]
fn unnamed_runs_are_numbered() {
    let folder = tempfile::tempdir().unwrap();
    let config = numbered(folder.path());
    let names: Vec<_> = (0..2).map(|_| RunFolder::create(&config, "resnet20").unwrap().path().to_path_buf()).collect();
    assert_eq!(names, [folder.path().join("resnet20-cifar10-1"), folder.path().join("resnet20-cifar10-2")]);
    let (_, read) = RunFolder::open(&names[1]).unwrap();
    assert_eq!(read, config);
}

#[test]
fn the_last_two_checkpoints_stay_in_order_of_their_steps() {
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::create(&numbered(folder.path()), "a/b c").unwrap();
    for step in [8, 9, 10, 100] {
        run.save(step, &checkpoint()).unwrap();
    }
    run.save_best(&checkpoint()).unwrap();
    let left = run.checkpoints().unwrap();
    assert_eq!(left, [10, 100].map(|s| run.path().join(format!("checkpoint-{s}.safetensors"))));
    assert_eq!(checkpoint::read(&left[1]).unwrap().state, checkpoint().state);
    assert!(run.path().join("best.safetensors").exists());
}

#[test]
fn opening_what_is_no_run_is_an_io_error() {
    let folder = tempfile::tempdir().unwrap();
    let error = RunFolder::open(folder.path()).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("config.toml"), "{error}");
}
