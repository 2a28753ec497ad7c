//! Files of any origin: from each format to each other, and what `inspect` says of them.

use std::path::Path;

use sr2_export::{ConvertOptions, ExportError, OnnxForm, convert, inspect, to_onnx};
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
    let onnx = to.extension().is_some_and(|extension| extension == "onnx").then_some(onnx);
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
        convert(&ConvertOptions { from, to, values: values.map(Into::into), onnx: None })
    };
    for name in ["a.srz", "a.csr.safetensors"] {
        to(name, None).unwrap();
        let back = ConvertOptions { from: at(name), to: at("back.safetensors"), values: None, onnx: None };
        convert(&back).unwrap();
        assert!(dense::read(at("back.safetensors")).unwrap().tensors == tensors, "{name}");
    }
    to("matrices", None).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(at("matrices")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["encoder.weight.npz", "full.npz"]);

    let error = to("a.onnx", None).unwrap_err();
    assert!(matches!(&error, ExportError::File(e) if e.kind() == ErrorKind::Unsupported), "{error}");
    assert!(error.to_string().contains("holds weights but no network, which ONNX needs"), "{error}");
    let refused = |name: &str, values: Option<&str>, problem: &str| {
        let error = to(name, values).unwrap_err();
        assert!(matches!(error, ExportError::Target { .. }));
        assert!(error.to_string().contains(problem), "{error}");
        assert!(!at(name).is_file());
    };
    refused("b.srz", Some("int9"), "--values: expected f32, f16, palette, or int8 to int2");
    refused("b.csr.safetensors", Some("palette"), "--values: expected f32, f16, bf16 or int8");
    refused("b.safetensors", Some("f16"), "holds f32 values, not f16");
    refused("b.pt", None, "expected .safetensors");
    refused("matrices", None, "holds files already; name an empty or a new folder");
    for parent in [".", "..", "/"] {
        refused(parent, None, "or a folder for .npz files");
    }
    let form = ConvertOptions { from: at("a.srz"), to: at("b.srz"), values: None, onnx: Some(OnnxForm::Scatter) };
    assert!(convert(&form).unwrap_err().to_string().ends_with("b.srz: --onnx scatter is for .onnx files"));
    let error = inspect(&at("b.pt")).unwrap_err();
    assert!(error.to_string().contains("expected a file .safetensors"), "{error}");
}

fn written(path: &Path, names: &[&str], value: f32) {
    let tensors = names.iter().map(|name| (name.to_string(), Tensor::full([2, 2], value)));
    let bias = ("bias".to_string(), Tensor::full([2], value));
    dense::write(path, &tensors.chain([bias]).collect(), &Default::default()).unwrap();
}

#[test]
fn a_folder_takes_one_file_for_each_weight_and_no_two_for_one_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let to = |from: &str, to: &str| convert(&ConvertOptions { from: at(from), to: at(to), values: None, onnx: None });
    written(&at("two.safetensors"), &["a/b", "a_c"], 1.0);
    let conversion = to("two.safetensors", "two").unwrap();
    let size = |name: &str| std::fs::metadata(at(name)).unwrap().len();
    assert_eq!(conversion.to_bytes, size("two/a_b.npz") + size("two/a_c.npz"));

    written(&at("clash.safetensors"), &["a/b", "a_b"], 1.0);
    let error = to("clash.safetensors", "clash").unwrap_err().to_string();
    assert!(error.contains(r#"clash.safetensors: tensors "a/b" and "a_b" would both be a_b.npz"#), "{error}");
    assert!(!at("clash").exists());
}

#[test]
fn a_file_converted_onto_itself_is_measured_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("same.safetensors");
    written(&path, &["a"], 0.3);
    let same = folder.path().join("same.srz");
    let to_srz = |from: &Path, values: Option<&str>| {
        let values = values.map(Into::into);
        convert(&ConvertOptions { from: from.into(), to: same.clone(), values, onnx: None }).unwrap()
    };
    to_srz(&path, None);
    let before = std::fs::metadata(&same).unwrap().len();
    let conversion = to_srz(&same, Some("int2"));
    assert_eq!((conversion.from_bytes, conversion.to_bytes), (before, std::fs::metadata(&same).unwrap().len()));
    assert_ne!(conversion.from_bytes, conversion.to_bytes);
}

/// The ending counts whatever the bytes before it.
#[cfg(target_os = "linux")]
#[test]
fn a_target_need_not_be_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("a.safetensors");
    written(&from, &["a"], 1.0);
    let to = folder.path().join(OsStr::from_bytes(b"a\xff.srz"));
    convert(&ConvertOptions { from, to: to.clone(), values: None, onnx: None }).unwrap();
    assert!(to.is_file());
}

#[test]
fn a_value_that_is_not_finite_is_said_of_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let tensors: TensorMap = [("bias".to_string(), Tensor::new([2], vec![0.0, f32::NAN]))].into();
    dense::write(at("nan.safetensors"), &tensors, &Default::default()).unwrap();
    for to in ["a.srz", "a.csr.safetensors"] {
        let options = ConvertOptions { from: at("nan.safetensors"), to: at(to), values: None, onnx: None };
        let error = convert(&options).unwrap_err().to_string();
        assert!(error.ends_with(r#"nan.safetensors: tensor "bias" [1] is NaN, expected finite"#), "{error}");
    }
}
