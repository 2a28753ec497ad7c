//! From a configuration to what runs it.

use std::ops::Range;
use std::sync::Arc;

use sr2_models::{Graph, Node, Op};
use wildmatch::WildMatch;

use super::recipe;
use crate::candle_executor::{CandleExecutor, DeviceKind};
use crate::collective::{Collective, part};
use crate::config::{Config, ConfigError, Control, ExecutorKind, Method};
use crate::data::{BatchLoader, Dataset, LoaderError, LoaderOptions, Position};
use crate::direction::Direction;
use crate::executor::{Executor, ExecutorError};
use crate::group::Grouping;
use crate::layout::{ParameterLayout, Segment};
use crate::optimizer::{Layers, Settings, StepControl, WeightDecay};
use crate::regulariser::Regulariser;
use crate::schedule::{Floor, Schedule};
use crate::schedule_free::ScheduleFree;
use crate::share::PenalisedLayer;
use crate::sr2::Sr2;
use crate::tape::TapeExecutor;

/// Fraction of each layer's weights that are left in any case.
const LEAST_DENSITY: f64 = 0.01;
/// Steps over which schedule-free steps get longer.
const WARMUP_STEPS: u64 = 100;
/// ProxGEN's learning rate (arXiv 2007.07484, section 5).
const PROX_GEN_RATE: f64 = 1e-3;

/// What computes `graph`, together with the processes of `team`.
pub(super) fn executor(
    config: &Config,
    graph: &Graph,
    buffers: Vec<f32>,
    team: &Arc<dyn Collective>,
) -> Result<Box<dyn Executor>, ExecutorError> {
    if !is_tape(config) {
        let mut executor = CandleExecutor::new(graph.clone(), buffers, config.device)?;
        executor.set_precision(config.precision)?;
        return Ok(Box::new(executor));
    }
    let threads = config.threads.expect("the configuration is resolved");
    let mut executor = TapeExecutor::new(graph, config.step_images().div_ceil(team.size()), threads)?;
    executor.set_precision(config.precision)?;
    executor.set_buffers(&buffers)?;
    executor.set_team(team.clone());
    Ok(Box::new(executor))
}

/// Training batches from `start` on, this process's part of each.
pub(super) fn loader(
    config: &Config,
    train: &Arc<Dataset>,
    team: &dyn Collective,
    start: Position,
) -> Result<BatchLoader, LoaderError> {
    let batch_size = config.step_images();
    let part = Some(part(team, batch_size));
    let options = LoaderOptions { batch_size, part, seed: config.seed, augment: true, workers: config.workers, start };
    BatchLoader::new(train.clone(), &options)
}

fn is_tape(config: &Config) -> bool {
    match config.executor {
        ExecutorKind::Auto => config.device == DeviceKind::Cpu,
        ExecutorKind::Tape => true,
        ExecutorKind::Candle => false,
    }
}

/// Checks that the run can be shared by so many processes.
pub(super) fn check_processes(config: &Config, processes: usize) -> Result<(), ConfigError> {
    let value = |key, found: String, expected: String| Err(ConfigError::Value { key, found, expected });
    let images = config.step_images();
    match processes {
        1 => Ok(()),
        _ if !is_tape(config) => value("executor", "candle".into(), "tape with several processes".into()),
        _ if images < processes => {
            value("batch_size", images.to_string(), format!("an image for each of {processes} processes"))
        }
        _ => Ok(()),
    }
}

/// Checks what a configuration says of a graph's layers.
pub(super) fn check(config: &Config, graph: &Graph) -> Result<(), ConfigError> {
    let layers = layers(config, graph, &ParameterLayout::new(graph))?;
    settings(config, &layers, 1).map(drop)
}

