//! `sr2-prune data`.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use sr2_train::data::{self, DatasetKind};

use crate::Format;
use crate::output::print;

/// Download or verify the images
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  sr2-prune data fetch cifar10
  sr2-prune data check cifar10 --data examples/data")]
pub enum Command {
    Fetch(Fetch),
    Check(Check),
}

/// Download the official archive into the cache (resumes where a broken download stopped)
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sr2-prune data fetch cifar10
  sr2-prune data fetch cifar100 --from http://mirror.example/cifar-100-binary.tar.gz")]
pub struct Fetch {
    /// cifar10 or cifar100
    dataset: DatasetKind,
    /// Another address of the official archive
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// Another folder than the cache
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// Verify a folder: every image decodes, every label is a class, every class is whole
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sr2-prune data check cifar10
  sr2-prune data check cifar10 --data examples/data")]
pub struct Check {
    /// cifar10 or cifar100
    dataset: DatasetKind,
    /// The folder [default: $SR2_DATA, then the cache]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How to print the report
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Runs the command.
pub fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Fetch(arguments) => fetch(arguments),
        Command::Check(arguments) => check(arguments),
    }
}

fn fetch(arguments: &Fetch) -> anyhow::Result<()> {
    let kind = arguments.dataset;
    let folder = match &arguments.to {
        Some(folder) => folder.clone(),
        None => data::cache_folder(kind)?,
    };
    let style = "{bytes}/{total_bytes} {bar:30} {bytes_per_sec}, {eta} left";
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(style)?);
    let progress = &mut |done, total: Option<u64>| {
        bar.set_length(total.unwrap_or(done));
        bar.set_position(done);
    };
    let fetched = data::fetch(kind, &folder, arguments.from.as_deref(), progress);
    bar.finish_and_clear();
    Ok(print(format!("{}\n", fetched?.display()))?)
}

fn check(arguments: &Check) -> anyhow::Result<()> {
    let folder = data::locate(arguments.dataset, arguments.data.as_deref())?;
    let report = data::check(&folder, arguments.dataset)?;
    arguments.format.print(&report)?;
    match report.problems.len() {
        0 => Ok(()),
        count => bail!(sr2_formats::Error::malformed(folder, format!("{count} problems, named above"))),
    }
}
