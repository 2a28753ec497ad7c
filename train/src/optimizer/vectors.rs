//! What a step does with whole vectors, wherever they lie: the host's memory, or that of the device that computes the
//! network.

use super::{Layers, Settings, State, StepControl};
use crate::executor::ExecutorError;
use crate::regulariser::Regulariser;
use crate::schedule_free::ScheduleFree;
use crate::sr2::{Sr2, Tried};
use crate::trial::Trial;

/// What a step goes by.
#[derive(Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub settings: &'a Settings,
    pub layers: &'a Layers,
    /// The state before the step.
    pub state: &'a State,
    /// The sigma used.
    pub sigma: f64,
}

impl Rules<'_> {
    /// Whether the loss at the trial point will be asked for, whatever the point.
    pub fn surely_tests(&self) -> bool {
        matches!(&self.settings.control, StepControl::Sr2(sr2) if sr2.surely_tests(self.state))
    }

    /// Most that the squares of a channel's gradient may add up to, see [`crate::sr2::Guards::loss_ceiling`].
    pub fn steepest(&self) -> Option<f64> {
        match &self.settings.control {
            StepControl::Sr2(Sr2 { guards: Some(guards), .. }) => Some(guards.loss_ceiling * self.sigma),
            _ => None,
        }
    }

    /// The part `c` of `z` that goes into the average `x` of schedule-free averaging. Where SR2's sigma stands above its floor
    /// it is as much less as steps are shorter: `x` would run into a `z` that hardly moves, and lose what it averaged.
    pub fn averaged_part(&self) -> f64 {
        let shorter = match &self.settings.control {
            StepControl::Sr2(Sr2 { floor: Some(floor), .. }) => floor.sigma(self.state.step) / self.sigma,
            _ => 1.0,
        };
        ScheduleFree::part(self.state.averaged) * shorter
    }
}

/// How strongly the penalty acts in a step.
pub(crate) enum Acting {
    /// With this weight in each layer.
    Lambdas(Vec<f64>),
    /// So that it leaves this many weights.
    Left(usize),
}

/// A trial point, as far as decisions need it.
pub(crate) struct Proposal {
    /// Loss at the old point.
    pub loss: f64,
    pub trial: Trial,
    /// Largest weight of the penalty in any layer.
    pub lambda: f64,
    /// Layers with a smaller one than they were told ([`super::Optimizer::guarded`]).
    pub guarded: Vec<usize>,
}

/// Weight of the newest parameters in their running average: `1 - beta`, at first `1 / (step + 1)`, which makes it the plain
/// mean of the first steps.
pub(crate) fn averaging_weight(beta: f64, step: u64) -> f32 {
    (1.0 - beta).max(1.0 / (step as f64 + 1.0)) as f32
}

/// Parameters, gradient, direction, trial point and averages of a training, and the parts of a step on them, in this order.
pub(crate) trait Vectors {
    /// Puts the parameters where the step may begin: into their box before the first one, and where the support freezes
    /// onto a point with no more weights than the target.
    fn enter(&mut self, rules: Rules) -> Result<(), ExecutorError>;

    /// Computes the gradient at the parameters, weight decay and all, and makes it a direction.
    fn direct(&mut self, rules: Rules) -> Result<(), ExecutorError>;

    /// Computes the trial point, in which no layer falls under its least number of weights.
    fn propose(&mut self, rules: Rules, regulariser: Regulariser, acting: Acting) -> Result<Proposal, ExecutorError>;

    /// What the test needs of the trial point; moves the curvature, where there is one.
    fn value(&mut self, rules: Rules) -> Result<Tried, ExecutorError>;

    /// Moves to the trial point if it is taken; moves the averages.
    fn leave(&mut self, rules: Rules, taken: bool) -> Result<(), ExecutorError>;
}
