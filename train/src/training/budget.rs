//! How many epochs fit in a given time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sr2_models::Model;

use super::{Images, setup};
use crate::collective::{Collective, any};
use crate::config::{Config, ConfigError, Method};
use crate::data::Position;
use crate::executor::Executor;
use crate::layout::{ParameterLayout, flatten};
use crate::train_error::TrainError;

/// Steps and time after which a speed is known well enough.
const STEPS: u32 = 10;
const TIME: Duration = Duration::from_secs(3);
/// What validation, checkpoints and the end of a run take, over what the steps take.
const OVERHEAD: f64 = 1.1;

/// Epochs that fit in `minutes`, from a few dense steps measured after one to warm up; later steps, on sparse weights, are
/// rather faster.
///
/// # Errors
/// If not even one epoch fits.
pub(super) fn epochs(
    config: &Config,
    minutes: f64,
    model: &Model,
    images: &Images,
    team: &Arc<dyn Collective>,
) -> Result<u64, TrainError> {
    let layout = ParameterLayout::new(model.graph());
    let parameters = flatten(layout.trainable(), model.parameters());
    let mut executor = setup::executor(config, model.graph(), flatten(layout.buffers(), model.parameters()), team)?;
    let mut loader = setup::loader(config, &images.train, &**team, Position::default())?;
    let mut gradient = vec![0.0; parameters.len()];
    let tested = |step: u32| match config.method {
        Method::Sr2 => u64::from(step + 1).is_multiple_of(config.test_every.expect("the configuration is resolved")),
        method => method == Method::Sr2Paper,
    };
    let mut step = |executor: &mut dyn Executor, tested: bool| -> Result<(), TrainError> {
        let loaded = loader.next_batch();
        executor.loss_and_gradient(&parameters, &loaded.batch, &mut gradient)?;
        if tested {
            executor.loss(&parameters, &loaded.batch)?;
        }
        loader.recycle(loaded.batch);
        Ok(())
    };
    step(executor.as_mut(), tested(0))?;
    let (start, mut steps) = (Instant::now(), 0);
    while any(&**team, steps < STEPS || (start.elapsed() < TIME && steps < 10 * STEPS)) {
        step(executor.as_mut(), tested(steps))?;
        steps += 1;
    }
    let mut seconds = [start.elapsed().as_secs_f64() / f64::from(steps)];
    team.sum_f64(&mut seconds);
    let epoch = OVERHEAD * seconds[0] / team.size() as f64 * loader.batches_per_epoch() as f64 / 60.0;
    let epochs = (minutes / epoch).floor();
    if epochs < 1.0 {
        let expected = format!("at least {epoch:.3}, the time of one epoch here");
        return Err(ConfigError::Value { key: "minutes", found: minutes.to_string(), expected }.into());
    }
    Ok(epochs as u64)
}
