//! What a training run is told: one TOML file, or the defaults, under the flags of the command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sr2_formats::Error;
use sr2_kernels::IsaError;
use sr2_models::zoo;

use crate::candle_executor::DeviceKind;
use crate::data::DatasetKind;
use crate::executor::Precision;
use crate::group::Group;
use crate::penalty::Penalty;
use crate::regulariser::Bounds;
use crate::share::Share;

mod resolve;
#[cfg(test)]
mod tests;

/// Everything that decides a run. Optional fields are filled in by [`Config::resolve`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of a network of the zoo, `resnet20` by default; of a run from a file that brings its own network, that
    /// network's name.
    pub network: Option<String>,
    /// File of weights to start from: a safetensors file of `network` with PyTorch names, or an ONNX file, a checkpoint or
    /// an export, which bring their own network.
    pub from: Option<PathBuf>,
    /// Which images.
    pub dataset: DatasetKind,
    /// Folder of the images; by default `$SR2_DATA` or the cache.
    pub data: Option<PathBuf>,
    /// Folder in which each run gets its own.
    pub runs: PathBuf,
    /// Name of the run's folder; by default network, dataset and a number.
    pub name: Option<String>,
    /// File of a trained network that the loss distils, read as `from` is: [`crate::distillation`].
    pub teacher: Option<PathBuf>,
    /// Passes over the training images.
    pub epochs: u64,
    /// Instead of `epochs`: as many as fit in so many minutes here, at the speed of a few steps measured first.
    pub minutes: Option<f64>,
    /// Images a step, in each of `processes`.
    pub batch_size: usize,
    /// Processes whose batches make up one step: those that a run starts with, and later however many share its steps.
    pub processes: Option<usize>,
    /// How to step.
    pub method: Method,
    /// What decides how long the steps of a method with momentum are. `schedule-free` by default with method `sr2` and a
    /// sparsity, without `nesterov` and `ema`; else `one-cycle`.
    pub control: Option<Control>,
    /// What makes the weights sparse.
    pub penalty: Penalty,
    /// Groups of weights that the penalty acts on, under l0 and l1; single weights without.
    pub group: Option<Group>,
    /// Interval `[low, high]` around 0 that the penalised weights stay in, under l0 and l1.
    #[serde(rename = "box")]
    pub bounds: Option<Bounds>,
    /// Weight of the penalty; the default depends on it. Either this or `sparsity`.
    pub lambda: Option<f64>,
    /// Fraction of the prunable weights to make zero, exactly; with groups to the last whole group.
    pub sparsity: Option<f64>,
    /// How what `sparsity` leaves is shared among the layers: `global` by default, `lamp` with method `lamp`.
    pub share: Option<Share>,
    /// Fraction of the steps, at the end, in which zeros stay zeros and only the loss is minimised. The default is 0.25;
    /// 0 for methods without it.
    pub debias: Option<f64>,
    /// While zeros may come back, compute their gradient in every so many-th step only. 1 is exact; more is faster on the
    /// CPU at high sparsity.
    pub dense_gradient_every: u64,
    /// Layers that stay dense, as patterns of their names; by default the first and the last.
    pub keep: Option<Vec<String>>,
    /// Weight of the past in the direction, 0 to below 1; with control `schedule-free` of the average in the point where
    /// the gradient is taken.
    pub momentum: f64,
    /// Whether the step looks ahead of the momentum, as Nesterov's does.
    pub nesterov: bool,
    /// Lowest point of the floor under sigma: the longest step is its inverse. 0.5 by default, 0.2 with control
    /// `schedule-free`, 300 with `adamw`; methods without a floor do not use it.
    pub sigma_floor: Option<f64>,
    /// Test every so many-th step only and take the others as they are: fewer forward passes. Method `sr2`; 25 by default.
    pub test_every: Option<u64>,
    /// End with an exponential average of the weights, this part of which is the past in each step. Zeros stay zeros.
    pub ema: Option<f64>,
    /// Fraction of the steps over which the steps of a one-cycle get longer, before they get shorter.
    pub warmup: f64,
    /// Weight decay `mu` of convolution and linear weights `w`: the loss is minimised plus `mu / 2 |w|^2`, but with `adamw`
    /// and `prox-gen` `w` is multiplied by `1 - mu / sigma` after a step. 5e-4 by default with `sgd`, 0.01 with `adamw`, and 0
    /// with the methods that prune.
    pub weight_decay: Option<f64>,
    /// Seed of initialisation, order and augmentation.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceKind,
    /// What computes the network.
    pub executor: ExecutorKind,
    /// What convolutions multiply in training; weights and checkpoints are f32 in any case.
    pub precision: Precision,
    /// Threads that compute, the same bits whatever their number; by default all that the machine has.
    pub threads: Option<usize>,
    /// Threads that prepare batches.
    pub workers: usize,
    /// Factors on the weight of the penalty, by patterns of layers' names; those of all that match multiply.
    pub scale: BTreeMap<String, f64>,
}

