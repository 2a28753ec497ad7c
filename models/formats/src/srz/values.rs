//! The stored values of a matrix, row by row.
//!
//! A value is split like an f32: sign, exponent, mantissa. Each row has the exponent of its largest value, its top;
//! a value's class is how far its exponent lies below. The class and the two highest bits of the mantissa are coded with
//! adaptive probabilities, by which trained weights lose 7 bits and more; the other bits hold no pattern and are stored.

use serde::{Deserialize, Serialize};

use super::coder::{Bit, Coder};
use super::pattern::Pattern;

/// How the values of one tensor are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Coding {
    /// As floats of so many bits of mantissa, at most 23; the others are zero.
    Float(u32),
    /// As integers times a power of two for each row: a value of class `k` has `bits - k` bits of mantissa.
    Fixed(u32),
    /// As sign and an index into so many magnitudes, a power of two of at most 256; each magnitude is the upper half
    /// of an f32.
    Palette(u32),
}

/// Bits of an f32's mantissa.
const MANTISSA: u32 = 23;
/// Largest exponent of a finite f32, as stored.
const MAX_EXPONENT: u32 = 254;
/// Bits of the mantissa that are not uniform.
const MODELLED: u32 = 2;
/// Classes with models of their own.
const CLASSES: usize = 16;

/// Probabilities that go on from tensor to tensor of a file.
#[derive(Debug, Clone)]
pub(super) struct Models {
    top_moves: Bit,
    top_rises: Bit,
    top_distance: [Bit; CLASSES],
    class: [Bit; CLASSES],
    mantissa: [[Bit; 1 << MODELLED]; CLASSES],
}

impl Models {
    pub(super) fn new() -> Self {
        let class = [Bit::NEW; CLASSES];
        let mantissa = [[Bit::NEW; 1 << MODELLED]; CLASSES];
        Self { top_moves: Bit::NEW, top_rises: Bit::NEW, top_distance: class, class, mantissa }
    }
}

impl Coding {
    /// Whether the numbers are ones that a writer gives.
    pub(super) fn is_valid(self) -> bool {
        match self {
            Self::Float(bits) => bits <= MANTISSA,
            Self::Fixed(bits) => bits <= 6,
            Self::Palette(levels) => levels.is_power_of_two() && levels <= 256,
        }
    }
}

/// Codes the values at the places of `pattern`; an encoder gets them in `known`, and for a palette its magnitudes,
/// ascending.
pub(super) fn code(
    coder: &mut impl Coder,
    models: &mut Models,
    coding: Coding,
    pattern: &Pattern,
    known: &[f32],
    palette: &[f32],
) -> Result<Vec<f32>, String> {
    let mut values = Vec::new();
    values.try_reserve_exact(pattern.col.len()).map_err(|e| format!("{} values: {e}", pattern.col.len()))?;
    if let Coding::Palette(levels) = coding {
        code_palette(coder, levels, pattern.col.len(), known, palette, &mut values)?;
        return Ok(values);
    }
    let mut top = 127;
    for row in pattern.crow.windows(2) {
        let row = row[0] as usize..row[1] as usize;
        if row.is_empty() {
            continue;
        }
        let known = known.get(row.clone()).unwrap_or_default();
        let largest = known.iter().map(|v| exponent(v.to_bits())).max().unwrap_or(0);
        top = code_top(coder, models, top, largest)?;
        for k in 0..row.len() {
            values.push(code_value(coder, models, coding, top, known.get(k).copied().unwrap_or_default())?);
        }
    }
    Ok(values)
}

fn exponent(bits: u32) -> u32 {
    bits >> MANTISSA & 255
}

/// A row's top, as its distance from the top of the row before.
fn code_top(coder: &mut impl Coder, models: &mut Models, before: u32, top: u32) -> Result<u32, String> {
    if !coder.bit(&mut models.top_moves, top != before) {
        return Ok(before);
    }
    let rises = coder.bit(&mut models.top_rises, top > before);
    let distance = 1 + coder.unary(&mut models.top_distance, top.abs_diff(before).wrapping_sub(1), MAX_EXPONENT);
    let top = if rises { before.checked_add(distance) } else { before.checked_sub(distance) };
    top.filter(|top| *top <= MAX_EXPONENT).ok_or_else(|| "has an exponent out of range".into())
}

fn code_value(
    coder: &mut impl Coder,
    models: &mut Models,
    coding: Coding,
    top: u32,
    known: f32,
) -> Result<f32, String> {
    let bits = known.to_bits();
    let class = coder.unary(&mut models.class, top.wrapping_sub(exponent(bits)), top);
    let of_mantissa = match coding {
        Coding::Float(bits) => Some(bits),
        Coding::Fixed(bits) => bits.checked_sub(class),
        Coding::Palette(_) => None,
    };
    let (Some(exponent), Some(length)) = (top.checked_sub(class), of_mantissa) else {
        return Err("has an exponent out of range".into());
    };
    let known = (bits & ((1 << MANTISSA) - 1)) >> (MANTISSA - length);
    let modelled = length.min(MODELLED);
    let stored = length - modelled;
    let high = coder.tree(&mut models.mantissa[(class as usize).min(CLASSES - 1)], modelled, known >> stored);
    let low = coder.raw(stored + 1, (bits >> 31) << stored | known & ((1 << stored) - 1));
    let (sign, low) = (low >> stored, low & ((1 << stored) - 1));
    let mantissa = (high << stored | low) << (MANTISSA - length);
    Ok(f32::from_bits(sign << 31 | exponent << MANTISSA | mantissa))
}

fn code_palette(
    coder: &mut impl Coder,
    levels: u32,
    count: usize,
    known: &[f32],
    palette: &[f32],
    values: &mut Vec<f32>,
) -> Result<(), String> {
    let half = |level: u32| palette.get(level as usize).map_or(0, |magnitude| magnitude.to_bits() >> 16);
    let palette: Vec<f32> = (0..levels).map(|level| f32::from_bits(coder.raw(16, half(level)) << 16)).collect();
    if let Some(found) = palette.iter().find(|magnitude| !(magnitude.is_finite() && magnitude.is_sign_positive())) {
        return Err(format!("has the magnitude {found} in its palette, expected finite and not negative"));
    }
    let mut models = vec![Bit::NEW; levels as usize];
    for k in 0..count {
        let value = known.get(k).copied().unwrap_or_default();
        let level = palette.partition_point(|magnitude| *magnitude < value.abs()).min(levels as usize - 1);
        let level = coder.tree(&mut models, levels.ilog2(), level as u32);
        let negative = coder.raw(1, u32::from(value.is_sign_negative())) == 1;
        let magnitude = palette[level as usize];
        values.push(if negative { -magnitude } else { magnitude });
    }
    Ok(())
}
