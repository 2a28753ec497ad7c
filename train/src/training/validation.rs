//! What is measured after an epoch: the network that the run would give if it ended there.

use sr2_models::checkpoint::Checkpoint;

use super::snapshot::{Accuracies, Best, provenance};
use super::{Session, setup};
use crate::evaluation::{Evaluation, evaluate, recalibrate};
use crate::executor::ExecutorError;
use crate::train_error::TrainError;

/// Training batches whose statistics batch norm uses in the network that a run gives.
pub(super) const RECALIBRATION_BATCHES: usize = 32;

impl Session {
    /// Measures the network that the run would give if it ended here, and keeps it in `best.safetensors` if it is the
    /// best so far. Where the weights are averaged that is their average with statistics of its own; parameters and
    /// running statistics of the training are then put back.
    pub(super) fn validate_epoch(&mut self, sparsity: f64) -> Result<Evaluation, TrainError> {
        let averaged = self.optimizer.averaged(&self.parameters);
        let training = averaged.map(|averaged| self.exchange(averaged)).transpose()?;
        let validation = self.validate()?;
        let candidate = Best { sparsity, validation_accuracy: validation.accuracy };
        if self.best.is_none_or(|best| candidate.beats(&best)) {
            self.best = Some(candidate);
            self.save_best(validation)?;
        }
        if let Some((parameters, running)) = training {
            self.parameters = parameters;
            self.executor.set_buffers(&running)?;
        }
        Ok(validation)
    }

    /// Puts other parameters in place, with running statistics of their own; returns both as they were.
    fn exchange(&mut self, parameters: Vec<f32>) -> Result<(Vec<f32>, Vec<f32>), TrainError> {
        let running = self.executor.buffers()?;
        let parameters = std::mem::replace(&mut self.parameters, parameters);
        self.recalibrate()?;
        Ok((parameters, running))
    }

    /// Replaces the running statistics by those of the training batches that come next, which stay where they are.
    pub(super) fn recalibrate(&mut self) -> Result<(), TrainError> {
        let mut loader = setup::loader(&self.config, &self.images.train, &*self.team, self.position)?;
        let executor = self.executor.as_mut();
        Ok(recalibrate(executor, &self.graph, &self.parameters, &mut loader, RECALIBRATION_BATCHES)?)
    }

    pub(super) fn validate(&mut self) -> Result<Evaluation, ExecutorError> {
        let batch_size = self.config.batch_size;
        evaluate(self.executor.as_mut(), &self.parameters, &self.images.validation, batch_size, &*self.team)
    }

    /// The network alone: training does not go on from it.
    fn save_best(&self, validation: Evaluation) -> Result<(), TrainError> {
        let accuracies = Accuracies { validation: validation.accuracy, test: None };
        let provenance = provenance(&self.config, self.optimizer.state().step, Some(accuracies));
        let (state, metadata) = Default::default();
        Ok(self.run.save_best(&Checkpoint { model: self.model()?, provenance, state, metadata })?)
    }
}
