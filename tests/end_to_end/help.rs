//! What the program says of itself.

use std::path::Path;

use crate::program::{sr2, succeed};

fn help(command: &[&str]) -> String {
    succeed(sr2(Path::new("."), &[command, &["--help"]].concat()))
}

/// The commands that the help of a command lists.
fn listed(command: &[&str]) -> Vec<String> {
    let text = help(command);
    let lines = text.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = lines.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    names.map(str::to_string).collect()
}

#[test]
fn every_command_has_examples() {
    let commands = listed(&[]);
    assert_eq!(commands.len(), 13, "{commands:?}");
    let of_data = listed(&["data"]);
    assert_eq!(of_data, ["fetch", "check"]);
    let of_data = of_data.iter().map(|command| vec!["data", command]);
    for command in commands.iter().map(|command| vec![command.as_str()]).chain(of_data) {
        let text = help(&command);
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
