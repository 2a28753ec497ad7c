//! Small networks built here: what is refused and how, and what comes down to another operator.

use sr2_formats::ErrorKind;
use sr2_formats::onnx::float_tensor;
use sr2_formats::onnx::proto::attribute_proto::AttributeType;
use sr2_formats::onnx::proto::tensor_shape_proto::Dimension as Dim;
use sr2_formats::onnx::proto::{
    AttributeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, type_proto,
};

use super::super::*;
use super::node_names;

mod operators;

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Int.into()),
        i: Some(i),
        ..Default::default()
    }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    let r#type = Some(AttributeType::Ints.into());
    AttributeProto { name: Some(name.into()), r#type, ints: ints.to_vec(), ..Default::default() }
}

fn float(name: &str, f: f32) -> AttributeProto {
    let r#type = Some(AttributeType::Float.into());
    AttributeProto { name: Some(name.into()), r#type, f: Some(f), ..Default::default() }
}

fn string(name: &str, s: &str) -> AttributeProto {
    let r#type = Some(AttributeType::String.into());
    AttributeProto { name: Some(name.into()), r#type, s: Some(s.as_bytes().to_vec()), ..Default::default() }
}

fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        name: Some(format!("{op}.{output}")),
        input: inputs.iter().map(|i| i.to_string()).collect(),
        output: vec![output.into()],
        attribute,
        ..Default::default()
    }
}

