//! Bad input files: exit code 3 and one line with the file, the place, what was found and what was expected.

use std::fs;
use std::path::{Path, PathBuf};

use sr2_formats::onnx;
use tempfile::TempDir;

use crate::program::{refuse, sr2};
use crate::sample::{DATA, few_images, short_run};

const CIFAR10_RECORD: usize = 3073;

/// A folder with one bad training file beside good test images.
fn data_folder(name: &str, content: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), content).unwrap();
    let test = if name.ends_with(".bin") { "test_batch.bin" } else { "test.parquet" };
    let good = if name.ends_with(".bin") { few_images() } else { Path::new(DATA) };
    fs::copy(good.join(test), folder.path().join(test)).unwrap();
    folder
}

/// `train` and `data check` both refuse the file, and no run folder is made.
#[track_caller]
fn refuse_data(name: &str, content: &[u8], problem: &[&str]) {
    let folder = data_folder(name, content);
    let parts = [&[name], problem].concat();
    refuse(sr2(folder.path(), &["train", "--network", "resnet8", "--epochs", "1", "--data", "."]), 3, &parts);
    assert!(!folder.path().join("runs").exists());

    let mut check = sr2(folder.path(), &["data", "check", "cifar10", "--data", "."]);
    let stdout = String::from_utf8(check.output().unwrap().stdout).unwrap();
    let line = stdout.lines().find(|line| line.starts_with("problem: ")).unwrap_or_else(|| panic!("{stdout}"));
    assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    refuse(check, 3, &["1 problems"]);
}

#[test]
fn truncated_and_foreign_parquet() {
    let parquet = fs::read(Path::new(DATA).join("train.parquet")).unwrap();
    refuse_data("train.parquet", &parquet[..parquet.len() / 2], &[]);
    refuse_data("train.parquet", b"Once upon a time there was no parquet file.", &[]);
    refuse_data("train.parquet", b"", &[]);
}

#[test]
fn binary_files_with_a_bad_label_cut_or_of_the_other_dataset() {
    let records = fs::read(few_images().join("data_batch_1.bin")).unwrap();
    let mut label = records.clone();
    label[7 * CIFAR10_RECORD] = 10;
    refuse_data("data_batch_1.bin", &label, &["record 7 (byte 21511)", "label 10", "expected 0 to 9"]);
    refuse_data("data_batch_1.bin", &records[..records.len() - 1], &["149", "3072 bytes more"]);
    let cifar100: Vec<u8> = records.chunks(CIFAR10_RECORD).take(100).flat_map(|r| [&[0], r].concat()).collect();
    refuse_data("data_batch_1.bin", &cifar100, &["CIFAR-100 records", "CIFAR-10 was asked for"]);
}

#[test]
fn the_other_dataset() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["train", "--network", "resnet8", "--dataset", "cifar100", "--data", DATA];
    refuse(sr2(folder.path(), &arguments), 3, &["train.parquet", "holds CIFAR-10", "CIFAR-100 was asked for"]);
    fs::copy(few_images().join("data_batch_1.bin"), folder.path().join("train.bin")).unwrap();
    refuse(sr2(folder.path(), &["train", "--data", "."]), 4, &["the files here are of CIFAR-100", "data fetch"]);
}

