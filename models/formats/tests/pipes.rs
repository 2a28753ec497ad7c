//! Opening a pipe to read it would wait for a writer: every reader refuses it before.
#![cfg(unix)]

use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use sr2_formats::{csr_file, dense, onnx, srz};

const TIME: Duration = Duration::from_secs(2);

/// Whether a file is refused.
type Refuses = fn(&Path) -> bool;

#[test]
fn a_pipe_is_refused_before_it_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let readers: [(&str, Refuses); 4] = [
        ("srz", |path| srz::read(path).is_err()),
        ("csr", |path| csr_file::read(path).is_err()),
        ("dense", |path| dense::read(path).is_err()),
        ("onnx", |path| onnx::read(path).is_err()),
    ];
    let (done, refusals) = mpsc::channel();
    thread::spawn(move || readers.map(|(name, read)| done.send((name, read(&path))).unwrap()));
    for (name, _) in readers {
        assert_eq!(refusals.recv_timeout(TIME).unwrap_or_else(|_| panic!("{name} waits")), (name, true));
    }
}
