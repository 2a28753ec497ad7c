//! Files that break a rule or ask for too much: each is refused in one line, in under a second, in little memory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sr2_formats::Tensor;
use sr2_formats::onnx::proto::attribute_proto::AttributeType;
use sr2_formats::onnx::proto::tensor_proto::DataType;
use sr2_formats::onnx::proto::tensor_shape_proto::Dimension;
use sr2_formats::onnx::proto::tensor_shape_proto::dimension::Value as Size;
use sr2_formats::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use sr2_formats::onnx::{float_tensor, write};
use sr2_infer::{Isa, Model, Options};

/// A refusal takes less.
const LIMIT: Duration = Duration::from_secs(1);

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    let r#type = Some(AttributeType::Ints.into());
    AttributeProto { name: Some(name.into()), r#type, ints: ints.to_vec(), ..Default::default() }
}

fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        input: inputs.iter().map(|i| i.to_string()).collect(),
        output: vec![output.into()],
        attribute,
        ..Default::default()
    }
}

fn integers(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(DataType::Int64.into()),
        dims: dims.to_vec(),
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

fn sparse(dims: &[i64], places: &[i64]) -> SparseTensorProto {
    let values = Tensor::new([places.len()], vec![1.0; places.len()]);
    SparseTensorProto {
        values: Some(float_tensor("w", &values)),
        indices: Some(integers("", &[places.len() as i64], places)),
        dims: dims.to_vec(),
    }
}

/// A network from `x` `[N, 2, 8, 8]` to `y`.
fn network(node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> GraphProto {
    network_of([2, 8, 8], node, initializer)
}

/// A network from `x` of images of a shape to `y`.
fn network_of([c, h, w]: [i64; 3], node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> GraphProto {
    let sizes = [1, c, h, w].map(|size| Dimension { value: Some(Size::DimValue(size)), ..Default::default() });
    let tensor = type_proto::Tensor {
        elem_type: Some(DataType::Float.into()),
        shape: Some(TensorShapeProto { dim: sizes.to_vec() }),
    };
    let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() });
    let value = |name: &str| ValueInfoProto { name: Some(name.into()), r#type: r#type.clone(), ..Default::default() };
    GraphProto { node, initializer, input: vec![value("x")], output: vec![value("y")], ..Default::default() }
}

fn saved(folder: &Path, graph: GraphProto) -> PathBuf {
    let opset_import = vec![OperatorSetIdProto { version: Some(17), ..Default::default() }];
    let path = folder.join("m.onnx");
    write(&path, &ModelProto { ir_version: Some(8), opset_import, graph: Some(graph), ..Default::default() }).unwrap();
    path
}

/// Tags of fields that hold messages: of a model its graph, of a graph its nodes, and so on.
const GRAPH: u8 = 0x3a;
const NODE: u8 = 0x0a;
const ATTRIBUTE: u8 = 0x2a;
const ATTRIBUTE_GRAPH: u8 = 0x32;

/// A field with a message, in protobuf's wire format.
fn message(field: u8, content: Vec<u8>) -> Vec<u8> {
    let (mut bytes, mut len) = (vec![field], content.len());
    while len >= 0x80 {
        bytes.push(len as u8 | 0x80);
        len >>= 7;
    }
    bytes.push(len as u8);
    bytes.extend(content);
    bytes
}

#[track_caller]
fn assert_refused(path: &Path, problem: &str) {
    let start = Instant::now();
    let error = Model::load(path).and_then(|model| model.plan(&Options::default())).unwrap_err().to_string();
    let elapsed = start.elapsed();
    assert!(error.contains(problem), "{error:?} does not say {problem:?}");
    assert!(!error.contains('\n') && error.len() < 1000, "{} characters: {error:.1000}", error.len());
    assert!(elapsed < LIMIT, "{problem}: {elapsed:?}");
}

#[test]
fn graphs_that_break_a_rule_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let check = |nodes, initializers, problem: &str| {
        assert_refused(&saved(folder.path(), network(nodes, initializers)), problem);
    };
    let weight = |shape: &[usize]| vec![float_tensor("w", &Tensor::full(shape, 1.0))];
    let conv = |attributes| vec![node("Conv", &["x", "w"], "y", attributes)];

    check(vec![node("Add", &["x", "y"], "a", vec![]), node("Relu", &["a"], "y", vec![])], vec![], "nothing before it");
    check(vec![node("Relu", &["y"], "y", vec![])], vec![], "nothing before it makes");
    check(vec![node("Relu", &["nowhere"], "y", vec![])], vec![], "reads \"nowhere\"");
    check(conv(vec![ints("strides", &[0, 0])]), weight(&[2, 2, 1, 1]), "must be positive");
    check(conv(vec![ints("pads", &[1 << 40; 4])]), weight(&[2, 2, 1, 1]), "at most 65536");
    check(conv(vec![ints("pads", &[i64::MAX; 4])]), weight(&[2, 2, 1, 1]), "at most 65536");
    check(conv(vec![ints("dilations", &[1 << 40; 2])]), weight(&[2, 2, 2, 2]), "at most 65536");
    check(conv(vec![]), weight(&[2, 2]), "has shape [2, 2], supported is [O, I, kH, kW]");
    check(conv(vec![ints("pads", &[60_000; 4])]), weight(&[2, 2, 1, 1]), "at most 65536 a side");
    check(conv(vec![ints("pads", &[30_000; 4])]), weight(&[2, 2, 1, 1]), "must hold 1 to");
    check(conv(vec![ints("pads", &[15_000; 4])]), weight(&[2, 2, 1, 1]), "too large for the engine");
    let pad = vec![node("Pad", &["x", "p"], "y", vec![])];
    check(pad, vec![integers("p", &[8], &[0, 0, 1 << 40, 0, 0, 0, 0, 0])], "at most 65536 a side");
    let pool = [ints("kernel_shape", &[2, 2]), ints("strides", &[0, 0])];
    for op in ["MaxPool", "AveragePool"] {
        check(vec![node(op, &["x"], "y", pool.to_vec())], vec![], "must be positive");
    }
}

#[test]
fn sizes_that_are_only_declared_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let check = |graph, problem: &str| assert_refused(&saved(folder.path(), graph), problem);
    let conv = || vec![node("Conv", &["x", "w"], "y", vec![])];
    for (dims, problem) in [
        ([1 << 40, 2, 1, 1], "stand for far more values than its size allows"),
        ([i64::MAX; 4], "stand for far more"),
        ([1 << 16, 2, 1, 1], "has 0 values, expected 131072"),
        ([-1, 2, 1, 1], "non-negative and not to overflow"),
    ] {
        let (name, data_type) = (Some("w".into()), Some(DataType::Float.into()));
        let declared = TensorProto { name, data_type, dims: dims.to_vec(), ..Default::default() };
        check(network(conv(), vec![declared]), problem);
    }
    for (dims, places, problem) in [
        (&[1 << 20, 2, 16, 16][..], &[0][..], "stand for far more values than its size allows"),
        (&[1 << 40, 1 << 40, 1, 1], &[0], "stand for far more"),
        (&[2, 2, 1, 1], &[4], "index 0 is [4]"),
        (&[2, 2, 1, 1], &[-1], "index 0 is [-1]"),
        (&[2, 2, 1, 1], &[1, 1], "is not after the one before it"),
        (&[2, 2, 1, 1], &[2, 1], "is not after the one before it"),
    ] {
        check(GraphProto { sparse_initializer: vec![sparse(dims, places)], ..network(conv(), vec![]) }, problem);
    }

    let scattered = |len: i64, places: &[i64]| {
        let nodes = vec![
            node("ConstantOfShape", &["len"], "zeros", vec![]),
            node("ScatterElements", &["zeros", "places", "values"], "flat", vec![]),
            node("Reshape", &["flat", "shape"], "w", vec![]),
            node("Conv", &["x", "w"], "y", vec![]),
        ];
        let values = Tensor::full([places.len()], 1.0);
        let places = integers("places", &[places.len() as i64], places);
        let shape = integers("shape", &[4], &[2, 2, 1, 1]);
        network(nodes, vec![integers("len", &[1], &[len]), places, float_tensor("values", &values), shape])
    };
    Model::load(saved(folder.path(), scattered(4, &[1, 3]))).unwrap();
    check(scattered(1 << 40, &[0]), "stand for far more");
    check(scattered(-1, &[0]), "negative or overflows");
    check(scattered(5, &[0]), "reshapes [5] to [2, 2, 1, 1]");
    check(scattered(4, &[4]), "index 0 is 4, expected 0 or more and below 4");
    check(scattered(4, &[-1]), "index 0 is -1");
    check(scattered(4, &[2, 2]), "index 1, 2, is there twice");
}

