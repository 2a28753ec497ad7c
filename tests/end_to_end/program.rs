//! Running the program under test.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Path of the program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_sr2-prune");

/// The program with `arguments` in `folder`, away from the user's own settings.
pub fn sr2(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command.env_remove("SR2_DATA").env_remove("SR2_ISA");
    command
}

/// Runs a command that must succeed; returns its stdout.
#[track_caller]
pub fn succeed(mut command: Command) -> String {
    let output = command.output().unwrap();
    let (stdout, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{command:?}\n{stdout}\n{stderr}");
    stdout
}

/// Runs a command that must print one JSON document.
#[track_caller]
pub fn json(command: Command) -> Value {
    serde_json::from_str(&succeed(command)).unwrap()
}

/// Runs a command that must fail with `code`.
#[track_caller]
pub fn refuse(mut command: Command, code: i32, parts: &[&str]) {
    refused(&command.output().unwrap(), code, parts);
}

/// The program has failed with `code` and said so in one line of stderr, its last, that begins with `error: ` and
/// holds `parts` in this order.
#[track_caller]
pub fn refused(output: &Output, code: i32, parts: &[&str]) {
    let (_, stderr) = texts(output);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    let line = stderr.lines().last().unwrap_or_default();
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{stderr}");
    let mut rest = line.strip_prefix("error: ").unwrap_or_else(|| panic!("no error in the last line of:\n{stderr}"));
    assert_eq!(repeated(line), None, "{stderr}");
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("no {part:?} in its place in:\n{stderr}"));
        rest = &rest[at + part.len()..];
    }
}

/// A clause that stands twice in a message, as when an error and its source say the same.
fn repeated(message: &str) -> Option<&str> {
    let clauses: Vec<_> = message.split(": ").collect();
    clauses.iter().enumerate().find(|(i, clause)| clauses[..*i].contains(clause)).map(|(_, clause)| *clause)
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}
