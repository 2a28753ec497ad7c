//! A network as an ONNX model that runtimes load with no extra code: opset 17, every attribute written out, dynamic
//! batch.

mod form;
mod node;
mod weight;

use std::collections::{BTreeMap, BTreeSet};

use sr2_formats::Tensor;
use sr2_formats::onnx::float_tensor;
use sr2_formats::onnx::proto::tensor_proto::DataType;
use sr2_formats::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use sr2_formats::onnx::proto::{
    GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};
use sr2_models::{Graph, Model, Op};

pub use form::{OnnxForm, OnnxFormError, OnnxReader};

/// Newest operator set that every reader of interest has.
const OPSET: i64 = 17;
/// The format version that came with that operator set.
const IR_VERSION: i64 = 8;

/// The ONNX form of a network: input `input` `[N, C, H, W]`, output `output` with `N` free, parameters under their
/// own names, weights in `form`. `metadata` becomes the model's properties.
pub fn to_onnx(model: &Model, form: OnnxForm, metadata: &BTreeMap<String, String>) -> ModelProto {
    let property = |(key, value): (&String, &String)| StringStringEntryProto {
        key: Some(key.clone()),
        value: Some(value.clone()),
    };
    ModelProto {
        ir_version: Some(IR_VERSION),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
        producer_name: Some("sr2-prune".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        graph: Some(graph_proto(model, form)),
        metadata_props: metadata.iter().map(property).collect(),
        ..Default::default()
    }
}

fn graph_proto(model: &Model, form: OnnxForm) -> GraphProto {
    let graph = model.graph();
    let mut names = Names { taken: graph.parameters().iter().map(|p| p.name.clone()).collect() };
    let values = value_names(graph, &mut names);
    let mut proto = GraphProto {
        name: Some(graph.name().into()),
        input: vec![value_info(&values[0], graph.input_shape())],
        output: vec![value_info(&values[values.len() - 1], graph.output_shape())],
        ..Default::default()
    };
    for spec in graph.parameters() {
        let form = if spec.role.is_prunable() { form } else { OnnxForm::Dense };
        weight::add(&mut proto, &mut names, form, &spec.name, model.parameter(&spec.name));
    }
    for (node, output) in graph.nodes().iter().zip(&values[1..]) {
        let mut input: Vec<String> = node.inputs.iter().map(|value| values[*value].clone()).collect();
        input.extend(parameter_names(&node.op).into_iter().map(String::from));
        if let Op::Clip(clip) = &node.op {
            for (suffix, bound) in [("min", clip.min), ("max", clip.max)] {
                let name = names.unique(format!("{}.{suffix}", node.name));
                proto.initializer.push(float_tensor(&name, &Tensor::full([], bound)));
                input.push(name);
            }
        }
        if let Op::Pad(pad) = &node.op {
            let [pads, value] = ["pads", "value"].map(|suffix| names.unique(format!("{}.{suffix}", node.name)));
            proto.initializer.push(pads_tensor(&pads, pad.pads));
            proto.initializer.push(float_tensor(&value, &Tensor::full([], pad.value)));
            input.extend([pads, value]);
        }
        proto.node.push(node::of_op(node, input, output.clone()));
    }
    proto
}

/// Names of values and initializers, which share one namespace in ONNX.
struct Names {
    taken: BTreeSet<String>,
}

impl Names {
    /// `name`, with `_` appended until nothing else has it.
    fn unique(&mut self, mut name: String) -> String {
        while !self.taken.insert(name.clone()) {
            name.push('_');
        }
        name
    }
}

fn value_names(graph: &Graph, names: &mut Names) -> Vec<String> {
    let input = names.unique("input".into());
    let output = names.unique("output".into());
    let (_, inner) = graph.nodes().split_last().expect("a graph has nodes");
    let mut values = vec![input];
    values.extend(inner.iter().map(|node| names.unique(format!("{}_output", node.name))));
    values.push(output);
    values
}

/// The borders of a `Pad`: before each axis of `[N, C, H, W]`, then behind each.
fn pads_tensor(name: &str, [top, left, bottom, right]: [usize; 4]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: vec![8],
        data_type: Some(DataType::Int64 as i32),
        int64_data: [0, 0, top, left, 0, 0, bottom, right].map(|width| width as i64).to_vec(),
        ..Default::default()
    }
}

/// The parameters an operator reads, in the order of its ONNX inputs.
fn parameter_names(op: &Op) -> Vec<&str> {
    match op {
        Op::Conv(conv) => std::iter::once(&*conv.weight).chain(conv.bias.as_deref()).collect(),
        Op::Gemm(gemm) => std::iter::once(&*gemm.weight).chain(gemm.bias.as_deref()).collect(),
        Op::BatchNormalization(norm) => vec![&norm.scale, &norm.shift, &norm.mean, &norm.var],
        _ => Vec::new(),
    }
}

/// A float value `[N, shape...]` with the batch left free.
fn value_info(name: &str, shape: &[usize]) -> ValueInfoProto {
    let batch = dimension::Value::DimParam("N".into());
    let dims = std::iter::once(batch).chain(shape.iter().map(|d| dimension::Value::DimValue(*d as i64)));
    let dim = dims.map(|value| Dimension { value: Some(value), denotation: None }).collect();
    let tensor = type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use sr2_formats::onnx;
    use sr2_models::{Gemm, Node, reference};

    use super::*;

    #[test]
    fn names_never_clash() {
        let gemm = |weight: &str, bias: &str| {
            Op::Gemm(Gemm { weight: weight.into(), bias: Some(bias.into()), out_features: 2 })
        };
        let node = |name: &str, op, value| Node { name: name.into(), op, inputs: vec![value] };
        let nodes = vec![
            node("a", Op::Flatten, 0),
            node("b", gemm("input", "output"), 1),
            node("c", gemm("a_output", "b_output_"), 2),
        ];
        let graph = Graph::try_new("clashes", &[2, 1, 1], nodes).unwrap();
        let tensor = |p: &sr2_models::ParameterSpec| {
            let len = p.shape.iter().product::<usize>();
            (p.name.clone(), Tensor::new(p.shape.clone(), (1..=len).map(|v| v as f32).collect()))
        };
        let parameters = graph.parameters().iter().map(tensor).collect();
        let model = Model::try_new(graph, parameters).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        onnx::write(&path, &to_onnx(&model, OnnxForm::Dense, &BTreeMap::new())).unwrap();
        let found = sr2_models::onnx::import(&path).unwrap();
        assert_eq!(reference::logits(&found, &[3.0, 5.0], 1), reference::logits(&model, &[3.0, 5.0], 1));
    }
}