/// How to step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// SR2 with the batch gradient in its test, a floor under sigma, and guards.
    Sr2,
    /// SR2 as published, for reference.
    Sr2Paper,
    /// ProxSGD with its published constants.
    ProxSgd,
    /// ProxGEN with its published constants, but for the weight decay: the penalty is the only regulariser.
    ProxGen,
    /// Gradual magnitude pruning: momentum SGD on SR2's one-cycle, the smallest weights cut along the ramp, for good.
    Magnitude,
    /// The smallest weights cut once: at the start of a network from a file, else in the middle of the run; then momentum
    /// SGD on the frozen support. All on SR2's one-cycle.
    OneShot,
    /// `one-shot` with LAMP scores in place of magnitudes (arXiv 2010.07611).
    Lamp,
    /// Momentum SGD on SR2's one-cycle, dense: what pruning is compared with.
    Sgd,
    /// AdamW (arXiv 1711.05101) on the one-cycle, dense.
    #[serde(rename = "adamw")]
    AdamW,
}

/// What decides how long steps are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// They get longer, then shorter, along a one-cycle that ends with the run.
    OneCycle,
    /// They stay as long as they are after a short warm-up, and the iterates are averaged: [`crate::schedule_free`].
    ScheduleFree,
}

/// What computes the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecutorKind {
    /// The tape on the CPU, candle on CUDA.
    Auto,
    /// Our own CPU kernels on a static tape.
    Tape,
    /// candle, on either device.
    Candle,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            network: None,
            from: None,
            dataset: DatasetKind::Cifar10,
            data: None,
            runs: "runs".into(),
            name: None,
            teacher: None,
            epochs: 20,
            minutes: None,
            batch_size: 128,
            processes: None,
            method: Method::Sr2,
            control: None,
            penalty: Penalty::L0,
            group: None,
            bounds: None,
            lambda: None,
            sparsity: None,
            share: None,
            debias: None,
            dense_gradient_every: 1,
            keep: None,
            momentum: 0.9,
            nesterov: false,
            sigma_floor: None,
            test_every: None,
            ema: None,
            warmup: 0.3,
            weight_decay: None,
            seed: 0,
            device: DeviceKind::Cpu,
            executor: ExecutorKind::Auto,
            precision: Precision::F32,
            threads: None,
            workers: 1,
            scale: BTreeMap::new(),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] Error),
    /// The file is not TOML, or a value has the wrong type.
    #[error("{}:{line}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What the parser says.
        problem: String,
    },
    /// A key that no setting has.
    #[error("{}: unknown key {key:?}; did you mean {nearest:?}?", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key found.
        key: String,
        /// The key nearest to it.
        nearest: String,
    },
    /// A file of a sweep.
    #[error("{}: this is a sweep's file: sr2-prune sweep {}", path.display(), path.display())]
    Sweep {
        /// The file.
        path: PathBuf,
    },
    /// A network that is not in the zoo.
    #[error(transparent)]
    Network(#[from] zoo::UnknownNetwork),
    /// `SR2_ISA` names no tier of this CPU.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// A value out of range.
    #[error("{key} is {found}, expected {expected}")]
    Value {
        /// Name of the setting.
        key: &'static str,
        /// The value found.
        found: String,
        /// The values allowed.
        expected: String,
    },
}

impl Config {
    /// Reads a TOML file; keys that are not there keep their defaults.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
        let table = parse::<toml::Table>(path, &text)?;
        if table.contains_key("grid") {
            return Err(ConfigError::Sweep { path: path.into() });
        }
        table.keys().try_for_each(|key| Self::check_key(path, key))?;
        parse(path, &text)
    }

    /// The network of the zoo that is meant, where no file brings one.
    pub(crate) fn zoo_network(&self) -> &str {
        self.network.as_deref().unwrap_or("resnet20")
    }

    /// Images a step, over all processes.
    pub fn step_images(&self) -> usize {
        self.batch_size * self.processes.unwrap_or(1)
    }

    /// Refuses a key of the file `path` that no setting has.
    pub(crate) fn check_key(path: &Path, key: &str) -> Result<(), ConfigError> {
        let known = serde_json::to_value(Self::default()).expect("a configuration is plain data");
        let known = known.as_object().expect("a configuration is a map");
        if known.contains_key(key) {
            return Ok(());
        }
        let nearest = known.keys().min_by_key(|k| strsim::damerau_levenshtein(k, key)).expect("there are settings");
        Err(ConfigError::UnknownKey { path: path.into(), key: key.into(), nearest: nearest.clone() })
    }

    /// Refuses paths that a file of text cannot hold.
    pub(crate) fn check_paths(&self) -> Result<(), ConfigError> {
        check_path("runs", &self.runs)?;
        self.from.as_deref().map_or(Ok(()), |from| check_path("from", from))?;
        self.teacher.as_deref().map_or(Ok(()), |teacher| check_path("teacher", teacher))?;
        self.data.as_deref().map_or(Ok(()), |data| check_path("data", data))
    }

    /// The TOML text that [`Config::read`] reads back as an equal configuration.
    ///
    /// # Panics
    /// If a path is not UTF-8; every run's are.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration is plain data")
    }
}

/// The TOML text of the file `path`.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|e: toml::de::Error| {
        let line = e.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        ConfigError::Syntax { path: path.into(), line, problem: e.message().replace('\n', " ") }
    })
}

/// Refuses a path that is not UTF-8, which neither TOML nor JSON can hold.
pub(crate) fn check_path(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(ConfigError::Value { key, found: path.display().to_string(), expected: "a path in UTF-8".into() }),
    }
}
