//! How a run begins: what it needs is read and checked, alone or in several processes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sr2_formats::Error;
use sr2_models::{Model, zoo};

use super::{Outcome, Session, budget, recipe, setup, start};
use crate::collective::{Alone, Collective, agree, shared_text};
use crate::config::{Config, ConfigError};
use crate::data::{Cifar, Dataset, DatasetKind, SPLIT_SEED, holdout_size, locate, split};
use crate::observer::Observer;
use crate::run_folder::RunFolder;
use crate::train_error::TrainError;

/// The images of a run. The test part is only read when training has ended.
pub(super) struct Images {
    /// To train on.
    pub(super) train: Arc<Dataset>,
    /// Held out, to measure each epoch.
    pub(super) validation: Dataset,
    /// Reads the test images.
    pub(super) test: Box<dyn FnOnce() -> Result<Dataset, Error>>,
}

/// Trains a network of the zoo, or one from a file, in a new run folder. `stop` is looked at before every step.
pub fn train(config: &Config, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome, TrainError> {
    train_together(config, &alone(), observer, stop)
}

/// Goes on with the run in `folder` from its last checkpoint, or from the start if it has none.
pub fn resume(folder: &Path, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome, TrainError> {
    resume_together(folder, &alone(), observer, stop)
}

pub(super) fn alone() -> Arc<dyn Collective> {
    Arc::new(Alone)
}

/// [`train`] in every process of `team`: each computes its part of every batch. Process 0 makes the run folder, writes and
/// reports; the others find folder and images at the same paths. `stop` counts in whichever process it is set.
///
/// # Errors
/// [`TrainError::Elsewhere`] in all processes but one where one has failed or all have in the same way. Any other error
/// may be this process's alone: the others then wait for it until it calls [`Collective::abort`].
pub fn train_together(
    config: &Config,
    team: &Arc<dyn Collective>,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let (mut config, model, images) = agree(&**team, prepare(config, team.size()))?;
    if let Some(minutes) = config.minutes.take() {
        config.epochs = agree(&**team, budget::epochs(&config, minutes, &model, &images, team))?;
    }
    let create = || RunFolder::create(&config, model.graph().name());
    let run = agree(&**team, (team.rank() == 0).then(create).transpose())?;
    let path = shared_text(&**team, &run.as_ref().map_or(String::new(), |run| run.path().display().to_string()));
    let (run, config) = match run {
        Some(run) => (run, config),
        None => RunFolder::follow(Path::new(&path))?,
    };
    let session = Session::start(config, run, model, images, team.clone());
    agree(&**team, session)?.run(observer, stop)
}

/// [`resume`] in every process of `team`, of which there may be another number than before: [`train_together`].
pub fn resume_together(
    folder: &Path,
    team: &Arc<dyn Collective>,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let open = || {
        let (run, config) = if team.rank() == 0 { RunFolder::open(folder)? } else { RunFolder::follow(folder)? };
        let config = config.resolve()?;
        setup::check_processes(&config, team.size())?;
        let images = images(&locate(config.dataset, config.data.as_deref())?, config.dataset)?;
        Session::resume(config, run, images, team.clone())
    };
    agree(&**team, open())?.run(observer, stop)
}

/// Checks and completes a configuration for so many processes, and reads what it names.
fn prepare(config: &Config, processes: usize) -> Result<(Config, Model, Images), TrainError> {
    let mut config = config.clone().resolve()?;
    if processes > 1 {
        config.processes.get_or_insert(processes);
    }
    setup::check_processes(&config, processes)?;
    config.from = config.from.map(absolute).transpose()?;
    config.teacher = config.teacher.map(absolute).transpose()?;
    start::teacher(&config)?;
    let model = start::model(&config)?;
    config.network = Some(model.graph().name().into());
    setup::check(&config, model.graph())?;
    recipe::check_zeros(&config, &model)?;
    let folder = locate(config.dataset, config.data.as_deref())?;
    let images = images(&folder, config.dataset)?;
    config.data = Some(absolute(folder)?);
    Ok((config, model, images))
}

/// Checks what a resolved configuration says of the layers of a network of the zoo; those of a file are checked when it
/// is read.
pub(crate) fn check_layers(config: &Config) -> Result<(), ConfigError> {
    if config.from.is_some() {
        return Ok(());
    }
    setup::check(config, &zoo::build(config.zoo_network(), config.dataset.classes())?)
}

fn absolute(path: PathBuf) -> Result<PathBuf, Error> {
    std::path::absolute(&path).map_err(|e| Error::io(&path, "find", e))
}

fn images(folder: &Path, kind: DatasetKind) -> Result<Images, TrainError> {
    let cifar = Cifar::open(folder, kind)?;
    let all = cifar.load_train()?;
    if holdout_size(all.len()) == 0 {
        let problem = format!(
            "{} training images, expected at least 10, a tenth of which are held out for validation; \
             `sr2-prune data check` shows what is there",
            all.len()
        );
        return Err(Error::malformed(folder, problem).into());
    }
    let (train, validation) = split(&all, holdout_size(all.len()), SPLIT_SEED);
    Ok(Images { train: Arc::new(train), validation, test: Box::new(move || cifar.load_test()) })
}
