//! The checks of a configuration, and the defaults that depend on other settings.

use std::path::Path;

use sr2_kernels::Isa;
use sr2_models::zoo;

use super::{Config, ConfigError, Control, ExecutorKind, Method};
use crate::candle_executor::DeviceKind;
use crate::executor::Precision;
use crate::penalty::Penalty;
use crate::regulariser::Bounds;
use crate::share::Share;

impl Config {
    /// Checks every setting and fills in the optional ones, but for `name` and `data`.
    ///
    /// # Errors
    /// The first setting that is out of range, or that this program or CPU does not have.
    pub fn resolve(mut self) -> Result<Self, ConfigError> {
        self.resolve_pruning()?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = *self.threads.get_or_insert_with(cores);
        if self.from.is_none() {
            let network = self.zoo_network().to_owned();
            zoo::build(&network, self.dataset.classes())?;
            self.network = Some(network);
        }
        if let Some(name) = &self.name {
            let plain = Path::new(name).file_name().is_some_and(|f| f == name.as_str());
            check(plain, "name", format!("{name:?}"), "one folder name")?;
        }
        check((1..=1_000_000).contains(&self.epochs), "epochs", self.epochs, "1 to 1000000")?;
        check((2..=65_536).contains(&self.batch_size), "batch_size", self.batch_size, "2 to 65536")?;
        let processes = self.processes.unwrap_or(1);
        check((1..=65_536).contains(&processes), "processes", processes, "1 to 65536")?;
        // TOML, which the run is resumed from, has signed integers.
        check(i64::try_from(self.seed).is_ok(), "seed", self.seed, "0 to 9223372036854775807")?;
        check((0.0..1.0).contains(&self.momentum), "momentum", self.momentum, "from 0 to below 1")?;
        let control = self.resolve_control()?;
        let floor = *self.sigma_floor.get_or_insert(match control {
            Control::ScheduleFree => 0.2,
            Control::OneCycle if self.method == Method::AdamW => 300.0,
            Control::OneCycle => 0.5,
        });
        check((1e-3..=1e6).contains(&floor), "sigma_floor", floor, "0.001 to 1000000")?;
        let minutes = self.minutes.is_none_or(|minutes| minutes > 0.0 && minutes <= 1e5);
        check(minutes, "minutes", self.minutes.unwrap_or(0.0), "above 0, up to 100000")?;
        let every = *self.test_every.get_or_insert(if self.method == Method::Sr2 { 25 } else { 1 });
        check(every == 1 || self.method == Method::Sr2, "test_every", every, "1 without method sr2")?;
        check((1..=1000).contains(&every), "test_every", every, "1 to 1000")?;
        check(
            self.ema.is_none_or(|ema| (0.0..1.0).contains(&ema)),
            "ema",
            self.ema.unwrap_or(0.0),
            "from 0 to below 1",
        )?;
        let momentum = !matches!(self.method, Method::ProxGen | Method::ProxSgd | Method::AdamW);
        check(momentum || !self.nesterov, "nesterov", "true", "a method with plain momentum")?;
        let tape = self.executor != ExecutorKind::Candle && self.device == DeviceKind::Cpu;
        check(tape || self.teacher.is_none(), "teacher", "set", "none on candle; executor tape distils")?;
        let decay = *self.weight_decay.get_or_insert(match self.method {
            Method::AdamW => 0.01,
            Method::Sgd => 5e-4,
            _ => 0.0,
        });
        check((0.0..=1.0).contains(&decay), "weight_decay", decay, "0 to 1")?;
        check((0.0..=1.0).contains(&self.warmup), "warmup", self.warmup, "a fraction from 0 to 1")?;
        let device = self.device == DeviceKind::Cpu || cfg!(feature = "cuda");
        check(device, "device", "cuda", "cpu; cuda needs a program built with the feature `cuda`")?;
        let tape_on_cuda = self.executor == ExecutorKind::Tape && self.device == DeviceKind::Cuda;
        check(!tape_on_cuda, "executor", "tape", "candle or auto with device cuda")?;
        check((1..=1024).contains(&threads), "threads", threads, "1 to 1024")?;
        check((1..=64).contains(&self.workers), "workers", self.workers, "1 to 64")?;
        let isa = Isa::from_env()?;
        let tf32 = self.precision == Precision::Tf32;
        check(!tf32 || self.device == DeviceKind::Cuda, "precision", "tf32", "f32 or bf16 without device cuda")?;
        let bf16 = self.precision != Precision::Bf16 || !tape || isa.bf16().is_some();
        check(bf16, "precision", "bf16", format!("f32: no AVX512-BF16 with the {isa} kernels of this CPU"))?;
        Ok(self)
    }

