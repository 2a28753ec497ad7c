//! What an optimizer is told: the parts of its step, and the layers.

use std::ops::Range;

use crate::direction::Direction;
use crate::pruning::{PruningPlan, Target};
use crate::regulariser::Regulariser;
use crate::schedule::Schedule;
use crate::share::{PenalisedLayer, Share};
use crate::sr2::Sr2;
use crate::trial::Penalised;

/// Everything that an [`super::Optimizer`] is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The penalty `h`.
    pub regulariser: Regulariser,
    /// When it acts, and how strongly.
    pub plan: PruningPlan,
    /// How a number of weights to leave is shared among the layers.
    pub share: Share,
    /// What the step follows, and in which metric.
    pub direction: Direction,
    /// Whether SR2's model has a diagonal curvature, learnt in each step that is tested: [`crate::quasi_cauchy`]. For a
    /// function that stays the same from step to step, not for batches.
    pub quasi_cauchy: bool,
    /// How long the step is, and whether it is taken.
    pub control: StepControl,
    /// Whether the point only moves part of the way to the trial point, as in ProxSGD: by `0.06 / (t + 4)^0.5` at step
    /// `t`. A step to the trial point itself ends the pruning and the run, since the mixture has no zeros.
    pub relaxed: bool,
    /// What shrinks the prunable weights besides the penalty.
    pub weight_decay: WeightDecay,
    /// Weight of the past in the average of the weights, if there is one.
    pub ema: Option<f64>,
}

impl Settings {
    /// Whether schedule-free averaging keeps what the prox takes away at `step`, so that it may come back as what it has
    /// become: on the way to a number of weights that the prox leaves in each step, where zeros may come back.
    pub(crate) fn keeps_what_is_taken(&self, step: u64) -> bool {
        let Self { regulariser, plan, .. } = self;
        let meets_number = matches!(plan.target, Target::Weights { .. }) && regulariser.penalty.spares_survivors();
        meets_number && plan.regrowth && plan.moves(step)
    }
}

/// Decay of the prunable weights `w`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WeightDecay {
    /// The smooth function is the loss plus `mu / 2 |w|^2`, in the gradient and in SR2's test.
    Coupled(f64),
    /// Outside the function that is minimised (arXiv 1711.05101): after a step `w` is multiplied by `1 - mu / sigma`.
    Decoupled(f64),
}

impl WeightDecay {
    /// None.
    pub const NONE: Self = Self::Coupled(0.0);

    /// `mu` of the smooth function.
    pub(crate) fn coupled(self) -> f64 {
        match self {
            Self::Coupled(mu) => mu,
            Self::Decoupled(_) => 0.0,
        }
    }

    /// What a step with this sigma multiplies `w` by, if by anything.
    pub(crate) fn kept(self, sigma: f64) -> Option<f32> {
        match self {
            Self::Decoupled(mu) if mu > 0.0 => Some((1.0 - mu / sigma) as f32),
            _ => None,
        }
    }
}

/// How long a step is, and whether it is taken.
#[derive(Debug, Clone, PartialEq)]
pub enum StepControl {
    /// SR2: sigma adapts, and a test on the batch decides. Costs a second forward pass.
    Sr2(Sr2),
    /// Sigma follows a schedule, and every step is taken.
    Schedule(Schedule),
}

/// The layers that an [`super::Optimizer`] prunes, and those in which it keeps zeros on a frozen support.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Layers {
    /// Under the penalty, ascending in the flat vectors.
    pub penalised: Vec<PenalisedLayer>,
    /// Where a frozen support keeps zeros; holds all penalised ones.
    pub prunable: Vec<Range<usize>>,
}

impl Layers {
    /// One layer, which a target may empty.
    pub fn one(range: Range<usize>) -> Self {
        Self { penalised: vec![PenalisedLayer::plain(range.clone())], prunable: vec![range] }
    }

    /// The penalised layers with the weight of the penalty in each.
    pub(super) fn with(&self, lambdas: Vec<f64>) -> Vec<Penalised> {
        let act = |(layer, lambda): (&PenalisedLayer, f64)| {
            let PenalisedLayer { range, groups, .. } = layer.clone();
            Penalised { range, lambda, groups }
        };
        self.penalised.iter().zip(lambdas).map(act).collect()
    }

    /// Number of penalised weights.
    pub fn weights(&self) -> usize {
        self.penalised.iter().map(|layer| layer.range.len()).sum()
    }
}