/// The layers to prune.
///
/// # Errors
/// A pattern of `keep` or `scale` that matches no layer.
pub(super) fn layers(config: &Config, graph: &Graph, layout: &ParameterLayout) -> Result<Layers, ConfigError> {
    let prunable: Vec<&Segment> = layout.trainable().iter().filter(|s| s.spec.role.is_prunable()).collect();
    let names: Vec<&str> = prunable.iter().map(|s| s.spec.name.as_str()).collect();
    let kept = kept(config, &names)?;
    for pattern in config.scale.keys() {
        matching("scale", pattern, &names)?;
    }
    let layer = |segment: &&Segment| {
        let groups = config.group.map(|group| Grouping::new(group, outputs_inputs_taps(&segment.spec.shape)));
        let scales = config.scale.iter().filter(|(pattern, _)| WildMatch::new(pattern).matches(&segment.spec.name));
        PenalisedLayer {
            range: segment.range.clone(),
            least: if config.method == Method::Sr2Paper { 0 } else { least(graph, segment, groups) },
            scale: scales.map(|(_, scale)| scale).product(),
            groups,
            channels: (config.method == Method::Sr2 && is_normalised(graph, segment)).then(|| segment.spec.shape[0]),
        }
    };
    let penalised = prunable.iter().filter(|s| !kept.contains(&s.spec.name.as_str())).map(layer).collect();
    Ok(Layers { penalised, prunable: prunable.iter().map(|s| s.range.clone()).collect() })
}

/// Outputs, inputs and taps of a weight `[outputs, inputs, ...]`.
fn outputs_inputs_taps(shape: &[usize]) -> [usize; 3] {
    [shape[0], shape[1], shape[2..].iter().product()]
}

/// Names of the layers that stay dense: those that match a pattern of `keep`, by default the first and the last, which
/// have few weights and lose much.
fn kept<'a>(config: &Config, names: &[&'a str]) -> Result<Vec<&'a str>, ConfigError> {
    let Some(patterns) = &config.keep else {
        let default = config.method != Method::Sr2Paper && names.len() > 2;
        return Ok(if default { vec![names[0], names[names.len() - 1]] } else { Vec::new() });
    };
    let matches: Vec<Vec<&str>> =
        patterns.iter().map(|pattern| matching("keep", pattern, names)).collect::<Result<_, _>>()?;
    Ok(matches.concat())
}

/// The names that match a pattern, at least one.
fn matching<'a>(key: &'static str, pattern: &str, names: &[&'a str]) -> Result<Vec<&'a str>, ConfigError> {
    let matches: Vec<&str> = names.iter().filter(|name| WildMatch::new(pattern).matches(name)).copied().collect();
    if !matches.is_empty() {
        return Ok(matches);
    }
    let nearest = names.iter().min_by_key(|name| strsim::damerau_levenshtein(name, pattern));
    Err(ConfigError::Value {
        key,
        found: format!("{pattern:?}"),
        expected: format!(
            "a layer's name such as {:?}, * for any text; the layers are {}",
            nearest.expect("a layer to prune"),
            names.join(", ")
        ),
    })
}

/// Names of the prunable layers that are not under the penalty.
pub(super) fn kept_dense<'a>(layout: &'a ParameterLayout, layers: &Layers) -> Vec<&'a str> {
    let kept = |s: &&Segment| s.spec.role.is_prunable() && !layers.penalised.iter().any(|l| l.range == s.range);
    layout.trainable().iter().filter(kept).map(|s| s.spec.name.as_str()).collect()
}

/// Name of the parameter at `range`.
pub(super) fn name_at<'a>(layout: &'a ParameterLayout, range: &Range<usize>) -> &'a str {
    let segment = layout.trainable().iter().find(|s| s.range == *range);
    &segment.expect("a layer is a parameter").spec.name
}

