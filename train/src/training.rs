//! The training loop: batches through SR2, validation and a checkpoint every epoch, the test set once, at the end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use sr2_models::checkpoint::Checkpoint;
use sr2_models::{Graph, Model};

use crate::candle_executor::CandleExecutor;
use crate::collective::{Collective, any};
use crate::config::{Config, Method};
use crate::data::{BatchLoader, Position};
use crate::evaluation::evaluate;
use crate::executor::{Batch, BatchLoss, Executor, ExecutorError};
use crate::layout::{ParameterLayout, flatten, unflatten};
use crate::metrics::{Census, EpochRecord, EpochTotals, Passes, Record, StepRecord, read_records, training_seconds};
use crate::observer::{Observer, SoFar};
use crate::optimizer::{Averages, Objective, Optimizer, StepError, StepReport};
use crate::run_folder::RunFolder;
use crate::sr2::Verdict;
use crate::summary::Summary;
use crate::train_error::TrainError;

mod budget;
mod entry;
mod fingerprint;
mod recipe;
mod setup;
mod snapshot;
mod start;
mod teacher;
#[cfg(test)]
mod tests;
mod validation;
mod warnings;

use entry::Images;
pub(crate) use entry::check_layers;
pub use entry::{resume, resume_together, train, train_together};
use snapshot::{Accuracies, Best, Snapshot, State, provenance};
use teacher::Teacher;

/// Steps between two step records in the metrics.
pub(crate) const LOG_EVERY: u64 = 50;
/// Rejections in a row after which sigma has long been at its cap and no step will be taken any more.
const ENDLESS_REJECTION: u64 = 100;

/// How a call to [`train`] or [`resume`] ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The run is complete.
    Finished(Summary),
    /// Told to stop: all is saved, and `--resume` with this folder goes on.
    Interrupted {
        /// The run folder.
        folder: PathBuf,
        /// Steps taken.
        step: u64,
    },
}

/// A run in progress.
struct Session {
    config: Config,
    run: RunFolder,
    team: Arc<dyn Collective>,
    graph: Graph,
    images: Images,
    loader: BatchLoader,
    executor: Box<dyn Executor>,
    teacher: Option<Teacher>,
    parameters: Vec<f32>,
    optimizer: Optimizer,
    position: Position,
    totals: EpochTotals,
    passes: Passes,
    best: Option<Best>,
    /// Parameters and buffers are the final ones: only the summary is missing.
    finished: bool,
    clock: EpochClock,
    stopwatch: Stopwatch,
}

/// Seconds of training, those in earlier processes of the run included.
struct Stopwatch {
    since: Instant,
    before: f64,
}

impl Stopwatch {
    fn start(before: f64) -> Self {
        Self { since: Instant::now(), before }
    }

    fn seconds(&self) -> f64 {
        self.before + self.since.elapsed().as_secs_f64()
    }
}

/// Training images since the epoch began in this process, and since when.
struct EpochClock {
    since: Instant,
    images: u64,
}

impl EpochClock {
    fn start() -> Self {
        Self { since: Instant::now(), images: 0 }
    }

    fn images_per_s(&self) -> f64 {
        self.images as f64 / self.since.elapsed().as_secs_f64().max(1e-9)
    }
}

impl Session {
    fn start(
        config: Config,
        run: RunFolder,
        model: Model,
        images: Images,
        team: Arc<dyn Collective>,
    ) -> Result<Self, TrainError> {
        Self::new(config, run, model, images, team, None)
    }

    fn resume(config: Config, run: RunFolder, images: Images, team: Arc<dyn Collective>) -> Result<Self, TrainError> {
        let Some(path) = run.checkpoints()?.pop() else {
            run.cut_metrics(0)?;
            let model = start::model(&config)?;
            return Self::start(config, run, model, images, team);
        };
        let Snapshot { model, state, averages } = Snapshot::read(&path)?;
        if state.finished && run.has_summary() {
            return Err(TrainError::RunFinished { folder: run.path().into() });
        }
        run.cut_metrics(state.optimizer.step)?;
        Self::new(config, run, model, images, team, Some((state, averages)))
    }

