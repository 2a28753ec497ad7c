//! Initial parameters, as PyTorch's modules and torchvision's residual networks draw them.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use sha2::{Digest, Sha256};
use sr2_formats::{Tensor, TensorMap};

use crate::{Graph, Op, ParameterRole, ParameterSpec};

/// Draws every parameter and buffer of `graph`.
///
/// | parameter | values |
/// |--|--|
/// | Conv weight `[O, I, kH, kW]` | normal, mean 0, variance `2 / (O kH kW)` (He et al., 1502.01852, fan-out) |
/// | Gemm weight `[O, I]` and bias | uniform in `±1 / sqrt(I)` |
/// | Conv bias, batch-norm shift, running mean | 0 |
/// | batch-norm scale, running variance | 1 |
///
/// Each parameter has a random stream of its own, ChaCha8 keyed by SHA-256 of `seed` (little-endian) and its name:
/// neither the order of the nodes nor the other parameters change it.
pub fn initialise(graph: &Graph, seed: u64) -> TensorMap {
    let mut tensors = TensorMap::new();
    for node in graph.nodes() {
        let input = graph.shape(node.inputs[0]);
        for spec in node.op.parameters(input) {
            tensors.entry(spec.name.clone()).or_insert_with(|| draw(&node.op, input, &spec, seed));
        }
    }
    tensors
}

fn draw(op: &Op, input: &[usize], spec: &ParameterSpec, seed: u64) -> Tensor {
    let mut rng = stream(seed, &spec.name);
    let count = spec.shape.iter().product();
    match (op, spec.role) {
        (Op::Conv(c), ParameterRole::Weight) => {
            let fan_out = c.out_channels * c.kernel[0] * c.kernel[1];
            let normal = Normal::new(0.0, (2.0 / fan_out as f32).sqrt()).expect("a finite deviation");
            Tensor::new(spec.shape.clone(), normal.sample_iter(rng).take(count).collect())
        }
        (Op::Gemm(_), _) => {
            let bound = 1.0 / (input[0] as f32).sqrt();
            Tensor::new(spec.shape.clone(), (0..count).map(|_| rng.random_range(-bound..=bound)).collect())
        }
        (_, ParameterRole::NormScale | ParameterRole::RunningVar) => Tensor::full(spec.shape.clone(), 1.0),
        _ => Tensor::full(spec.shape.clone(), 0.0),
    }
}

fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Model, zoo};

    /// Sample moments may miss the true ones by this many standard errors.
    const STANDARD_ERRORS: f64 = 4.0;

    #[test]
    fn each_parameter_gets_a_finite_tensor() {
        for name in ["resnet8", "wrn_22_2", "vgg16_bn", "mobilenet_v2", "densenet121"] {
            let graph = zoo::build(name, 10).unwrap();
            let model = Model::try_new(graph.clone(), initialise(&graph, 1)).unwrap();
            assert!(model.parameters().values().all(|t| t.data().iter().all(|v| v.is_finite())), "{name}");
        }
    }

    #[test]
    fn convolutions_are_normal_by_fan_out() {
        let tensors = initialise(&zoo::build("resnet18", 10).unwrap(), 1);
        for name in ["conv1.weight", "layer2.0.conv1.weight", "layer2.0.downsample.0.weight", "layer4.1.conv2.weight"] {
            let shape = tensors[name].shape();
            let variance = 2.0 / (shape[0] * shape[2] * shape[3]) as f64;
            // Kurtosis 3 of the normal: the variance of z^2 is 2.
            check_moments(name, tensors[name].data(), variance, 2.0);
        }
    }

    #[test]
    fn linear_layers_are_uniform_by_fan_in() {
        let tensors = initialise(&zoo::build("densenet201", 100).unwrap(), 1);
        let weight = &tensors["classifier.weight"];
        let bound = 1.0 / (weight.shape()[1] as f64).sqrt();
        check_moments("classifier.weight", weight.data(), bound * bound / 3.0, 0.8);
        for name in ["classifier.weight", "classifier.bias"] {
            let largest = tensors[name].data().iter().fold(0.0f32, |m, v| m.max(v.abs())) as f64;
            assert!(largest <= bound * (1.0 + 1e-6) && largest > 0.9 * bound, "{name}: {largest}, bound {bound}");
        }
    }

    /// Mean 0, the variance given, and `spread`, the variance of `(x^2 / variance)`.
    fn check_moments(name: &str, values: &[f32], variance: f64, spread: f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let square = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < STANDARD_ERRORS * (variance / n).sqrt(), "{name}: mean {mean}");
        let miss = (square / variance - 1.0).abs();
        assert!(miss < STANDARD_ERRORS * (spread / n).sqrt(), "{name}: variance {square}, expected {variance}");
    }

    #[test]
    fn batch_norm_starts_as_the_identity_and_conv_biases_at_zero() {
        let graph = zoo::build("vgg16_bn", 10).unwrap();
        let tensors = initialise(&graph, 1);
        for (name, value) in [
            ("features.0.bias", 0.0),
            ("features.1.weight", 1.0),
            ("features.1.bias", 0.0),
            ("features.1.running_mean", 0.0),
            ("features.1.running_var", 1.0),
        ] {
            assert_eq!(tensors[name], Tensor::full([64], value), "{name}");
        }
    }

    #[test]
    fn a_parameter_depends_on_seed_and_name_alone() {
        let shallow = initialise(&zoo::build("resnet20", 10).unwrap(), 7);
        let deep = initialise(&zoo::build("resnet56", 10).unwrap(), 7);
        assert!(shallow.iter().all(|(name, tensor)| deep[name] == *tensor));
        assert_ne!(shallow["layer1.0.conv1.weight"], shallow["layer1.0.conv2.weight"]);
        assert_ne!(shallow["conv1.weight"], initialise(&zoo::build("resnet20", 10).unwrap(), 8)["conv1.weight"]);
    }

    /// A change here changes every seeded run: say so in the change log.
    #[test]
    fn values_stay_what_they_were() {
        let tensors = initialise(&zoo::build("resnet20", 10).unwrap(), 7);
        assert_eq!(tensors["conv1.weight"].data()[..3], [0.11443307, -0.013920124, 0.1541334]);
        assert_eq!(tensors["fc.weight"].data()[..3], [-0.0960094, -0.066251844, 0.061658353]);
    }
}
