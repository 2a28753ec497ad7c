//! The network whose outputs a run distils.

use std::sync::Arc;

use sr2_models::Model;

use super::setup;
use crate::collective::Collective;
use crate::config::Config;
use crate::executor::{Batch, Executor, ExecutorError};
use crate::layout::flatten;

/// A trained network, batch norm with its running statistics.
pub(super) struct Teacher {
    executor: Box<dyn Executor>,
    parameters: Vec<f32>,
}

impl Teacher {
    pub(super) fn new(config: &Config, model: &Model, team: &Arc<dyn Collective>) -> Result<Self, ExecutorError> {
        let layout = crate::layout::ParameterLayout::new(model.graph());
        let [parameters, buffers] =
            [layout.trainable(), layout.buffers()].map(|segments| flatten(segments, model.parameters()));
        Ok(Self { executor: setup::executor(config, model.graph(), buffers, team)?, parameters })
    }

    /// Its logits `[count, classes]`.
    pub(super) fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, ExecutorError> {
        self.executor.logits(&self.parameters, &batch.images, batch.labels.len())
    }
}
