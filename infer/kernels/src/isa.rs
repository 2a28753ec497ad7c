//! Instruction-set tiers as values that exist only where the CPU has them.

use std::fmt;
use std::str::FromStr;

use crate::row_conv;

/// Proof that the CPU has AVX2 and FMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Avx2(());

/// Proof that the CPU has AVX-512 F, BW, DQ and VL, and AVX2 and FMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Avx512(());

/// Proof that the CPU has AVX512-BF16 beside what [`Avx512`] proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Avx512Bf16(());

/// A tier of kernels that multiply pairs of bf16 values and add them up in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bf16 {
    /// Portable code: the reference of the other tier, far slower than f32.
    Scalar,
    /// 512-bit vectors.
    Avx512(Avx512Bf16),
}

/// Proof that the CPU has NEON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Neon(());

/// A tier of kernels that runs on this CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Portable code, 4 lanes.
    Scalar,
    /// 256-bit vectors with fused multiply-add, 8 lanes.
    Avx2(Avx2),
    /// 512-bit vectors, 16 lanes.
    Avx512(Avx512),
    /// 128-bit vectors of AArch64 with fused multiply-add, 4 lanes.
    Neon(Neon),
}

/// A tier that was asked for and cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum IsaError {
    /// No tier has this name.
    Unknown(String),
    /// The tier exists, but this CPU cannot run it.
    Missing(String),
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "unknown instruction set {name:?}, expected one of {}", NAMES.join(", ")),
            Self::Missing(name) => write!(f, "this CPU has no {name}; it has {}", available_names().join(", ")),
        }
    }
}

impl std::error::Error for IsaError {}

/// Names of all tiers, on each kind of CPU slowest first.
const NAMES: [&str; 4] = ["scalar", "avx2", "avx512", "neon"];

/// Environment variable that forces a tier.
const VARIABLE: &str = "SR2_ISA";

impl Avx2 {
    /// The token, where the CPU has AVX2 and FMA.
    pub fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Some(Self(()));
        }
        None
    }
}

impl Avx512 {
    /// The token, where the CPU has AVX-512 F, BW, DQ and VL beside AVX2 and FMA.
    pub fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            return Some(Self(()));
        }
        None
    }
}

impl Avx512Bf16 {
    /// The token, where the CPU has it.
    pub fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if Avx512::detect().is_some() && is_x86_feature_detected!("avx512bf16") {
            return Some(Self(()));
        }
        None
    }
}

impl Bf16 {
    /// Every tier of this CPU, slowest first.
    pub fn available() -> Vec<Self> {
        std::iter::once(Self::Scalar).chain(Avx512Bf16::detect().map(Self::Avx512)).collect()
    }
}

impl Neon {
    /// The token, where the CPU has NEON.
    pub fn detect() -> Option<Self> {
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            return Some(Self(()));
        }
        None
    }
}

impl Isa {
    /// Every tier of this CPU, slowest first.
    pub fn available() -> Vec<Self> {
        let avx2 = Avx2::detect().map(Self::Avx2);
        let avx512 = Avx512::detect().map(Self::Avx512);
        let neon = Neon::detect().map(Self::Neon);
        std::iter::once(Self::Scalar).chain(avx2).chain(avx512).chain(neon).collect()
    }

    /// The fastest tier of this CPU.
    pub fn best() -> Self {
        *Self::available().last().expect("the scalar tier is always there")
    }

    /// The tier that `SR2_ISA` names, or the fastest one where it is not set.
    ///
    /// # Errors
    /// If the variable names no tier, or one that this CPU cannot run.
    pub fn from_env() -> Result<Self, IsaError> {
        match std::env::var_os(VARIABLE) {
            None => Ok(Self::best()),
            Some(name) => name.to_string_lossy().parse(),
        }
    }

    /// The name that `SR2_ISA` takes and kernel names end in.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => NAMES[0],
            Self::Avx2(_) => NAMES[1],
            Self::Avx512(_) => NAMES[2],
            Self::Neon(_) => NAMES[3],
        }
    }

    /// The tier of bf16 kernels that goes with this one and is faster than f32; so far AVX-512 has one, on CPUs with
    /// AVX512-BF16.
    pub fn bf16(self) -> Option<Bf16> {
        match self {
            Self::Avx512(_) => Avx512Bf16::detect().map(Bf16::Avx512),
            _ => None,
        }
    }

    /// Whether rows of `width` values are whole vectors, and few enough for the sparse kernel with aligned loads.
    pub fn holds_rows(self, width: usize) -> bool {
        self.rows(width).is_some_and(|[lanes, vectors]| lanes * vectors == width)
    }

    /// Lanes and number of the vectors that hold a row of `width` values for [`row_conv`], if few are needed and few of
    /// their values are left over: with AVX-512 of half the size where whole ones would leave more.
    pub(crate) fn rows(self, width: usize) -> Option<[usize; 2]> {
        let half = matches!(self, Self::Avx512(_)).then_some(self.lanes() / 2);
        let sizes = std::iter::once(self.lanes()).chain(half).map(|lanes| [lanes, width.div_ceil(lanes)]);
        let values = |[lanes, vectors]: &[usize; 2]| lanes * vectors;
        let fits = |size: &[usize; 2]| size[1] <= row_conv::most(self) && 5 * values(size) <= 6 * width;
        sizes.filter(fits).min_by_key(values)
    }

    /// f32 values in one vector.
    pub fn lanes(self) -> usize {
        match self {
            Self::Scalar | Self::Neon(_) => 4,
            Self::Avx2(_) => 8,
            Self::Avx512(_) => 16,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        if !NAMES.contains(&name) {
            return Err(IsaError::Unknown(name.into()));
        }
        Self::available().into_iter().find(|isa| isa.name() == name).ok_or_else(|| IsaError::Missing(name.into()))
    }
}

fn available_names() -> Vec<&'static str> {
    Isa::available().into_iter().map(Isa::name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_to_their_tier() {
        for isa in Isa::available() {
            assert_eq!(isa.name().parse(), Ok(isa));
        }
    }

    #[test]
    fn other_names_are_errors() {
        assert_eq!("avx".parse::<Isa>(), Err(IsaError::Unknown("avx".into())));
        assert_eq!("".parse::<Isa>(), Err(IsaError::Unknown("".into())));
        for name in NAMES.into_iter().filter(|name| !available_names().contains(name)) {
            assert_eq!(name.parse::<Isa>(), Err(IsaError::Missing(name.into())));
        }
    }

    #[test]
    fn the_last_tier_is_the_best() {
        assert!(Isa::available().iter().all(|isa| isa.lanes() <= Isa::best().lanes()));
    }
}
