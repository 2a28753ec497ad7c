//! `sr2-prune report`.

use std::path::PathBuf;

use clap::Args;
use sr2_train::report::write_report;

use crate::output::print;

/// Write report.html into the folder of a run or a sweep; for a sweep also its plot of accuracy against sparsity
///
/// The page holds all it shows and asks nothing of the network. A run that still trains, or was interrupted, is shown as
/// far as it is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sr2-prune report runs/resnet20-cifar10-1
  sr2-prune report sweeps/study             report.html, pareto.svg, pareto.png")]
pub struct Arguments {
    /// Folder of a run or a sweep
    folder: PathBuf,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let paths = write_report(&arguments.folder)?;
    Ok(print(paths.iter().map(|path| format!("{}\n", path.display())).collect::<String>())?)
}