/// Small files that a careless reader expands, walks again and again, or recurses into.
#[test]
fn work_and_memory_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let check = |graph, problem: &str| assert_refused(&saved(folder.path(), graph), problem);
    let name = |k: usize| if k == 0 { "x".to_string() } else { format!("v{k}") };

    let path = folder.path().join("m.onnx");
    let nodes = [NODE, 0].repeat(2_000_000);
    let attributes = message(NODE, [ATTRIBUTE, 0].repeat(2_000_000));
    for graph in [nodes, attributes] {
        std::fs::write(&path, message(GRAPH, graph)).unwrap();
        assert_refused(&path, "bytes of memory, expected at most");
    }

    let chain =
        |op: &str, len: usize| (0..len).map(|k| node(op, &[&name(k)], &name(k + 1), vec![])).collect::<Vec<_>>();
    let mut relus = chain("Relu", 20_000);
    relus.push(node("Relu", &[&name(20_000)], "y", vec![]));
    check(network(relus, vec![]), "one more than the 16384 nodes");

    let mut doubled: Vec<NodeProto> =
        (0..40).map(|k| node("Concat", &[&name(k), &name(k)], &name(k + 1), vec![ints("axis", &[])])).collect();
    for concat in &mut doubled {
        concat.attribute[0] =
            AttributeProto { name: Some("axis".into()), r#type: Some(2), i: Some(1), ..Default::default() };
    }
    doubled.push(node("Relu", &[&name(40)], "y", vec![]));
    check(network(doubled, vec![]), "must hold 1 to");

    let mut casts: Vec<NodeProto> = chain("Cast", 100);
    for cast in &mut casts {
        cast.attribute =
            vec![AttributeProto { name: Some("to".into()), r#type: Some(2), i: Some(1), ..Default::default() }];
    }
    casts[0].input[0] = "c".into();
    casts.push(node("Conv", &["x", &name(100)], "y", vec![]));
    let weight = float_tensor("c", &Tensor::full([2, 2, 1, 1], 1.0));
    check(network(casts, vec![weight.clone()]), "computations deep");

    // Each scatter reads the one before it three times.
    let mut scatters: Vec<NodeProto> = (0..30)
        .map(|k| node("ScatterElements", &[&name(k + 1), &name(k + 1), &name(k + 1)], &name(k + 2), vec![]))
        .collect();
    scatters[0].input.fill("i".into());
    scatters.push(node("Conv", &["x", &name(31)], "y", vec![]));
    check(network(scatters, vec![integers("i", &[1], &[0])]), "expected floats");
}

/// Beyond the kernels' offsets, in the maps themselves, with their padding, or rearranged for a window.
#[test]
fn maps_beyond_the_offsets_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let check = |image, weight: &[usize], attributes: Vec<AttributeProto>| {
        let weight = float_tensor("w", &Tensor::full(weight, 1.0));
        let graph = network_of(image, vec![node("Conv", &["x", "w"], "y", attributes)], vec![weight]);
        assert_refused(&saved(folder.path(), graph), "is too large for the engine");
    };
    let same = || vec![ints("pads", &[1; 4])];
    check([1, 24_000, 24_000], &[1, 1, 3, 3], same());
    check([1, 40_000, 40_000], &[1, 1, 3, 3], same());
    check([1, 1, 65_536], &[1, 1, 1, 65_536], vec![ints("pads", &[0, 32_768, 0, 32_767])]);
}

/// Every value of the vectors that a wide layout would take is too large, but not those of one image; and the mean of so
/// many values is one.
#[test]
fn a_large_image_runs() {
    const SIDE: usize = 5800;
    let folder = tempfile::tempdir().unwrap();
    let nodes = vec![
        node("Conv", &["x", "w"], "a", vec![ints("pads", &[1; 4])]),
        node("GlobalAveragePool", &["a"], "b", vec![]),
        node("Flatten", &["b"], "y", vec![]),
    ];
    let weight = float_tensor("w", &Tensor::full([1, 1, 3, 3], 1.0));
    let side = SIDE as i64;
    let model = Model::load(saved(folder.path(), network_of([1, side, side], nodes, vec![weight]))).unwrap();
    for isa in Isa::available() {
        let engine = model.plan(&Options { isa: Some(isa), ..Default::default() }).unwrap();
        let mut outputs = [0.0];
        engine.run(&vec![1.0; SIDE * SIDE], &mut outputs, &mut engine.scratch().unwrap()).unwrap();
        // A row or column of outputs at an edge lacks a third of its taps.
        let expected = (3.0 - 2.0 / SIDE as f32).powi(2);
        assert!((outputs[0] / expected - 1.0).abs() < 1e-4, "{isa}: {outputs:?}, expected {expected}");
    }
}

/// Planning takes time and memory in proportion to what is planned.
#[test]
fn plans_grow_with_their_networks() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |graph, options: &Options| {
        let start = Instant::now();
        let result = Model::load(saved(folder.path(), graph)).and_then(|model| model.plan(options));
        (result.map(drop).map_err(|error| error.to_string()), start.elapsed())
    };
    // A stem of stride 2 over a large image: its rearranged rows are four million vectors.
    let stem = vec![node("Conv", &["x", "w"], "y", vec![ints("strides", &[2; 2]), ints("pads", &[3; 4])])];
    let weight = float_tensor("w", &Tensor::full([16, 3, 7, 7], 1.0));
    let (result, elapsed) = plan(network_of([3, 2048, 2048], stem, vec![weight]), &Options::default());
    assert!(result.is_ok() && elapsed < 5 * LIMIT, "{result:?} in {elapsed:?}");

    // Each keeps the values of one plane, whose bits all share.
    let name = |k: usize| if k == 0 { "a".to_string() } else { format!("v{k}") };
    let mut relus = vec![node("Conv", &["x", "w"], "a", vec![ints("pads", &[1; 4])])];
    relus.extend((0..2000).map(|k| node("Relu", &[&name(k)], &name(k + 1), vec![])));
    relus.push(node("GlobalAveragePool", &[&name(2000)], "y", vec![]));
    let weight = float_tensor("w", &Tensor::full([1, 1, 3, 3], 1.0));
    plan(network_of([1, 601, 601], relus, vec![weight]), &Options::default()).0.unwrap();

    // Each packs the weights of all for itself.
    let mut shared: Vec<NodeProto> =
        (0..128).map(|k| node("Conv", &[&name(k), "w"], &name(k + 1), vec![ints("pads", &[1; 4])])).collect();
    shared[0].input[0] = "x".into();
    shared.push(node("Relu", &[&name(128)], "y", vec![]));
    let weight = float_tensor("w", &Tensor::full([256, 256, 3, 3], 1.0));
    let (result, _) = plan(network_of([256, 4, 4], shared, vec![weight]), &Options::default());
    assert!(result.as_ref().is_err_and(|e| e.contains("weights of layers that share them take")), "{result:?}");
}

