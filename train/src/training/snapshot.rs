//! A run between two steps, as a checkpoint holds it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sr2_formats::{Error, Result, Tensor, TensorMap};
use sr2_models::Model;
use sr2_models::checkpoint::{self, Checkpoint, Provenance};

use crate::config::Config;
use crate::data::Position;
use crate::metrics::{EpochTotals, Passes};
use crate::optimizer::{self, Averages};

/// Within this much sparsity, the more accurate network is the better one; beyond it, the sparser.
const SPARSITY_TIE: f64 = 0.005;

const MOMENTUM_TENSOR: &str = "optimizer.momentum";
const MEAN_SQUARE_TENSOR: &str = "optimizer.mean_square";
const PARAMETERS_TENSOR: &str = "optimizer.average_parameters";
const ITERATE_TENSOR: &str = "optimizer.iterate";
const CURVATURE_TENSOR: &str = "optimizer.curvature";
const STATE_KEY: &str = "sr2.state";

/// Everything that the next step depends on, apart from the configuration and the images.
pub(super) struct Snapshot {
    pub(super) model: Model,
    pub(super) state: State,
    pub(super) averages: Averages,
}

/// What a checkpoint keeps besides tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) optimizer: optimizer::State,
    pub(super) position: Position,
    pub(super) totals: EpochTotals,
    #[serde(default)]
    pub(super) passes: Passes,
    pub(super) best: Option<Best>,
    pub(super) finished: bool,
    /// Seconds of training so far; only where a run goes on from, so that what it ends with does not depend on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seconds: Option<f64>,
}

/// The epoch that `best.safetensors` holds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Best {
    pub(super) sparsity: f64,
    pub(super) validation_accuracy: f64,
}

impl Best {
    /// More zeros win; within a tie, accuracy does.
    pub(super) fn beats(&self, other: &Self) -> bool {
        let sparser = self.sparsity - other.sparsity;
        sparser > SPARSITY_TIE || (sparser >= -SPARSITY_TIE && self.validation_accuracy > other.validation_accuracy)
    }
}

/// Accuracies of a network that was measured; on test images only those of a finished run.
#[derive(Clone, Copy)]
pub(super) struct Accuracies {
    pub(super) validation: f64,
    pub(super) test: Option<f64>,
}

impl Snapshot {
    /// Reads a checkpoint that a run can go on from.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let Checkpoint { model, state: mut tensors, metadata, .. } = checkpoint::read(path)?;
        let malformed = |problem: String| Error::malformed(path, problem);
        let text = metadata.get(STATE_KEY);
        let text = text.ok_or_else(|| malformed(format!("has no metadata {STATE_KEY:?}, so it cannot be resumed")))?;
        let state = serde_json::from_str(text).map_err(|e| malformed(format!("metadata {STATE_KEY:?}: {e}")))?;
        let trainable = model.graph().parameters().iter().filter(|p| p.role.is_trainable());
        let expected: usize = trainable.map(|p| p.shape.iter().product::<usize>()).sum();
        let mut average = |name: &str| {
            let values = tensors.remove(name).map_or(Vec::new(), |t| t.data().to_vec());
            let found = values.len();
            let fits = found == 0 || found == expected;
            fits.then_some(values)
                .ok_or_else(|| malformed(format!("tensor {name:?} has {found} values, expected {expected}")))
        };
        let averages = Averages {
            momentum: average(MOMENTUM_TENSOR)?,
            mean_square: average(MEAN_SQUARE_TENSOR)?,
            parameters: average(PARAMETERS_TENSOR)?,
            iterate: average(ITERATE_TENSOR)?,
            curvature: average(CURVATURE_TENSOR)?,
        };
        Ok(Self { model, state, averages })
    }

    /// The checkpoint to write.
    pub(super) fn into_checkpoint(self, provenance: Provenance) -> Checkpoint {
        let mut state = TensorMap::new();
        let Averages { momentum, mean_square, parameters, iterate, curvature } = self.averages;
        let averages = [
            (MOMENTUM_TENSOR, momentum),
            (MEAN_SQUARE_TENSOR, mean_square),
            (PARAMETERS_TENSOR, parameters),
            (ITERATE_TENSOR, iterate),
            (CURVATURE_TENSOR, curvature),
        ];
        for (name, average) in averages {
            if !average.is_empty() {
                state.insert(name.into(), Tensor::new([average.len()], average));
            }
        }
        let text = serde_json::to_string(&self.state).expect("the state is plain data");
        Checkpoint { model: self.model, provenance, state, metadata: [(STATE_KEY.to_string(), text)].into() }
    }
}

/// What the checkpoint tells of its origin.
pub(super) fn provenance(config: &Config, steps: u64, accuracies: Option<Accuracies>) -> Provenance {
    let mut training: std::collections::BTreeMap<String, serde_json::Value> = [
        ("method", json!(config.method)),
        ("penalty", json!(config.penalty)),
        ("lambda", json!(config.lambda)),
        ("sparsity", json!(config.sparsity)),
        ("share", json!(config.share)),
        ("group", json!(config.group)),
        ("ema", json!(config.ema)),
        ("control", json!(config.control)),
        ("debias", json!(config.debias)),
        ("epochs", json!(config.epochs)),
        ("batch_size", json!(config.step_images())),
        ("seed", json!(config.seed)),
        ("steps", json!(steps)),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .into();
    if let Some(Accuracies { validation, test }) = accuracies {
        training.insert("validation_accuracy".into(), json!(validation));
        training.extend(test.map(|test| ("test_accuracy".into(), json!(test))));
    }
    let kind = config.dataset;
    Provenance {
        dataset: Some(kind.name().into()),
        class_names: kind.class_names().iter().map(|name| name.to_string()).collect(),
        mean: kind.mean().to_vec(),
        std: kind.std().to_vec(),
        training,
    }
}

#[cfg(test)]
mod tests {
    use sr2_models::{Gemm, Graph, GraphBuilder, Node, Op};

    use super::*;

    /// One linear layer of two weights.
    fn graph() -> Graph {
        let mut builder = GraphBuilder::new("tiny", &[2, 1, 1]);
        let flat = builder.push(Node { name: "flat".into(), op: Op::Flatten, inputs: vec![0] }).unwrap();
        let gemm = Gemm { weight: "fc.weight".into(), bias: None, out_features: 1 };
        builder.push(Node { name: "fc".into(), op: Op::Gemm(gemm), inputs: vec![flat] }).unwrap();
        builder.finish().unwrap()
    }

    #[test]
    fn all_averages_are_saved() {
        let weights = [("fc.weight".to_string(), Tensor::new([1, 2], vec![0.5, 0.0]))].into();
        let averages = Averages {
            momentum: vec![1.0, 2.0],
            mean_square: vec![3.0, 4.0],
            parameters: vec![5.0, 6.0],
            iterate: vec![7.0, 8.0],
            curvature: vec![9.0, 10.0],
        };
        let state = State {
            optimizer: optimizer::State { step: 1, sigma: 1.0, rejections_in_a_row: 0, lambda: 0.0, averaged: 0 },
            position: Position::default(),
            totals: EpochTotals::default(),
            passes: Passes::default(),
            best: None,
            finished: false,
            seconds: None,
        };
        let model = Model::try_new(graph(), weights).unwrap();
        let snapshot = Snapshot { model, state, averages: averages.clone() };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint-1.safetensors");
        checkpoint::write(&path, &snapshot.into_checkpoint(Provenance::default())).unwrap();
        assert_eq!(Snapshot::read(&path).unwrap().averages, averages);
    }
}
