//! The machine a figure was measured on.

use serde::Serialize;

/// Processor and memory, as far as the system tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Name of the processor's model.
    pub cpu: Option<String>,
    /// Number of threads that can run at once in this process.
    pub cores: usize,
    /// Instruction sets of the processor that matter here, by their usual names.
    pub cpu_flags: Vec<&'static str>,
    /// Memory of the machine.
    pub memory_bytes: Option<u64>,
    /// Operating system and architecture.
    pub system: String,
}

impl Machine {
    /// The machine this process runs on.
    pub fn this() -> Self {
        Self {
            cpu: first_field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            cpu_flags: cpu_flags(),
            memory_bytes: kibibytes("/proc/meminfo", "MemTotal"),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_flags() -> Vec<&'static str> {
    macro_rules! detected {
        ($($flag:tt)*) => { [$(($flag, is_x86_feature_detected!($flag))),*] };
    }
    let flags = detected!("avx" "avx2" "fma" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vnni" "avx512bf16");
    flags.into_iter().filter_map(|(flag, found)| found.then_some(flag)).collect()
}

#[cfg(target_arch = "aarch64")]
fn cpu_flags() -> Vec<&'static str> {
    macro_rules! detected {
        ($($flag:tt)*) => { [$(($flag, std::arch::is_aarch64_feature_detected!($flag))),*] };
    }
    let flags = detected!("neon" "dotprod" "fp16" "bf16" "i8mm" "sve");
    flags.into_iter().filter_map(|(flag, found)| found.then_some(flag)).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_flags() -> Vec<&'static str> {
    Vec::new()
}

/// Value of the first line `KEY: VALUE` of one of Linux's files; none elsewhere.
fn first_field(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|k| k.trim() == key))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// A field of one of Linux's files in `kB`, in bytes.
pub(crate) fn kibibytes(file: &str, key: &str) -> Option<u64> {
    let value = first_field(file, key)?;
    Some(value.strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
