//! Training in several processes by Open MPI's `mpirun`: the course is that of one process with all images of a step, and no
//! process outlives another's failure. `.ci/mpi-check` runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sr2_models::checkpoint;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sr2-prune");
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data");

/// Largest distance of the final parameters from those of one process after 7 steps, relative to their norm. Half an ulp on
/// the first weights of one process makes 2e-5 of it.
const WEIGHTS_TOLERANCE: f64 = 5e-4;
/// The same of losses.
const LOSS_TOLERANCE: f64 = 1e-4;
/// Time in which the other processes end when one has.
const PATIENCE: Duration = Duration::from_secs(120);

/// `mpirun` with `arguments` in `folder`, also as root and with more processes than cores.
fn mpirun(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("mpirun");
    command.arg("--oversubscribe").args(arguments).current_dir(folder).stdin(Stdio::null());
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.env("SR2_DATA", DATA).env_remove("SR2_ISA").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The training of all tests, in `runs/NAME`.
fn training<'a>(name: &'a str, batch_size: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let network = ["train", "--network", "resnet8", "--threads", "1", "--control", "one-cycle"];
    let run = ["--name", name, "--batch-size", batch_size, "--sparsity", "0.9", "--format", "json"];
    [&network[..], &run, more].concat()
}

#[track_caller]
fn succeed(mut command: Command) -> Value {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{command:?}\n{stderr}");
    // Two documents would not be one.
    serde_json::from_slice(&output.stdout).unwrap()
}

fn alone(folder: &Path, arguments: &[&str]) -> Value {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).env("SR2_DATA", DATA);
    succeed(command)
}

/// Has failed with `code` and said why in one line.
#[track_caller]
fn refused(output: &Output, code: i32, parts: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert!(parts.iter().all(|part| errors[0].contains(part)), "{stderr}");
}

fn weights(folder: &Path, summary: &Value) -> Vec<f64> {
    let checkpoint = checkpoint::read(folder.join(summary["checkpoint"].as_str().unwrap())).unwrap();
    let (_, tensors) = checkpoint.model.into_parts();
    tensors.values().flat_map(|tensor| tensor.data().iter().map(|v| f64::from(*v))).collect()
}

/// Both runs end in the same place, up to rounding, with as many zeros after as many steps and passes.
#[track_caller]
fn assert_same_course(folder: &Path, found: &Value, expected: &Value) {
    for key in ["steps", "passes", "sparsity"] {
        assert_eq!(found[key], expected[key], "{key}");
    }
    let (weights, expected_weights) = (weights(folder, found), weights(folder, expected));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut weights.iter().zip(&expected_weights).map(|(f, e)| f - e));
    let distance = difference / norm(&mut expected_weights.iter().copied());
    let relative = |key: &str| (found[key].as_f64().unwrap() / expected[key].as_f64().unwrap() - 1.0).abs();
    eprintln!("weights {distance:.1e}, test loss {:.1e}", relative("test_loss"));
    assert!(distance < WEIGHTS_TOLERANCE, "the weights are {distance:e} apart");
    assert!(relative("test_loss") < LOSS_TOLERANCE, "{found} {expected}");
}

#[test]
fn two_processes_walk_as_one_with_twice_the_batch() {
    let folder = tempfile::tempdir().unwrap();
    // Longer steps let rounding grow faster.
    fs::write(folder.path().join("short-steps.toml"), "sigma_floor = 10.0\n").unwrap();
    for method in ["sr2", "magnitude"] {
        let more = ["--config", "short-steps.toml", "--method", method, "--epochs", "1"];
        let (one, two) = (format!("{method}-one"), format!("{method}-two"));
        let expected = alone(folder.path(), &training(&one, "256", &more));
        let program = [&["-n", "2", PROGRAM], &training(&two, "128", &more)[..]].concat();
        let found = succeed(mpirun(folder.path(), &program));
        assert_eq!(found["steps"], 7, "{found}");
        assert_same_course(folder.path(), &found, &expected);
        let config = fs::read_to_string(folder.path().join("runs").join(two).join("config.toml")).unwrap();
        assert!(config.contains("batch_size = 128\nprocesses = 2\n"), "{config}");
    }
}

/// Starts two processes that train for long; returns once they have saved a checkpoint.
fn started(folder: &Path) -> (Child, PathBuf) {
    let arguments = [&["-n", "2", PROGRAM], &training("r", "32", &["--epochs", "1000"])[..]].concat();
    let child = mpirun(folder, &arguments).spawn().unwrap();
    let run = folder.join("runs/r");
    let start = Instant::now();
    while !run.join("best.safetensors").exists() {
        assert!(start.elapsed() < PATIENCE, "no epoch ends");
        std::thread::sleep(Duration::from_millis(20));
    }
    (child, run)
}

fn signal(name: &str, pid: &str) {
    assert!(Command::new("kill").args([name, pid]).status().unwrap().success());
}

/// What a job gave that ends by itself, soon.
fn ended(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("the job hangs: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

fn processes_of(job: &Child) -> Vec<String> {
    let children = format!("/proc/{0}/task/{0}/children", job.id());
    let children = fs::read_to_string(children).unwrap();
    children.split_whitespace().map(str::to_string).collect()
}

/// Whether a process is there and not only its exit code.
fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

#[test]
fn a_stopped_job_has_saved_and_one_process_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (job, run) = started(folder.path());
    // One of the two alone.
    signal("-TERM", &processes_of(&job)[1]);
    let output = ended(job);
    refused(&output, 143, &["stopped by SIGTERM", "sr2-prune train --resume runs/r"]);
    let text = fs::read_to_string(run.join("config.toml")).unwrap();
    fs::write(run.join("config.toml"), text.replace("epochs = 1000", "epochs = 2")).unwrap();
    let resumed = Command::new(PROGRAM).args(["train", "--resume", "runs/r"]).current_dir(folder.path()).output();
    let stderr = String::from_utf8(resumed.unwrap().stderr).unwrap();
    assert!(stderr.contains("from step"), "{stderr}");
}

#[test]
fn a_killed_process_takes_the_other_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (job, _) = started(folder.path());
    let processes = processes_of(&job);
    assert_eq!(processes.len(), 2);
    signal("-KILL", &processes[1]);
    assert_ne!(ended(job).status.code(), Some(0));
    let start = Instant::now();
    while processes.iter().any(|pid| is_alive(pid)) {
        assert!(start.elapsed() < PATIENCE, "{processes:?} live on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_failure_is_said_once_and_ends_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let both = [&["-n", "2", PROGRAM], &training("r", "1", &["--epochs", "1"])[..]].concat();
    refused(&mpirun(path, &both).output().unwrap(), 2, &["error: batch_size is 1, expected"]);
    // The second process has no images.
    let first = [&["-n", "1", PROGRAM], &training("r", "32", &["--epochs", "1"])[..]].concat();
    let second =
        [&[":", "-n", "1", PROGRAM], &training("r", "32", &["--epochs", "1", "--data", "absent"])[..]].concat();
    let output = mpirun(path, &[first, second].concat()).output().unwrap();
    refused(&output, 4, &["error: process 1 of 2: ", "absent"]);
    assert!(!path.join("runs/r").exists(), "no run has begun");
}