fn value(name: &str, shape: &[i64]) -> ValueInfoProto {
    let dim = |size: &i64| Dim {
        value: Some(if *size < 0 { Dimension::DimParam("N".into()) } else { Dimension::DimValue(*size) }),
        ..Default::default()
    };
    let tensor = type_proto::Tensor {
        elem_type: Some(DataType::Float.into()),
        shape: Some(TensorShapeProto { dim: shape.iter().map(dim).collect() }),
    };
    let r#type = Some(TypeProto { value: Some(Type::TensorType(tensor)), ..Default::default() });
    ValueInfoProto { name: Some(name.into()), r#type, ..Default::default() }
}

fn weight(name: &str, shape: &[usize]) -> TensorProto {
    float_tensor(name, &Tensor::full(shape, 0.5))
}

fn shape_constant(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(DataType::Int64.into()),
        dims: vec![values.len() as i64],
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

/// A network from `x` `[N, 2, 4, 4]` to `y` with a set of constants to choose from.
fn network(nodes: Vec<NodeProto>) -> ModelProto {
    let graph = GraphProto {
        name: Some("g".into()),
        node: nodes,
        input: vec![value("x", &[-1, 2, 4, 4])],
        output: vec![value("y", &[])],
        initializer: vec![
            weight("conv", &[3, 2, 1, 1]),
            weight("conv1d", &[3, 2, 1]),
            weight("channels", &[2]),
            weight("vector", &[3]),
            weight("matrix", &[32, 3]),
            weight("square", &[32, 32]),
            float_tensor("nan", &Tensor::new([3], vec![0.0, f32::NAN, 0.0])),
            weight("scalar", &[]),
            shape_constant("flat", &[0, -1]),
            shape_constant("one", &[1, -1]),
            shape_constant("wrong", &[0, 31]),
            shape_constant("zero", &[0]),
            shape_constant("two", &[2]),
            shape_constant("rest", &[-1]),
        ],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { version: Some(17), ..Default::default() }];
    ModelProto { ir_version: Some(8), opset_import, graph: Some(graph), ..Default::default() }
}

fn import_proto(model: &ModelProto) -> Result<Model, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    sr2_formats::onnx::write(&path, model).unwrap();
    import(&path)
}

fn import_nodes(nodes: Vec<NodeProto>) -> Result<Model, Error> {
    import_proto(&network(nodes))
}

/// The message names the file and says `problem`.
#[track_caller]
fn assert_error(result: Result<Model, Error>, kind: ErrorKind, problem: &str) {
    let error = result.unwrap_err();
    let message = error.to_string();
    assert!(message.contains("m.onnx: ") && message.contains(problem), "{message}");
    assert_eq!(error.kind(), kind, "{message}");
}

#[track_caller]
fn assert_unsupported(nodes: Vec<NodeProto>, problem: &str) {
    assert_error(import_nodes(nodes), ErrorKind::Unsupported, problem);
}

#[track_caller]
fn assert_malformed(nodes: Vec<NodeProto>, problem: &str) {
    assert_error(import_nodes(nodes), ErrorKind::Malformed, problem);
}

fn flatten() -> NodeProto {
    node("Flatten", &["x"], "f", vec![])
}

#[test]
fn unknown_operator() {
    let problem = "node \"LSTM.y\" (LSTM): the operator is not supported; supported are Conv, BatchNormalization";
    assert_unsupported(vec![node("LSTM", &["x"], "y", vec![])], problem);
}

#[test]
fn unknown_domain() {
    let relu = node("Relu", &["x"], "y", vec![]);
    assert_unsupported(vec![NodeProto { domain: Some("com.acme".into()), ..relu }], "domain \"com.acme\"");
}

#[test]
fn unknown_attribute() {
    assert_unsupported(vec![node("Relu", &["x"], "y", vec![int("leak", 1)])], "attribute \"leak\"; none is supported");
    let flatten = node("Flatten", &["x"], "y", vec![int("leak", 1)]);
    assert_unsupported(vec![flatten], "attribute \"leak\"; supported are axis");
}

#[test]
fn attribute_of_another_type() {
    let flatten = node("Flatten", &["x"], "y", vec![float("axis", 1.0)]);
    assert_malformed(vec![flatten], "attribute \"axis\" is FLOAT, expected INT");
}

#[test]
fn an_unknown_operator_that_leads_nowhere_is_left_out() {
    let model = import_nodes(vec![node("LSTM", &["x"], "z", vec![]), node("Relu", &["x"], "y", vec![])]).unwrap();
    assert_eq!(node_names(&model), [("Relu.y", "Relu")]);
}

#[test]
fn nodes_out_of_order() {
    let nodes = vec![node("Relu", &["a"], "y", vec![]), node("Relu", &["x"], "a", vec![])];
    assert_malformed(nodes, "node \"Relu.y\" (Relu): reads \"a\", which nothing before it makes");
}

#[test]
fn a_cycle() {
    let nodes = vec![node("Relu", &["b"], "y", vec![]), node("Relu", &["y"], "b", vec![])];
    assert_malformed(nodes, "reads \"b\", which nothing before it makes");
}

#[test]
fn a_value_made_twice() {
    let output = ["a", "b"].map(String::from).to_vec();
    let nodes = vec![
        NodeProto { output, ..node("Relu", &["x"], "a", vec![]) },
        node("Relu", &["x"], "a", vec![]),
        node("Add", &["a", "b"], "y", vec![]),
    ];
    assert_malformed(nodes, "node \"Relu.a\" (Relu): makes \"a\", which exists already");
}

#[test]
fn output_that_nothing_makes() {
    assert_malformed(vec![node("Relu", &["x"], "a", vec![])], "no node makes the output \"y\"");
}

#[test]
fn a_network_without_operators() {
    let model = import_nodes(vec![node("Identity", &["x"], "y", vec![])]).unwrap();
    assert_eq!(node_names(&model), [("y", "Identity")]);
}

#[test]
fn missing_input() {
    assert_malformed(vec![node("Relu", &[], "y", vec![])], "node \"Relu.y\" (Relu): input 0 is missing");
    assert_malformed(vec![node("Conv", &["x"], "y", vec![])], "input 1 is missing");
}

#[test]
fn names_are_made_unique() {
    let nodes = ["a", "b", "y"].iter().zip(["x", "a", "b"]);
    let nodes = nodes.map(|(o, i)| NodeProto { name: Some("n".into()), ..node("Relu", &[i], o, vec![]) });
    let model = import_nodes(nodes.collect()).unwrap();
    assert_eq!(node_names(&model), [("n", "Relu"), ("n_2", "Relu"), ("n_3", "Relu")]);
}

/// A network of one ReLU, changed.
fn import_changed(change: impl FnOnce(&mut ModelProto, &mut GraphProto)) -> Result<Model, Error> {
    let mut model = network(vec![node("Relu", &["x"], "y", vec![])]);
    let mut graph = model.graph.take().unwrap();
    change(&mut model, &mut graph);
    model.graph = Some(graph);
    import_proto(&model)
}

#[test]
fn input_shape() {
    let problem = "input \"x\" has shape [N, 2, N, 4], supported are [N, C, H, W] and [N, C]";
    let shaped = |shape: &[i64]| import_changed(|_, g| g.input = vec![value("x", shape)]);
    assert_error(shaped(&[-1, 2, -1, 4]), ErrorKind::Unsupported, problem);
    assert_error(shaped(&[-1, 2, 4]), ErrorKind::Unsupported, "has shape [N, 2, 4]");
    assert_error(shaped(&[]), ErrorKind::Unsupported, "has shape []");
    assert_error(shaped(&[1, 2, 0, 4]), ErrorKind::Unsupported, "has shape [1, 2, 0, 4]");
    assert_error(shaped(&[1, 2, 1 << 20, 4]), ErrorKind::Unsupported, "each 1 to 65536");
    // Before a constant is repeated for each channel.
    for op in ["Add", "Mul"] {
        let change = |_: &mut ModelProto, graph: &mut GraphProto| {
            graph.input = vec![value("x", &[-1, 1 << 36, 1, 1])];
            graph.node = vec![node(op, &["x", "scalar"], "y", vec![])];
        };
        assert_error(import_changed(change), ErrorKind::Unsupported, "each 1 to 65536");
    }
    let doubled = |_: &mut ModelProto, graph: &mut GraphProto| {
        let name = |k: usize| if k == 0 { "x".to_string() } else { format!("v{k}") };
        graph.input = vec![value("x", &[-1, 1 << 16, 1, 1])];
        let concat = |k| node("Concat", &[&name(k), &name(k)], &name(k + 1), vec![int("axis", 1)]);
        graph.node = (0..14).map(concat).collect();
        graph.node.push(node("Add", &["v14", "scalar"], "y", vec![]));
    };
    assert_error(import_changed(doubled), ErrorKind::Unsupported, "stand for far more values");
}

#[test]
fn input_type() {
    let bytes = import_changed(|_, g| {
        if let Some(Type::TensorType(t)) = g.input[0].r#type.as_mut().and_then(|t| t.value.as_mut()) {
            t.elem_type = Some(DataType::Uint8.into());
        }
    });
    assert_error(bytes, ErrorKind::Unsupported, "input \"x\" is not a tensor of type FLOAT");
    let untyped = import_changed(|_, g| g.input[0].r#type = None);
    assert_error(untyped, ErrorKind::Unsupported, "is not a tensor of type FLOAT");
}

#[test]
fn several_inputs_or_outputs() {
    let two = import_changed(|_, g| g.input.push(value("z", &[1])));
    assert_error(two, ErrorKind::Unsupported, "has 2 inputs, supported is one");
    let two = import_changed(|_, g| g.output.push(value("x", &[1])));
    assert_error(two, ErrorKind::Unsupported, "has 2 outputs, supported is one");
}

#[test]
fn operator_versions() {
    for (version, kind) in [(6, ErrorKind::Unsupported), (29, ErrorKind::Unsupported)] {
        let other = import_changed(|m, _| m.opset_import[0].version = Some(version));
        assert_error(other, kind, &format!("operators of version {version}; supported are 7 to 28"));
    }
    let none = import_changed(|m, _| m.opset_import.clear());
    assert_error(none, ErrorKind::Malformed, "does not name its version");
}

#[test]
fn constants_of_one_name() {
    let twice = import_changed(|_, g| g.initializer.push(weight("vector", &[1])));
    assert_error(twice, ErrorKind::Malformed, "two constants are named \"vector\"");
}

#[test]
fn external_data() {
    let mut model = network(vec![node("Conv", &["x", "conv"], "y", vec![])]);
    let location = StringStringEntryProto { key: Some("location".into()), value: Some("weights.bin".into()) };
    model.graph.as_mut().unwrap().initializer[0].external_data = vec![location];
    assert_error(import_proto(&model), ErrorKind::Unsupported, "tensor \"conv\" is external data, which is not read");
}

#[test]
fn a_file_that_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    assert_eq!(import(&path).unwrap_err().kind(), ErrorKind::Io);
    std::fs::write(&path, "not one").unwrap();
    assert_error(import(&path), ErrorKind::Malformed, "is not an ONNX file");
}