/// Least number of weights that are left in a layer: one in a hundred, and one an output in a linear layer, in whole
/// groups.
fn least(graph: &Graph, segment: &Segment, groups: Option<Grouping>) -> usize {
    let weights = segment.range.len();
    let outputs = graph.nodes().iter().find_map(|node| match &node.op {
        Op::Gemm(gemm) if gemm.weight == segment.spec.name => Some(gemm.out_features),
        _ => None,
    });
    let size = groups.map_or(1, |groups| groups.size());
    let least = ((LEAST_DENSITY * weights as f64).ceil() as usize).max(outputs.unwrap_or(1));
    least.next_multiple_of(size).min(weights)
}

/// Whether a batch norm follows the layer. It multiplies the gradient of an empty channel by `1 / sqrt(epsilon)`, a hundred
/// times that of others, so that weights would come back far too large and drive out all others.
fn is_normalised(graph: &Graph, segment: &Segment) -> bool {
    let nodes = graph.nodes();
    let layer = nodes.iter().position(|node| matches!(&node.op, Op::Conv(conv) if conv.weight == segment.spec.name));
    layer.is_some_and(|layer| {
        // Values are numbered from the input, which is 0.
        let reads = |node: &&Node| node.inputs.contains(&(layer + 1));
        nodes.iter().filter(reads).any(|node| matches!(node.op, Op::BatchNormalization(_)))
    })
}

/// What the optimizer is told for a run of `steps` steps.
///
/// # Errors
/// A `sparsity` that the layers' least numbers of weights do not allow.
pub(super) fn settings(config: &Config, layers: &Layers, steps: u64) -> Result<Settings, ConfigError> {
    let lowest = config.sigma_floor.expect("the configuration is resolved");
    let last = if config.method == Method::AdamW { 1e3 * lowest } else { 1e3f64.max(lowest) };
    let (floor, momentum) = match config.control.expect("the configuration is resolved") {
        Control::OneCycle => (
            Floor { lowest, first: 10.0 * lowest, last, warmup: config.warmup, steps },
            Direction::Momentum { beta: config.momentum, nesterov: config.nesterov },
        ),
        Control::ScheduleFree => (
            Floor { lowest, first: 10.0 * lowest, last: lowest, warmup: 1.0, steps: WARMUP_STEPS + 1 },
            Direction::ScheduleFree(ScheduleFree { beta: config.momentum }),
        ),
    };
    let one_cycle = StepControl::Schedule(Schedule::OneCycle(floor));
    let (direction, control) = match config.method {
        Method::Sr2 => {
            let robust = Sr2::robust(floor, config.dataset.classes());
            let test_every = config.test_every.expect("the configuration is resolved");
            (momentum, StepControl::Sr2(Sr2 { test_every, ..robust }))
        }
        Method::Sr2Paper => (momentum, StepControl::Sr2(Sr2::paper())),
        Method::ProxGen => {
            (Direction::Adam, StepControl::Schedule(Schedule::Drops { first: 1.0 / PROX_GEN_RATE, steps }))
        }
        Method::ProxSgd => {
            let unit = Floor { lowest: 1.0, first: 1.0, last: 1.0, warmup: 0.0, steps };
            (Direction::ProxSgd, StepControl::Schedule(Schedule::OneCycle(unit)))
        }
        Method::Magnitude | Method::OneShot | Method::Lamp | Method::Sgd => (momentum, one_cycle),
        Method::AdamW => (Direction::Adam, one_cycle),
    };
    let plan = recipe::plan(config, layers, steps)?;
    let regulariser = Regulariser { penalty: config.penalty, bounds: config.bounds };
    let relaxed = config.method == Method::ProxSgd;
    let share = config.share.expect("the configuration is resolved");
    let decay = config.weight_decay.expect("the configuration is resolved");
    let weight_decay = match config.method {
        Method::AdamW | Method::ProxGen => WeightDecay::Decoupled(decay),
        _ => WeightDecay::Coupled(decay),
    };
    let ema = config.ema;
    Ok(Settings { regulariser, plan, share, direction, quasi_cauchy: false, control, relaxed, weight_decay, ema })
}
