//! Nodes whose attributes, weights or shapes the importer refuses.

use super::*;

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
