//! What the program says of itself.

use std::path::Path;

use crate::program::{sr2, succeed};

fn help(command: &[&str]) -> String {
    succeed(sr2(Path::new("."), &[command, &["--help"]].concat()))
}

#[test]
fn every_command_has_examples() {
    let commands = [
        &["train"][..],
        &["sweep"],
        &["report"],
        &["export"],
        &["infer"],
        &["bench"],
        &["verify"],
        &["inspect"],
        &["convert"],
        &["data", "fetch"],
        &["data", "check"],
        &["doctor"],
        &["completions"],
    ];
    for command in commands {
        let text = help(command);
        assert!(text.contains("Example"), "{command:?}\n{text}");
        assert!(text.contains(&format!("sr2-prune {}", command.join(" "))), "{command:?}\n{text}");
    }
}

#[test]
fn the_program_lists_commands_and_exit_codes() {
    let text = help(&[]);
    for command in [
        "train",
        "sweep",
        "report",
        "export",
        "infer",
        "bench",
        "verify",
        "inspect",
        "convert",
        "demo",
        "data",
        "doctor",
        "completions",
    ] {
        assert!(text.contains(&format!("\n  {command} ")), "{command}\n{text}");
    }
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "130 "] {
        assert!(text.contains(&format!("\n  {code}")), "{code}\n{text}");
    }
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = succeed(sr2(Path::new("."), &["completions", shell]));
        for word in ["train", "export", "bench", "penalty", "engines"] {
            assert!(script.contains(word), "{word} for {shell}");
        }
    }
}

#[test]
fn doctor_finds_the_processor() {
    let report = crate::program::json(sr2(Path::new("."), &["doctor", "--format", "json"]));
    assert!(report["machine"]["cores"].as_u64().is_some_and(|cores| cores > 0), "{report}");
    assert_eq!(report["data"].as_array().map(Vec::len), Some(2), "{report}");
}
