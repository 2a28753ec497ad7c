//! Sparse networks to export.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sr2_models::initialisation::initialise;
use sr2_models::{BatchNormalization, Clip, Conv, Gemm, Graph, Model, Node, Op, ParameterRole, Pool, zoo};

/// Of all that is random.
pub const SEED: u64 = 20;

/// A network of the zoo, 95 % of each weight zero, one filter of the first convolution empty, one full.
pub fn sparse_model(name: &str) -> Model {
    let (graph, mut parameters) = trained(zoo::build(name, 10).unwrap(), 0.05).into_parts();
    let first = parameters.get_mut("conv1.weight").unwrap();
    let filter = first.len() / first.shape()[0];
    first.data_mut()[..filter].fill(0.0);
    first.data_mut()[filter..2 * filter].fill(0.25);
    Model::try_new(graph, parameters).unwrap()
}

/// Every operator, with windows that are not symmetric, a depthwise and a dilated convolution, and a batch norm that
/// cannot be folded.
pub fn every_operator() -> Model {
    let conv = |name: &str, kernel, stride, pads, dilation, groups| {
        let (weight, bias) = (format!("{name}.weight"), (groups == 1).then(|| format!("{name}.bias")));
        Op::Conv(Conv { weight, bias, out_channels: 8, kernel, stride, pads, dilation, groups })
    };
    let norm = |name: &str| {
        let parameter = |suffix| format!("{name}.{suffix}");
        Op::BatchNormalization(BatchNormalization {
            scale: parameter("weight"),
            shift: parameter("bias"),
            mean: parameter("running_mean"),
            var: parameter("running_var"),
            epsilon: 1e-3,
            momentum: 0.1,
        })
    };
    let pool = Pool { kernel: [3, 2], stride: [2, 1], pads: [1, 0, 1, 1], dilation: [1, 1] };
    let gemm = Gemm { weight: "fc.weight".into(), bias: None, out_features: 5 };
    let nodes: [(Op, &[usize]); 17] = [
        (conv("a", [3, 2], [1, 2], [1, 0, 2, 1], [1, 1], 1), &[0]),
        (norm("bn_a"), &[1]),
        (Op::Clip(Clip { min: 0.0, max: 6.0 }), &[2]),
        (conv("depthwise", [3, 3], [1, 1], [1; 4], [1, 1], 8), &[3]),
        (norm("bn_depthwise"), &[4]),
        (conv("dilated", [3, 3], [1, 1], [2; 4], [2, 2], 1), &[5]),
        (Op::Relu, &[6]),
        (Op::Add, &[5, 7]),
        (Op::MaxPool(pool), &[8]),
        (Op::AveragePool(pool), &[8]),
        (Op::Concat, &[9, 10]),
        (norm("bn_concat"), &[11]),
        (Op::Identity, &[12]),
        (Op::GlobalAveragePool, &[13]),
        (Op::Flatten, &[14]),
        (Op::Gemm(gemm), &[15]),
        (Op::Softmax, &[16]),
    ];
    let node = |(index, (op, inputs)): (usize, &(Op, &[usize]))| Node {
        name: format!("node{index}"),
        op: op.clone(),
        inputs: inputs.to_vec(),
    };
    let nodes = nodes.iter().enumerate().map(node).collect();
    trained(Graph::try_new("every_operator", &[3, 9, 12], nodes).unwrap(), 0.5)
}

/// A network with batch-norm statistics as training leaves them, and the largest weights of each layer.
fn trained(graph: Graph, density: f64) -> Model {
    let mut parameters = initialise(&graph, SEED);
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    for spec in graph.parameters() {
        let data = parameters.get_mut(&spec.name).unwrap().data_mut();
        match spec.role {
            ParameterRole::Weight => keep_largest(data, density),
            ParameterRole::NormScale | ParameterRole::RunningVar => data.fill_with(|| rng.random_range(0.5..2.0)),
            _ => data.fill_with(|| rng.random_range(-0.5..0.5)),
        }
    }
    Model::try_new(graph, parameters).unwrap()
}

fn keep_largest(data: &mut [f32], density: f64) {
    let mut magnitudes: Vec<f32> = data.iter().map(|v| v.abs()).collect();
    magnitudes.sort_by(f32::total_cmp);
    let threshold = magnitudes[((1.0 - density) * data.len() as f64) as usize];
    data.iter_mut().filter(|v| v.abs() < threshold).for_each(|v| *v = 0.0);
}
