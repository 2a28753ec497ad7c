//! What is done to a network before it is written, and what that saves.

use serde::Serialize;
use sr2_models::{Model, passes};

/// Which rewrites an export makes; each keeps the network's output up to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passes {
    /// Fold batch norms into the convolutions before them.
    pub fold_batch_norm: bool,
    /// Cut off constant branches, then remove dead channels: the network gets smaller also where it is dense.
    pub remove_dead_channels: bool,
}

impl Default for Passes {
    fn default() -> Self {
        Self { fold_batch_norm: true, remove_dead_channels: false }
    }
}

impl Passes {
    /// What they leave, for people.
    pub(crate) fn outcome(self) -> &'static str {
        match (self.fold_batch_norm, self.remove_dead_channels) {
            (true, true) => "batch norm folded, dead channels removed",
            (true, false) => "batch norm folded",
            (false, true) => "batch norm as trained, dead channels removed",
            (false, false) => "batch norm as trained",
        }
    }
}

/// A rewrite that was made, and what it left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassReport {
    /// What was done.
    pub pass: &'static str,
    /// The network before it.
    pub before: Counts,
    /// The network after it.
    pub after: Counts,
}

/// The size of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Operators.
    pub nodes: usize,
    /// Values of all parameters, zeros too.
    pub parameters: usize,
    /// Those of them that are not zero.
    pub nonzero: usize,
    /// Multiply-adds of one image with dense weights.
    pub macs: u64,
}

impl Counts {
    fn of(model: &Model) -> Self {
        let tensors = model.parameters().values();
        let (parameters, nonzero) = tensors.fold((0, 0), |(n, nonzero), t| (n + t.len(), nonzero + t.nnz()));
        Self { nodes: model.graph().nodes().len(), parameters, nonzero, macs: model.graph().macs() }
    }
}

/// Rewrites a network as asked for.
pub(crate) fn apply(model: &Model, asked: Passes) -> (Model, Vec<PassReport>) {
    type Pass = fn(&Model) -> Model;
    let (mut model, mut reports) = (model.clone(), Vec::new());
    let mut pass = |name, rewrite: Pass| {
        let before = Counts::of(&model);
        model = rewrite(&model);
        reports.push(PassReport { pass: name, before, after: Counts::of(&model) });
    };
    // A batch norm of scale zero makes a dead filter where it is folded.
    if asked.fold_batch_norm {
        pass("fold batch norm", passes::fold_batch_norm);
    }
    if asked.remove_dead_channels {
        pass("fold constant sums", passes::fold_constant_sums);
        pass("remove dead channels", passes::remove_dead_channels);
    }
    (model, reports)
}
