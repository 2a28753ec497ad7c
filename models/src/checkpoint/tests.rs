use sr2_formats::{ErrorKind, Tensor};

use super::*;
use crate::zoo;

/// A small network whose parameters count up, in steps exact in f32.
fn checkpoint() -> Checkpoint {
    let graph = zoo::build("resnet8", 10).unwrap();
    let tensor = |p: &crate::ParameterSpec| {
        let len = p.shape.iter().product::<usize>();
        (p.name.clone(), Tensor::new(p.shape.clone(), (0..len).map(|i| i as f32 / 8.0).collect()))
    };
    let parameters = graph.parameters().iter().map(tensor).collect();
    let provenance = Provenance {
        dataset: Some("cifar10".into()),
        class_names: vec!["cat".into(), "dog".into()],
        mean: vec![0.5, 0.25, 0.125],
        std: vec![0.1, 0.2, 0.3],
        training: [("seed".to_string(), 7.into()), ("method".to_string(), "sr2".into())].into(),
    };
    Checkpoint {
        model: Model::try_new(graph, parameters).unwrap(),
        provenance,
        state: [("optimizer.momentum".to_string(), Tensor::full([5], -0.5))].into(),
        metadata: [("sr2.step".to_string(), "12".to_string())].into(),
    }
}

fn written(folder: &Path, checkpoint: &Checkpoint) -> std::path::PathBuf {
    let path = folder.join("checkpoint.safetensors");
    write(&path, checkpoint).unwrap();
    path
}

/// Writes the checkpoint with changed tensors and metadata, past this module's writer.
fn written_raw(
    folder: &Path,
    change: impl FnOnce(&mut TensorMap, &mut BTreeMap<String, String>),
) -> std::path::PathBuf {
    let path = written(folder, &checkpoint());
    let DenseFile { mut tensors, mut metadata } = dense::read(&path).unwrap();
    change(&mut tensors, &mut metadata);
    dense::write(&path, &tensors, &metadata).unwrap();
    path
}

#[test]
fn comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected = checkpoint();
    let found = read(written(folder.path(), &expected)).unwrap();
    expected.metadata.insert("format".into(), "pt".into());
    assert_eq!(found, expected);
}

#[test]
fn provenance_may_be_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = written_raw(folder.path(), |_, metadata| {
        metadata.remove(PROVENANCE_KEY).unwrap();
    });
    assert_eq!(read(path).unwrap().provenance, Provenance::default());
}

fn refused(path: &Path, message: &str) {
    let error = read(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
    let text = error.to_string();
    assert!(text.starts_with(path.to_str().unwrap()) && text.contains(message), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn a_cut_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), &checkpoint());
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        refused(&path, "");
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let missing = written_raw(folder.path(), |tensors, _| {
        tensors.remove("conv1.weight").unwrap();
    });
    refused(&missing, r#"tensor "conv1.weight" of resnet8 is missing; expected shape [24, 3, 3, 3]"#);
    let shape = written_raw(folder.path(), |tensors, _| {
        tensors.insert("conv1.weight".into(), Tensor::full([24, 3, 9], 0.0));
    });
    refused(&shape, r#"tensor "conv1.weight" has shape [24, 3, 9], expected [24, 3, 3, 3]"#);
    let unknown = written_raw(folder.path(), |tensors, _| {
        tensors.insert("conv9.weight".into(), Tensor::full([1], 0.0));
    });
    refused(&unknown, r#"tensor "conv9.weight" belongs to no node of resnet8"#);
}

#[test]
fn metadata_that_does_not_hold_together_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = written_raw(folder.path(), |_, metadata| {
        metadata.remove(GRAPH_KEY).unwrap();
    });
    refused(&foreign, "not a checkpoint of sr2-prune");
    let changes =
        [("{", "", "sr2.graph"), ("\"Relu\"", "\"Gelu\"", "Gelu"), ("\"inputs\":[0]", "\"inputs\":[99]", "99")];
    for (from, to, message) in changes {
        let path = written_raw(folder.path(), |_, metadata| {
            let graph = metadata.get_mut(GRAPH_KEY).unwrap();
            assert!(graph.contains(from), "{graph}");
            *graph = graph.replacen(from, to, 1);
        });
        refused(&path, message);
    }
    let provenance = written_raw(folder.path(), |_, metadata| {
        metadata.insert(PROVENANCE_KEY.into(), "{\"mean\": 3}".into());
    });
    refused(&provenance, PROVENANCE_KEY);
}

#[test]
fn lists_checkpoints_by_step() {
    let folder = tempfile::tempdir().unwrap();
    let others = ["best.safetensors", "checkpoint-.safetensors", "checkpoint-x.safetensors", "checkpoint-1.txt"];
    for name in [100, 9, 20].map(file_name).iter().map(String::as_str).chain(others) {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    let found = list(folder.path()).unwrap();
    assert_eq!(found, [9, 20, 100].map(|step| (step, folder.path().join(file_name(step)))));
}
