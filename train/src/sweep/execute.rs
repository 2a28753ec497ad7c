//! Runs what is missing of a sweep, several runs at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use sr2_formats::Error;

use super::results::write_results;
use super::{Plan, PlannedRun, Row, RunState, Shard, SweepError};
use crate::metrics::EpochRecord;
use crate::observer::Observer;
use crate::progress::epoch_line;
use crate::train_error::TrainError;
use crate::training::{Outcome, resume, train};

/// How a sweep is run.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Its folder, in which each run has its own.
    pub out: PathBuf,
    /// Folder of the images, over what the file says.
    pub data: Option<PathBuf>,
    /// Runs at once. They share the machine's threads, unless `threads` is set.
    pub jobs: usize,
    /// The part of the runs to do; all without.
    pub shard: Option<Shard>,
}

/// How a sweep ended.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepOutcome {
    /// The finished runs of this part of the sweep, in the order of the plan.
    pub rows: Vec<Row>,
    /// Where they are.
    pub results: PathBuf,
    /// Runs that diverged.
    pub failed: Vec<Failed>,
    /// Runs that another process works on.
    pub elsewhere: Vec<String>,
    /// Whether it was told to stop before the last run.
    pub interrupted: bool,
}

/// A run without a result.
#[derive(Debug, Clone, PartialEq)]
pub struct Failed {
    /// Its name.
    pub run: String,
    /// Why.
    pub problem: String,
    /// The exit code that this run alone would have had.
    pub code: u8,
}

/// What the threads of a sweep share.
struct Shared<'a> {
    /// The runs of this part of the sweep, with their places in the plan.
    part: Vec<(usize, &'a PlannedRun)>,
    queue: Mutex<std::vec::IntoIter<&'a PlannedRun>>,
    rows: Mutex<BTreeMap<usize, Row>>,
    failed: Mutex<Vec<Failed>>,
    elsewhere: Mutex<Vec<String>>,
    results: PathBuf,
    options: &'a Options,
    say: &'a (dyn Fn(&str) + Sync),
    stop: &'a AtomicBool,
}

/// Runs or resumes every run of `plan` that is not finished; after each, the results file is written anew. `say` is told
/// what happens, line by line; `stop` is looked at before every step.
///
/// A run that diverges leaves the others alone, and so does one that another process works on; what another process has
/// finished is not done again.
///
/// # Errors
/// A folder that holds a run with other settings, found before any run starts; then whatever keeps a run from starting
/// or going on. The other runs are stopped and saved.
///
/// # Panics
/// If `options.jobs` is 0.
pub fn execute(
    plan: &Plan,
    options: &Options,
    say: &(dyn Fn(&str) + Sync),
    stop: &AtomicBool,
) -> Result<SweepOutcome, SweepError> {
    assert!(options.jobs > 0, "a sweep needs a job");
    let mine = |i: usize| options.shard.is_none_or(|shard| shard.holds(i));
    let part: Vec<_> = plan.runs.iter().enumerate().filter(|(i, _)| mine(*i)).collect();
    let mut queue = Vec::new();
    for (_, run) in &part {
        if RunState::of(run, &options.out)? != RunState::Finished {
            queue.push(*run);
        }
    }
    std::fs::create_dir_all(&options.out).map_err(|e| Error::io(&options.out, "create", e))?;
    // Seed by seed, so that a sweep that is stopped has something of every setting.
    queue.sort_by_key(|run| run.config.seed);
    let finished = part.len() - queue.len();
    say(&format!("sweep in {}: {} runs to do, {finished} finished", options.out.display(), queue.len()));
    let results = options.out.join(options.shard.map_or("results.jsonl".into(), Shard::results_file));
    let shared = Shared {
        part,
        queue: Mutex::new(queue.into_iter()),
        rows: Mutex::default(),
        failed: Mutex::default(),
        elsewhere: Mutex::default(),
        results,
        options,
        say,
        stop,
    };
    shared.save()?;
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..options.jobs).map(|_| scope.spawn(|| shared.work())).collect();
        let ends: Vec<_> = jobs.into_iter().map(|job| job.join().expect("a job does not panic")).collect();
        ends.into_iter().collect::<Result<(), _>>()
    })?;
    shared.save()?;
    let (rows, failed, mut elsewhere) = (taken(shared.rows), taken(shared.failed), taken(shared.elsewhere));
    elsewhere.retain(|run| rows.values().all(|row| row.run != *run));
    Ok(SweepOutcome {
        interrupted: rows.len() + failed.len() + elsewhere.len() < shared.part.len(),
        rows: rows.into_values().collect(),
        results: shared.results,
        failed,
        elsewhere,
    })
}

