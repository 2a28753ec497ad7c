//! What a training run is told: one TOML file, or the defaults, under the flags of the command line.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sr2_formats::Error;
use sr2_kernels::{Isa, IsaError};
use sr2_models::zoo;

use crate::candle_executor::DeviceKind;
use crate::data::DatasetKind;
use crate::penalty::Penalty;

/// Everything that decides a run. Optional fields are filled in by [`Config::resolve`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of a network of the zoo.
    pub network: String,
    /// File of weights to start from: a safetensors file of `network` with PyTorch names, or an ONNX file or a
    /// checkpoint, which bring their own network.
    pub from: Option<PathBuf>,
    /// Which images.
    pub dataset: DatasetKind,
    /// Folder of the images; by default `$SR2_DATA` or the cache.
    pub data: Option<PathBuf>,
    /// Folder in which each run gets its own.
    pub runs: PathBuf,
    /// Name of the run's folder; by default network, dataset and a number.
    pub name: Option<String>,
    /// Passes over the training images.
    pub epochs: u64,
    /// Images a step.
    pub batch_size: usize,
    /// How to step.
    pub method: Method,
    /// What makes the weights sparse.
    pub penalty: Penalty,
    /// Weight of the penalty; the default depends on it. Either this or `sparsity`.
    pub lambda: Option<f64>,
    /// Fraction of the prunable weights to make zero: exactly under l0, at least under l1.
    pub sparsity: Option<f64>,
    /// Fraction of the steps, at the end, in which zeros stay zeros and only the loss is minimised. The default is 0.25;
    /// 0 for methods without it.
    pub debias: Option<f64>,
    /// While zeros may come back, compute their gradient in every so many-th step only. 1 is exact; more is faster on the
    /// CPU at high sparsity.
    pub dense_gradient_every: u64,
    /// Layers that stay dense, as patterns of their names; by default the first and the last.
    pub keep: Option<Vec<String>>,
    /// Weight of the past in the direction, 0 to below 1.
    pub momentum: f64,
    /// Lowest point of the floor under sigma: the longest step is its inverse. Methods `sr2`, `magnitude` and `sgd`.
    pub sigma_floor: f64,
    /// Fraction of the steps over which the steps get longer, before they get shorter. Where `sigma_floor` is used.
    pub warmup: f64,
    /// Seed of initialisation, order and augmentation.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceKind,
    /// What computes the network.
    pub executor: ExecutorKind,
    /// Threads that compute, the same bits whatever their number; by default all that the machine has.
    pub threads: Option<usize>,
    /// Threads that prepare batches.
    pub workers: usize,
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
    /// Momentum SGD on SR2's one-cycle, dense: what pruning is compared with.
    Sgd,
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
            network: "resnet20".into(),
            from: None,
            dataset: DatasetKind::Cifar10,
            data: None,
            runs: "runs".into(),
            name: None,
            epochs: 20,
            batch_size: 128,
            method: Method::Sr2,
            penalty: Penalty::L0,
            lambda: None,
            sparsity: None,
            debias: None,
            dense_gradient_every: 1,
            keep: None,
            momentum: 0.9,
            sigma_floor: 0.5,
            warmup: 0.3,
            seed: 0,
            device: DeviceKind::Cpu,
            executor: ExecutorKind::Auto,
            threads: None,
            workers: 1,
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
        let syntax = |e: toml::de::Error| {
            let line = e.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            ConfigError::Syntax { path: path.into(), line, problem: e.message().replace('\n', " ") }
        };
        let table: toml::Table = toml::from_str(&text).map_err(syntax)?;
        let known = serde_json::to_value(Self::default()).expect("a configuration is plain data");
        let known = known.as_object().expect("a configuration is a map");
        if let Some(key) = table.keys().find(|key| !known.contains_key(*key)) {
            let nearest = known.keys().min_by_key(|k| strsim::damerau_levenshtein(k, key)).expect("there are settings");
            return Err(ConfigError::UnknownKey { path: path.into(), key: key.clone(), nearest: nearest.clone() });
        }
        toml::from_str(&text).map_err(syntax)
    }

    /// Refuses paths that a file of text cannot hold.
    pub(crate) fn check_paths(&self) -> Result<(), ConfigError> {
        check_path("runs", &self.runs)?;
        self.from.as_deref().map_or(Ok(()), |from| check_path("from", from))?;
        self.data.as_deref().map_or(Ok(()), |data| check_path("data", data))
    }

    /// The TOML text that [`Config::read`] reads back as an equal configuration.
    ///
    /// # Panics
    /// If a path is not UTF-8; every run's are.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration is plain data")
    }

    /// Checks every setting and fills in the optional ones, but for `name` and `data`.
    ///
    /// # Errors
    /// The first setting that is out of range, or that this program or CPU does not have.
    pub fn resolve(mut self) -> Result<Self, ConfigError> {
        self.resolve_pruning()?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = *self.threads.get_or_insert_with(cores);
        zoo::build(&self.network, self.dataset.classes())?;
        if let Some(name) = &self.name {
            let plain = Path::new(name).file_name().is_some_and(|f| f == name.as_str());
            check(plain, "name", format!("{name:?}"), "one folder name")?;
        }
        check((1..=1_000_000).contains(&self.epochs), "epochs", self.epochs, "1 to 1000000")?;
        check((2..=65_536).contains(&self.batch_size), "batch_size", self.batch_size, "2 to 65536")?;
        check((0.0..1.0).contains(&self.momentum), "momentum", self.momentum, "from 0 to below 1")?;
        check((1e-3..=1e3).contains(&self.sigma_floor), "sigma_floor", self.sigma_floor, "0.001 to 1000")?;
        check((0.0..=1.0).contains(&self.warmup), "warmup", self.warmup, "a fraction from 0 to 1")?;
        let device = self.device == DeviceKind::Cpu || cfg!(feature = "cuda");
        check(device, "device", "cuda", "cpu; cuda needs a program built with the feature `cuda`")?;
        let tape_on_cuda = self.executor == ExecutorKind::Tape && self.device == DeviceKind::Cuda;
        check(!tape_on_cuda, "executor", "tape", "candle or auto with device cuda")?;
        check((1..=1024).contains(&threads), "threads", threads, "1 to 1024")?;
        check((1..=64).contains(&self.workers), "workers", self.workers, "1 to 64")?;
        Isa::from_env()?;
        Ok(self)
    }

    /// Checks and fills in how much is pruned, and when.
    fn resolve_pruning(&mut self) -> Result<(), ConfigError> {
        let published = matches!(self.method, Method::Sr2Paper | Method::Sgd);
        let debias = *self.debias.get_or_insert(if published { 0.0 } else { 0.25 });
        check((0.0..=0.9).contains(&debias), "debias", debias, "a fraction from 0 to 0.9")?;
        let every = self.dense_gradient_every;
        check((1..=1000).contains(&every), "dense_gradient_every", every, "1 to 1000")?;
        if self.method == Method::Sgd {
            let found = self.sparsity.or(self.lambda).unwrap_or(0.0);
            return check(found == 0.0, "method", "sgd with a sparsity or lambda", "a method that prunes");
        }
        if self.method == Method::Magnitude {
            check(self.penalty == Penalty::L0, "penalty", "l1", "l0 with method magnitude")?;
        }
        let Some(sparsity) = self.sparsity else {
            let lambda = *self.lambda.get_or_insert(default_lambda(self.penalty));
            return check(lambda.is_finite() && lambda >= 0.0, "lambda", lambda, "a finite number from 0");
        };
        check((0.0..1.0).contains(&sparsity), "sparsity", sparsity, "a fraction from 0 to below 1")?;
        check(self.method != Method::Sr2Paper, "sparsity", sparsity, "lambda with method sr2-paper")?;
        check(self.lambda.is_none(), "sparsity", sparsity, "either sparsity or lambda, not both")
    }
}