    fn new(
        config: Config,
        run: RunFolder,
        model: Model,
        images: Images,
        team: Arc<dyn Collective>,
        saved: Option<(State, Averages)>,
    ) -> Result<Self, TrainError> {
        let graph = model.graph().clone();
        let layout = ParameterLayout::new(&graph);
        let parameters = flatten(layout.trainable(), model.parameters());
        let buffers = flatten(layout.buffers(), model.parameters());
        let layers = setup::layers(&config, &graph, &layout)?;
        let position = saved.as_ref().map_or(Position::default(), |(state, _)| state.position);
        let loader = setup::loader(&config, &images.train, &*team, position)?;
        let settings = setup::settings(&config, &layers, config.epochs * loader.batches_per_epoch())?;
        let executor = setup::executor(&config, &graph, buffers, &team)?;
        let teacher = start::teacher(&config)?.map(|model| Teacher::new(&config, &model, &team)).transpose()?;
        let finished = saved.as_ref().is_some_and(|(state, _)| state.finished);
        let before = match saved.as_ref().and_then(|(state, _)| state.seconds) {
            // The last checkpoint does not tell them.
            None if finished => training_seconds(&read_records(run.path())?, config.step_images()),
            seconds => seconds.unwrap_or(0.0),
        };
        let (optimizer, totals, passes, best) = match saved {
            Some((s, averages)) => {
                (Optimizer::resume(settings, layers, s.optimizer, averages), s.totals, s.passes, s.best)
            }
            None => (Optimizer::new(settings, layers), EpochTotals::default(), Passes::default(), None),
        };
        let (clock, stopwatch) = (EpochClock::start(), Stopwatch::start(before));
        Ok(Self {
            config,
            run,
            team,
            graph,
            images,
            loader,
            executor,
            teacher,
            parameters,
            optimizer,
            position,
            totals,
            passes,
            best,
            finished,
            clock,
            stopwatch,
        })
    }

