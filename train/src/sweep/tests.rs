use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn read(text: &str) -> Result<Plan, SweepError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("study.toml");
    std::fs::write(&path, text).unwrap();
    Plan::read(&path)
}

fn refused(text: &str, parts: [&str; 2]) {
    let error = read(text).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("study.toml: ") && parts.iter().all(|part| message.contains(part)), "{text}\n{message}");
    assert_eq!(error.exit_code(), 2, "{message}");
}

const STUDY: &str = "network = \"resnet8\"\nepochs = 4\n
[[grid]]\nmethod = [\"magnitude\", \"prox-gen\"]\nsparsity = [0.9, 0.95]\nseed = [0, 1]\n
[[grid]]\nmethod = \"sr2\"\nepochs = 3\nsparsity = 0.9\nseed = [0, 1]\n";

#[test]
fn a_grid_is_every_combination_over_the_base() {
    let runs = read(STUDY).unwrap().runs;
    assert_eq!(runs.len(), 2 * 2 * 2 + 2);
    assert_eq!(runs[1].name, "method=magnitude,seed=0,sparsity=0.95");
    assert_eq!(runs[8].name, "epochs=3,method=sr2,seed=0,sparsity=0.9");
    let config = &runs[8].config;
    assert_eq!((config.network.as_deref(), config.epochs, config.sparsity), (Some("resnet8"), 3, Some(0.9)));
    assert_eq!((runs[0].config.epochs, &runs[0].settings["network"]), (4, &"resnet8".into()));
    // One table is a grid as well, and a list of lists varies a list.
    let runs = read("[grid]\nkeep = [[\"conv1.*\"], []]\n").unwrap().runs;
    assert_eq!(runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>(), ["keep=__conv1.___", "keep=__"]);
}

#[test]
fn what_is_no_sweep_is_named() {
    refused("epochs = 3\n", ["no [[grid]]", "seed = [0, 1, 2]"]);
    refused("epochs = 3\ngrid = 3\n", ["no [[grid]]", ""]);
    refused("[[grid]]\n", ["no [[grid]]", ""]);
    refused("[[grid]]\nlamda = [1.0]\n", ["unknown key \"lamda\"", "did you mean \"lambda\"?"]);
    refused("epoch = 3\n[[grid]]\nseed = [1]\n", ["unknown key \"epoch\"", "\"epochs\""]);
    refused("[[grid]]\nseed = []\n", ["seed in a [[grid]] is an empty list", ""]);
    refused("[[grid]]\nmethod = [\"sr2\", \"sr3\"]\n", ["run method=sr3: unknown variant `sr3`", "prox-gen"]);
    refused("[[grid]]\nsparsity = [0.9, 1.5]\n", ["run sparsity=1.5: sparsity is 1.5", "from 0 to below 1"]);
    refused("[[grid]]\nkeep = [[\"layer9.*\"]]\n", ["run keep=__layer9.___: keep is", "expected a layer's name"]);
    refused("network = \"resnet8\"\n[[grid]]\nsparsity = 0.99\n", ["run sparsity=0.99: sparsity is", "at most 0.97"]);
    refused("[[grid]]\nseed = [0, 1]\n[[grid]]\nseed = 1\n", ["two runs", "\"seed=1\""]);
    refused("[[grid]]\nname = [\"a\"]\n", ["name cannot be set", ""]);
    let many = format!("[[grid]]\nseed = {0:?}\nepochs = {0:?}\n", (1..=200).collect::<Vec<_>>());
    refused(&many, ["more than 10000 runs", ""]);
    let error = read("[[grid]]\nseed = [\n").unwrap_err().to_string();
    assert!(error.contains("study.toml:2: "), "{error}");
}

/// A sweep over two seeds in `folder`, on a few images of noise.
fn noise_sweep(folder: &Path) -> (Plan, Options) {
    let mut pixels = ChaCha8Rng::seed_from_u64(0);
    for (name, images) in [("data_batch_1.bin", 40), ("test_batch.bin", 10)] {
        let mut records = vec![0; images * (1 + 3 * 32 * 32)];
        pixels.fill_bytes(&mut records);
        records.chunks_mut(1 + 3 * 32 * 32).enumerate().for_each(|(i, record)| record[0] = (i % 10) as u8);
        std::fs::write(folder.join(name), records).unwrap();
    }
    let plan = read("network = \"resnet8\"\nbatch_size = 12\nepochs = 1\n[[grid]]\nseed = [0, 1]\n").unwrap();
    (plan, Options { out: folder.join("out"), data: Some(folder.into()), jobs: 1, shard: None })
}

#[test]
fn what_another_process_works_on_or_has_finished_is_left_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, options) = noise_sweep(folder.path());
    let stop = AtomicBool::new(false);
    let names = |outcome: &SweepOutcome| -> Vec<String> { outcome.rows.iter().map(|row| row.run.clone()).collect() };
    // In the middle of the first run of one process, another begins and does what it can.
    let other = OnceLock::new();
    let say = |line: &str| {
        if line.starts_with("seed=0: epoch 1") {
            other.set(execute(&plan, &options, &|_| {}, &stop).unwrap()).unwrap();
        }
    };
    let outcome = execute(&plan, &options, &say, &stop).unwrap();
    let other = other.get().unwrap();
    assert_eq!((names(other), other.elsewhere.clone()), (vec!["seed=1".to_string()], vec!["seed=0".to_string()]));
    assert_eq!((names(&outcome), outcome.elsewhere.len()), (vec!["seed=0".to_string(), "seed=1".into()], 0));
    assert!(!outcome.interrupted && !other.interrupted);
    assert_eq!(read_results(&options.out).unwrap(), outcome.rows);
}