#[test]
fn batches_out_of_range_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::load(saved(folder.path(), network(vec![node("Relu", &["x"], "y", vec![])], vec![]))).unwrap();
    for batch in [0, 4097, 1 << 62] {
        let error = model.plan(&Options { batch, ..Default::default() }).unwrap_err().to_string();
        assert_eq!(error, format!("option batch is {batch}, expected 1 to 4096"));
    }
}

#[test]
fn names_are_escaped_in_tables() {
    let folder = tempfile::tempdir().unwrap();
    let relu = NodeProto { name: Some("a\x1b[2J".into()), ..node("Relu", &["x"], "y", vec![]) };
    let model = Model::load(saved(folder.path(), network(vec![relu], vec![]))).unwrap();
    let table = model.plan(&Options::default()).unwrap().plan().to_string();
    assert!(table.contains("a\\u{1b}[2J") && !table.contains('\x1b'), "{table:?}");
}

/// All tests of this file but this one, in a process whose address space is limited.
#[test]
#[cfg(target_os = "linux")]
fn all_of_it_in_little_memory() {
    const KIB: usize = 2 << 20;
    let program = std::env::current_exe().unwrap();
    let limited = format!("ulimit -v {KIB} && exec \"$0\" --test-threads 1 --skip all_of_it_in_little_memory");
    let output = std::process::Command::new("sh").args(["-c", &limited]).arg(program).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn broken_wire_formats_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let check = |bytes: &[u8], problem: &str| {
        std::fs::write(&path, bytes).unwrap();
        assert_refused(&path, problem);
    };
    check(&[], "has no graph");
    check(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "is not an ONNX file");
    check(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0x7f], "is not an ONNX file");
    // A graph in an attribute of a node in a graph, and so on.
    let fields = [GRAPH, ATTRIBUTE_GRAPH, ATTRIBUTE, NODE].into_iter().cycle().take(4000);
    check(&fields.fold(Vec::new(), |content, field| message(field, content)), "is not an ONNX file");
}

