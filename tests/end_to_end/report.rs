//! Reports of runs, and event files.

use std::fs;

use crate::program::{refuse, sr2, succeed};
use crate::sample::{DATA, short_training};

#[test]
fn a_run_has_a_page_and_events() {
    let folder = tempfile::tempdir().unwrap();
    let mut train = short_training(folder.path(), "r", 2);
    train.arg("--tensorboard");
    succeed(train);
    let run = folder.path().join("runs/r");
    let names = fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let events: Vec<String> = names.filter(|name| name.starts_with("events.out.tfevents.")).collect();
    let bytes = fs::read(run.join(&events[0])).unwrap();
    assert!(events.len() == 1 && bytes.windows(15).any(|w| w == b"loss/validation"), "{events:?}");

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
fn what_has_no_report_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    refuse(sr2(folder.path(), &["report", "absent"]), 4, &["absent", "No such file"]);
    refuse(sr2(folder.path(), &["report", DATA]), 3, &["examples/data", "neither a run", "nor a sweep"]);
}
