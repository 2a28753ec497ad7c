//! `sr2-prune infer`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::bail;
use clap::Args;
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use serde::Serialize;
use sr2_infer::{Engine, Model, Options, Tuning};
use sr2_train::data::{self, Dataset};

use crate::Format;
use crate::model::{self, TestImages, Threads};
use crate::output::print;

/// Classify images with the sparse engine: files of your own, or the test images of a dataset with the accuracy
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sr2-prune infer --data examples/data                    the export of the newest finished run, on the test images
  sr2-prune infer --model runs/resnet20-1/export cat.png dog.jpg
  sr2-prune infer --model model.onnx --plan               each layer's kernels and sparsity")]
pub struct Arguments {
    /// PNG or JPEG files of 32x32 pixels; without any, the test images of a dataset
    #[arg(conflicts_with_all = ["data", "limit"])]
    images: Vec<PathBuf>,
    /// An export folder, a .onnx, .csr.safetensors or .srz file, or a checkpoint [default: the export of the newest
    /// finished run]
    #[arg(long)]
    model: Option<PathBuf>,
    #[command(flatten)]
    test: TestImages,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch: usize,
    #[command(flatten)]
    threads: Threads,
    /// Use a plan that `bench --tune` saved for this batch and these threads
    #[arg(long, value_name = "FILE")]
    tuned: Option<PathBuf>,
    /// Print how each layer is computed, and run nothing
    #[arg(long, conflicts_with_all = ["images", "format", "data", "dataset", "limit"])]
    plan: bool,
    /// How to print the answers
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Serialize)]
struct Report {
    network: String,
    images_per_s: f64,
    /// Fraction of right answers, where the classes are known.
    accuracy: Option<f64>,
    predictions: Vec<Prediction>,
}

#[derive(Debug, Serialize)]
struct Prediction {
    /// The file, or the image's index in the test set.
    image: String,
    class: usize,
    name: &'static str,
    /// Softmax of the logits at the class.
    probability: f32,
    /// The image's true class, where it is known.
    label: Option<usize>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = model::locate(arguments.model.as_deref())?;
    let Threads { threads, pin, no_spin } = arguments.threads;
    let options = Options { threads, spin: !no_spin, pin, batch: arguments.batch, ..Options::default() };
    let model = Model::load(&path)?;
    let engine = match &arguments.tuned {
        Some(file) => model.plan_tuned(&options, &Tuning::load(file)?)?,
        None => model.plan(&options)?,
    };
    if arguments.plan {
        return Ok(print(engine.plan().to_string())?);
    }
    model::check_input(&path, engine.input_shape())?;
    let classes = engine.output_shape().iter().product();
    let own = !arguments.images.is_empty();
    let dataset = match own {
        true => data::read_images(arguments.test.kind(classes)?, &arguments.images)?,
        false => arguments.test.load(classes)?,
    };
    let report = classify(&path, &engine, arguments.batch, &dataset, own.then_some(&arguments.images))?;
    arguments.format.print(&report)
}

fn classify(
    path: &Path,
    engine: &Engine,
    batch: usize,
    dataset: &Dataset,
    files: Option<&Vec<PathBuf>>,
) -> anyhow::Result<Report> {
    let (images, labels) = model::normalised(dataset);
    let (size, classes) = (images.len() / dataset.len(), engine.output_shape().iter().product());
    let mut logits = vec![0.0; dataset.len() * classes];
    let mut scratch = engine.scratch()?;
    let start = Instant::now();
    for (images, logits) in images.chunks(batch * size).zip(logits.chunks_mut(batch * classes)) {
        engine.run(images, logits, &mut scratch)?;
    }
    let images_per_s = dataset.len() as f64 / start.elapsed().as_secs_f64();
    if let Some(at) = logits.iter().position(|logit| !logit.is_finite()) {
        let problem = format!("answers {} for image {}, expected finite logits", logits[at], at / classes);
        bail!(sr2_formats::Error::malformed(path, problem));
    }

    let names = dataset.kind().class_names();
    let predictions = logits.chunks(classes).enumerate().map(|(index, logits)| {
        let class = model::largest(logits);
        let total: f32 = logits.iter().map(|l| (l - logits[class]).exp()).sum();
        Prediction {
            image: files.map_or(index.to_string(), |files| files[index].display().to_string()),
            class,
            name: names.get(class).copied().unwrap_or_default(),
            probability: 1.0 / total,
            label: files.is_none().then(|| labels[index]),
        }
    });
    let predictions: Vec<Prediction> = predictions.collect();
    let right = predictions.iter().filter(|p| p.label == Some(p.class)).count();
    let accuracy = files.is_none().then(|| right as f64 / predictions.len() as f64);
    Ok(Report { network: engine.name().into(), images_per_s, accuracy, predictions })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN);
        let percent = |fraction: f64| format!("{:.2} %", 100.0 * fraction);
        let Some(accuracy) = self.accuracy else {
            table.set_header(["image", "class", "probability"]);
            for p in &self.predictions {
                table.add_row([p.image.as_str(), p.name, &percent(p.probability.into())]);
            }
            return write!(f, "{table}");
        };
        table.set_header(["network", "images", "accuracy", "images/s"]);
        let images = self.predictions.len().to_string();
        let network = self.network.escape_debug().to_string();
        table.add_row([network.as_str(), &images, &percent(accuracy), &format!("{:.0}", self.images_per_s)]);
        write!(f, "{table}")
    }
}