fn check(ok: bool, key: &'static str, found: impl ToString, expected: impl ToString) -> Result<(), ConfigError> {
    let error = || ConfigError::Value { key, found: found.to_string(), expected: expected.to_string() };
    if ok { Ok(()) } else { Err(error()) }
}

/// Refuses a path that is not UTF-8, which neither TOML nor JSON can hold.
pub(crate) fn check_path(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(ConfigError::Value { key, found: path.display().to_string(), expected: "a path in UTF-8".into() }),
    }
}

/// A weight of the penalty that prunes a small residual network in a few epochs: under l0 to about 90 % zeros
/// (`examples/configs/resnet20-short.toml`), under l1, whose zeros come back as the steps get short, to about half.
fn default_lambda(penalty: Penalty) -> f64 {
    match penalty {
        Penalty::L0 => 2e-3,
        Penalty::L1 => 1e-3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path)
    }

    #[test]
    fn a_resolved_configuration_reads_back_equal() {
        let config = Config { lambda: Some(0.1 + 0.2), ..Config::default() }.resolve().unwrap();
        assert!(config.threads.is_some());
        assert_eq!(read(&config.to_toml()).unwrap(), config);
    }

    #[test]
    fn a_misspelt_key_gets_a_suggestion() {
        let error = read("epochs = 3\nlamda = 1e-3\n").unwrap_err().to_string();
        assert!(error.ends_with("run.toml: unknown key \"lamda\"; did you mean \"lambda\"?"), "{error}");
    }

    #[test]
    fn wrong_types_and_broken_text_are_named_with_their_line() {
        let error = read("epochs = 3\nmomentum = \"much\"\n").unwrap_err().to_string();
        assert!(error.contains("run.toml:2: invalid type: string \"much\""), "{error}");
        assert!(read("epochs = 3\n= 4\n").unwrap_err().to_string().contains("run.toml:2: "));
    }

    #[test]
    fn values_out_of_range_are_named() {
        type Change = fn(&mut Config);
        let cases: [(Change, &str); 13] = [
            (|c| c.sparsity = Some(1.0), "sparsity is 1, expected a fraction from 0 to below 1"),
            (
                |c| (c.sparsity, c.lambda) = (Some(0.9), Some(1e-3)),
                "sparsity is 0.9, expected either sparsity or lambda",
            ),
            (|c| c.debias = Some(1.0), "debias is 1, expected a fraction from 0 to 0.9"),
            (
                |c| (c.method, c.penalty) = (Method::Magnitude, Penalty::L1),
                "penalty is l1, expected l0 with method mag",
            ),
            (|c| (c.method, c.lambda) = (Method::Sgd, Some(1.0)), "method is sgd with a sparsity or lambda, expected"),
            (|c| c.lambda = Some(f64::NAN), "lambda is NaN, expected a finite number from 0"),
            (|c| c.momentum = 1.0, "momentum is 1, expected from 0 to below 1"),
            (|c| c.epochs = 0, "epochs is 0, expected 1 to 1000000"),
            (|c| c.batch_size = 1, "batch_size is 1, expected 2 to 65536"),
            (|c| c.sigma_floor = 0.0, "sigma_floor is 0, expected 0.001 to 1000"),
            (|c| c.threads = Some(0), "threads is 0, expected 1 to 1024"),
            (|c| c.name = Some("a/b".into()), "name is \"a/b\", expected one folder name"),
            (|c| c.network = "resnet21".into(), "no network is named \"resnet21\"; did you mean"),
        ];
        for (change, expected) in cases {
            let mut config = Config::default();
            change(&mut config);
            let error = config.resolve().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
