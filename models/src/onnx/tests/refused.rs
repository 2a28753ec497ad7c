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

#[test]
fn conv_attributes() {
    let conv = |attributes| vec![node("Conv", &["x", "conv"], "y", attributes)];
    assert_malformed(conv(vec![string("auto_pad", "SAME")]), "\"auto_pad\" is \"SAME\"");
    assert_unsupported(conv(vec![string("auto_pad", "SAME_LOWER"), ints("strides", &[0, 0])]), "must be positive");
    assert_unsupported(conv(vec![ints("pads", &[0, -1, 0, 0])]), "\"pads\" is [0, -1, 0, 0], supported are 4");
    assert_unsupported(conv(vec![ints("strides", &[1])]), "\"strides\" is [1], supported are 2");
    assert_unsupported(conv(vec![ints("strides", &[0, 1])]), "must be positive");
    assert_malformed(conv(vec![ints("kernel_shape", &[3, 3])]), "kernel_shape is [3, 3], but the weight's is [1, 1]");
    assert_malformed(conv(vec![int("group", -1)]), "group is -1");
    assert_unsupported(conv(vec![int("group", 2)]), "do not divide into 2 groups");
    import_nodes(conv(vec![string("auto_pad", "NOTSET")])).unwrap();
}

#[test]
fn conv_weights() {
    assert_unsupported(vec![node("Conv", &["x", "conv1d"], "y", vec![])], "has shape [3, 2, 1], supported is");
    assert_unsupported(vec![node("Conv", &["x", "x"], "y", vec![])], "input 1 (\"x\") is no constant");
    assert_unsupported(vec![node("Conv", &["x", "conv", "channels"], "y", vec![])], "has shape [2], supported is [3]");
    assert_malformed(vec![node("Conv", &["x", "conv", "nan"], "y", vec![])], "parameter \"nan\" [1] is NaN");
    assert_malformed(vec![node("Conv", &["x", "conv", "flat"], "y", vec![])], "\"flat\" is integer, expected float");
}

#[test]
fn batch_normalization_in_training() {
    let inputs = ["x", "channels", "channels", "channels", "channels"];
    let norm = |attributes| node("BatchNormalization", &inputs, "y", attributes);
    assert_unsupported(vec![norm(vec![int("training_mode", 1)])], "\"training_mode\" is 1, supported is 0");
    assert_unsupported(vec![norm(vec![int("spatial", 0)])], "\"spatial\" is 0, supported is 1");
    let output = ["y", "mean", "var"].map(String::from).to_vec();
    assert_unsupported(vec![NodeProto { output, ..norm(vec![]) }], "export the network in evaluation mode");
}

#[test]
fn clip_bounds() {
    let clip = |inputs: &[&str]| vec![node("Clip", inputs, "y", vec![])];
    assert_malformed(clip(&["x", "vector"]), "input \"vector\" has shape [3], expected a scalar");
    assert_unsupported(vec![node("Clip", &["x"], "y", vec![float("min", 0.0)])], "attribute \"min\"");
    let model = import_nodes(clip(&["x", "", "scalar"])).unwrap();
    assert_eq!(model.graph().nodes()[0].op, Op::Clip(crate::Clip { min: f32::MIN, max: 0.5 }));
}

#[test]
fn sums_and_products_with_constants() {
    for op in ["Add", "Mul"] {
        for inputs in [["x", "scalar"], ["scalar", "x"]] {
            let model = import_nodes(vec![node(op, &inputs, "y", vec![])]).unwrap();
            assert_eq!(node_names(&model), [(format!("{op}.y").as_str(), "Conv")]);
            let found = crate::reference::logits(&model, &[2.0; 32], 1);
            assert_eq!(found, [if op == "Add" { 2.5 } else { 1.0 }; 32], "{op}");
        }
        assert_unsupported(vec![node(op, &["x", "vector"], "y", vec![])], "supported are [] and [2, 1, 1]");
        assert_unsupported(vec![node(op, &["scalar", "scalar"], "y", vec![])], "is a constant, supported is a value");
        let flat = vec![flatten(), node(op, &["f", "scalar"], "y", vec![])];
        assert_unsupported(flat, "combines a constant with shape [32], supported are images");
    }
}

#[test]
fn pad_borders() {
    let pad = |attributes| vec![node("Pad", &["x", "one"], "y", attributes)];
    assert_unsupported(pad(vec![string("mode", "reflect")]), "\"mode\" is \"reflect\", supported is \"constant\"");
    assert_malformed(pad(vec![]), "widths for 4 axes");
    assert_malformed(vec![node("Pad", &["x"], "y", vec![])], "the widths of its borders are missing");
}

#[test]
fn add_of_two_shapes() {
    let pool = node("MaxPool", &["x"], "a", vec![ints("kernel_shape", &[2, 2])]);
    let nodes = vec![pool, node("Add", &["x", "a"], "y", vec![])];
    assert_unsupported(nodes, "node \"Add.y\" (Add): combines shapes [2, 4, 4] and [2, 3, 3], which must be equal");
}

