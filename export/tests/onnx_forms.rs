//! Which tools load which form of ONNX file, and what the documentation says of it.

mod networks;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sr2_export::{LOGITS_TOLERANCE, OnnxForm, OnnxReader, to_onnx};
use sr2_formats::{Tensor, onnx};
use sr2_models::{Model, passes, reference};

use networks::{SEED, every_operator, sparse_model};

/// Writes a network in every form, and what `read_onnx_forms.py` is to find.
fn write_forms(model: &Model, folder: &Path) {
    let model = passes::fold_batch_norm(model);
    for form in OnnxForm::ALL {
        onnx::write(folder.join(format!("{form}.onnx")), &to_onnx(&model, form, &BTreeMap::new())).unwrap();
    }
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let shape = [&[2], model.graph().input_shape()].concat();
    let images: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-2.0..2.0)).collect();
    let logits = reference::logits(&model, &images, shape[0]);
    let loads: BTreeMap<_, Vec<_>> = OnnxForm::ALL.map(|form| (form.name(), readers(form))).into();
    let tolerance = LOGITS_TOLERANCE;
    let expected = serde_json::json!({
        "images": images, "shape": shape, "logits": logits, "tolerance": tolerance, "loads": loads,
    });
    fs::write(folder.join("expected.json"), expected.to_string()).unwrap();
}

fn readers(form: OnnxForm) -> Vec<&'static str> {
    form.readers().into_iter().map(OnnxReader::name).collect()
}

/// `read_onnx_forms.py` loads every form with every Python reader: each must give the logits or, where we say that it
/// does not load the form, fail.
#[test]
fn readers_load_the_forms_we_say() {
    let import = "import numpy, onnx, onnxruntime, openvino, cv2";
    if !Command::new("python3").args(["-c", import]).output().is_ok_and(|run| run.status.success()) {
        assert!(std::env::var_os("SR2_REQUIRE_PYTHON").is_none(), "python3 lacks a package of .ci/requirements.txt");
        eprintln!("SKIP: python3 with the packages of .ci/requirements.txt is not here");
        return;
    }
    let folders = [sparse_model("resnet8"), every_operator()].map(|model| {
        let folder = tempfile::tempdir().unwrap();
        write_forms(&model, folder.path());
        folder
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_onnx_forms.py");
    let run = Command::new("python3").arg(script).args(folders.iter().map(|f| f.path())).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{stdout}{stderr}");
    eprint!("{stdout}");
}

#[test]
fn the_readme_says_which_tools_load_which_form() {
    let readme = include_str!("../../README.md");
    for form in OnnxForm::ALL {
        let start = format!("| `{form}` ");
        let row = readme.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no row {start}"));
        assert!(row.ends_with(&format!("| {} |", readers(form).join(", "))), "{row}");
    }
}

#[test]
fn our_own_import_gives_every_form_back() {
    let folder = tempfile::tempdir().unwrap();
    for model in [sparse_model("resnet8"), every_operator()] {
        let model = passes::fold_batch_norm(&model);
        write_forms(&model, folder.path());
        for form in OnnxForm::ALL {
            let found = sr2_models::onnx::import(folder.path().join(format!("{form}.onnx"))).unwrap();
            assert_eq!(found.graph().parameters(), model.graph().parameters(), "{form}");
            for (name, tensor) in model.parameters() {
                let bits = |tensor: &Tensor| tensor.data().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(found.parameter(name)), bits(tensor), "{form}: {name}");
            }
        }
    }
}

#[test]
fn sparse_forms_are_smaller_than_dense() {
    let model = passes::fold_batch_norm(&sparse_model("resnet8"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let size = |form| {
        onnx::write(&path, &to_onnx(&model, form, &BTreeMap::new())).unwrap();
        fs::metadata(&path).unwrap().len()
    };
    let [dense, scatter, gap, sparse_init, sparse_const] = OnnxForm::ALL.map(size);
    assert!(gap < sparse_init && sparse_init < sparse_const && sparse_const < scatter, "{gap} {sparse_init} {scatter}");
    assert!(8 * scatter < dense, "{scatter} of {dense}");
}
