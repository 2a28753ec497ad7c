//! The operators: ONNX semantics, one attribute struct an operator, parameters by name.

use serde::{Deserialize, Serialize};

mod shape;

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

/// `x` where it is not negative, `alpha x` elsewhere (ONNX `LeakyRelu`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeakyRelu {
    /// Slope of the negative half.
    pub alpha: f32,
}

/// `min(max(alpha x + beta, 0), 1)` (ONNX `HardSigmoid`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HardSigmoid {
    /// Slope.
    pub alpha: f32,
    /// Value at 0.
    pub beta: f32,
}

/// A border of one value around each channel (ONNX `Pad`, mode `constant`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pad {
    /// Width of the border: top, left, bottom, right.
    pub pads: [usize; 4],
    /// What fills it.
    pub value: f32,
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
    /// Dilation down and right.
    #[serde(default = "undilated")]
    pub dilation: [usize; 2],
}

fn undilated() -> [usize; 2] {
    [1, 1]
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
    /// `x` or a part of it.
    LeakyRelu(LeakyRelu),
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// Piecewise linear sigmoid.
    HardSigmoid(HardSigmoid),
    /// `x min(max(x / 6 + 1/2, 0), 1)`.
    HardSwish,
    /// Element-wise sum of two values of one shape, or of an image and one value a channel, `[C, 1, 1]`.
    Add,
    /// Element-wise product of two values, of shapes as for [`Op::Add`].
    Mul,
    /// Concatenation of two or more values along channels.
    Concat,
    /// Maximum over windows.
    MaxPool(Pool),
    /// Mean over windows.
    AveragePool(Pool),
    /// Border around each channel.
    Pad(Pad),
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
            Self::LeakyRelu(_) => "LeakyRelu",
            Self::Sigmoid => "Sigmoid",
            Self::HardSigmoid(_) => "HardSigmoid",
            Self::HardSwish => "HardSwish",
            Self::Add => "Add",
            Self::Mul => "Mul",
            Self::Concat => "Concat",
            Self::MaxPool(_) => "MaxPool",
            Self::AveragePool(_) => "AveragePool",
            Self::Pad(_) => "Pad",
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
}
