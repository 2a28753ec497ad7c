//! Stopping a training: it saves, says how to go on, and going on gives the bits of a run that was never stopped.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::program::{refuse, refused, sr2};
use crate::sample::{few_images, final_checkpoint, short_training};

const EPOCHS: usize = 4;

/// Starts a training in `runs/r` of `folder`; returns when its first epoch has ended, with what it said until then.
pub fn start(folder: &Path, epochs: usize) -> (Child, String) {
    let mut command = short_training(folder, "r", epochs);
    until(&mut command, "epoch 1: ")
}

/// Starts a command; returns when it has said `text`, with what it said until then.
fn until(command: &mut Command, text: &str) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut said, stderr) = (String::new(), child.stderr.as_mut().unwrap());
    // One byte at a time, so that nothing after the line is lost with the reader.
    let mut lines = BufReader::with_capacity(1, stderr);
    while !said.contains(text) {
        assert!(lines.read_line(&mut said).unwrap() > 0, "ended early: {said}");
    }
    (child, said)
}

/// Sends a signal and waits for the end.
fn end(mut child: Child, said: String, signal: &str) -> Output {
    send(signal, &child);
    let mut stderr = said.into_bytes();
    child.stderr.as_mut().unwrap().read_to_end(&mut stderr).unwrap();
    Output { status: child.wait().unwrap(), stdout: Vec::new(), stderr }
}

/// Sends a signal, such as `-INT`.
pub fn send(signal: &str, child: &Child) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// A run that nothing stops: its final checkpoint and its metrics without times.
fn uninterrupted() -> &'static (Vec<u8>, Vec<Value>) {
    static RUN: OnceLock<(Vec<u8>, Vec<Value>)> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = final_checkpoint(folder.path(), short_training(folder.path(), "r", EPOCHS));
        (checkpoint, metrics(folder.path()))
    })
}

/// The records of `metrics.jsonl` without the images per second.
fn metrics(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("runs/r/metrics.jsonl")).unwrap();
    let mut records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for record in &mut records {
        record.as_object_mut().unwrap().remove("images_per_s");
    }
    records
}

/// Goes on with the run in `folder` and compares its end with that of [`uninterrupted`].
fn assert_resumes(folder: &Path) {
    let checkpoint = final_checkpoint(folder, sr2(folder, &["train", "--resume", "runs/r", "--format", "json"]));
    let (expected, records) = uninterrupted();
    assert!(checkpoint == *expected, "the resumed run ends in another checkpoint");
    assert_eq!(&metrics(folder), records);
}

fn stopped_by(signal: &str, name: &str, code: i32) {
    let folder = tempfile::tempdir().unwrap();
    let (child, said) = start(folder.path(), EPOCHS);
    refused(&end(child, said, signal), code, &[name, "go on with", "sr2-prune train --resume runs/r"]);
    assert_resumes(folder.path());
}

#[test]
fn ctrl_c_saves_and_the_run_goes_on() {
    stopped_by("-INT", "Ctrl-C", 130);
}

#[test]
fn sigterm_saves_and_the_run_goes_on() {
    stopped_by("-TERM", "SIGTERM", 143);
}

#[test]
fn a_killed_run_goes_on_from_its_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, _) = start(folder.path(), EPOCHS);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_resumes(folder.path());
}

#[test]
fn a_run_in_use_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, _) = start(folder.path(), 1000);
    let in_use = ["runs/r", "another process is training in this run folder", "--name"];
    refuse(sr2(folder.path(), &["train", "--resume", "runs/r"]), 6, &in_use);
    refuse(short_training(folder.path(), "r", 1), 6, &in_use);
    assert_eq!(child.try_wait().unwrap(), None, "the first training goes on");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_stopped_demo_goes_on_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let (child, said) = until(&mut sr2(folder.path(), &["demo"]), "training in ");
    let resume = ["train", "--resume", "runs/resnet8-cifar10-1"];
    refused(&end(child, said, "-INT"), 130, &["go on with: sr2-prune", &resume.join(" ")]);
    let (child, said) = until(&mut sr2(folder.path(), &resume), "training in ");
    refused(&end(child, said, "-INT"), 130, &["go on with"]);
}

#[test]
fn a_reader_of_the_log_that_goes_ends_no_training() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("study.toml"),
        "network = \"resnet8\"\nepochs = 1\nbatch_size = 50\n[[grid]]\nseed = 0\n",
    )
    .unwrap();
    let sweep = sr2(folder.path(), &["sweep", "study.toml", "--data", few_images().to_str().unwrap()]);
    for mut command in [short_training(folder.path(), "r", 1), sweep] {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{command:?}");
    }
    assert!(folder.path().join("runs/r/summary.json").exists());
}
