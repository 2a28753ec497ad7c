//! Shapes of outputs, and whether an operator fits its inputs.

use super::{HardSigmoid, LeakyRelu, Op};

impl Op {
    /// Places that a window spans along one axis.
    pub(crate) fn extent(kernel: usize, dilation: usize) -> usize {
        kernel.saturating_sub(1).saturating_mul(dilation).saturating_add(1)
    }

    /// Shape of the output for inputs of the given shapes (each without the batch), or what is wrong with them.
    pub(crate) fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>, String> {
        let arity = match self {
            Self::Add | Self::Mul => 2..=2,
            Self::Concat => 2..=usize::MAX,
            _ => 1..=1,
        };
        if !arity.contains(&inputs.len()) {
            let (start, more) = (arity.start(), if arity.start() < arity.end() { " or more" } else { "" });
            return Err(format!("takes {start}{more} inputs, got {}", inputs.len()));
        }
        let input = inputs[0];
        match self {
            Self::Relu | Self::Sigmoid | Self::HardSwish | Self::Identity => Ok(input.to_vec()),
            Self::LeakyRelu(LeakyRelu { alpha }) => finite(&[*alpha]).map(|()| input.to_vec()),
            Self::HardSigmoid(HardSigmoid { alpha, beta }) => finite(&[*alpha, *beta]).map(|()| input.to_vec()),
            Self::Clip(c) if c.min.is_finite() && c.max.is_finite() && c.min <= c.max => Ok(input.to_vec()),
            Self::Clip(c) => Err(format!("bounds {} to {} must be finite and in order", c.min, c.max)),
            Self::BatchNormalization(n) => {
                image(input)?;
                if !(n.epsilon > 0.0 && n.epsilon.is_finite() && (0.0..=1.0).contains(&n.momentum)) {
                    let (e, m) = (n.epsilon, n.momentum);
                    return Err(format!("epsilon {e} must be positive and momentum {m} between 0 and 1"));
                }
                Ok(input.to_vec())
            }
            Self::Conv(c) => {
                let [channels, height, width] = image(input)?;
                if c.groups == 0 || channels % c.groups != 0 || c.out_channels % c.groups != 0 || c.out_channels == 0 {
                    let (o, g) = (c.out_channels, c.groups);
                    return Err(format!("{channels} input and {o} output channels do not divide into {g} groups"));
                }
                let out = windows([height, width], c.kernel, c.stride, c.pads, c.dilation)?;
                Ok(vec![c.out_channels, out[0], out[1]])
            }
            Self::MaxPool(p) | Self::AveragePool(p) => {
                let [channels, height, width] = image(input)?;
                let extent = |axis| Self::extent(p.kernel[axis], p.dilation[axis]);
                if p.pads[0].max(p.pads[2]) >= extent(0) || p.pads[1].max(p.pads[3]) >= extent(1) {
                    return Err(format!("padding {:?} must be smaller than the window {:?}", p.pads, p.kernel));
                }
                let out = windows([height, width], p.kernel, p.stride, p.pads, p.dilation)?;
                Ok(vec![channels, out[0], out[1]])
            }
            Self::GlobalAveragePool => image(input).map(|[channels, ..]| vec![channels, 1, 1]),
            Self::Flatten => Ok(vec![input.iter().product()]),
            Self::Add | Self::Mul => broadcast(input, inputs[1]),
            Self::Pad(p) => {
                let [channels, height, width] = image(input)?;
                finite(&[p.value])?;
                let [top, left, bottom, right] = p.pads;
                let add = |a: usize, b: usize, c: usize| a.saturating_add(b).saturating_add(c);
                let [height, width] = sides([add(height, top, bottom), add(width, left, right)])?;
                Ok(vec![channels, height, width])
            }
            Self::Concat => {
                let mut output = input.to_vec();
                for other in &inputs[1..] {
                    if other.len() != input.len() || other[1..] != input[1..] {
                        return Err(format!(
                            "concatenates {input:?} with {other:?}, which may differ in the first only"
                        ));
                    }
                    output[0] += other[0];
                }
                Ok(output)
            }
            Self::Gemm(g) => match input {
                [_] if g.out_features > 0 => Ok(vec![g.out_features]),
                _ => Err(format!("needs a flat input and at least one output feature, got shape {input:?}")),
            },
            Self::Softmax => match input {
                [_] => Ok(input.to_vec()),
                _ => Err(format!("needs a flat input, got shape {input:?}")),
            },
        }
    }
}

fn image(shape: &[usize]) -> Result<[usize; 3], String> {
    shape.try_into().map_err(|_| format!("needs an input [channels, height, width], got {shape:?}"))
}

/// Shape of an element-wise sum or product.
fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, String> {
    let gates = |gate: &[usize], of: &[usize]| of.len() == 3 && *gate == [of[0], 1, 1];
    match () {
        () if a == b || gates(b, a) => Ok(a.to_vec()),
        () if gates(a, b) => Ok(b.to_vec()),
        () => Err(format!("combines shapes {a:?} and {b:?}, which must be equal, or one of them [C, 1, 1]")),
    }
}

fn finite(values: &[f32]) -> Result<(), String> {
    if values.iter().all(|v| v.is_finite()) { Ok(()) } else { Err(format!("attributes {values:?} must be finite")) }
}

/// Larger images, windows and borders are taken for an error.
pub(crate) const MAX_SIDE: usize = 1 << 16;

/// Height and width, if they are within bounds.
fn sides(sides: [usize; 2]) -> Result<[usize; 2], String> {
    match sides.iter().all(|side| *side <= MAX_SIDE) {
        true => Ok(sides),
        false => Err(format!("makes an image of {} x {}, at most {MAX_SIDE} a side", sides[0], sides[1])),
    }
}

/// Number of window positions down and right (floor mode).
fn windows(
    size: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    pads: [usize; 4],
    dilation: [usize; 2],
) -> Result<[usize; 2], String> {
    let mut out = [0; 2];
    for axis in 0..2 {
        let (k, s, d) = (kernel[axis], stride[axis], dilation[axis]);
        let limit = MAX_SIDE;
        if [k, s, d].contains(&0) || [k, s, d, pads[axis], pads[axis + 2]].iter().any(|v| *v > limit) {
            return Err(format!(
                "kernel {kernel:?}, stride {stride:?}, pads {pads:?}, dilation {dilation:?}: \
                                each must be positive (pads may be 0) and at most {limit}"
            ));
        }
        let padded = size[axis] + pads[axis] + pads[axis + 2];
        let extent = Op::extent(k, d);
        if padded < extent {
            return Err(format!("a window of {extent} does not fit {padded} padded positions"));
        }
        out[axis] = (padded - extent) / s + 1;
    }
    sides(out)
}
