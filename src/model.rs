//! What a command that runs a network needs: which model by default, and images to run it on.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use sr2_infer::Engine;
use sr2_train::data::{self, Cifar, Dataset, DatasetKind, EvaluationBatches};

use crate::exit::Usage;

/// The model given, or the export of the newest finished run.
pub fn locate(model: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(model) = model {
        return Ok(model.into());
    }
    let export = sr2_export::newest_run("runs".as_ref())?.join("export");
    if !export.is_dir() {
        let problem =
            format!("{}: the newest run has no export; run `sr2-prune export`, or name a model", export.display());
        bail!(Usage(problem));
    }
    Ok(export)
}

/// Refuses a network that does not take the images of the datasets.
pub fn check_input(path: &Path, shape: &[usize]) -> anyhow::Result<()> {
    const EXPECTED: [usize; 3] = [3, 32, 32];
    if shape != EXPECTED {
        let problem = format!("takes images of shape {shape:?}, but those of the datasets have {EXPECTED:?}");
        bail!(sr2_formats::Error::unsupported(path, problem));
    }
    Ok(())
}

/// Threads to run a model on.
#[derive(Debug, Args)]
pub struct Threads {
    /// Threads of each engine
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Keep each thread but the first on a CPU of its own, in the sparse engine (Linux)
    #[arg(long)]
    pub pin: bool,
    /// Let a thread that waits for others sleep at once, in the sparse engine: for machines with other work to do
    #[arg(long)]
    pub no_spin: bool,
}

/// Images to run a model on.
#[derive(Debug, Args)]
pub struct TestImages {
    /// Folder of the dataset, whose test images are used
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Which dataset [default: the one with as many classes as the model]
    #[arg(long)]
    dataset: Option<DatasetKind>,
    /// Use the first N images only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

impl TestImages {
    /// Refuses options about a dataset where none is read; `named` images have the classes of a dataset.
    pub fn check_used(&self, named: bool) -> Result<(), Usage> {
        let unused = [("--limit", self.limit.is_some()), ("--dataset", self.dataset.is_some() && !named)];
        match unused.into_iter().find(|(_, given)| *given && self.data.is_none()) {
            Some((option, _)) => Err(Usage(format!("{option} is for the images of --data DIR, which is not given"))),
            None => Ok(()),
        }
    }

    /// The dataset asked for, or the one with this many classes.
    pub fn kind(&self, classes: usize) -> anyhow::Result<DatasetKind> {
        let fitting = DatasetKind::ALL.into_iter().find(|kind| kind.classes() == classes);
        let unknown = || Usage(format!("no known dataset has the model's {classes} classes; name one with --dataset"));
        Ok(self.dataset.or(fitting).ok_or_else(unknown)?)
    }

    /// Reads the test images; without `--data`, from `$SR2_DATA` or the cache.
    pub fn load(&self, classes: usize) -> anyhow::Result<Dataset> {
        let kind = self.kind(classes)?;
        let folder = data::locate(kind, self.data.as_deref())?;
        let all = Cifar::open(&folder, kind)?.load_test()?;
        let limit = self.limit.map_or(all.len(), |n| all.len().min(n as usize));
        Ok(all.select(&(0..limit).collect::<Vec<_>>()))
    }
}

/// The training images of the dataset with this many classes that training holds out for validation.
pub fn validation_images(data: Option<&Path>, classes: usize) -> anyhow::Result<Dataset> {
    let fitting = DatasetKind::ALL.into_iter().find(|kind| kind.classes() == classes);
    let kind = fitting.ok_or_else(|| Usage(format!("no known dataset has the model's {classes} classes")))?;
    let all = Cifar::open(&data::locate(kind, data)?, kind)?.load_train()?;
    Ok(data::split(&all, data::holdout_size(all.len()), data::SPLIT_SEED).1)
}

/// Fraction of images whose largest output is that of their label. `images` and `labels` as [`normalised`] gives them.
pub fn accuracy(engine: &Engine, images: &[f32], labels: &[usize]) -> anyhow::Result<f64> {
    let classes = engine.output_shape().iter().product();
    let mut logits = vec![0.0; labels.len() * classes];
    engine.run(images, &mut logits, &mut engine.scratch()?)?;
    let right = logits.chunks(classes).zip(labels).filter(|(logits, label)| largest(logits) == **label);
    Ok(right.count() as f64 / labels.len().max(1) as f64)
}

/// Index of the largest output, the first of equal ones.
pub fn largest(logits: &[f32]) -> usize {
    (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).expect("a network has outputs")
}

/// Images and labels of a whole dataset, normalised as in training.
pub fn normalised(dataset: &Dataset) -> (Vec<f32>, Vec<usize>) {
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for batch in EvaluationBatches::new(dataset, 1024) {
        images.extend(batch.images);
        labels.extend(batch.labels.iter().map(|label| *label as usize));
    }
    (images, labels)
}
