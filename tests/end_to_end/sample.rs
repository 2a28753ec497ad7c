//! Images to run on, and two small runs, each made once for all tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use sr2_train::data::{Cifar, Dataset, DatasetKind};

use crate::program::{json, sr2, succeed};

/// The bundled sample of CIFAR-10.
pub const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data");

/// A fresh folder for what all tests share; the next run of the tests replaces it.
fn shared_folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The sample's test images.
pub fn test_images() -> Dataset {
    Cifar::open(DATA.as_ref(), DatasetKind::Cifar10).unwrap().load_test().unwrap()
}

/// The start of the sample as official binary files: enough to train on in a second.
pub fn few_images() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let folder = shared_folder("few-images");
        let sample = Cifar::open(DATA.as_ref(), DatasetKind::Cifar10).unwrap();
        write_binary(&folder.join("data_batch_1.bin"), &sample.load_train().unwrap(), 150);
        write_binary(&folder.join("test_batch.bin"), &sample.load_test().unwrap(), 50);
        folder
    };
    FOLDER.get_or_init(make)
}

/// Writes the first `count` images in the official layout: a label byte and 3,072 pixel bytes each.
pub fn write_binary(path: &Path, images: &Dataset, count: usize) {
    let record = |i| [&[images.label(i) as u8], images.image(i)].concat();
    fs::write(path, (0..count).flat_map(record).collect::<Vec<u8>>()).unwrap();
}

/// `train` on the few images, so short that only its course matters: `runs/NAME` in `folder`.
pub fn short_training(folder: &Path, name: &str, epochs: usize) -> Command {
    let (data, epochs) = (few_images().to_str().unwrap(), epochs.to_string());
    let arguments = ["train", "--network", "resnet8", "--data", data, "--batch-size", "50"];
    let mut command = sr2(folder, &arguments);
    command.args(["--name", name, "--epochs", &epochs, "--format", "json"]);
    command
}

/// The bytes of the checkpoint that a training in `folder` ends with.
pub fn final_checkpoint(folder: &Path, train: Command) -> Vec<u8> {
    let summary = json(train);
    fs::read(folder.join(summary["checkpoint"].as_str().unwrap())).unwrap()
}

/// A finished and exported run whose course does not matter.
pub fn short_run() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let folder = shared_folder("short-run");
        succeed(short_training(&folder, "r", 1));
        succeed(sr2(&folder, &["export"]));
        folder.join("runs/r")
    };
    RUN.get_or_init(make)
}

/// A run on the whole sample and what its commands printed.
pub struct Pruned {
    /// Where it was made; `runs/` is in it.
    pub folder: PathBuf,
    /// The summary of `train`.
    pub train: Value,
    /// The report of `export`.
    pub export: Value,
}

impl Pruned {
    /// The checkpoint exported.
    pub fn checkpoint(&self) -> PathBuf {
        self.folder.join(self.export["checkpoint"].as_str().unwrap())
    }

    /// The export.
    pub fn exported(&self) -> PathBuf {
        self.folder.join(self.export["folder"].as_str().unwrap())
    }
}

/// A network with most weights zero that has learnt something.
pub fn pruned() -> &'static Pruned {
    static PRUNED: OnceLock<Pruned> = OnceLock::new();
    PRUNED.get_or_init(|| {
        let folder = shared_folder("pruned");
        let train = ["train", "--network", "resnet8", "--data", DATA, "--epochs", "2", "--batch-size", "50"];
        let mut train = sr2(&folder, &train);
        train.args(["--penalty", "l0", "--lambda", "4e-3", "--tensorboard", "--format", "json"]);
        let train = json(train);
        let export = json(sr2(&folder, &["export", "--format", "json"]));
        Pruned { folder, train, export }
    })
}
