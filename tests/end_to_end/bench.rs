//! `bench` beside its comparison of engines: plans that are measured, saved and used again, and the break-even curve.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::program::{json, refuse, sr2, succeed};
use crate::sample::{DATA, short_run};

fn bench(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = sr2(folder, &["bench"]);
    command.arg(short_run().join("export")).args(arguments);
    command
}

#[test]
fn a_measured_plan_is_saved_and_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let engine = ["--engines", "sparse", "--batch", "4", "--seconds", "0.05", "--format", "json"];
    let output = bench(folder.path(), &[&["--tune", "plan.json"], &engine[..]].concat()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.contains("plan.json: ") && stderr.contains("without tuning"), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();

    // What the file says is what runs: with every layer's choice the other way round, other kernels.
    let file = folder.path().join("plan.json");
    let plan: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let weights = |sparse: bool| {
        let mut plan = plan.clone();
        for layer in plan["layers"].as_array_mut().unwrap() {
            layer["sparse"] = sparse.into();
        }
        fs::write(&file, plan.to_string()).unwrap();
        let report = json(bench(folder.path(), &[&["--tuned", "plan.json"], &engine[..]].concat()));
        let model = short_run().join("export");
        let infer = ["infer", "--model", model.to_str().unwrap(), "--batch", "4", "--tuned", "plan.json"];
        let layers = succeed(sr2(folder.path(), &[&infer[..], &["--plan"]].concat()));
        assert_eq!(layers.contains("sparse_"), sparse, "{layers}");
        assert_eq!(layers.contains("dense_"), !sparse, "{layers}");
        let images = json(sr2(folder.path(), &[&infer[..], &["--data", DATA, "--format", "json"]].concat()));
        assert_eq!(images["predictions"].as_array().map(Vec::len), Some(500));
        report["results"][0]["weight_bytes"].as_u64().unwrap()
    };
    let bytes = [weights(false), weights(true)];
    assert!(bytes[0] < bytes[1], "a network that is hardly sparse takes more as CSR: {bytes:?}");
    assert!((bytes[0]..=bytes[1]).contains(&report["results"][0]["weight_bytes"].as_u64().unwrap()), "{report}");
}

#[test]
fn a_plan_for_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let on = |isa: &str, arguments: &[&str]| {
        let mut command = bench(folder.path(), &[&["--engines", "sparse", "--seconds", "0"], arguments].concat());
        command.env("SR2_ISA", isa);
        command
    };
    let alone = succeed(on("scalar", &["--tune", "plan.json"]));
    assert!(alone.contains("no other engine to compare the answers of sparse with"), "{alone}");
    let plan = fs::read_to_string(folder.path().join("plan.json")).unwrap();
    fs::write(folder.path().join("other.json"), plan.replace("\"resnet8\"", "\"resnet20\"")).unwrap();
    fs::write(folder.path().join("avx9.json"), plan.replace("\"scalar\"", "\"avx9\"")).unwrap();
    fs::write(folder.path().join("cut.json"), &plan[..plan.len() / 2]).unwrap();
    let again = "measure it for this use with `bench --tune`";
    refuse(on("scalar", &["--tuned", "other.json"]), 2, &["network is resnet20, expected resnet8", again]);
    refuse(on("scalar", &["--tuned", "avx9.json"]), 2, &["instruction set is avx9, expected scalar", again]);
    refuse(on("scalar", &["--tuned", "plan.json", "--batch", "2"]), 2, &["batch is 1, expected 2", again]);
    refuse(on("scalar", &["--tuned", "plan.json", "--threads", "2"]), 2, &["threads is 1, expected 2", again]);
    refuse(on("scalar", &["--tuned", "cut.json"]), 3, &["cut.json", "EOF", "`bench --tune`"]);
    refuse(on("scalar", &["--tuned", "absent.json"]), 4, &["absent.json", "No such file"]);
    let model = short_run().join("export");
    let infer = ["infer", "--model", model.to_str().unwrap(), "--tuned", "plan.json", "--data", DATA];
    let mut infer = sr2(folder.path(), &infer);
    infer.env("SR2_ISA", "scalar");
    refuse(infer, 2, &["batch is 1, expected 64", again]);
    assert_eq!(on("scalar", &["--tune", "a", "--tuned", "b"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn the_break_even_curve_falls_with_the_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let report = json(bench(folder.path(), &["--break-even", "--seconds", "0.05", "--format", "json"]));
    assert_eq!((&report["network"], &report["batch"]), (&"resnet8".into(), &1.into()));
    let curve = report["curve"].as_array().unwrap();
    let get = |point: &Value, key: &str| point[key].as_f64().unwrap_or_else(|| panic!("{key} of {point}"));
    let sparsities: Vec<f64> = curve.iter().map(|point| get(point, "sparsity")).collect();
    assert!(sparsities.is_sorted() && sparsities.last() == Some(&0.98), "{sparsities:?}");
    // With 49 times fewer weights it is several times as fast, whatever else runs meanwhile.
    let [first, last] = [&curve[0], &curve[curve.len() - 1]];
    assert!(get(last, "sparse_ms") * 2.0 < get(first, "sparse_ms"), "{report}");
    assert!(get(last, "sparse_speed") > 1.0 && get(last, "plan_speed") > 1.0, "{report}");
    let break_even = get(&report, "break_even");
    assert!((0.2..0.98).contains(&break_even), "{report}");
    assert_eq!(report["onnx_runtime"].is_object(), report["ort_ms"].is_number(), "{report}");
    assert_eq!(report["unavailable"].is_null(), report["ort_ms"].is_number(), "{report}");

    let table = succeed(bench(folder.path(), &["--break-even", "--seconds", "0"]));
    assert!(table.contains(" 98 % |") && table.lines().last().unwrap().contains("faster sparse than dense"), "{table}");
    let odd = bench(folder.path(), &["--break-even", "--explain"]).output().unwrap();
    assert_eq!(odd.status.code(), Some(2));
}
