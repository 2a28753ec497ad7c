use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::*;
use crate::{ParameterRole, zoo};

/// A graph with every operator.
fn every_operator() -> Value {
    json!({
        "name": "all", "input": [4, 9, 8],
        "nodes": [
            {"name": "conv", "op": "Conv", "weight": "w", "bias": "b", "out_channels": 6, "kernel": [3, 2],
             "stride": [2, 1], "pads": [1, 0, 2, 1], "dilation": [2, 1], "groups": 2, "inputs": [0]},
            {"name": "norm", "op": "BatchNormalization", "scale": "g", "shift": "s", "mean": "m", "var": "v",
             "epsilon": 1e-5, "momentum": 0.1, "inputs": [1]},
            {"name": "relu", "op": "Relu", "inputs": [2]},
            {"name": "clip", "op": "Clip", "min": 0.0, "max": 6.0, "inputs": [1]},
            {"name": "add", "op": "Add", "inputs": [3, 4]},
            {"name": "concat", "op": "Concat", "inputs": [5, 1, 5]},
            {"name": "max", "op": "MaxPool", "kernel": [2, 3], "stride": [1, 2], "pads": [1, 0, 0, 2], "inputs": [6]},
            {"name": "mean", "op": "AveragePool", "kernel": [2, 2], "stride": [2, 2], "pads": [0, 0, 0, 0], "inputs": [7]},
            {"name": "same", "op": "Identity", "inputs": [8]},
            {"name": "global", "op": "GlobalAveragePool", "inputs": [9]},
            {"name": "flat", "op": "Flatten", "inputs": [10]},
            {"name": "fc", "op": "Gemm", "weight": "fw", "bias": null, "out_features": 5, "inputs": [11]},
            {"name": "soft", "op": "Softmax", "inputs": [12]}
        ]
    })
}

fn parse(graph: Value) -> Result<Graph, String> {
    serde_json::from_value(graph).map_err(|e| e.to_string())
}

#[test]
fn shapes_follow_from_the_input() {
    let graph = parse(every_operator()).unwrap();
    let shapes: Vec<_> = (0..=graph.nodes().len()).map(|v| graph.shape(v).to_vec()).collect();
    let map = [6, 4, 8];
    let expected: [&[usize]; 14] = [
        &[4, 9, 8],
        &map,
        &map,
        &map,
        &map,
        &map,
        &[18, 4, 8],
        &[18, 4, 4],
        &[18, 2, 2],
        &[18, 2, 2],
        &[18, 1, 1],
        &[18],
        &[5],
        &[5],
    ];
    assert_eq!(shapes, expected);
    assert_eq!((graph.input_shape(), graph.output_shape()), (&[4, 9, 8][..], &[5][..]));

    let parameters: Vec<_> = graph.parameters().iter().map(|p| (p.name.as_str(), p.shape.clone(), p.role)).collect();
    let expected = [
        ("w", vec![6, 2, 3, 2], ParameterRole::Weight),
        ("b", vec![6], ParameterRole::Bias),
        ("g", vec![6], ParameterRole::NormScale),
        ("s", vec![6], ParameterRole::NormShift),
        ("m", vec![6], ParameterRole::RunningMean),
        ("v", vec![6], ParameterRole::RunningVar),
        ("fw", vec![5, 18], ParameterRole::Weight),
    ];
    assert_eq!(parameters, expected);
    assert_eq!(graph.prunable_weights(), 72 + 90);
    assert_eq!(graph.macs(), 72 * 32 + 90);
    assert_eq!(graph.last_reads()[..7], [Some(0), Some(5), Some(2), Some(4), Some(4), Some(5), Some(6)]);
}

