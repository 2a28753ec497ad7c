//! Exit codes and one-line messages: usage and configuration (2), I/O (4), and what is not there.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::program::{json, refuse, sr2, succeed};
use crate::sample::{DATA, few_images, short_run, short_training, test_images, write_binary};

/// The program in an empty folder that is also its user's home.
fn at_home(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = sr2(folder, arguments);
    command.env("HOME", folder).env("XDG_CACHE_HOME", folder.join("cache"));
    command
}

#[test]
fn unknown_commands_flags_and_values() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        (&["prune"][..], "'prune'"),
        (&["train", "--learning-rate", "1"], "'--learning-rate'"),
        (&["train", "--epochs", "many"], "'many'"),
        (&["train", "--penalty", "l2"], "'l2'"),
        (&["train", "--resume", "runs/r", "--epochs", "2"], "'--resume <RUN>'"),
        (&["bench", "--engines", "sparse,fast"], "sparse, dense, ort"),
        (&["infer", "--limit", "0"], "'0'"),
        (&["infer", "--plan", "--limit", "5"], "'--limit <N>'"),
        (&["infer", "--plan", "--data", DATA], "'--data <DIR>'"),
        (&["infer", "cat.png", "--limit", "5"], "'--limit <N>'"),
        (&["export", "--onnx", "zip"], "dense, scatter, gap"),
        (&["export", "--target", "tflite"], "ort, openvino"),
        (&["data", "fetch", "imagenet"], "'imagenet'"),
        (&[], "Usage"),
    ];
    for (arguments, part) in cases {
        let output = sr2(folder.path(), arguments).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}\n{stderr}");
        assert!(stderr.contains(part) && stderr.matches("error: ").count() <= 1, "{arguments:?}\n{stderr}");
    }
}

#[cfg(not(feature = "mpi"))]
#[test]
fn several_processes_without_mpi() {
    let folder = tempfile::tempdir().unwrap();
    let process = |rank: &str| {
        let mut command = sr2(folder.path(), &["train", "--data", DATA]);
        command.env("OMPI_COMM_WORLD_SIZE", "2").env("OMPI_COMM_WORLD_RANK", rank);
        command
    };
    refuse(process("0"), 2, &["started as 2 processes by MPI", "without the feature `mpi`", "or start one process"]);
    let other = process("1").output().unwrap();
    assert_eq!((other.status.code(), &other.stderr[..]), (Some(2), &b""[..]), "one process says it");
}

#[test]
fn configurations_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("misspelt.toml"), "epochs = 2\nlamda = 1e-3\n").unwrap();
    fs::write(folder.path().join("broken.toml"), "epochs = 2\nlambda = \n").unwrap();
    let train = |arguments: &[&str]| sr2(folder.path(), &[&["train", "--data", DATA], arguments].concat());
    refuse(train(&["--config", "misspelt.toml"]), 2, &["misspelt.toml", "\"lamda\"", "did you mean \"lambda\"?"]);
    refuse(train(&["--config", "broken.toml"]), 2, &["broken.toml:2"]);
    refuse(train(&["--config", "absent.toml"]), 4, &["absent.toml", "No such file"]);
    refuse(train(&["--network", "resnet21"]), 2, &["\"resnet21\"", "did you mean \"resnet20\"?"]);
    refuse(train(&["--batch-size", "0"]), 2, &["batch_size is 0, expected"]);
    refuse(train(&["--lambda", "NaN"]), 2, &["lambda is NaN, expected"]);
    refuse(train(&["--lambda=-1"]), 2, &["lambda is -1, expected"]);
    refuse(train(&["--sparsity", "1"]), 2, &["sparsity is 1, expected"]);
    refuse(train(&["--sparsity", "NaN"]), 2, &["sparsity is NaN, expected"]);
    refuse(
        train(&["--penalty", "l1/2", "--group", "kernel"]),
        2,
        &["group is set with penalty l1/2, expected l0 or l1"],
    );
    refuse(train(&["--box=0.1,1"]), 2, &["box is [0.1, 1], expected an interval around 0"]);
    let layers =
        ["keep is \"layer9.*\", expected a layer's name", "conv1.weight, layer1.0.conv1.weight, ", "fc.weight"];
    refuse(train(&["--keep", "layer9.*"]), 2, &layers);
    refuse(train(&["--scale", "layer9.*=2"]), 2, &["scale is \"layer9.*\", expected a layer's name"]);
    refuse(train(&["--scale", "fc.weight=-2"]), 2, &["scale is -2 for \"fc.weight\", expected a number above 0"]);
    refuse(train(&["--name", "a/b"]), 2, &["name is \"a/b\", expected"]);
    refuse(train(&["--device", "cuda"]), 2, &["device is cuda", "feature `cuda`"]);
    let mut tier = train(&["--network", "resnet8"]);
    tier.env("SR2_ISA", "avx1024");
    refuse(tier, 2, &["\"avx1024\"", "scalar"]);
    assert!(!folder.path().join("runs").exists(), "no run folder is made for what cannot be trained");
}

