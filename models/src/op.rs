//! The operators: ONNX semantics, one attribute struct an operator, parameters by name.

use serde::{Deserialize, Serialize};

/// 2-D convolution, NCHW, weight `[out_channels, in_channels / groups, kernel[0], kernel[1]]` (ONNX `Conv`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv {
    /// Parameter name of the weight.
    pub weight: String,
    /// Parameter name of the bias `[out_channels]`, if any.
    pub bias: Option<String>,
    /// Number of output channels.
    pub out_channels: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Stride down and right.
    pub stride: [usize; 2],
    /// Zero padding: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Dilation down and right.
    pub dilation: [usize; 2],
    /// Number of groups; `in_channels` for a depthwise convolution.
    pub groups: usize,
}

/// Batch normalisation over channels: `scale (x - mean) / sqrt(var + epsilon) + shift` (ONNX `BatchNormalization`).
///
/// In training, mean and variance are those of the batch, and the running ones move towards them by `momentum`
/// (PyTorch's meaning: `running = (1 - momentum) running + momentum batch`, unbiased variance).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchNormalization {
    /// Parameter name of the scale (gamma, PyTorch `weight`).
    pub scale: String,
    /// Parameter name of the shift (beta, PyTorch `bias`).
    pub shift: String,
    /// Buffer name of the running mean.
    pub mean: String,
    /// Buffer name of the running variance.
    pub var: String,
    /// Added to the variance.
    pub epsilon: f32,
    /// Weight of the new batch in the running statistics.
    pub momentum: f32,
}

/// Clamp to `[min, max]` (ONNX `Clip`); ReLU6 is `Clip { min: 0.0, max: 6.0 }`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clip {
    /// Lower bound.
    pub min: f32,
    /// Upper bound.
    pub max: f32,
}

/// Window of a max or average pooling (ONNX `MaxPool`, `AveragePool`; floor mode).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Stride down and right.
    pub stride: [usize; 2],
    /// Padding: top, left, bottom, right. A max ignores padded places; an average counts only places inside the image.
    pub pads: [usize; 4],
}

/// Linear layer `x W' + b`, weight `[out_features, in_features]` (ONNX `Gemm` with `transB = 1`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gemm {
    /// Parameter name of the weight.
    pub weight: String,
    /// Parameter name of the bias `[out_features]`, if any.
    pub bias: Option<String>,
    /// Number of output features.
    pub out_features: usize,
}

/// An operator with one output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op")]
#[non_exhaustive]
pub enum Op {
    /// 2-D convolution.
    Conv(Conv),
    /// Batch normalisation.
    BatchNormalization(BatchNormalization),
    /// `max(x, 0)`.
    Relu,
    /// Clamp.
    Clip(Clip),
    /// Element-wise sum of two values of one shape.
    Add,
    /// Concatenation of two or more values along channels.
    Concat,
    /// Maximum over windows.
    MaxPool(Pool),
    /// Mean over windows.
    AveragePool(Pool),
    /// Mean over height and width, which become 1.
    GlobalAveragePool,
    /// `[C, H, W]` to `[C H W]`.
    Flatten,
    /// Linear layer.
    Gemm(Gemm),
    /// Softmax over the features.
    Softmax,
    /// Copy.
    Identity,
}

/// What a parameter is for; decides who may change it and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ParameterRole {
    /// Convolution or linear weight: trained, and the only kind that a penalty prunes.
    Weight,
    /// Convolution or linear bias: trained.
    Bias,
    /// Batch-norm scale: trained.
    NormScale,
    /// Batch-norm shift: trained.
    NormShift,
    /// Batch-norm running mean: a buffer, not trained.
    RunningMean,
    /// Batch-norm running variance: a buffer, not trained.
    RunningVar,
}

impl ParameterRole {
    /// Whether a penalty may drive it to zero.
    pub fn is_prunable(self) -> bool {
        self == Self::Weight
    }

    /// Whether an optimizer changes it (running statistics are not).
    pub fn is_trainable(self) -> bool {
        !matches!(self, Self::RunningMean | Self::RunningVar)
    }
}

/// Name, shape and role of one parameter of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSpec {
    /// PyTorch state-dict name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: ParameterRole,
}

