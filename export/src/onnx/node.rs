//! ONNX nodes and their attributes.

use sr2_formats::onnx::proto::attribute_proto::AttributeType;
use sr2_formats::onnx::proto::{AttributeProto, NodeProto, SparseTensorProto, TensorProto};
use sr2_models::{Node, Op, Pool};

/// The node of an operator, every attribute written out.
pub(super) fn of_op(node: &Node, input: Vec<String>, output: String) -> NodeProto {
    let attribute = match &node.op {
        Op::Conv(conv) => vec![
            ints("kernel_shape", &conv.kernel),
            ints("strides", &conv.stride),
            ints("pads", &conv.pads),
            ints("dilations", &conv.dilation),
            int("group", conv.groups as i64),
        ],
        Op::BatchNormalization(norm) => vec![
            float("epsilon", norm.epsilon),
            // ONNX weighs the old statistics, PyTorch the new ones.
            float("momentum", 1.0 - norm.momentum),
            int("training_mode", 0),
        ],
        Op::MaxPool(pool) => {
            let mut attributes = pool_attributes(pool);
            attributes.extend([ints("dilations", &pool.dilation), int("storage_order", 0)]);
            attributes
        }
        Op::AveragePool(pool) => {
            let mut attributes = pool_attributes(pool);
            attributes.push(int("count_include_pad", 0));
            attributes
        }
        Op::Gemm(_) => vec![float("alpha", 1.0), float("beta", 1.0), int("transA", 0), int("transB", 1)],
        Op::LeakyRelu(leaky) => vec![float("alpha", leaky.alpha)],
        Op::HardSigmoid(hard) => vec![float("alpha", hard.alpha), float("beta", hard.beta)],
        Op::Pad(_) => {
            vec![AttributeProto { s: Some(b"constant".to_vec()), ..attribute("mode", AttributeType::String) }]
        }
        Op::Concat | Op::Flatten | Op::Softmax => vec![int("axis", 1)],
        _ => Vec::new(),
    };
    NodeProto { name: Some(node.name.clone()), ..plain(node.op.name(), input, output, attribute) }
}

/// A node without a name.
pub(super) fn plain(op: &str, input: Vec<String>, output: String, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto { op_type: Some(op.into()), input, output: vec![output], attribute, ..Default::default() }
}

fn pool_attributes(pool: &Pool) -> Vec<AttributeProto> {
    vec![
        ints("kernel_shape", &pool.kernel),
        ints("strides", &pool.stride),
        ints("pads", &pool.pads),
        int("ceil_mode", 0),
    ]
}

pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

fn ints(name: &str, values: &[usize]) -> AttributeProto {
    AttributeProto { ints: values.iter().map(|v| *v as i64).collect(), ..attribute(name, AttributeType::Ints) }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

/// A tensor.
pub(super) fn tensor(name: &str, value: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(value), ..attribute(name, AttributeType::Tensor) }
}

/// A sparse tensor.
pub(super) fn sparse_tensor(name: &str, value: SparseTensorProto) -> AttributeProto {
    AttributeProto { sparse_tensor: Some(value), ..attribute(name, AttributeType::SparseTensor) }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind as i32), ..Default::default() }
}