#[test]
fn a_diverging_run_stops_at_once_and_keeps_its_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("wild.toml"), "method = \"sgd\"\nsigma_floor = 0.001\nnetwork = \"resnet8\"\n")
        .unwrap();
    let few = few_images();
    let data = few.to_str().unwrap();
    let arguments = ["train", "--config", "wild.toml", "--data", data, "--batch-size", "16", "--epochs", "50"];
    refuse(sr2(folder.path(), &arguments), 5, &["training diverged: ", " is ", " at step", "the last checkpoint is"]);
}

#[cfg(unix)]
#[test]
fn arguments_that_are_not_text() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"r\xff");
    let with = |arguments: &[&str]| {
        let mut command = sr2(folder.path(), arguments);
        command.arg(odd);
        command
    };
    refuse(with(&["train", "--data", DATA, "--runs"]), 2, &["runs is r", "a path in UTF-8"]);
    refuse(with(&["train", "--resume"]), 2, &["resume is r", "a path in UTF-8"]);
    assert_eq!(with(&[]).output().unwrap().status.code(), Some(2));
    refuse(with(&["infer", "--model"]), 4, &["r", "No such file"]);
}

#[test]
fn no_images_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    refuse(at_home(folder.path(), &["train"]), 4, &["cache/sr2-prune/data/cifar10", "data fetch cifar10", "--data"]);
    let mut variable = at_home(folder.path(), &["train", "--dataset", "cifar100"]);
    variable.env("SR2_DATA", "empty");
    refuse(variable, 4, &["empty: ", "no such folder", "data fetch cifar100"]);
    refuse(at_home(folder.path(), &["data", "check", "cifar10"]), 4, &["data fetch cifar10"]);
    refuse(
        at_home(folder.path(), &["data", "check", "cifar10", "--data", "."]),
        4,
        &["no train.parquet", "data fetch"],
    );
    assert!(!folder.path().join("runs").exists());
}

#[test]
fn a_server_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let url = "http://127.0.0.1:1/cifar-10-binary.tar.gz";
    let fetch = at_home(folder.path(), &["data", "fetch", "cifar10", "--from", url]);
    refuse(fetch, 4, &[url, "cannot download", "refused"]);
}

#[test]
fn nothing_trained_or_exported_yet() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["export", "bench", "infer"] {
        refuse(sr2(folder.path(), &[command]), 2, &["runs: ", "no run with a checkpoint", "train one"]);
    }
    fs::create_dir_all(folder.path().join("runs/r")).unwrap();
    refuse(sr2(folder.path(), &["export", "runs/r"]), 2, &["runs/r: ", "no checkpoint"]);
    let checkpoint = sr2_models::checkpoint::list(short_run()).unwrap().pop().unwrap().1;
    fs::copy(checkpoint, folder.path().join("runs/r/checkpoint-1.safetensors")).unwrap();
    for command in ["bench", "infer"] {
        refuse(sr2(folder.path(), &[command]), 2, &["runs/r/export", "sr2-prune export"]);
    }
}

#[test]
fn models_that_are_not_there_or_no_models() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("notes.txt"), "").unwrap();
    for model in ["absent.onnx", "absent.csr.safetensors", "absent"] {
        refuse(sr2(folder.path(), &["infer", "--model", model, "--data", DATA]), 4, &[model, "No such file"]);
        refuse(sr2(folder.path(), &["bench", model]), 4, &[model, "No such file"]);
        refuse(sr2(folder.path(), &["export", model]), 4, &[model, "No such file"]);
    }
    refuse(sr2(folder.path(), &["bench", "notes.txt"]), 3, &["notes.txt", "expected an export folder"]);
}