    /// Trains to the end, or until told to stop. Where training diverges it does so in every process: one reports it.
    fn run(mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome, TrainError> {
        let first = self.team.rank() == 0;
        let outcome = if first { self.go(observer, stop) } else { self.go(&mut (), stop) };
        outcome.map_err(|error| match error {
            TrainError::Diverged { .. } if !first => TrainError::Elsewhere { process: 0, code: error.exit_code() },
            TrainError::Executor(problem) => TrainError::Failed { problem, last_checkpoint: self.last_checkpoint() },
            other => other,
        })
    }

    fn go(&mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome, TrainError> {
        self.check_in_step()?;
        if self.config.method == Method::Sr2Paper {
            observer.on_warning(
                "method sr2-paper is the published rule, for reference; it hardly trains batch-norm networks",
            );
        }
        let steps = self.config.epochs * self.loader.batches_per_epoch();
        observer.on_start(self.run.path(), self.optimizer.state().step, steps, self.config.step_images());
        if self.finished {
            observer.on_note("all steps are done; only the summary is missing");
            return self.summarise().map(Outcome::Finished);
        }
        let plan = self.optimizer.plan();
        observer.on_note(&recipe::describe(plan, &self.config, self.loader.batches_per_epoch()));
        let kept = setup::kept_dense(self.executor.layout(), self.optimizer.layers());
        if !kept.is_empty() {
            observer.on_note(&format!("kept dense: {} (--keep PATTERN to choose)", kept.join(", ")));
        }
        if let Some(candle) = self.executor.candle() {
            match CandleExecutor::cannot_keep(&self.optimizer) {
                Some(what) => observer.on_note(&format!("steps are made on the host, because of {what}")),
                None => candle.keep(&self.optimizer, &self.parameters)?,
            }
        }
        let mut empty = self.census().empty_layers();
        let mut guarded = Vec::new();
        self.clock = EpochClock::start();
        while self.position.epoch < self.config.epochs {
            if any(&*self.team, stop.load(Ordering::Relaxed)) {
                let step = self.optimizer.state().step;
                self.fetch()?;
                self.save(None)?;
                return Ok(Outcome::Interrupted { folder: self.run.path().into(), step });
            }
            let (report, batch) = self.step()?;
            let census = self.census();
            if self.config.lambda.is_some() {
                warnings::of_guarded_layers(&mut guarded, &self.optimizer, self.executor.layout(), observer);
            }
            warnings::of_empty_layers(&mut empty, &census, observer);
            self.report_step(&report, batch, census.sparsity(), observer)?;
            self.position.batch += 1;
            if self.position.batch == self.loader.batches_per_epoch() {
                self.position = Position { epoch: self.position.epoch + 1, batch: 0 };
                self.end_epoch(observer)?;
            }
        }
        self.finish().map(Outcome::Finished)
    }

    fn step(&mut self) -> Result<(StepReport, BatchLoss), TrainError> {
        let mut loaded = self.loader.next_batch();
        if let Some(teacher) = &mut self.teacher {
            loaded.batch.teacher = teacher.logits(&loaded.batch)?;
        }
        self.executor.set_support(self.optimizer.gradient_support());
        let executor = self.executor.as_mut();
        let (optimizer, batch, passes) = (&mut self.optimizer, &loaded.batch, &mut self.passes);
        let result = match resident(executor) {
            Some(candle) => candle.step(optimizer, batch, passes),
            None => {
                let mut objective = BatchObjective { executor, batch, passes, at_point: None };
                let report = optimizer.step(&mut self.parameters, &mut objective);
                report.map(|report| (report, objective.at_point.expect("a step computes its gradient")))
            }
        };
        let images = self.config.step_images();
        loaded.batch.teacher.clear();
        self.loader.recycle(loaded.batch);
        let (report, at_point) = result.map_err(|e| self.diverged(e))?;
        if self.optimizer.state().rejections_in_a_row >= ENDLESS_REJECTION {
            let problem =
                format!("{ENDLESS_REJECTION} steps rejected in a row up to step {}", self.optimizer.state().step);
            return Err(TrainError::Diverged { problem, last_checkpoint: self.last_checkpoint() });
        }
        self.totals.add(&report, at_point, images);
        self.clock.images += images as u64;
        Ok((report, at_point))
    }

    fn diverged(&self, error: StepError) -> TrainError {
        match error {
            StepError::Executor(e) => e.into(),
            StepError::NotFinite { .. } => {
                TrainError::Diverged { problem: error.to_string(), last_checkpoint: self.last_checkpoint() }
            }
        }
    }

    fn last_checkpoint(&self) -> Option<PathBuf> {
        self.run.checkpoints().ok()?.pop()
    }

    fn report_step(
        &self,
        report: &StepReport,
        batch: BatchLoss,
        sparsity: f64,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let step = self.optimizer.state().step;
        let record = StepRecord {
            epoch: self.position.epoch + 1,
            step,
            loss: batch.loss,
            xi: report.xi,
            rho: report.rho,
            sigma: report.sigma,
            lambda: report.lambda,
            stationarity: report.stationarity,
            accepted: report.verdict != Verdict::Rejected,
            sparsity,
        };
        let so_far = SoFar {
            loss: self.totals.loss(),
            accuracy: self.totals.accuracy(),
            acceptance_rate: self.totals.acceptance_rate(),
            images_per_s: self.clock.images_per_s(),
        };
        observer.on_step(&record, &so_far);
        if step.is_multiple_of(LOG_EVERY) {
            self.run.log(&Record::Step(record))?;
        }
        Ok(())
    }

    /// Validates, logs and saves; `self.position` is at the start of the next epoch.
    fn end_epoch(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        self.fetch()?;
        self.check_in_step()?;
        let images_per_s = self.clock.images_per_s();
        let census = self.census();
        let validation = self.validate_epoch(census.sparsity())?;
        let totals = std::mem::take(&mut self.totals);
        let record = EpochRecord {
            epoch: self.position.epoch,
            step: self.optimizer.state().step,
            loss: totals.loss(),
            train_accuracy: totals.accuracy(),
            validation_loss: validation.loss,
            validation_accuracy: validation.accuracy,
            sparsity: census.sparsity(),
            empty_layers: census.empty_layers(),
            sigma: self.optimizer.sigma(),
            acceptance_rate: totals.acceptance_rate(),
            images_per_s,
        };
        observer.on_epoch(&record);
        if let Some(bound) = totals.stuck_at() {
            observer.on_warning(&warnings::stuck(bound, record.sigma));
        }
        self.run.log(&Record::Epoch(record))?;
        self.save(None)?;
        self.clock = EpochClock::start();
        Ok(())
    }

    /// Takes the average of the weights if there is one, recomputes the batch-norm statistics, then measures and saves.
    fn finish(&mut self) -> Result<Summary, TrainError> {
        if let Some(candle) = self.executor.candle() {
            candle.release();
        }
        if let Some(averaged) = self.optimizer.averaged(&self.parameters) {
            self.parameters = averaged;
        }
        self.recalibrate()?;
        self.summarise()
    }

    /// Measures the final network on the validation images and, once, on the test images; saves it unless that is done,
    /// and the summary.
    fn summarise(&mut self) -> Result<Summary, TrainError> {
        let validation_accuracy = self.validate()?.accuracy;
        let load_test =
            std::mem::replace(&mut self.images.test, Box::new(|| unreachable!("the test set is read once")));
        let batch_size = self.config.batch_size;
        let test = evaluate(self.executor.as_mut(), &self.parameters, &load_test()?, batch_size, &*self.team)?;
        let accuracies = Accuracies { validation: validation_accuracy, test: Some(test.accuracy) };
        let checkpoint = match self.last_checkpoint().filter(|_| self.finished) {
            Some(saved) => saved,
            None => self.save(Some(accuracies))?,
        };
        let census = self.census();
        let summary = Summary {
            folder: self.run.path().into(),
            checkpoint,
            steps: self.optimizer.state().step,
            passes: self.passes,
            validation_accuracy,
            test_accuracy: test.accuracy,
            test_loss: test.loss,
            sparsity: census.sparsity(),
            layers: census.layers,
            seconds: self.stopwatch.seconds(),
        };
        self.run.save_summary(&summary)?;
        Ok(summary)
    }

    fn census(&mut self) -> Census {
        if let Some(candle) = resident(self.executor.as_mut()) {
            let counts = candle.nonzero().expect("vectors that the executor keeps").iter().copied();
            return Census::of_counts(candle.layout().trainable().iter().zip(counts));
        }
        Census::new(self.executor.layout().trainable(), &self.parameters)
    }

    /// Brings parameters and averages from the device, if they are there.
    fn fetch(&mut self) -> Result<(), ExecutorError> {
        let kept = self.executor.candle().map(|candle| candle.fetch()).transpose()?.flatten();
        if let Some((parameters, averages)) = kept {
            self.parameters = parameters;
            self.optimizer.set_averages(averages);
        }
        Ok(())
    }

    /// Saves a checkpoint; with the final accuracies, as that of a finished run.
    fn save(&self, accuracies: Option<Accuracies>) -> Result<PathBuf, TrainError> {
        let seconds = accuracies.is_none().then(|| self.stopwatch.seconds());
        Ok(self.run.save(self.optimizer.state().step, &self.checkpoint(accuracies, seconds)?)?)
    }

    fn checkpoint(&self, accuracies: Option<Accuracies>, seconds: Option<f64>) -> Result<Checkpoint, ExecutorError> {
        let state = State {
            optimizer: self.optimizer.state().clone(),
            position: self.position,
            totals: self.totals.clone(),
            passes: self.passes,
            best: self.best,
            finished: accuracies.is_some(),
            seconds,
        };
        let model = self.model()?;
        let averages = self.optimizer.averages().clone();
        let provenance = provenance(&self.config, state.optimizer.step, accuracies);
        Ok(Snapshot { model, state, averages }.into_checkpoint(provenance))
    }

    fn model(&self) -> Result<Model, ExecutorError> {
        let layout = self.executor.layout();
        let mut tensors = unflatten(layout.trainable(), &self.parameters);
        tensors.extend(unflatten(layout.buffers(), &self.executor.buffers()?));
        Ok(Model::try_new(self.graph.clone(), tensors).expect("the layout is the graph's"))
    }
}

/// The executor if it keeps the vectors of the training.
fn resident(executor: &mut dyn Executor) -> Option<&mut CandleExecutor> {
    executor.candle().filter(|candle| candle.nonzero().is_some())
}

/// The loss over one batch; remembers the result at the point where the gradient was asked for.
struct BatchObjective<'a> {
    executor: &'a mut dyn Executor,
    batch: &'a Batch,
    passes: &'a mut Passes,
    at_point: Option<BatchLoss>,
}

impl Objective for BatchObjective<'_> {
    fn gradient(&mut self, x: &[f32], gradient: &mut [f32]) -> Result<f64, ExecutorError> {
        self.passes.forward += 1;
        self.passes.backward += 1;
        let result = self.executor.loss_and_gradient(x, self.batch, gradient)?;
        self.at_point = Some(result);
        Ok(result.loss)
    }

    fn value(&mut self, x: &[f32]) -> Result<f64, ExecutorError> {
        self.passes.forward += 1;
        Ok(self.executor.loss(x, self.batch)?.loss)
    }
}
