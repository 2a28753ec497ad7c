//! The default recipe: how a run's budget is split between a dense start, a ramp and a frozen support.

use std::ops::Range;

use sr2_models::Model;

use super::setup;
use super::validation::RECALIBRATION_BATCHES;
use crate::config::{Config, ConfigError, Method};
use crate::layout::{ParameterLayout, flatten};
use crate::optimizer::Layers;
use crate::pruning::{PruningPlan, Target};

/// Fraction of the steps before pruning towards a target begins.
const DENSE_START: f64 = 0.15;
/// Fraction of the steps after which the target is reached, unless the support freezes earlier.
const RAMP_END: f64 = 0.74;
/// When a run of `steps` steps prunes, and how much.
///
/// # Errors
/// A `sparsity` that the layers' least numbers of weights do not allow.
pub(super) fn plan(config: &Config, layers: &Layers, steps: u64) -> Result<PruningPlan, ConfigError> {
    let at = |fraction: f64| (fraction * steps as f64).round() as u64;
    let debias = config.debias.expect("the configuration is resolved");
    let frozen_from = at(1.0 - debias).max(1);
    let plan = PruningPlan {
        target: Target::Lambda(config.lambda.unwrap_or(0.0)),
        from: 0,
        frozen_from,
        dense_every: config.dense_gradient_every,
        steps,
        regrowth: !matches!(config.method, Method::Magnitude | Method::OneShot | Method::Lamp),
    };
    let Some(sparsity) = config.sparsity else { return Ok(plan) };
    let prunable: usize = layers.prunable.iter().map(|range| range.len()).sum();
    let kept = prunable - layers.weights();
    let left = ((1.0 - sparsity) * prunable as f64).round() as usize;
    let least: usize = layers.penalised.iter().map(|layer| layer.least).sum();
    if left < kept + least {
        let most = 1.0 - (kept + least) as f64 / prunable as f64;
        return Err(ConfigError::Value {
            key: "sparsity",
            found: sparsity.to_string(),
            expected: format!(
                "at most {:.4}: {kept} weights stay in the layers kept dense (see keep), {least} so that no other dies",
                (most * 1e4).floor() / 1e4
            ),
        });
    }
    if matches!(config.method, Method::OneShot | Method::Lamp) {
        let from = frozen_from - 1;
        return Ok(PruningPlan { target: Target::Weights { left: left - kept, ramp_until: from }, from, ..plan });
    }
    // A network from a file has had its dense start.
    let dense_start = if config.from.is_some() { 0.0 } else { DENSE_START };
    let from = at(dense_start).min(frozen_from - 1);
    let target = Target::Weights { left: left - kept, ramp_until: at(RAMP_END).clamp(from, frozen_from - 1) };
    Ok(PruningPlan { target, from, ..plan })
}

/// Checks that a network whose zeros stay zeros has as many weights as `sparsity` leaves.
pub(super) fn check_zeros(config: &Config, model: &Model) -> Result<(), ConfigError> {
    let layout = ParameterLayout::new(model.graph());
    let layers = setup::layers(config, model.graph(), &layout)?;
    let PruningPlan { target: Target::Weights { left, .. }, regrowth: false, .. } = plan(config, &layers, 1)? else {
        return Ok(());
    };
    let parameters = flatten(layout.trainable(), model.parameters());
    let nonzero = |range: &Range<usize>| parameters[range.clone()].iter().filter(|w| **w != 0.0).count();
    let found: usize = layers.penalised.iter().map(|layer| nonzero(&layer.range)).sum();
    if found >= left {
        return Ok(());
    }
    let prunable: usize = layers.prunable.iter().map(|range| range.len()).sum();
    let zeros = (layers.weights() - found) as f64 / prunable as f64;
    Err(ConfigError::Value {
        key: "sparsity",
        found: config.sparsity.expect("a number of weights comes of a sparsity").to_string(),
        expected: format!(
            "at least {:.4}: the network has {:.2} % zeros already, which stay zeros with this method",
            (zeros * 1e4).ceil() / 1e4,
            100.0 * zeros
        ),
    })
}

/// The plan in words, its times in epochs.
pub(super) fn describe(plan: &PruningPlan, config: &Config, batches_per_epoch: u64) -> String {
    let epoch = |step: u64| format!("{:.1}", step as f64 / batches_per_epoch as f64);
    let mut parts = Vec::new();
    if plan.from > 0 && plan.target != Target::Lambda(0.0) {
        parts.push(format!("dense until {}", epoch(plan.from)));
    }
    match plan.target {
        Target::Lambda(0.0) => parts.push("dense".into()),
        Target::Lambda(lambda) => parts.push(format!("lambda {lambda} from the first step on")),
        Target::Weights { ramp_until, .. } => {
            let percent = 100.0 * config.sparsity.expect("a number of weights comes of a sparsity");
            let how = if ramp_until > plan.from { "a ramp to" } else { "a cut to" };
            parts.push(format!("{how} {percent} % zeros until {}", epoch(ramp_until + 1)));
        }
    }
    if plan.frozen_from < plan.steps && plan.target != Target::Lambda(0.0) {
        parts.push(format!("from {} on only the loss, zeros stay", epoch(plan.frozen_from)));
    }
    parts.push(format!("batch-norm statistics from {RECALIBRATION_BATCHES} batches at the end"));
    format!("plan of {} epochs: {}", config.epochs, parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_told_in_epochs() {
        let plan = |target, from, frozen_from| PruningPlan {
            target,
            from,
            frozen_from,
            dense_every: 1,
            steps: 200,
            regrowth: true,
        };
        let config = Config { epochs: 20, sparsity: Some(0.95), ..Config::default() };
        let end = "; batch-norm statistics from 32 batches at the end";
        let cases = [
            (
                plan(Target::Weights { left: 5, ramp_until: 147 }, 30, 150),
                "dense until 3.0; a ramp to 95 % zeros until 14.8; from 15.0 on only the loss, zeros stay",
            ),
            (
                plan(Target::Weights { left: 5, ramp_until: 0 }, 0, 1),
                "a cut to 95 % zeros until 0.1; from 0.1 on only the loss, zeros stay",
            ),
            (plan(Target::Lambda(0.002), 0, 200), "lambda 0.002 from the first step on"),
            (plan(Target::Lambda(0.0), 0, 150), "dense"),
        ];
        for (plan, expected) in cases {
            assert_eq!(describe(&plan, &config, 10), format!("plan of 20 epochs: {expected}{end}"));
        }
    }
}
