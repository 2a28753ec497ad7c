//! The command line of sr2-prune: parse, dispatch, exit code. The work is done in the libraries.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

mod bench;
mod cache;
mod convert;
mod data;
mod demo;
mod doctor;
mod exit;
mod export;
mod infer;
mod inspect;
mod model;
mod output;
mod processes;
mod report;
mod signals;
mod sweep;
mod train;
mod verify;

/// Prune networks with SR2, ship them as sparse files, and run them faster on CPUs.
///
/// Typical use, with no arguments needed: `sr2-prune train && sr2-prune export && sr2-prune bench`.
/// Results go to stdout, progress and log to stderr.
#[derive(Debug, Parser)]
#[command(version, after_help = exit::CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(Box<train::Arguments>),
    Sweep(sweep::Arguments),
    Report(report::Arguments),
    Export(export::Arguments),
    Infer(infer::Arguments),
    Bench(bench::Arguments),
    Verify(verify::Arguments),
    Inspect(inspect::Arguments),
    Convert(convert::Arguments),
    Demo(demo::Arguments),
    #[command(subcommand)]
    Data(data::Command),
    Doctor(doctor::Arguments),
    /// Print a completion script for a shell
    ///
    /// Example: sr2-prune completions bash > ~/.local/share/bash-completion/completions/sr2-prune
    Completions {
        /// The shell to complete for
        shell: clap_complete::Shell,
    },
}

/// How a result is printed on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// One JSON document
    Json,
}

impl Format {
    /// Prints a result on stdout.
    fn print(self, result: &(impl std::fmt::Display + serde::Serialize)) -> anyhow::Result<()> {
        let text = match self {
            Self::Table => result.to_string(),
            Self::Json => {
                serde_json::to_string_pretty(result).map_err(|e| exit::Usage(format!("--format json: {e}")))?
            }
        };
        Ok(output::print(text + "\n")?)
    }
}

fn main() -> ExitCode {
    if let Some(code) = sr2_bench::measure_if_asked() {
        return code;
    }
    let command = Arguments::parse().command;
    if matches!(command, Command::Bench(_) | Command::Verify(_) | Command::Demo(_)) {
        match sr2_bench::restart_without_telemetry() {
            Ok(Some(code)) => return code,
            Ok(None) => {}
            Err(error) => output::say(format!("cannot restart with ONNX Runtime's telemetry off: {error}")),
        }
    }
    let result = match command {
        Command::Train(arguments) => train::run(&arguments),
        Command::Sweep(arguments) => sweep::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Infer(arguments) => infer::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Convert(arguments) => convert::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Data(command) => data::run(&command),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "sr2-prune", &mut script);
            output::print(script).map_err(Into::into)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<exit::SaidElsewhere>() {
                output::say(format!("error: {error:#}"));
            }
            exit::code(&error)
        }
    }
}