    /// Checks and fills in what decides the length of steps.
    fn resolve_control(&mut self) -> Result<Control, ConfigError> {
        let plain = matches!(self.method, Method::Sr2 | Method::Magnitude | Method::Sgd);
        let fits = plain && !self.nesterov && self.ema.is_none();
        let aimed = self.method == Method::Sr2 && self.sparsity.is_some();
        let default = if aimed && fits { Control::ScheduleFree } else { Control::OneCycle };
        let control = *self.control.get_or_insert(default);
        check(
            fits || control == Control::OneCycle,
            "control",
            "schedule-free",
            "one-cycle, unless with method sr2, magnitude or sgd, and without nesterov and ema",
        )?;
        Ok(control)
    }

    /// Checks and fills in how much is pruned, and when.
    fn resolve_pruning(&mut self) -> Result<(), ConfigError> {
        let debias = *self.debias.get_or_insert(match self.method {
            Method::Sr2Paper | Method::Sgd | Method::AdamW => 0.0,
            Method::OneShot | Method::Lamp if self.from.is_some() => 1.0,
            Method::OneShot | Method::Lamp => 0.5,
            _ => 0.25,
        });
        check((0.0..=1.0).contains(&debias), "debias", debias, "a fraction from 0 to 1")?;
        self.share.get_or_insert(if self.method == Method::Lamp { Share::Lamp } else { Share::Global });
        let every = self.dense_gradient_every;
        check((1..=1000).contains(&every), "dense_gradient_every", every, "1 to 1000")?;
        if matches!(self.method, Method::Sgd | Method::AdamW) {
            let found = self.sparsity.or(self.lambda).unwrap_or(0.0);
            return check(found == 0.0, "method", "a dense one with a sparsity or lambda", "a method that prunes");
        }
        let once = matches!(self.method, Method::OneShot | Method::Lamp);
        if once || self.method == Method::Magnitude {
            check(
                self.penalty == Penalty::L0,
                "penalty",
                self.penalty.name(),
                "l0 with a method that cuts magnitudes",
            )?;
        }
        check(!once || self.sparsity.is_some(), "sparsity", "not set", "a fraction with a method that cuts once")?;
        self.check_penalty()?;
        let Some(sparsity) = self.sparsity else {
            let lambda = *self.lambda.get_or_insert(default_lambda(self.penalty));
            return check(lambda.is_finite() && lambda >= 0.0, "lambda", lambda, "a finite number from 0");
        };
        check((0.0..1.0).contains(&sparsity), "sparsity", sparsity, "a fraction from 0 to below 1")?;
        check(self.method != Method::Sr2Paper, "sparsity", sparsity, "lambda with method sr2-paper")?;
        check(self.lambda.is_none(), "sparsity", sparsity, "either sparsity or lambda, not both")
    }

    /// Checks what a penalty goes together with.
    fn check_penalty(&self) -> Result<(), ConfigError> {
        let penalty = self.penalty;
        let fractional = matches!(penalty, Penalty::LHalf | Penalty::LTwoThirds);
        check(
            self.group.is_none() || !fractional,
            "group",
            format!("set with penalty {}", penalty.name()),
            "l0 or l1",
        )?;
        if let Some(Bounds(low, high)) = self.bounds {
            let interval = low <= 0.0 && high >= 0.0 && low < high && (high - low).is_finite();
            check(interval, "box", format!("[{low}, {high}]"), "an interval around 0")?;
            let free = !fractional && self.group.is_none();
            check(free, "box", format!("set with penalty {}", penalty.name()), "l0 or l1 without group")?;
        }
        let aimed = self.sparsity.is_some();
        check(aimed || penalty != Penalty::L0Ball, "penalty", "l0-ball without sparsity", "a sparsity, or l0")?;
        let shared = self.share == Some(Share::Global) || (aimed && self.group.is_none());
        check(shared, "share", "set", "global, unless with a sparsity and without group")?;
        let positive = |scale: &f64| scale.is_finite() && *scale > 0.0;
        match self.scale.iter().find(|(_, scale)| !positive(scale)) {
            Some((pattern, scale)) => {
                check(false, "scale", format!("{scale} for {pattern:?}"), "a number above 0; keep = [PATTERN] for none")
            }
            None => Ok(()),
        }
    }
}

fn check(ok: bool, key: &'static str, found: impl ToString, expected: impl ToString) -> Result<(), ConfigError> {
    let error = || ConfigError::Value { key, found: found.to_string(), expected: expected.to_string() };
    if ok { Ok(()) } else { Err(error()) }
}

/// A weight of the penalty that prunes a small residual network in a few epochs: under l0 to about 90 % zeros
/// (`examples/configs/resnet20-short.toml`), under l1, whose zeros come back as the steps get short, to about half.
fn default_lambda(penalty: Penalty) -> f64 {
    match penalty {
        Penalty::L0 | Penalty::L0Ball => 2e-3,
        Penalty::L1 | Penalty::LHalf | Penalty::LTwoThirds => 1e-3,
    }
}
