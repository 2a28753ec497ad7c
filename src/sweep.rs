//! `sr2-prune sweep`.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use comfy_table::Table as Grid;
use comfy_table::presets::ASCII_MARKDOWN;
use serde::Serialize;
use sr2_train::report::write_report;
use sr2_train::sweep::{Options, Plan, Row, RunState, Shard, SweepError, SweepOutcome, Table, execute};

use crate::Format;
use crate::output::say;
use crate::signals::Signals;

/// Train a grid of runs, such as methods by sparsities by seeds; ends with mean and standard deviation over the seeds
///
/// The file holds the settings of a run, and one or more tables "grid" with lists of values. A rerun goes on: finished
/// runs are kept, interrupted ones resumed, new ones added. Only validation accuracy selects; test accuracy is reported.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sr2-prune sweep examples/configs/sample-sweep.toml --data examples/data   a minute
  sr2-prune sweep study.toml --dry-run                        which runs there are, and how far
  sr2-prune sweep study.toml --jobs 2
  sr2-prune sweep study.toml --shard 1/4                      the first of four machines' parts
  sr2-prune report sweeps/study")]
pub struct Arguments {
    /// Settings as TOML, with tables "grid"
    config: PathBuf,
    /// Folder of the sweep, in which each run gets its own [default: sweeps/NAME of the file]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder of the images [default: $SR2_DATA, then the cache]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Runs at once; they share the threads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,
    /// Only the I-th of N parts of the runs; a sweep without it gathers the parts
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Only list the runs
    #[arg(long)]
    dry_run: bool,
    /// How to print the results
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let plan = Plan::read(&arguments.config)?;
    let out = arguments.out.clone().unwrap_or_else(|| {
        let name = arguments.config.file_stem().unwrap_or_default();
        Path::new("sweeps").join(name)
    });
    let data = arguments.data.clone();
    let options = Options { out, data, jobs: arguments.jobs.into(), shard: arguments.shard };
    if arguments.dry_run {
        return arguments.format.print(&Listing::new(&plan, &options)?);
    }
    let signals = Signals::watch()?;
    let outcome = execute(&plan, &options, &|line| say(line), signals.stop())?;
    if outcome.interrupted {
        let config = arguments.config.display();
        return Err(signals.stopped(format!("sr2-prune sweep {config} with the same flags")).into());
    }
    say(format!("results in {}", outcome.results.display()));
    if !outcome.rows.is_empty() {
        write_report(&options.out)?.iter().for_each(|path| say(format!("report in {}", path.display())));
    }
    let SweepOutcome { rows, failed, elsewhere, .. } = outcome;
    arguments.format.print(&Report { table: Table::new(&rows), rows })?;
    for run in &elsewhere {
        say(format!("left to another process: {run}"));
    }
    match failed.first() {
        Some(first) => {
            let (failed, runs, first) = (failed.len(), plan.runs.len(), first.clone());
            Err(SweepError::Unfinished { failed, runs, first }.into())
        }
        None => Ok(()),
    }
}

/// What a sweep gives.
#[derive(Serialize)]
struct Report {
    table: Table,
    rows: Vec<Row>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table.fmt(f)
    }
}

/// The runs of a sweep, and how far they are.
#[derive(Serialize)]
struct Listing {
    runs: Vec<(String, &'static str)>,
}

impl Listing {
    fn new(plan: &Plan, options: &Options) -> Result<Self, SweepError> {
        let here = |i: usize| options.shard.is_none_or(|shard| shard.holds(i));
        let runs = plan.runs.iter().enumerate().filter(|(i, _)| here(*i));
        let entry = |(_, run): (usize, &sr2_train::sweep::PlannedRun)| {
            Ok((run.name.clone(), RunState::of(run, &options.out)?.name()))
        };
        Ok(Self { runs: runs.map(entry).collect::<Result<_, SweepError>>()? })
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut grid = Grid::new();
        grid.load_style(ASCII_MARKDOWN).set_header(["run", "state"]);
        self.runs.iter().for_each(|(run, state)| {
            grid.add_row([run.as_str(), state]);
        });
        write!(f, "{grid}")
    }
}
