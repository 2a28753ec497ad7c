//! A disk that is full: exit code 4, and what was there before is whole.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::program::{PROGRAM, refused};
use crate::sample::{few_images, final_checkpoint, short_run, short_training};

/// Exit code of the scripts where the system lets this user mount nothing.
const NO_MOUNT: i32 = 77;

/// Runs a shell script in `folder` in which `disk` is a file system of `kilobytes`, gone when it ends. `None`, and
/// said so, where the system does not allow that.
fn on_small_disk(folder: &Path, kilobytes: usize, script: &str) -> Option<Output> {
    fs::create_dir(folder.join("disk")).unwrap();
    let script = format!("mount -t tmpfs -o size={kilobytes}k none disk || exit {NO_MOUNT}\n{script}");
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--map-root-user", "sh", "-c", &script]).current_dir(folder);
    unshare.env("PROGRAM", PROGRAM).env("RUN", short_run()).env("DATA", few_images());
    match unshare.output() {
        Ok(output) if ![Some(1), Some(NO_MOUNT)].contains(&output.status.code()) => Some(output),
        refused => {
            eprintln!("SKIP: no small file system can be mounted here: {refused:?}");
            None
        }
    }
}

/// A second export does not fit beside the first, which it would replace.
#[test]
fn an_export_that_does_not_fit_leaves_the_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
        "$PROGRAM" export "$RUN" --out disk/export >/dev/null || exit 90
        cp -r disk/export older
        "$PROGRAM" export "$RUN" --out disk/export; code=$?
        diff -r disk/export older >&2 || exit 91
        [ "$(ls -A disk)" = export ] || exit 92
        exit $code"#;
    if let Some(output) = on_small_disk(folder.path(), 2000, script) {
        refused(&output, 4, &["disk", "No space left on device"]);
    }
}

/// The disk fills up during training: the checkpoints before are whole, and with more room the run goes on.
#[test]
fn a_training_on_a_full_disk_goes_on_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
        "$PROGRAM" train --network resnet8 --data "$DATA" --batch-size 50 --epochs 4 --runs disk --name r; code=$?
        ls -A disk/r >&2
        cp -r disk/r resumed || exit 90
        exit $code"#;
    let Some(output) = on_small_disk(folder.path(), 2500, script) else { return };
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.contains("error: disk/r/") && text.contains("No space left on device"), "{text}");
    assert!(text.contains("checkpoint-") && !text.contains(".writing-"), "{text}");

    let resume = crate::program::sr2(folder.path(), &["train", "--resume", "resumed", "--format", "json"]);
    let resumed = final_checkpoint(folder.path(), resume);
    assert!(resumed == final_checkpoint(folder.path(), short_training(folder.path(), "whole", 4)));
}