impl Op {
    /// The ONNX operator name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Conv(_) => "Conv",
            Self::BatchNormalization(_) => "BatchNormalization",
            Self::Relu => "Relu",
            Self::Clip(_) => "Clip",
            Self::Add => "Add",
            Self::Concat => "Concat",
            Self::MaxPool(_) => "MaxPool",
            Self::AveragePool(_) => "AveragePool",
            Self::GlobalAveragePool => "GlobalAveragePool",
            Self::Flatten => "Flatten",
            Self::Gemm(_) => "Gemm",
            Self::Softmax => "Softmax",
            Self::Identity => "Identity",
        }
    }

    /// Specs of the parameters the operator reads, given the shape of its first input (without the batch).
    pub(crate) fn parameters(&self, input: &[usize]) -> Vec<ParameterSpec> {
        let spec = |name: &str, shape: &[usize], role| ParameterSpec { name: name.into(), shape: shape.to_vec(), role };
        match self {
            Self::Conv(c) => {
                let shape = [c.out_channels, input[0] / c.groups, c.kernel[0], c.kernel[1]];
                let bias = c.bias.iter().map(|b| spec(b, &[c.out_channels], ParameterRole::Bias));
                std::iter::once(spec(&c.weight, &shape, ParameterRole::Weight)).chain(bias).collect()
            }
            Self::Gemm(g) => {
                let bias = g.bias.iter().map(|b| spec(b, &[g.out_features], ParameterRole::Bias));
                let weight = spec(&g.weight, &[g.out_features, input[0]], ParameterRole::Weight);
                std::iter::once(weight).chain(bias).collect()
            }
            Self::BatchNormalization(n) => vec![
                spec(&n.scale, &input[..1], ParameterRole::NormScale),
                spec(&n.shift, &input[..1], ParameterRole::NormShift),
                spec(&n.mean, &input[..1], ParameterRole::RunningMean),
                spec(&n.var, &input[..1], ParameterRole::RunningVar),
            ],
            _ => Vec::new(),
        }
    }

    /// Shape of the output for inputs of the given shapes (each without the batch), or what is wrong with them.
    pub(crate) fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>, String> {
        let arity = match self {
            Self::Add => 2..=2,
            Self::Concat => 2..=usize::MAX,
            _ => 1..=1,
        };
        if !arity.contains(&inputs.len()) {
            let (start, more) = (arity.start(), if arity.start() < arity.end() { " or more" } else { "" });
            return Err(format!("takes {start}{more} inputs, got {}", inputs.len()));
        }
        let input = inputs[0];
        match self {
            Self::Relu | Self::Identity => Ok(input.to_vec()),
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
                if p.pads[0].max(p.pads[2]) >= p.kernel[0].max(1) || p.pads[1].max(p.pads[3]) >= p.kernel[1].max(1) {
                    return Err(format!("padding {:?} must be smaller than the window {:?}", p.pads, p.kernel));
                }
                let out = windows([height, width], p.kernel, p.stride, p.pads, [1, 1])?;
                Ok(vec![channels, out[0], out[1]])
            }
            Self::GlobalAveragePool => image(input).map(|[channels, ..]| vec![channels, 1, 1]),
            Self::Flatten => Ok(vec![input.iter().product()]),
            Self::Add if inputs[1] == input => Ok(input.to_vec()),
            Self::Add => Err(format!("adds shapes {input:?} and {:?}, which must be equal", inputs[1])),
            Self::Concat => {
                let [mut channels, height, width] = image(input)?;
                for other in &inputs[1..] {
                    let [c, h, w] = image(other)?;
                    if (h, w) != (height, width) {
                        return Err(format!("concatenates {height}x{width} with {h}x{w}, which must be equal"));
                    }
                    channels += c;
                }
                Ok(vec![channels, height, width])
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
        let limit = 1 << 16;
        if [k, s, d].contains(&0) || [k, s, d, pads[axis], pads[axis + 2]].iter().any(|v| *v > limit) {
            return Err(format!(
                "kernel {kernel:?}, stride {stride:?}, pads {pads:?}, dilation {dilation:?}: \
                                each must be positive (pads may be 0) and at most {limit}"
            ));
        }
        let padded = size[axis] + pads[axis] + pads[axis + 2];
        let extent = d * (k - 1) + 1;
        if padded < extent {
            return Err(format!("a window of {extent} does not fit {padded} padded positions"));
        }
        out[axis] = (padded - extent) / s + 1;
    }
    Ok(out)
}