#[test]
fn options_out_of_range() {
    let model = short_run().join("export");
    let model = model.to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bench = |arguments: &[&str]| sr2(folder.path(), &[&["bench", model], arguments].concat());
    refuse(bench(&["--batch", "0"]), 2, &["batch is 0, expected 1"]);
    refuse(bench(&["--threads", "0"]), 2, &["threads is 0, expected 1"]);
    refuse(bench(&["--seconds=-1"]), 2, &["seconds is -1, expected 0"]);
    refuse(bench(&["--engines", "sparse,sparse"]), 2, &["sparse is named twice"]);
    refuse(bench(&["--ort", "absent.so"]), 2, &["absent.so", "no ONNX Runtime library here", "expected"]);
    let infer =
        |arguments: &[&str]| sr2(folder.path(), &[&["infer", "--model", model, "--data", DATA], arguments].concat());
    refuse(infer(&["--batch", "0"]), 2, &["batch is 0, expected 1"]);
    refuse(infer(&["--threads", "0"]), 2, &["threads is 0, expected 1"]);
    for mut command in [bench(&[]), infer(&[])] {
        command.env("SR2_ISA", "avx1024");
        refuse(command, 2, &["\"avx1024\"", "expected one of scalar, avx2, avx512"]);
    }
}

#[test]
fn onnx_forms_that_the_target_does_not_load() {
    let folder = tempfile::tempdir().unwrap();
    let export = |arguments: &[&str]| sr2(folder.path(), &[&["export"], arguments].concat());
    let target = export(&["--onnx", "gap,sparse-init", "--target", "opencv"]);
    refuse(target, 2, &["opencv does not load", "sparse-init", "it loads dense, scatter, gap"]);
    refuse(export(&["--onnx", "gap,gap"]), 2, &["gap is named twice"]);
}

#[test]
fn without_onnx_runtime_the_other_engines_run() {
    let model = short_run().join("export");
    let folder = tempfile::tempdir().unwrap();
    let mut bench = at_home(folder.path(), &["bench", model.to_str().unwrap(), "--seconds", "0.1", "--format", "json"]);
    bench.env_remove("ORT_DYLIB_PATH").env_remove("VIRTUAL_ENV").env_remove("CONDA_PREFIX").env("PATH", "");
    let output = bench.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    if report["onnx_runtime"].is_object() {
        eprintln!("SKIP: ONNX Runtime is installed in the system's libraries");
        return;
    }
    let engines: Vec<_> = report["results"].as_array().unwrap().iter().map(|r| r["engine"].as_str()).collect();
    assert_eq!(engines, [Some("sparse"), Some("dense")]);
    assert_eq!(report["unavailable"][0]["engine"], "ort");
    assert!(stderr.starts_with("ort: ") && stderr.contains("pip install onnxruntime"), "{stderr}");
}

#[test]
fn a_finished_run_and_a_name_that_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let run = short_run();
    refuse(sr2(folder.path(), &["train", "--resume", run.to_str().unwrap()]), 2, &["this run is finished"]);
    succeed(short_training(folder.path(), "r", 1));
    refuse(short_training(folder.path(), "r", 1), 2, &["runs/r: this run exists", "--resume", "--name"]);
    refuse(sr2(folder.path(), &["train", "--resume", "runs/none"]), 4, &["runs/none/config.toml", "No such file"]);
}

#[test]
fn too_few_images_to_hold_some_out() {
    let folder = tempfile::tempdir().unwrap();
    let images = test_images();
    for (name, count) in [("data_batch_1.bin", 9), ("test_batch.bin", 5)] {
        write_binary(&folder.path().join(name), &images, count);
    }
    let train = sr2(folder.path(), &["train", "--data", ".", "--batch-size", "4", "--epochs", "1"]);
    refuse(train, 3, &["9 training images, expected at least 10", "data check"]);
    assert!(!folder.path().join("runs").exists());
}

#[test]
fn a_good_folder_of_images_passes_the_check() {
    let folder = tempfile::tempdir().unwrap();
    for (data, images) in [(DATA, 2000), (few_images().to_str().unwrap(), 150)] {
        let check = ["data", "check", "cifar10", "--data", data, "--format", "json"];
        let report = json(sr2(folder.path(), &check));
        assert_eq!(report["problems"].as_array().map(Vec::len), Some(0), "{report}");
        assert_eq!(report["parts"][0]["images"], images, "{report}");
    }
}

