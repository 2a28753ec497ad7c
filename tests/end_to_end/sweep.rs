//! Sweeps: stopped ones go on, parts come together, and what is no sweep is refused.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::program::{json, refuse, sr2, succeed};
use crate::sample::few_images;

/// `sweep study.toml` on the few images, after writing the file.
fn sweep(folder: &Path, study: &str, arguments: &[&str]) -> Command {
    fs::write(folder.join("study.toml"), format!("network = \"resnet8\"\nbatch_size = 50\n{study}")).unwrap();
    let mut command = sr2(folder, &["sweep", "study.toml", "--data", few_images().to_str().unwrap()]);
    command.args(arguments);
    command
}

/// The rows of a results file without times.
fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let mut rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for row in &mut rows {
        assert!(row.as_object_mut().unwrap().remove("training_seconds").unwrap().as_f64().unwrap() > 0.0);
    }
    rows
}

const GRID: &str = "epochs = 2\n[[grid]]\nmethod = [\"sr2\", \"magnitude\"]\nsparsity = 0.5\nseed = [0, 1]\n";

#[test]
fn parts_come_together_and_finished_runs_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("sweeps/study");
    let listed = succeed(sweep(folder.path(), GRID, &["--dry-run"]));
    assert_eq!(listed.matches("missing").count(), 4, "{listed}");
    assert!(!out.exists());
    succeed(sweep(folder.path(), GRID, &["--shard", "2/2"]));
    let part = rows(&out.join("results-2-of-2.jsonl"));
    let of_part: Vec<_> = part.iter().map(|row| row["run"].as_str().unwrap()).collect();
    assert_eq!(of_part, ["method=sr2,seed=1,sparsity=0.5", "method=magnitude,seed=1,sparsity=0.5"]);
    let finished = out.join(of_part[0]).join("summary.json");
    let before = fs::metadata(&finished).unwrap().modified().unwrap();

    let report = json(sweep(folder.path(), GRID, &["--jobs", "2", "--format", "json"]));
    assert_eq!(fs::metadata(&finished).unwrap().modified().unwrap(), before);
    let all = rows(&out.join("results.jsonl"));
    assert_eq!((all.len(), &all[1], &all[3]), (4, &part[0], &part[1]));
    // Of its four steps SR2 tests the first.
    for (row, forward) in all.iter().zip([5, 5, 4, 4]) {
        let passes = ["forward_passes", "backward_passes"].map(|kind| row[kind].as_u64().unwrap());
        assert_eq!(passes, [forward, 4], "{row}");
        let zeros = 1.0 - row["nonzero"].as_f64().unwrap() / row["weights"].as_f64().unwrap();
        assert!((zeros - 0.5).abs() < 1e-4 && row["sparsity"] == zeros, "{row}");
    }
    let groups = report["table"]["groups"].as_array().unwrap();
    assert_eq!((groups.len(), &groups[0]["runs"]), (2, &2.into()), "{report}");
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("<h1>study</h1>") && page.contains("method=sr2,seed=1,sparsity=0.5"), "{page}");
    assert!(fs::read_to_string(out.join("pareto.svg")).unwrap().starts_with("<svg "));
    assert!(fs::read(out.join("pareto.png")).unwrap().starts_with(b"\x89PNG"));
    let table = succeed(sweep(folder.path(), GRID, &[]));
    assert!(table.contains("| method") && table.contains(" ± "), "{table}");
}

#[cfg(unix)]
#[test]
fn a_stopped_sweep_goes_on() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Output, Stdio};

    use crate::program::refused;
    use crate::signals::send;

    let study = "epochs = 4\n[[grid]]\nseed = [0, 1]\n";
    let straight = tempfile::tempdir().unwrap();
    succeed(sweep(straight.path(), study, &[]));
    let folder = tempfile::tempdir().unwrap();
    let mut command = sweep(folder.path(), study, &["--out", "here"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("seed=0: epoch 1: ") {
        assert!(lines.read_line(&mut said).unwrap() > 0, "ended early: {said}");
    }
    send("-INT", &child);
    let mut stderr = said.into_bytes();
    lines.read_to_end(&mut stderr).unwrap();
    let output = Output { status: child.wait().unwrap(), stdout: Vec::new(), stderr };
    refused(&output, 130, &["Ctrl-C", "go on with: sr2-prune sweep study.toml"]);
    assert!(!folder.path().join("here/seed=1").exists());
    succeed(sweep(folder.path(), study, &["--out", "here"]));
    let results =
        [straight.path().join("sweeps/study"), folder.path().join("here")].map(|f| rows(&f.join("results.jsonl")));
    assert_eq!(results[0], results[1]);
}

#[test]
fn what_is_no_sweep_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refuse = |study: &str, arguments: &[&str], code, parts: &[&str]| {
        refuse(sweep(folder.path(), study, arguments), code, parts);
    };
    refuse("", &[], 2, &["study.toml: no [[grid]]"]);
    refuse("[[grid]]\nlamda = 1.0\n", &[], 2, &["\"lamda\"", "did you mean \"lambda\"?"]);
    refuse("[[grid]]\nmethod = [\"sr3\"]\n", &[], 2, &["run method=sr3: unknown variant `sr3`"]);
    refuse("[[grid]]\nkeep = [[\"layer9.*\"]]\n", &[], 2, &["run keep=", "keep is \"layer9.*\", expected a layer's"]);
    let shard = sweep(folder.path(), GRID, &["--shard", "3/2"]).output().unwrap();
    assert_eq!(shard.status.code(), Some(2));
    crate::program::refuse(sr2(folder.path(), &["sweep", "absent.toml"]), 4, &["absent.toml", "No such file"]);

    let absent = ["sweep", "study.toml", "--data", "absent"];
    fs::write(folder.path().join("study.toml"), GRID).unwrap();
    crate::program::refuse(sr2(folder.path(), &absent), 4, &["run method=sr2,seed=0,sparsity=0.5: absent: "]);

    let one = "[[grid]]\nseed = 0\n";
    succeed(sweep(folder.path(), &format!("epochs = 1\n{one}"), &["--out", "o"]));
    refuse(&format!("epochs = 2\n{one}"), &["--out", "o"], 2, &["o/seed=0: was made with epochs = 1, the sweep has 2"]);
}

#[test]
fn a_run_that_diverges_leaves_the_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    // Steps so long that weight decay multiplies the weights by up to -9: they overflow, whatever the rounding.
    let study = "method = \"adamw\"\nepochs = 50\n[[grid]]\nsigma_floor = 0.001\n[[grid]]\nepochs = 1\n";
    refuse(
        sweep(folder.path(), study, &[]),
        5,
        &["1 of 2 runs without a result", "sigma_floor=0.001: training diverged"],
    );
    assert_eq!(rows(&folder.path().join("sweeps/study/results.jsonl")).len(), 1);
}