#[test]
fn concat_axis() {
    let concat = |axis| vec![node("Concat", &["x", "x"], "y", vec![int("axis", axis)])];
    assert_unsupported(concat(2), "attribute \"axis\" is 2, supported is 1");
    assert_unsupported(concat(-1), "attribute \"axis\" is -1, supported is 1");
    assert_eq!(import_nodes(concat(-3)).unwrap(), import_nodes(concat(1)).unwrap());
}

#[test]
fn pool_attributes() {
    let pool = |op, attribute| vec![node(op, &["x"], "y", vec![ints("kernel_shape", &[2, 2]), attribute])];
    for op in ["MaxPool", "AveragePool"] {
        assert_malformed(vec![node(op, &["x"], "y", vec![])], "attribute \"kernel_shape\" is missing");
        assert_malformed(pool(op, int("ceil_mode", 2)), "\"ceil_mode\" must be 0 or 1");
        assert_unsupported(pool(op, ints("dilations", &[2, 0])), "must be positive");
        assert_unsupported(pool(op, ints("strides", &[0, 1])), "must be positive");
        assert_unsupported(pool(op, ints("pads", &[2, 0, 0, 0])), "padding [2, 0, 0, 0] must be smaller");
    }
    let mut padded = pool("AveragePool", int("count_include_pad", 1));
    assert_eq!(node_names(&import_nodes(padded.clone()).unwrap()), [("AveragePool.y", "AveragePool")]);
    padded[0].attribute.push(ints("pads", &[1, 1, 1, 1]));
    let names = [("AveragePool.y", "Pad"), ("AveragePool.y_2", "AveragePool")];
    assert_eq!(node_names(&import_nodes(padded).unwrap()), names);
}

#[test]
fn means_over_other_axes() {
    let mean = |axes| vec![node("ReduceMean", &["x"], "y", vec![ints("axes", axes)])];
    assert_unsupported(mean(&[1]), "means over axes [1], supported are [2, 3]");
    assert_unsupported(mean(&[]), "means over axes []");
    let model = import_nodes(mean(&[-1, -2])).unwrap();
    assert_eq!(node_names(&model), [("ReduceMean.y", "GlobalAveragePool")]);
}

#[test]
fn flatten_axis() {
    let flatten = |axis| vec![node("Flatten", &["x"], "y", vec![int("axis", axis)])];
    assert_unsupported(flatten(2), "attribute \"axis\" is 2, supported is 1");
    assert_eq!(import_nodes(flatten(-3)).unwrap(), import_nodes(flatten(1)).unwrap());
}

#[test]
fn reshape_to_another_shape() {
    let reshape = |shape| vec![node("Reshape", &["x", shape], "y", vec![])];
    assert_unsupported(reshape("wrong"), "reshapes to [0, 31], supported is flattening: [0, -1] or [-1, 32]");
    assert_unsupported(reshape("one"), "reshapes to [1, -1]");
    assert_unsupported(reshape("x"), "shape \"x\" is computed; in PyTorch use torch.flatten(x, 1)");
    let mut one_image = network(reshape("one"));
    one_image.graph.as_mut().unwrap().input = vec![value("x", &[1, 2, 4, 4])];
    assert_eq!(node_names(&import_proto(&one_image).unwrap()), [("Reshape.y", "Flatten")]);
}

/// As PyTorch exports `x.view(x.size(0), -1)`, with `size` instead of 0 and the shape's parts in this order.
fn view(size: &str, parts: [&str; 2]) -> Vec<NodeProto> {
    vec![
        node("Shape", &["x"], "shape", vec![]),
        node("Gather", &["shape", size], "size", vec![int("axis", 0)]),
        node("Unsqueeze", &["size", "zero"], "sizes", vec![]),
        node("Concat", &parts, "target", vec![int("axis", 0)]),
        node("Reshape", &["x", "target"], "y", vec![]),
    ]
}

#[test]
fn a_view_that_keeps_the_batch() {
    let model = import_nodes(view("zero", ["sizes", "rest"])).unwrap();
    assert_eq!(node_names(&model), [("Reshape.y", "Flatten")]);
}

#[test]
fn a_view_of_another_shape() {
    assert_unsupported(view("two", ["sizes", "rest"]), "shape \"target\" is computed");
    assert_unsupported(view("zero", ["rest", "sizes"]), "shape \"target\" is computed");
    assert_unsupported(view("zero", ["sizes", "two"]), "reshapes to [0, 2], supported is flattening");
}

#[test]
fn gemm_attributes() {
    let gemm = |attributes| vec![flatten(), node("Gemm", &["f", "matrix"], "y", attributes)];
    assert_unsupported(gemm(vec![int("transA", 1)]), "attribute \"transA\" is 1, supported is 0");
    assert_malformed(gemm(vec![int("transB", 1)]), "tensor \"matrix\" has shape [32, 3], expected [32, 32]");
    assert_eq!(import_nodes(gemm(vec![])).unwrap().parameter("matrix").shape(), [3, 32]);
    assert_eq!(import_nodes(gemm(vec![float("alpha", 0.5)])).unwrap().parameter("matrix").data()[0], 0.25);
}

