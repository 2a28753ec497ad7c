//! Rounding of stored values to ones that take fewer bits. A stored value never becomes zero.

use half::f16;

use super::values::Coding;
use crate::csr_file::CsrParameter;
use crate::{CsrMatrix, Error, Result};

/// What a container keeps of the values of its sparse tensors. Dense tensors always keep their bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// All bits.
    F32,
    /// The nearest half-precision value.
    F16,
    /// Integers of so many bits, 2 to 8, the sign among them, times a power of two for each row (output channel).
    Int(u8),
    /// 16 magnitudes for each tensor, by k-means, and the sign.
    Palette,
}

/// Magnitudes of a palette.
const LEVELS: usize = 16;
/// k-means stops here, or when nothing changes any more.
const ITERATIONS: usize = 50;
/// Bits of an f32's mantissa.
const MANTISSA: u32 = 23;

impl std::str::FromStr for Values {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let bits = |name: &str| name.strip_prefix("int")?.parse().ok().filter(|bits| (2..=8).contains(bits));
        match name {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "palette" => Ok(Self::Palette),
            _ => bits(name).map(Self::Int).ok_or_else(|| "expected f32, f16, palette, or int8 to int2".into()),
        }
    }
}

impl std::fmt::Display for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::F16 => f.write_str("f16"),
            Self::Int(bits) => write!(f, "int{bits}"),
            Self::Palette => f.write_str("palette"),
        }
    }
}

/// A tensor's values as they will be read back, with the coding that holds them exactly and its palette.
pub(super) struct Quantised {
    pub(super) values: Vec<f32>,
    pub(super) coding: Coding,
    pub(super) palette: Vec<f32>,
}

/// Rounds the values of a matrix. Rows whose largest value is too small for the integers' steps keep their bits.
pub(super) fn quantise(matrix: &CsrMatrix, to: Values) -> std::result::Result<Quantised, String> {
    let values = matrix.values();
    match to {
        Values::F32 => Ok(floats(values.to_vec())),
        Values::F16 => Ok(floats(values.iter().copied().map(half).collect::<std::result::Result<_, _>>()?)),
        Values::Int(bits) => {
            let rows = (0..matrix.rows()).map(|row| integers(matrix.row(row).1, u32::from(bits) - 2));
            match rows.collect::<Option<Vec<_>>>() {
                Some(rows) => {
                    Ok(Quantised { values: rows.concat(), coding: Coding::Fixed(u32::from(bits) - 2), palette: vec![] })
                }
                None => Ok(floats(values.to_vec())),
            }
        }
        Values::Palette => Ok(palette(values)),
    }
}

/// The coding of the fewest bits that keeps these floats.
pub(super) fn floats(values: Vec<f32>) -> Quantised {
    let used = values.iter().fold(0, |bits, v| bits | v.to_bits()) & ((1 << MANTISSA) - 1);
    let bits = MANTISSA.saturating_sub(used.trailing_zeros());
    Quantised { values, coding: Coding::Float(bits), palette: Vec::new() }
}

fn half(value: f32) -> std::result::Result<f32, String> {
    let half = f16::from_f32(value).to_f32();
    match half {
        0.0 if value != 0.0 => Ok(f16::from_bits(1).to_f32().copysign(value)),
        half if half.is_finite() => Ok(half),
        _ => Err(format!("holds {value:e}, beyond f16's range; write it as f32")),
    }
}

/// A row rounded to multiples of a power of two, the largest having `bits` bits below its highest. `None` where the
/// step would be no normal f32, or a value is stored that is zero.
fn integers(row: &[f32], bits: u32) -> Option<Vec<f32>> {
    let largest = row.iter().fold(0f32, |max, v| max.max(v.abs()));
    if row.is_empty() {
        return Some(Vec::new());
    }
    // A value just below a power of two rounds up to it, and takes the next step.
    [0, 1].into_iter().find_map(|up| {
        let exponent = (largest.to_bits() >> MANTISSA) + up;
        let step = f32::from_bits(exponent.checked_sub(bits).filter(|e| *e > 0)? << MANTISSA);
        let last = ((2u32 << bits) - 1) as f32;
        let integer = |v: f32| (v.abs() / step).round_ties_even().max(1.0);
        let fits = step.is_finite() && !row.contains(&0.0) && integer(largest) <= last;
        fits.then(|| row.iter().map(|v| (integer(*v) * step).copysign(*v)).collect())
    })
}

/// Magnitudes by k-means from quantiles, each a bfloat16; values move to the nearest.
fn palette(values: &[f32]) -> Quantised {
    let mut sorted: Vec<f32> = values.iter().map(|v| v.abs()).collect();
    sorted.sort_by(f32::total_cmp);
    let quantile = |k: usize| sorted[(2 * k + 1) * (sorted.len() - 1) / (2 * LEVELS)];
    let mut levels: Vec<f32> = (0..LEVELS).filter(|_| !sorted.is_empty()).map(quantile).collect();
    levels.dedup();
    for _ in 0..ITERATIONS {
        let mut means = vec![(0f64, 0u64); levels.len()];
        let mut level = 0;
        for value in &sorted {
            while level + 1 < levels.len() && nearer(*value, levels[level + 1], levels[level]) {
                level += 1;
            }
            means[level] = (means[level].0 + f64::from(*value), means[level].1 + 1);
        }
        let moved = means.iter().zip(&levels);
        let moved: Vec<f32> =
            moved.map(|((sum, n), old)| if *n == 0 { *old } else { (sum / *n as f64) as f32 }).collect();
        if moved == levels {
            break;
        }
        levels = moved;
    }
    // Half of the bits, rounded up from the middle; below f32's largest value, and not to zero.
    let rounded = |v: f32| (v.to_bits() + 0x8000).clamp(0x1_0000, 0x7f7f_ffff) & 0xffff_0000;
    let mut levels: Vec<f32> = levels.into_iter().map(|v| f32::from_bits(rounded(v))).collect();
    levels.dedup();
    let last = levels.last().copied().unwrap_or_default();
    levels.resize(levels.len().next_power_of_two(), last);
    let nearest = |v: &f32| {
        let above = levels.partition_point(|level| *level < v.abs()).min(levels.len() - 1);
        let below = above.saturating_sub(1);
        levels[if nearer(v.abs(), levels[above], levels[below]) { above } else { below }].copysign(*v)
    };
    let values = values.iter().map(nearest).collect();
    Quantised { values, coding: Coding::Palette(levels.len() as u32), palette: levels }
}

fn nearer(value: f32, this: f32, than: f32) -> bool {
    (this - value).abs() < (than - value).abs()
}

/// The parameter as a container with these values gives it back. `path` and `name` are for messages.
pub(super) fn rounded(
    path: &std::path::Path,
    name: &str,
    parameter: &CsrParameter,
    values: Values,
) -> Result<Quantised> {
    let quantised = quantise(parameter.matrix(), values);
    quantised.map_err(|problem| Error::unsupported(path, format!("tensor {name:?} {problem}")))
}