#[test]
fn a_run_killed_before_its_summary_is_completed() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, options) = noise_sweep(folder.path());
    let run = || execute(&plan, &options, &|_| {}, &AtomicBool::new(false)).unwrap();
    let first = run();
    std::fs::remove_file(options.out.join("seed=1/summary.json")).unwrap();
    assert_eq!(run(), first);
}

#[test]
fn shards_share_the_runs_without_overlap() {
    let parts = ["1/3", "2/3", "3/3"].map(|text| text.parse::<Shard>().unwrap());
    for position in 0..10 {
        assert_eq!(parts.iter().filter(|part| part.holds(position)).count(), 1);
    }
    for text in ["0/3", "4/3", "1/0", "1", "a/b", "-1/3", ""] {
        let error = text.parse::<Shard>().unwrap_err();
        assert!(error.to_string().contains(&format!("{text:?}, expected I/N")), "{error}");
    }
}

fn row(method: &str, seed: u64, test_every: u64, validation_accuracy: f64) -> Row {
    let settings = serde_json::json!({ "method": method, "seed": seed, "test_every": test_every, "epochs": 3 });
    Row {
        run: format!("{method}-{seed}-{test_every}"),
        settings: settings.as_object().unwrap().clone(),
        validation_accuracy,
        test_accuracy: 1.0 - validation_accuracy,
        sparsity: 0.9,
        nonzero: 10,
        weights: 100,
        steps: 7,
        forward_passes: 14,
        backward_passes: 7,
        training_seconds: 2.0,
    }
}

#[test]
fn groups_are_runs_that_differ_in_their_seed_and_validation_chooses() {
    let rows = [
        row("sr2", 0, 1, 0.5),
        row("sr2", 1, 1, 0.7),
        row("sr2", 0, 4, 0.55),
        row("sr2", 1, 4, 0.6),
        row("sgd", 0, 1, 0.9),
    ];
    let table = Table::new(&rows);
    assert_eq!(table.keys, ["method", "test_every"]);
    let [first, second, alone] = table.groups.as_slice() else { panic!("three groups, got {table}") };
    assert_eq!((first.settings.concat().as_str(), first.runs, first.chosen), ("sr21", 2, Some(true)));
    assert!((first.validation_accuracy.mean - 0.6).abs() < 1e-12);
    // Of 0.5 and 0.7, with n - 1.
    assert!((first.validation_accuracy.sd.unwrap() - 0.02f64.sqrt()).abs() < 1e-12);
    // The better test accuracy does not choose.
    assert!(second.test_accuracy.mean > first.test_accuracy.mean && second.chosen == Some(false));
    assert_eq!((alone.chosen, alone.validation_accuracy.sd), (None, None));
    let text = table.to_string();
    assert!(text.contains("60.00 ± 14.14") && text.contains("chosen"), "{text}");
    assert_eq!(Table::new(&rows[..1]).keys, Vec::<String>::new());
}

#[test]
fn results_are_read_back_each_run_once() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (row("sr2", 0, 1, 0.1 + 0.2), row("sgd", 0, 1, 0.5));
    let write = |name: &str, rows: &[Row]| results::write_results(&folder.path().join(name), rows).unwrap();
    assert_eq!(read_results(folder.path()).unwrap(), []);
    write("results-2-of-2.jsonl", &[a.clone(), b.clone()]);
    write("results.jsonl", std::slice::from_ref(&b));
    assert_eq!(read_results(folder.path()).unwrap(), [b, a]);
    std::fs::write(folder.path().join("results.jsonl"), "{}\n").unwrap();
    let error = read_results(folder.path()).unwrap_err().to_string();
    assert!(error.contains("results.jsonl: line 1: no row of a sweep"), "{error}");
    assert!(read_results(Path::new("/nowhere")).is_err());
}

#[test]
fn the_examples_are_sweeps() {
    let mut sweeps = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/configs")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        if text.contains("[[grid]]") {
            // Not every build has CUDA.
            let plan = read(&text.replace("device = \"cuda\"\n", "")).unwrap();
            assert!(plan.runs.len() > 3);
            sweeps += 1;
        }
    }
    assert!(sweeps > 5);
}