#[test]
fn gemm_of_an_image() {
    assert_unsupported(vec![node("Gemm", &["x", "matrix"], "y", vec![])], "needs a flat input");
    let flat = vec![flatten(), node("Gemm", &["f", "conv"], "y", vec![])];
    assert_unsupported(flat, "weight \"conv\" has shape [3, 2, 1, 1], supported are two dimensions");
}

#[test]
fn mat_mul_takes_only_a_bias_of_its_own() {
    let product = node("MatMul", &["f", "matrix"], "m", vec![]);
    let both = node("Add", &["a", "b"], "y", vec![]);
    let add = |output| node("Add", &["m", "vector"], output, vec![]);
    let shared = vec![flatten(), product.clone(), add("a"), add("b"), both];
    assert_unsupported(shared, "node \"Add.a\" (Add): combines a constant with shape [3], supported are images");
    let own = import_nodes(vec![flatten(), product.clone(), add("y")]).unwrap();
    assert_eq!(node_names(&own), [("Flatten.f", "Flatten"), ("MatMul.m", "Gemm")]);
    let residual = vec![flatten(), product, node("Add", &["m", "m"], "y", vec![])];
    assert_eq!(import_nodes(residual).unwrap().graph().nodes().len(), 3);
}

#[test]
fn a_sum_that_leads_nowhere_is_no_bias() {
    let product = node("MatMul", &["f", "matrix"], "m", vec![]);
    let live = |output| node("Relu", &["m"], output, vec![]);
    let dead = || node("Add", &["m", "vector"], "dead", vec![]);
    let logits = |nodes| crate::reference::logits(&import_nodes(nodes).unwrap(), &[1.0; 32], 1);
    assert_eq!(logits(vec![flatten(), product.clone(), live("y"), dead()]), [16.0; 3]);
    // The dead one comes last, and the live one is still taken.
    let own = node("Add", &["m", "vector"], "y", vec![]);
    let model = import_nodes(vec![flatten(), product, own, dead()]).unwrap();
    assert_eq!(node_names(&model), [("Flatten.f", "Flatten"), ("MatMul.m", "Gemm")]);
    assert_eq!(crate::reference::logits(&model, &[1.0; 32], 1), [16.5; 3]);
}

#[test]
fn padding_that_would_be_negative() {
    let same = |kernel: i64, stride: i64| {
        vec![string("auto_pad", "SAME_UPPER"), ints("strides", &[stride; 2]), ints("kernel_shape", &[kernel; 2])]
    };
    let problem = "auto_pad\" asks windows of [1, 1] with strides [4, 4] for negative padding";
    // One place at the end that no window reads is left out by everyone's convolutions, two are not.
    assert_unsupported(vec![node("Conv", &["x", "conv"], "y", same(1, 4))], problem);
    import_nodes(vec![node("Conv", &["x", "conv"], "y", same(1, 2))]).unwrap();
    import_nodes(vec![node("Conv", &["x", "conv"], "y", same(1, 3))]).unwrap();
    for op in ["MaxPool", "AveragePool"] {
        assert_unsupported(vec![node(op, &["x"], "y", same(1, 2))], "for negative padding");
        import_nodes(vec![node(op, &["x"], "y", same(2, 2))]).unwrap();
    }
}

#[test]
fn parameters_without_values() {
    let none = |name: &str, shape: &[usize]| float_tensor(name, &Tensor::new(shape, Vec::new()));
    let with = |shape: &[usize], nodes: Vec<NodeProto>| {
        let mut model = network(nodes);
        model.graph.as_mut().unwrap().initializer.push(none("none", shape));
        import_proto(&model)
    };
    let conv = vec![node("Conv", &["x", "none", "scalar"], "y", vec![])];
    let problem = "parameter \"none\" has shape [1099511627776, 0, 1, 1], expected no dimension of 0";
    assert_error(with(&[1 << 40, 0, 1, 1], conv), ErrorKind::Malformed, problem);
    let product = vec![flatten(), node("MatMul", &["f", "none"], "y", vec![])];
    assert_error(with(&[0, 1 << 62], product), ErrorKind::Malformed, "expected no dimension of 0");
}

#[test]
fn one_weight_in_two_layouts() {
    let nodes = vec![
        flatten(),
        node("Gemm", &["f", "square"], "a", vec![]),
        node("Gemm", &["a", "square"], "y", vec![int("transB", 1)]),
    ];
    import_nodes(nodes.clone()).unwrap();
    let mut model = network(nodes);
    let values = (0..32 * 32).map(|v| v as f32).collect();
    model.graph.as_mut().unwrap().initializer[5] = float_tensor("square", &Tensor::new([32, 32], values));
    assert_error(import_proto(&model), ErrorKind::Unsupported, "parameter \"square\" is used in two layouts");
}

#[test]
fn softmax_of_an_image() {
    assert_unsupported(vec![node("Softmax", &["x"], "y", vec![])], "attribute \"axis\" is -1, supported is 1");
}

#[test]
fn dropout_in_training() {
    assert_unsupported(vec![node("Dropout", &["x", "", "scalar"], "y", vec![])], "has a training mode");
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
