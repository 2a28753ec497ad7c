//! `sr2-prune train`.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde::de::value::Error as NameError;
use serde::de::{DeserializeOwned, IntoDeserializer};
use sr2_train::candle_executor::DeviceKind;
use sr2_train::collective::agree;
use sr2_train::data::DatasetKind;
use sr2_train::executor::Precision;
use sr2_train::group::Group;
use sr2_train::penalty::Penalty;
use sr2_train::progress::Progress;
use sr2_train::regulariser::Bounds;
use sr2_train::share::Share;
use sr2_train::tensorboard::EventLog;
use sr2_train::{
    Config, Control, ExecutorKind, Method, Observer, Outcome, Summary, TrainError, resume_together, train_together,
};

use crate::signals::Signals;
use crate::{Format, processes};

/// Train a network and prune it with SR2; no learning rate to tune
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sr2-prune train                                       resnet20 on CIFAR-10
  sr2-prune train --sparsity 0.95                       exactly 95 % of the weights zero
  sr2-prune train --network resnet8 --data examples/data --epochs 30
  sr2-prune train --from dense.onnx --sparsity 0.9      your own network, pruned from its weights
  sr2-prune train --penalty l1 --lambda 3e-3 --name l1-study
  sr2-prune train --resume runs/l1-study

Needs the images once: sr2-prune data fetch cifar10. To try it without: --data examples/data.")]
pub struct Arguments {
    /// Settings as TOML; flags override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Go on with an interrupted run
    #[arg(long, value_name = "RUN", conflicts_with_all = [
        "config", "network", "from", "dataset", "data", "epochs", "batch_size", "method", "control", "penalty", "group",
        "bounds", "scale", "lambda", "sparsity", "share", "debias", "keep", "momentum", "nesterov", "test_every", "ema",
        "teacher", "minutes", "seed", "device", "executor", "precision", "threads", "runs", "name",
    ])]
    resume: Option<PathBuf>,
    /// A network of the zoo: resnet8, resnet20, resnet18, vgg16_bn, densenet121, ... [default: resnet20]
    #[arg(long)]
    network: Option<String>,
    /// Weights to start from: safetensors of --network with PyTorch names, or a file with its own network: a checkpoint, an
    /// export (.srz, .csr.safetensors), any CNN as ONNX
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Trained network that the loss distils, in the forms of --from
    #[arg(long, value_name = "FILE")]
    teacher: Option<PathBuf>,
    /// cifar10 or cifar100 [default: cifar10]
    #[arg(long)]
    dataset: Option<DatasetKind>,
    /// Folder of the images [default: $SR2_DATA, then the cache]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Passes over the training images
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Instead of --epochs: as many as fit in so many minutes here
    #[arg(long, value_name = "M", conflicts_with = "epochs")]
    minutes: Option<f64>,
    /// Images a step; under mpirun, in each process
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// sr2; for comparison sr2-paper (the published rule), prox-sgd, prox-gen, magnitude (gradual pruning), one-shot, lamp
    /// (one-shot by LAMP scores), and dense: sgd, adamw [default: sr2]
    #[arg(long, value_parser = by_name::<Method>)]
    method: Option<Method>,
    /// What decides the length of steps of sr2, magnitude and sgd: one-cycle, or schedule-free [default: schedule-free with
    /// sr2 and --sparsity, without --nesterov and --ema]
    #[arg(long, value_parser = by_name::<Control>)]
    control: Option<Control>,
    /// l0, l1, l1/2, l2/3 or l0-ball (with --sparsity: h counts nothing, the prox projects) [default: l0]
    #[arg(long, value_parser = by_name::<Penalty>)]
    penalty: Option<Penalty>,
    /// Let l0 or l1 act on groups: kernel, input-channel, output-channel, 1x4 or 16x1 blocks [default: single weights]
    #[arg(long, value_parser = by_name::<Group>)]
    group: Option<Group>,
    /// Interval around 0 that the pruned weights stay in, under l0 and l1
    #[arg(long = "box", value_name = "LOW,HIGH", value_parser = interval, allow_hyphen_values = true)]
    bounds: Option<Bounds>,
    /// Weight of the penalty: more is sparser
    #[arg(long, value_name = "X")]
    lambda: Option<f64>,
    /// Factor on --lambda in layers whose name matches; may be given more than once
    #[arg(long, value_name = "PATTERN=X", value_parser = scale)]
    scale: Vec<(String, f64)>,
    /// Fraction of the weights to make zero, instead of --lambda: to the weight, or to the last whole group
    #[arg(long, value_name = "X", conflicts_with = "lambda")]
    sparsity: Option<f64>,
    /// How --sparsity is shared among layers: global (largest weights), uniform, or lamp (largest LAMP scores)
    #[arg(long, value_parser = by_name::<Share>)]
    share: Option<Share>,
    /// Fraction of the steps, at the end, in which zeros stay and the loss alone counts [default: 0.25]
    #[arg(long, value_name = "X")]
    debias: Option<f64>,
    /// Layers that stay dense, a name or a pattern such as 'layer1.*' [default: the first and the last]
    #[arg(long, value_name = "PATTERN")]
    keep: Option<Vec<String>>,
    /// Weight of the past in the direction, 0 to below 1
    #[arg(long, value_name = "X")]
    momentum: Option<f64>,
    /// Look ahead of the momentum, as Nesterov's does
    #[arg(long)]
    nesterov: bool,
    /// Test every N-th step only, and take the others as they are (method sr2) [default: 25]
    #[arg(long, value_name = "N")]
    test_every: Option<u64>,
    /// End with an exponential average of the weights, its past weighing X, such as 0.99; zeros stay zeros
    #[arg(long, value_name = "X")]
    ema: Option<f64>,
    /// Seed of initialisation, order and augmentation
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// cpu or cuda [default: cpu]
    #[arg(long, value_parser = by_name::<DeviceKind>)]
    device: Option<DeviceKind>,
    /// auto, tape (our CPU kernels) or candle [default: auto: tape on the CPU]
    #[arg(long, value_parser = by_name::<ExecutorKind>)]
    executor: Option<ExecutorKind>,
    /// f32; bf16 for convolutions, on the tape with AVX512-BF16 and in candle; with device cuda tf32 too [default: f32]
    #[arg(long, value_parser = by_name::<Precision>)]
    precision: Option<Precision>,
    /// Threads that compute [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Folder in which each run gets its own [default: runs]
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,
    /// Name of the run's folder [default: network, dataset and a number]
    #[arg(long)]
    name: Option<String>,
    /// Also write event files for TensorBoard into the run's folder
    #[arg(long)]
    tensorboard: bool,
    /// How to print the summary
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let summary = processes::together(|team| {
        let config = arguments.resume.is_none().then(|| arguments.config()).transpose();
        let config = agree(&**team, config)?;
        let train = |observer: &mut dyn Observer, stop: &AtomicBool| match (&config, &arguments.resume) {
            (Some(config), _) => train_together(config, team, observer, stop),
            (None, folder) => resume_together(folder.as_deref().unwrap_or(".".as_ref()), team, observer, stop),
        };
        until_stopped(|progress, stop| match arguments.tensorboard {
            true => train(&mut EventLog::new(progress), stop),
            false => train(progress, stop),
        })
    })?;
    summary.map_or(Ok(()), |summary| arguments.format.print(&summary))
}