/// Every byte changed, and every length: an error or a network that runs.
#[test]
fn damaged_files_load_and_run_or_are_refused() {
    let weight = float_tensor("w", &Tensor::full([4, 2, 3, 3], 0.5));
    let fc = float_tensor("fc", &Tensor::full([4, 3], 0.5));
    let nodes = vec![
        node("Conv", &["x", "w"], "a", vec![ints("pads", &[1; 4]), ints("strides", &[2, 2])]),
        node("HardSwish", &["a"], "b", vec![]),
        node("GlobalAveragePool", &["b"], "c", vec![]),
        node("Mul", &["b", "c"], "d", vec![]),
        node("MaxPool", &["d"], "e", vec![ints("kernel_shape", &[4, 4])]),
        node("Flatten", &["e"], "f", vec![]),
        node("Gemm", &["f", "fc"], "g", vec![]),
        node("Softmax", &["g"], "y", vec![]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path(), network(nodes, vec![weight, fc]));
    let whole = std::fs::read(&path).unwrap();
    let mut loaded = 0;
    let mut check = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let Ok(engine) = Model::load(&path).and_then(|model| model.plan(&Options::default())) else { return };
        let image = vec![1.0; engine.input_shape().iter().product()];
        let mut outputs = vec![0.0; engine.output_shape().iter().product()];
        engine.run(&image, &mut outputs, &mut engine.scratch().unwrap()).unwrap();
        loaded += 1;
    };
    check(&whole);
    for at in 0..whole.len() {
        check(&whole[..at]);
        for change in [0x01, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= change;
            check(&damaged);
        }
    }
    assert!(loaded > 1 && loaded < 2 * whole.len(), "{loaded} of {} files load", 3 * whole.len());
}
