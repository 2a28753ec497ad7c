//! Whole networks, compared with ONNX Runtime.

mod refused;

use std::path::PathBuf;

use sr2_formats::dense;

use super::*;
use crate::reference;

/// Largest difference from ONNX Runtime's outputs, relative to their largest value: both sum in another order.
const RELATIVE_TOLERANCE: f32 = 2e-6;

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/onnx").join(file)
}

/// Imports a network of `tests/data/onnx/generate.py` and compares its outputs with ONNX Runtime's.
fn import_and_compare(name: &str) -> Model {
    let model = import(data(&format!("{name}.onnx"))).unwrap();
    let expected = dense::read(data(&format!("{name}.safetensors"))).unwrap().tensors;
    let (input, output) = (&expected["input"], &expected["output"]);
    let found = reference::logits(&model, input.data(), input.shape()[0]);
    assert_eq!(found.len(), output.len());
    let scale = output.data().iter().fold(0f32, |m, v| m.max(v.abs()));
    for (k, (a, b)) in found.iter().zip(output.data()).enumerate() {
        assert!((a - b).abs() <= RELATIVE_TOLERANCE * scale, "{name} [{k}]: {a}, expected {b}");
    }
    model
}

fn node_names(model: &Model) -> Vec<(&str, &str)> {
    model.graph().nodes().iter().map(|n| (n.name.as_str(), n.op.name())).collect()
}

#[test]
fn all_operators_give_onnx_runtimes_outputs() {
    let model = import_and_compare("all_operators");
    let nodes = model.graph().nodes();
    assert_eq!(model.graph().name(), "all_operators");
    assert_eq!(model.graph().input_shape(), [3, 11, 10]);
    let Op::Conv(conv) = &nodes[0].op else { panic!("{:?}", nodes[0]) };
    let expected = crate::Conv {
        weight: "stem.weight".into(),
        bias: None,
        out_channels: 6,
        kernel: [3, 3],
        stride: [2, 1],
        pads: [2, 1, 0, 3],
        dilation: [1, 2],
        groups: 1,
    };
    assert_eq!(*conv, expected);
    let Op::BatchNormalization(norm) = &nodes[1].op else { panic!("{:?}", nodes[1]) };
    assert_eq!((norm.epsilon, norm.momentum), (1e-3, 0.2));
    assert_eq!(nodes[2].op, Op::Clip(crate::Clip { min: 0.0, max: 1.5 }));
    assert_eq!((nodes[4].name.as_str(), &nodes[4].inputs), ("sum", &vec![3, 4]));
    let parameters: Vec<_> = model.parameters().keys().map(String::as_str).collect();
    let expected = [
        "bn.bias",
        "bn.running_mean",
        "bn.running_var",
        "bn.weight",
        "fc.bias",
        "fc.weight",
        "grouped.bias",
        "grouped.weight",
        "stem.weight",
    ];
    assert_eq!(parameters, expected);
}

#[test]
fn old_style_gives_onnx_runtimes_outputs() {
    let model = import_and_compare("old_style");
    let expected =
        [("a", "Conv"), ("b", "Clip"), ("c", "Clip"), ("d", "AveragePool"), ("f", "Flatten"), ("output", "Gemm")];
    assert_eq!(node_names(&model), expected);
    assert_eq!(model.graph().nodes()[2].op, Op::Clip(crate::Clip { min: f32::MIN, max: 0.75 }));
    assert_eq!(model.parameter("g.w").shape(), [3, 36]);
    assert_eq!(model.parameter("g.b").shape(), [3]);
}

#[test]
fn exporters_style_gives_onnx_runtimes_outputs() {
    let model = import_and_compare("exporters_style");
    let expected = [
        ("conv", "Conv"),
        ("bn1", "BatchNormalization"),
        ("bn2", "BatchNormalization"),
        ("clip", "Clip"),
        ("mean", "GlobalAveragePool"),
        ("mean_2", "Flatten"),
        ("hidden", "Gemm"),
        ("out", "Gemm"),
    ];
    assert_eq!(node_names(&model), expected);
    assert!(model.sparsity() > 0.3);
    assert_eq!(model.parameter("bn2.bias"), model.parameter("bn1.bias"));
    let Op::Gemm(hidden) = &model.graph().nodes()[6].op else { panic!("no Gemm") };
    assert_eq!(hidden.bias.as_deref(), Some("hidden.bias"));
}

/// Every third byte changed, and truncations: an error or a network, never a panic.
#[test]
fn damaged_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let whole = std::fs::read(data("all_operators.onnx")).unwrap();
    for position in (0..whole.len()).step_by(3) {
        let mut damaged = whole.clone();
        damaged[position] ^= [0x01, 0x7f, 0x80][position / 3 % 3];
        damaged.truncate(if position % 8 == 0 { position } else { damaged.len() });
        std::fs::write(&path, damaged).unwrap();
        let _ = import(&path);
    }
}