/// A file of the exported run, changed.
fn changed(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = fs::read(short_run().join(name)).unwrap();
    change(&mut bytes);
    let path = folder.path().join(Path::new(name).file_name().unwrap());
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

#[test]
fn a_cut_checkpoint() {
    let checkpoint = sr2_models::checkpoint::list(short_run()).unwrap().pop().unwrap().1;
    let name = checkpoint.file_name().unwrap().to_str().unwrap();
    for keep in [0, 7, 1000, 300_000] {
        let (folder, _) = changed(name, |bytes| bytes.truncate(keep));
        refuse(sr2(folder.path(), &["export", name, "--out", "export"]), 3, &[name, ": "]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left of the export");
        fs::copy(short_run().join("config.toml"), folder.path().join("config.toml")).unwrap();
        refuse(sr2(folder.path(), &["train", "--resume", "."]), 3, &[name, ": "]);
    }
}

/// `infer` and `bench` both refuse a changed CSR file.
#[track_caller]
fn refuse_csr(problem: &[&str], change: impl FnOnce(&mut Vec<u8>)) {
    let (folder, path) = changed("export/model.csr.safetensors", change);
    let path = path.to_str().unwrap();
    let parts = [&["model.csr.safetensors"], problem].concat();
    refuse(sr2(folder.path(), &["infer", "--model", path, "--data", DATA]), 3, &parts);
    refuse(sr2(folder.path(), &["bench", path]), 3, &parts);
}

/// Where the int32 values of a tensor begin in the bytes of a safetensors file.
fn place(file: &[u8], tensor: &str) -> usize {
    let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&file[8..][..header]).unwrap();
    8 + header + json[tensor]["data_offsets"][0].as_u64().unwrap() as usize
}

fn set(file: &mut [u8], tensor: &str, index: usize, value: i32) {
    let at = place(file, tensor) + 4 * index;
    file[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn get(file: &[u8], tensor: &str, index: usize) -> i32 {
    let at = place(file, tensor) + 4 * index;
    i32::from_le_bytes(file[at..at + 4].try_into().unwrap())
}

#[test]
fn csr_files_that_break_a_rule() {
    const COLUMNS: &str = "fc.weight.col_indices";
    const ROWS: &str = "fc.weight.crow_indices";
    refuse_csr(&["fc.weight", "col_indices[0] (row 0) is 1000000, expected 0 to"], |f| set(f, COLUMNS, 0, 1_000_000));
    refuse_csr(&["fc.weight", "col_indices[0] (row 0) is -1, expected 0 to"], |f| set(f, COLUMNS, 0, -1));
    refuse_csr(&["fc.weight", "col_indices[1] (row 0) is duplicated"], |f| {
        let first = get(f, COLUMNS, 0);
        set(f, COLUMNS, 1, first);
    });
    refuse_csr(&["fc.weight", "col_indices[1] (row 0) is unsorted"], |f| {
        let [first, second] = [0, 1].map(|i| get(f, COLUMNS, i));
        set(f, COLUMNS, 0, second);
        set(f, COLUMNS, 1, first);
    });
    refuse_csr(&["fc.weight", "crow_indices runs from 1 to", "expected from 0"], |f| set(f, ROWS, 0, 1));
    refuse_csr(&["fc.weight", "crow_indices"], |f| set(f, ROWS, 1, i32::MAX));
    refuse_csr(&["fc.weight", "is not finite"], |f| set(f, "fc.weight.values", 0, f32::NAN.to_bits() as i32));
    refuse_csr(&[], |f| f.truncate(f.len() - 4));
    refuse_csr(&[], |f| f.truncate(100));
}

/// A changed or cut container is refused by every command that reads one.
#[test]
fn srz_that_was_changed_or_cut() {
    let refuse_srz = |problem: &str, change: fn(&mut Vec<u8>)| {
        let (folder, path) = changed("export/model.srz", change);
        let path = path.to_str().unwrap();
        let commands = [vec!["infer", "--model", path, "--data", DATA], vec!["bench", path], vec!["inspect", path]];
        for command in commands.into_iter().chain([vec!["convert", path, "a.safetensors"]]) {
            refuse(sr2(folder.path(), &command), 3, &["model.srz", problem]);
        }
    };
    refuse_srz("checksum is wrong", |f| *f.last_mut().unwrap() ^= 1);
    refuse_srz("truncated or foreign", |f| f.truncate(f.len() - 1));
    refuse_srz("too short", |f| f.truncate(20));
    refuse_srz("version 9", |f| f[4] = 9);
}

#[test]
fn onnx_with_an_unknown_operator_or_cut() {
    let (folder, path) = changed("export/model.onnx", |_| ());
    let mut model = onnx::read(&path).unwrap();
    model.graph.as_mut().unwrap().node[1].op_type = Some("Einsum".into());
    let name = model.graph.as_ref().unwrap().node[1].name().to_string();
    onnx::write(&path, &model).unwrap();
    let infer = || sr2(folder.path(), &["infer", "--model", "model.onnx", "--data", DATA]);
    refuse(infer(), 3, &["model.onnx", &name, "Einsum"]);
    refuse(sr2(folder.path(), &["bench", "model.onnx", "--engines", "sparse"]), 3, &["model.onnx", "Einsum"]);

    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    refuse(infer(), 3, &["model.onnx", "truncated"]);
}

/// As many values as an image of the dataset has, in another shape.
#[test]
fn a_network_for_other_images() {
    let (folder, path) = changed("export/model.onnx", |_| ());
    let mut model = onnx::read(&path).unwrap();
    let input = model.graph.as_mut().unwrap().input[0].r#type.as_mut().unwrap();
    let Some(onnx::proto::type_proto::Value::TensorType(tensor)) = &mut input.value else { panic!("no tensor") };
    for (dim, size) in tensor.shape.as_mut().unwrap().dim[2..].iter_mut().zip([16, 64]) {
        dim.value = Some(onnx::proto::tensor_shape_proto::dimension::Value::DimValue(size));
    }
    onnx::write(&path, &model).unwrap();
    let problem = ["model.onnx", "takes images of shape [3, 16, 64]", "[3, 32, 32]"];
    refuse(sr2(folder.path(), &["infer", "--model", "model.onnx", "--data", DATA]), 3, &problem);
    refuse(sr2(folder.path(), &["bench", "model.onnx", "--data", DATA]), 3, &problem);
}

#[test]
fn a_network_whose_logits_overflow() {
    let (folder, path) = changed("export/model.onnx", |_| ());
    let mut model = onnx::read(&path).unwrap();
    let weights = &mut model.graph.as_mut().unwrap().initializer;
    let last = weights.iter_mut().find(|tensor| tensor.name() == "fc.weight").unwrap();
    let shape: Vec<usize> = last.dims.iter().map(|size| *size as usize).collect();
    *last = onnx::float_tensor("fc.weight", &sr2_formats::Tensor::full(shape, f32::MAX));
    onnx::write(&path, &model).unwrap();
    let infer = sr2(folder.path(), &["infer", "--model", "model.onnx", "--data", DATA]);
    refuse(infer, 3, &["model.onnx", "answers inf for image 0, expected finite logits"]);
}

#[test]
fn images_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cat.png"), b"a cat").unwrap();
    let model = short_run().join("export");
    let infer = sr2(folder.path(), &["infer", "--model", model.to_str().unwrap(), "cat.png"]);
    refuse(infer, 3, &["cat.png", ": "]);
}