fn taken<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().expect("no job has panicked")
}

impl Shared<'_> {
    fn work(&self) -> Result<(), SweepError> {
        while !self.stop.load(Ordering::Relaxed) {
            let next = self.queue.lock().expect("no job has panicked").next();
            let Some(run) = next else { break };
            if let Err(error) = self.run(run) {
                self.stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    }

    fn run(&self, run: &PlannedRun) -> Result<(), SweepError> {
        let mut lines = Lines { run: &run.name, say: self.say };
        // Not that of the beginning: another process may have worked on it since.
        let outcome = match RunState::of(run, &self.options.out)? {
            RunState::Finished => {
                lines.say("another process has finished it");
                return self.save();
            }
            RunState::Unfinished => resume(&self.options.out.join(&run.name), &mut lines, self.stop),
            RunState::Missing => {
                let mut config = run.config.clone();
                config.runs = self.options.out.clone();
                config.name = Some(run.name.clone());
                config.data = self.options.data.clone().or(config.data);
                let share = || std::thread::available_parallelism().map_or(1, |n| (n.get() / self.options.jobs).max(1));
                config.threads.get_or_insert_with(share);
                train(&config, &mut lines, self.stop)
            }
        };
        match outcome {
            Ok(Outcome::Finished(summary)) => {
                lines.say(&format!(
                    "validation {:.2}%, sparsity {:.2}%",
                    100.0 * summary.validation_accuracy,
                    100.0 * summary.sparsity
                ));
                self.save()?;
            }
            Ok(Outcome::Interrupted { step, .. }) => lines.say(&format!("stopped and saved at step {step}")),
            Err(error @ TrainError::Diverged { .. }) => {
                lines.say(&format!("error: {error}"));
                let failed = Failed { run: run.name.clone(), problem: error.to_string(), code: error.exit_code() };
                self.failed.lock().expect("no job has panicked").push(failed);
            }
            // The latter two where another process began, or finished, after the look above.
            Err(TrainError::RunInUse { .. } | TrainError::RunExists { .. } | TrainError::RunFinished { .. }) => {
                lines.say("another process works on it");
                self.elsewhere.lock().expect("no job has panicked").push(run.name.clone());
            }
            Err(source) => return Err(SweepError::Run { run: run.name.clone(), source }),
        }
        Ok(())
    }

    /// Gathers what is finished, by whatever process, and writes it.
    fn save(&self) -> Result<(), SweepError> {
        let out = &self.options.out;
        // Held by one process at a time, so that none writes over what another has gathered later.
        let path = out.join("results.lock");
        let lock = File::create(&path).map_err(|e| Error::io(&path, "create", e))?;
        lock.lock().map_err(|e| Error::io(&path, "lock", e))?;
        let mut rows = self.rows.lock().expect("no job has panicked");
        for (i, run) in &self.part {
            if !rows.contains_key(i) && RunState::of(run, out)? == RunState::Finished {
                rows.insert(*i, Row::gather(run, out)?);
            }
        }
        Ok(write_results(&self.results, rows.values())?)
    }
}

/// Passes on what a run tells, a line each under the run's name.
struct Lines<'a> {
    run: &'a str,
    say: &'a (dyn Fn(&str) + Sync),
}

impl Lines<'_> {
    fn say(&self, text: &str) {
        (self.say)(&format!("{}: {text}", self.run));
    }
}

impl Observer for Lines<'_> {
    fn on_epoch(&mut self, epoch: &EpochRecord) {
        self.say(&epoch_line(epoch));
    }

    fn on_warning(&mut self, message: &str) {
        self.say(&format!("warning: {message}"));
    }
}