/// What would be left out of account is said instead.
#[test]
fn options_that_nothing_would_use() {
    let folder = tempfile::tempdir().unwrap();
    let model = short_run().join("export/model.srz");
    let model = model.to_str().unwrap();
    let unused = "is for the images of --data DIR";
    for more in [&[][..], &["--explain"], &["--break-even"]] {
        let bench = |option: &[&str]| sr2(folder.path(), &[&["bench", model], option, more].concat());
        refuse(bench(&["--limit", "5"]), 2, &["--limit", unused]);
        refuse(bench(&["--dataset", "cifar10"]), 2, &["--dataset", unused]);
    }
    refuse(sr2(folder.path(), &["verify", model, model, "--limit", "5"]), 2, &["--limit", unused]);
    refuse(sr2(folder.path(), &["export", "--data", DATA]), 2, &["--data is for the accuracy that --values costs"]);
    let convert = |arguments: &[&str]| sr2(folder.path(), &[&["convert", model], arguments].concat());
    refuse(convert(&["a.srz", "--onnx", "scatter"]), 2, &["a.srz: --onnx scatter is for .onnx files"]);
    refuse(convert(&["a.srz", "--values", "bf16"]), 2, &["a.srz: --values: expected f32"]);
    refuse(convert(&["out.v1"]), 2, &["out.v1: expected .safetensors"]);
    refuse(convert(&["."]), 2, &[".: expected .safetensors"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    refuse(convert(&["none/a.srz"]), 4, &["none/a.srz: cannot write: No such file or directory (os error 2)"]);
}

#[test]
fn the_file_of_a_sweep_is_not_a_runs() {
    let folder = tempfile::tempdir().unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/configs/paper-densenet121.toml");
    let train = sr2(folder.path(), &["train", "--config", file]);
    refuse(train, 2, &["this is a sweep's file", "sr2-prune sweep", "paper-densenet121.toml"]);
}

/// A run that was stopped is exported with a word about it, and by default only where no run has finished.
#[test]
fn an_unfinished_run_is_said_to_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, finished: bool| {
        let to = folder.path().join("runs").join(name);
        fs::create_dir_all(&to).unwrap();
        let (step, from) = sr2_models::checkpoint::list(short_run()).unwrap().pop().unwrap();
        let mut checkpoint = sr2_models::checkpoint::read(from).unwrap();
        if finished {
            fs::copy(short_run().join("summary.json"), to.join("summary.json")).unwrap();
        } else {
            checkpoint.provenance.training.retain(|name, _| !name.ends_with("_accuracy"));
        }
        sr2_models::checkpoint::write(to.join(sr2_models::checkpoint::file_name(step)), &checkpoint).unwrap();
    };
    let export = || {
        let output = sr2(folder.path(), &["export", "--format", "json"]).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(report["unfinished"], stderr.contains("the run had not finished"), "{stderr}");
        let folder = folder.path().join(report["folder"].as_str().unwrap());
        let card = fs::read_to_string(folder.join("README.md")).unwrap();
        assert_eq!(report["unfinished"], card.contains("| finished | no: the run had not finished"), "{card}");
        report["checkpoint"].as_str().unwrap().split('/').nth(1).unwrap().to_string()
    };
    run("stopped", false);
    assert_eq!(export(), "stopped");
    run("done", true);
    run("later", false);
    assert_eq!(export(), "done");
}

#[cfg(target_os = "linux")]
mod streams {
    use std::fs::File;
    use std::process::Stdio;

    use super::*;

    /// Every way in which results are printed, with a short one for each.
    fn commands() -> Vec<Vec<&'static str>> {
        let run: &str = short_run().to_str().unwrap();
        let model: &str = Box::leak(format!("{run}/export/model.srz").into_boxed_str());
        vec![
            vec!["inspect", model],
            vec!["infer", "--model", model, "--plan"],
            vec!["report", run],
            vec!["completions", "bash"],
        ]
    }

    #[test]
    fn a_full_disk_under_stdout_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        for command in commands() {
            let mut program = sr2(folder.path(), &command);
            program.stdout(File::options().write(true).open("/dev/full").unwrap());
            refuse_with_stdout(program, 4, &["cannot write to stdout: No space left"]);
        }
    }

    fn refuse_with_stdout(mut command: Command, code: i32, parts: &[&str]) {
        let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        crate::program::refused(&output, code, parts);
    }

    /// A pipe whose reader is gone.
    fn closed() -> Stdio {
        std::io::pipe().unwrap().1.into()
    }

    #[test]
    fn nobody_who_reads_is_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        for command in commands() {
            let mut program = sr2(folder.path(), &command);
            let status = program.stdout(closed()).stderr(closed()).status().unwrap();
            assert_eq!(status.code(), Some(0), "{command:?}");
        }
        let status = sr2(folder.path(), &["export", "absent"]).stderr(closed()).status().unwrap();
        assert_eq!(status.code(), Some(4));
    }
}

/// JSON has no place for other bytes; the files are written all the same.
#[cfg(target_os = "linux")]
#[test]
fn json_of_a_path_that_is_not_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let mut export = sr2(folder.path(), &["export", short_run().to_str().unwrap(), "--format", "json", "--out"]);
    export.arg(OsStr::from_bytes(b"r\xff"));
    assert_eq!(json(export)["folder"], "r\u{fffd}");
}