/// Trains until the end, or until a signal: then a checkpoint is saved, and the error says how to go on.
pub fn until_stopped(
    train: impl FnOnce(&mut Progress, &AtomicBool) -> Result<Outcome, TrainError>,
) -> anyhow::Result<Summary> {
    let signals = Signals::watch()?;
    match train(&mut Progress::new(), signals.stop())? {
        Outcome::Finished(summary) => Ok(summary),
        Outcome::Interrupted { folder, .. } => {
            Err(signals.stopped(format!("sr2-prune train --resume {}", folder.display())).into())
        }
    }
}

impl Arguments {
    fn config(&self) -> Result<Config, TrainError> {
        fn set<T: Clone>(setting: &mut T, flag: &Option<T>) {
            if let Some(value) = flag {
                *setting = value.clone();
            }
        }
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        set(&mut config.dataset, &self.dataset);
        set(&mut config.epochs, &self.epochs);
        set(&mut config.batch_size, &self.batch_size);
        set(&mut config.method, &self.method);
        set(&mut config.penalty, &self.penalty);
        set(&mut config.momentum, &self.momentum);
        set(&mut config.seed, &self.seed);
        set(&mut config.device, &self.device);
        set(&mut config.executor, &self.executor);
        set(&mut config.precision, &self.precision);
        set(&mut config.runs, &self.runs);
        config.nesterov |= self.nesterov;
        config.network = self.network.clone().or(config.network);
        config.control = self.control.or(config.control);
        config.test_every = self.test_every.or(config.test_every);
        config.share = self.share.or(config.share);
        config.ema = self.ema.or(config.ema);
        config.teacher = self.teacher.clone().or(config.teacher);
        config.minutes = self.minutes.or(config.minutes.filter(|_| self.epochs.is_none()));
        config.group = self.group.or(config.group);
        config.bounds = self.bounds.or(config.bounds);
        config.scale.extend(self.scale.iter().cloned());
        config.from = self.from.clone().or(config.from);
        config.data = self.data.clone().or(config.data);
        if self.lambda.is_some() || self.sparsity.is_some() {
            (config.lambda, config.sparsity) = (self.lambda, self.sparsity);
        }
        config.debias = self.debias.or(config.debias);
        config.keep = self.keep.clone().or(config.keep);
        config.threads = self.threads.or(config.threads);
        config.name = self.name.clone().or(config.name);
        Ok(config)
    }
}

/// A setting by the name it has in a configuration file.
fn by_name<T: DeserializeOwned>(name: &str) -> Result<T, NameError> {
    T::deserialize(name.into_deserializer())
}

/// `LOW,HIGH`.
fn interval(text: &str) -> Result<Bounds, String> {
    let ends = text.split_once(',').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    ends.map(|(low, high)| Bounds(low, high)).ok_or_else(|| "expected LOW,HIGH, such as -0.5,0.5".into())
}

/// `PATTERN=X`.
fn scale(text: &str) -> Result<(String, f64), String> {
    let parts = text.rsplit_once('=').and_then(|(pattern, factor)| Some((pattern.to_string(), factor.parse().ok()?)));
    parts.ok_or_else(|| "expected PATTERN=X, such as layer3.*=0.5".into())
}