#[test]
fn json_gives_the_same_graph_back() {
    let networks = zoo::NAMES.map(|name| zoo::build(name, 10).unwrap());
    for graph in networks.into_iter().chain([parse(every_operator()).unwrap()]) {
        let text = serde_json::to_string(&graph).unwrap();
        assert_eq!(serde_json::from_str::<Graph>(&text).unwrap(), graph);
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let huge = 1usize << 40;
    let cases = [
        ("/nodes", json!([]), r#"node "all" (graph): has no nodes"#),
        ("/input", json!([4, 9]), r#"node "conv" (Conv): the network's input must be [channels, height, width]"#),
        ("/input", json!([4, 0, 8]), "each 1 to 65536, got [4, 0, 8]"),
        ("/input", json!([4, huge, 8]), "each 1 to 65536"),
        ("/nodes/0/inputs", json!([1]), r#"node "conv" (Conv): reads value 1, which does not come before it"#),
        ("/nodes/0/inputs", json!([]), "takes 1 inputs, got 0"),
        ("/nodes/0/groups", json!(0), "do not divide into 0 groups"),
        ("/nodes/0/groups", json!(3), "4 input and 6 output channels do not divide into 3 groups"),
        ("/nodes/0/out_channels", json!(0), "4 input and 0 output channels"),
        ("/nodes/0/out_channels", json!(huge), "must hold 1 to 2147483648 values"),
        ("/nodes/0/kernel/0", json!(0), "must be positive"),
        ("/nodes/0/stride/1", json!(0), "must be positive"),
        ("/nodes/0/dilation/1", json!(0), "must be positive"),
        ("/nodes/0/pads/3", json!(huge), "at most 65536"),
        ("/nodes/0/kernel/1", json!(10), "a window of 10 does not fit 9 padded positions"),
        ("/nodes/1/epsilon", json!(0.0), "epsilon 0 must be positive"),
        ("/nodes/1/momentum", json!(1.5), "momentum 1.5 between 0 and 1"),
        ("/nodes/1/inputs", json!([]), "takes 1 inputs, got 0"),
        ("/nodes/1/scale", json!("b"), r#"parameter "b" is NormScale [6] here and Bias [6] before"#),
        ("/nodes/1/var", json!("m"), r#"parameter "m" is RunningVar [6] here and RunningMean [6] before"#),
        ("/nodes/2/name", json!("norm"), r#"node "norm" (Relu): name is used twice"#),
        ("/nodes/3/max", json!(-1.0), "bounds 0 to -1 must be finite and in order"),
        ("/nodes/4/inputs", json!([3]), "takes 2 inputs, got 1"),
        ("/nodes/4/inputs", json!([3, 0]), "combines shapes [6, 4, 8] and [4, 9, 8], which must be equal"),
        ("/nodes/5/inputs", json!([5]), "takes 2 or more inputs, got 1"),
        ("/nodes/5/inputs", json!([5, 0]), "concatenates [6, 4, 8] with [4, 9, 8], which may differ in the first only"),
        ("/nodes/6/pads", json!([2, 0, 0, 0]), "padding [2, 0, 0, 0] must be smaller than the window [2, 3]"),
        ("/nodes/6/kernel", json!([0, 0]), "must be smaller than the window [0, 0]"),
        ("/nodes/7/kernel", json!([0, 0]), "must be positive"),
        ("/nodes/9/inputs", json!([12]), "does not come before it"),
        ("/nodes/11/inputs", json!([10]), "needs a flat input and at least one output feature, got shape [18, 1, 1]"),
        ("/nodes/11/out_features", json!(0), "at least one output feature"),
        ("/nodes/11/weight", json!("w"), r#"parameter "w" is Weight [5, 18] here and Weight [6, 2, 3, 2] before"#),
        ("/nodes/12/inputs", json!([9]), "needs a flat input, got shape [18, 2, 2]"),
        ("/nodes/12/op", json!("Conv3"), "unknown variant `Conv3`"),
        ("/nodes/3/max", json!("6"), "invalid type: string"),
    ];
    for (place, value, expected) in cases {
        let mut graph = every_operator();
        *graph.pointer_mut(place).unwrap() = value.clone();
        let error = parse(graph).unwrap_err();
        assert!(error.contains(expected), "{place} = {value}: {error:?} does not say {expected:?}");
    }
}

#[test]
fn an_image_operator_refuses_a_flat_input() {
    for op in ["BatchNormalization", "GlobalAveragePool", "MaxPool", "Conv"] {
        let mut graph = every_operator();
        let nodes = graph["nodes"].as_array_mut().unwrap();
        let mut node = nodes.iter().find(|n| n["op"] == op).unwrap().clone();
        node["name"] = "again".into();
        node["inputs"] = json!([13]);
        nodes.push(node);
        let error = parse(graph).unwrap_err();
        let expected = format!(r#"node "again" ({op}): needs an input [channels, height, width], got [5]"#);
        assert_eq!(error, expected);
    }
}

#[test]
fn an_unknown_attribute_is_refused() {
    for node in 0..2 {
        let mut graph = every_operator();
        graph["nodes"][node]["auto_pad"] = "SAME_UPPER".into();
        assert!(parse(graph).unwrap_err().contains("unknown field `auto_pad`"));
    }
    let mut graph = every_operator();
    graph["outputs"] = json!([1]);
    assert!(parse(graph).unwrap_err().contains("unknown field `outputs`"));
}

/// Whatever stands in the place of up to three values of the description, reading it ends in a graph or an error.
#[test]
fn hostile_descriptions_never_panic() {
    let hostile = [
        json!(0),
        json!(1),
        json!(3),
        json!(-1),
        json!(65536),
        json!(u32::MAX),
        json!(u64::MAX),
        json!(1e300),
        json!(null),
        json!(""),
        json!("w"),
        json!([]),
        json!([0]),
        json!([1, 1, 1]),
        json!({}),
    ];
    let places = places(&every_operator());
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut accepted = 0;
    for round in 0..20_000 {
        let mut graph = every_operator();
        for _ in 0..1 + round % 3 {
            let place = &places[rng.random_range(0..places.len())];
            if let Some(value) = graph.pointer_mut(place) {
                *value = hostile[rng.random_range(0..hostile.len())].clone();
            }
        }
        if let Ok(graph) = parse(graph) {
            accepted += 1;
            assert!(graph.macs() > 0 && graph.last_reads().len() == graph.nodes().len() + 1);
        }
    }
    assert!(accepted > 100, "only {accepted} descriptions were graphs");
}

/// JSON pointers of every value.
fn places(value: &Value) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Array(items) => items.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), v)).collect(),
        _ => Vec::new(),
    };
    let below = |(key, child): (String, &Value)| {
        let inside = places(child).into_iter().map(|p| format!("/{key}{p}")).collect::<Vec<_>>();
        [format!("/{key}")].into_iter().chain(inside)
    };
    children.into_iter().flat_map(below).collect()
}
