//! The zoo, its loading by name and the reference interpreter against PyTorch. `references/make_references.py` wrote
//! the expected values.

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sr2_formats::{Tensor, TensorMap, dense};
use sr2_models::{Graph, Model, ParameterRole, ParameterSpec, reference, zoo};

/// Largest difference of two outputs, relative to the range of the expected ones: f32 between the nodes, no more.
const TOLERANCE: f64 = 5e-6;

/// The logits of the two images differ by this many tolerances at least, or the check would not see the images.
const SENSITIVITY: f64 = 1000.0;

#[derive(Deserialize)]
struct Network {
    classes: usize,
    multiply_adds: u64,
    parameters: Vec<String>,
    logits: [Vec<f64>; 2],
}

macro_rules! each_network_gives_the_logits_of_pytorch {
    ($($name:ident)*) => {
        $(#[test] fn $name() { gives_the_logits_of_pytorch(stringify!($name)); })*

        #[test]
        fn all_networks_are_checked() {
            assert_eq!(zoo::NAMES, [$(stringify!($name)),*]);
        }
    };
}

each_network_gives_the_logits_of_pytorch! {
    resnet8 resnet20 resnet32 resnet44 resnet56 resnet18 resnet34 resnet50 wrn_22_2 vgg16_bn vgg19_bn mobilenet_v2
    densenet121 densenet201
}

fn gives_the_logits_of_pytorch(name: &str) {
    let expected: Network = read(name);
    let graph = zoo::build(name, expected.classes).unwrap();

    let mut parameters: Vec<_> = graph.parameters().iter().map(describe).collect();
    let mut expected_parameters = expected.parameters;
    parameters.sort();
    expected_parameters.sort();
    assert_eq!(parameters, expected_parameters);
    assert_eq!(graph.macs(), expected.multiply_adds);

    let model = model(graph);
    let between = |(a, b): (&f64, &f64)| (a - b).abs();
    let difference = expected.logits[0].iter().zip(&expected.logits[1]).map(between).fold(0.0, f64::max);
    let expected = expected.logits.concat();
    assert!(difference > SENSITIVITY * TOLERANCE * range(&expected), "the two images differ by {difference}");
    check(name, &reference::logits(&model, &images(), 2), &expected);
}

#[test]
fn a_state_dict_saved_by_pytorch_loads_by_name() {
    #[derive(Deserialize)]
    struct Trained {
        logits: [Vec<f64>; 2],
    }
    let expected: Trained = read("resnet8_trained");
    let tensors = dense::read(references().join("resnet8.safetensors")).unwrap().tensors;
    let model = Model::try_new(zoo::build("resnet8", 10).unwrap(), tensors).unwrap();
    check("resnet8_trained", &reference::logits(&model, &images(), 2), &expected.logits.concat());
}

#[test]
fn operators_agree_with_pytorch() {
    #[derive(Deserialize)]
    struct Case {
        graph: Graph,
        output: Vec<f64>,
    }
    for Case { graph, output } in read::<Vec<Case>>("operators") {
        let image = uniform("image", graph.input_shape(), -2.0, 2.0);
        let tensor = |p: &ParameterSpec| (p.name.clone(), uniform(&p.name, &p.shape, -1.0, 1.0));
        let parameters = graph.parameters().iter().map(tensor).collect();
        let model = Model::try_new(graph, parameters).unwrap();
        check(model.graph().name(), &reference::logits(&model, image.data(), 1), &output);
    }
}

#[test]
fn the_check_sees_what_it_should() {
    assert_eq!(miss(&[1.0, -0.0], &[1.0, 0.0]), 0.0);
    assert_eq!(miss(&[1.0, 3.0], &[1.0, 2.0]), 1.0);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(!within_tolerance(miss(&[1.0, bad], &[1.0, 2.0])));
    }
}

fn check(name: &str, found: &[f32], expected: &[f64]) {
    let miss = miss(found, expected);
    assert!(within_tolerance(miss), "{name}: outputs differ by {miss:e} of their range, allowed {TOLERANCE:e}");
}

/// NaN is not.
fn within_tolerance(miss: f64) -> bool {
    miss <= TOLERANCE
}

/// Largest difference relative to the range of `expected`; NaN if there is one.
fn miss(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).abs() / range(expected));
    differences.fold(0.0, |largest, d| if d > largest || d.is_nan() { d } else { largest })
}

fn range(values: &[f64]) -> f64 {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest - values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn describe(spec: &ParameterSpec) -> String {
    let shape: Vec<_> = spec.shape.iter().map(usize::to_string).collect();
    format!("{} {}", spec.name, shape.join("x"))
}

/// `weights` of the generator.
fn model(graph: Graph) -> Model {
    let parameter = |spec: &ParameterSpec| {
        let (low, high) = match spec.role {
            ParameterRole::Weight => {
                let bound = (4.0 / spec.shape[1..].iter().product::<usize>() as f64).sqrt();
                (-bound, bound)
            }
            ParameterRole::NormScale | ParameterRole::RunningVar => (0.5, 1.5),
            ParameterRole::Bias | ParameterRole::NormShift | ParameterRole::RunningMean => (-0.25, 0.25),
        };
        (spec.name.clone(), uniform(&spec.name, &spec.shape, low, high))
    };
    let parameters: TensorMap = graph.parameters().iter().map(parameter).collect();
    Model::try_new(graph, parameters).unwrap()
}

/// `images` of the generator.
fn images() -> Vec<f32> {
    let squares = uniform("squares", &[2, 3, 4, 4], -2.0, 2.0);
    let noise = uniform("noise", &[2, 3, 32, 32], -1.0, 1.0);
    let square = |pixel: usize| squares.data()[pixel / 1024 * 16 + pixel % 1024 / 256 * 4 + pixel % 32 / 8];
    noise.data().iter().enumerate().map(|(pixel, noise)| square(pixel) + noise).collect()
}

/// `tensor` of the generator: SplitMix64 started at the FNV-1a hash of the name.
fn uniform(name: &str, shape: &[usize], low: f64, high: f64) -> Tensor {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let key = name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    let value = |i: usize| {
        let mut z = key.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (low + (high - low) * ((z >> 40) as f64 / f64::from(1 << 24))) as f32
    };
    Tensor::new(shape, (0..shape.iter().product()).map(value).collect())
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(references().join(name).with_extension("json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn references() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "references"].iter().collect()
}
