//! Files of any origin: from each format to each other, and what `inspect` says of them.

use std::path::Path;

use sr2_export::{ConvertOptions, OnnxForm, convert, inspect, to_onnx};
use sr2_formats::{ErrorKind, Tensor, TensorMap, dense, onnx};
use sr2_models::initialisation::initialise;
use sr2_models::{Model, csr, zoo};

/// ResNet-8 of which nine weights in ten are zero, its batch norms not folded.
fn network() -> Model {
    let graph = zoo::build("resnet8", 10).unwrap();
    let mut parameters = initialise(&graph, 3);
    for spec in graph.parameters().iter().filter(|p| p.role.is_prunable()) {
        let data = parameters.get_mut(&spec.name).unwrap().data_mut();
        data.iter_mut().enumerate().filter(|(k, _)| k % 10 != 3).for_each(|(_, v)| *v = 0.0);
    }
    Model::try_new(graph, parameters).unwrap()
}

#[track_caller]
fn converted(from: &Path, to: &Path, onnx: OnnxForm) {
    let options = ConvertOptions { from: from.into(), to: to.into(), values: None, onnx };
    let conversion = convert(&options).unwrap();
    assert_eq!(conversion.from_bytes, std::fs::metadata(from).unwrap().len());
    assert!((conversion.sparsity - 0.9).abs() < 0.01, "{conversion}");
}

#[test]
fn a_network_survives_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let model = network();
    onnx::write(at("foreign.onnx"), &to_onnx(&model, OnnxForm::Dense, &Default::default())).unwrap();
    let chain = ["foreign.onnx", "a.srz", "b.csr.safetensors", "c.safetensors", "d.onnx", "e.srz", "f.safetensors"];
    for pair in chain.windows(2) {
        converted(&at(pair[0]), &at(pair[1]), OnnxForm::Scatter);
    }
    let imported = sr2_models::onnx::import(at("foreign.onnx")).unwrap();
    for name in ["a.srz", "b.csr.safetensors", "e.srz"] {
        assert!(csr::read(at(name)).unwrap() == imported, "{name}");
    }
    assert!(sr2_models::onnx::import(at("d.onnx")).unwrap() == imported);
    assert!(dense::read(at("f.safetensors")).unwrap().tensors == *imported.parameters());
    let size = |name: &str| std::fs::metadata(at(name)).unwrap().len();
    assert!(size("a.srz") * 5 < size("foreign.onnx") && size("d.onnx") * 2 < size("foreign.onnx"));

    let inspections = chain.map(|name| inspect(&at(name)).unwrap());
    for found in &inspections {
        assert_eq!(found.network.as_deref(), Some(imported.graph().name()));
        let same = |a: &sr2_export::Layer| (a.nnz, a.row_nnz, a.bytes.csr, a.bytes.srz, a.bytes.zstd);
        assert_eq!(same(&found.total), same(&inspections[0].total), "{found}");
        assert_eq!(found.layers.len(), imported.graph().parameters().iter().filter(|p| p.role.is_prunable()).count());
    }
    let of = |k: usize| inspections[k].total.bytes;
    let shapes: u64 = inspections[2].layers.iter().map(|layer| 8 * layer.shape.len() as u64).sum();
    assert_eq!((of(2).now, of(3).now, of(1).now), (Some(of(2).csr + shapes), Some(of(3).dense), None));
    assert!(of(0).srz < of(0).gap && of(0).srz < of(0).zstd && of(0).srz < of(0).bitmask);
    let json = serde_json::to_value(&inspections[1]).unwrap();
    assert_eq!(json["total"]["bytes"]["srz"], of(1).srz);
}

#[test]
fn weights_without_a_network_convert_too() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let value = |k: usize| if k.is_multiple_of(9) { k as f32 } else { 0.0 };
    let sparse = Tensor::new([10, 40], (0..400).map(value).collect());
    let tensors: TensorMap = [
        ("encoder.weight".to_string(), sparse),
        ("full".to_string(), Tensor::full([6, 6], 0.5)),
        ("encoder.bias".to_string(), Tensor::full([10], 0.25)),
    ]
    .into();
    dense::write(at("foreign.safetensors"), &tensors, &Default::default()).unwrap();
    let to = |name: &str, values: Option<&str>| {
        let (from, to) = (at("foreign.safetensors"), at(name));
        convert(&ConvertOptions { from, to, values: values.map(Into::into), onnx: OnnxForm::Dense })
    };
    for name in ["a.srz", "a.csr.safetensors"] {
        to(name, None).unwrap();
        let back = ConvertOptions { from: at(name), to: at("back.safetensors"), values: None, onnx: OnnxForm::Dense };
        convert(&back).unwrap();
        assert!(dense::read(at("back.safetensors")).unwrap().tensors == tensors, "{name}");
    }
    to("matrices", None).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(at("matrices")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["encoder.weight.npz", "full.npz"]);

    let refused = |name: &str, values: Option<&str>, problem: &str| {
        let error = to(name, values).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(problem), "{error}");
        assert!(!at(name).exists());
    };
    refused("a.onnx", None, "holds weights but no network, which ONNX needs");
    refused("b.srz", Some("int9"), "--values: expected f32, f16, palette, or int8 to int2");
    refused("b.csr.safetensors", Some("palette"), "--values: expected f32, f16, bf16 or int8");
    refused("b.safetensors", Some("f16"), "holds f32 values, not f16");
    refused("b.pt", None, "expected .safetensors");
    let error = inspect(&at("b.pt")).unwrap_err();
    assert!(error.to_string().contains("expected a file .safetensors"), "{error}");
}
