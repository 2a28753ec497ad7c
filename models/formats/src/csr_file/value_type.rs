//! The types that a CSR file can hold its values in.

use half::{bf16, f16};
use safetensors::Dtype;

use crate::CsrMatrix;
use crate::dense::{bytes, elements};

/// Type of the stored values of a CSR file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// All bits.
    F32,
    /// The nearest half-precision value; a non-zero never becomes zero.
    F16,
    /// The nearest bfloat16; a non-zero never becomes zero.
    Bf16,
    /// Integers from −127 to 127, none of them 0, times an f32 scale for each row (output channel): `max |w| / 127`.
    Int8,
}

impl std::str::FromStr for ValueType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            _ => Err("expected f32, f16, bf16 or int8".into()),
        }
    }
}

/// Values as they are stored, with the scale of each row where there is one.
pub(super) struct Stored {
    pub(super) dtype: Dtype,
    pub(super) values: Vec<u8>,
    pub(super) scale: Option<Vec<f32>>,
}

/// The stored form of a matrix's values.
pub(super) fn store(matrix: &CsrMatrix, to: ValueType) -> Result<Stored, String> {
    let values = matrix.values();
    let stored = |dtype, values| Ok(Stored { dtype, values, scale: None });
    match to {
        ValueType::F32 => stored(Dtype::F32, bytes(values, f32::to_le_bytes)),
        ValueType::F16 => {
            let largest = f16::MAX.to_f32();
            if let Some(value) = values.iter().find(|v| f16::from_f32(**v).is_infinite()) {
                return Err(format!("holds {value:e}, beyond f16's {largest:e}; write it as bf16 or f32"));
            }
            stored(Dtype::F16, bytes(values, |v| nonzero(v, f16::from_f32(v).to_bits()).to_le_bytes()))
        }
        ValueType::Bf16 => {
            let narrow = |v: f32| bf16::from_f32(v.clamp(bf16::MIN.to_f32(), bf16::MAX.to_f32())).to_bits();
            stored(Dtype::BF16, values.iter().flat_map(|v| nonzero(*v, narrow(*v)).to_le_bytes()).collect())
        }
        ValueType::Int8 => {
            let rows = (0..matrix.rows()).map(|row| matrix.row(row).1);
            let scale: Vec<f32> = rows.clone().map(scale).collect();
            let integer = |v: f32, scale: f32| (v / scale).round().clamp(-127.0, 127.0) as i8;
            let integers = rows.zip(&scale).flat_map(|(row, scale)| row.iter().map(|v| (*v, integer(*v, *scale))));
            let kept = |(v, q): (f32, i8)| if q == 0 && v != 0.0 { 1.0f32.copysign(v) as i8 } else { q };
            let values: Vec<u8> = integers.map(|pair| kept(pair).to_le_bytes()[0]).collect();
            Ok(Stored { dtype: Dtype::I8, values, scale: Some(scale) })
        }
    }
}

/// `bits` of a 16-bit float, or its smallest of the sign of `value` where that is not zero and they are.
fn nonzero(value: f32, bits: u16) -> u16 {
    if bits & 0x7fff == 0 && value != 0.0 { bits | 1 } else { bits }
}

/// Scale of a row; 1 where it stores nothing, and normal, so that the integers times it are what they should be.
fn scale(row: &[f32]) -> f32 {
    let largest = row.iter().fold(0f32, |max, v| max.max(v.abs()));
    if largest == 0.0 { 1.0 } else { (largest / 127.0).max(f32::MIN_POSITIVE) }
}

/// The values as f32; what is wrong with them otherwise. `crow_indices` may be invalid.
pub(super) fn load(stored: Stored, crow_indices: &[i32]) -> Result<Vec<f32>, String> {
    let Stored { dtype, values, scale } = stored;
    match (dtype, scale) {
        (Dtype::F32, None) => Ok(elements(&values).map(f32::from_le_bytes).collect()),
        (Dtype::F16, None) => Ok(elements(&values).map(|b| f16::from_le_bytes(b).to_f32()).collect()),
        (Dtype::BF16, None) => Ok(elements(&values).map(|b| bf16::from_le_bytes(b).to_f32()).collect()),
        (Dtype::I8, Some(scale)) => {
            if scale.len() + 1 != crow_indices.len() {
                return Err(format!("scale has {} entries for {} rows", scale.len(), crow_indices.len().max(1) - 1));
            }
            if let Some(row) = scale.iter().position(|s| !(s.is_finite() && *s > 0.0)) {
                return Err(format!("scale[{row}] is {}, expected finite and positive", scale[row]));
            }
            let rows =
                crow_indices.windows(2).map(|ends| usize::try_from(ends[1].saturating_sub(ends[0])).unwrap_or(0));
            let scales = rows.zip(&scale).flat_map(|(count, scale)| std::iter::repeat_n(*scale, count));
            Ok(values.iter().map(|q| f32::from(*q as i8)).zip(scales).map(|(q, scale)| q * scale).collect())
        }
        (other, _) => unreachable!("values of type {other}, whose type and scale were checked"),
    }
}
