//! Reports of runs, and event files.

use std::fs;
use std::process::Command;

use crate::program::{refuse, sr2, succeed};
use crate::sample::{DATA, pruned, short_training};

#[test]
fn a_run_has_a_page() {
    let folder = tempfile::tempdir().unwrap();
    succeed(short_training(folder.path(), "r", 2));
    let run = folder.path().join("runs/r");
    let said = succeed(sr2(folder.path(), &["report", "runs/r"]));
    assert_eq!(said, "runs/r/report.html\n");
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    for part in [
        "<h1>r</h1>",
        ">Loss<",
        ">Accuracy<",
        ">Sparsity<",
        ">Acceptance<",
        "layer1.0.conv1.weight",
        "network = &quot;resnet8",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    // As far as it is.
    fs::remove_file(run.join("summary.json")).unwrap();
    succeed(sr2(folder.path(), &["report", "runs/r"]));
    assert!(fs::read_to_string(run.join("report.html")).unwrap().contains("not finished"));
}

#[test]
fn tensorboard_reads_the_scalars_of_the_log() {
    let python = || Command::new("python3");
    if !python().args(["-c", "import tensorboard"]).output().is_ok_and(|run| run.status.success()) {
        assert!(std::env::var_os("SR2_REQUIRE_PYTHON").is_none(), "python3 lacks a package of .ci/requirements.txt");
        eprintln!("SKIP: python3 with tensorboard is not here");
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/end_to_end/read_events.py");
    let run = pruned().folder.join(pruned().train["folder"].as_str().unwrap());
    let read = python().arg(script).arg(run).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
}

#[test]
fn what_has_no_report_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    refuse(sr2(folder.path(), &["report", "absent"]), 4, &["absent", "No such file"]);
    refuse(sr2(folder.path(), &["report", DATA]), 3, &["examples/data", "neither a run", "nor a sweep"]);
}
