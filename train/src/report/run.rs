//! The page of a run.

use std::path::Path;

use sr2_formats::Error;

use super::chart::{Axis, Chart, Series};
use super::html;
use super::svg::{escaped, inline};
use super::title;
use crate::metrics::{EpochRecord, LayerSparsity, Record, StepRecord, read_records};
use crate::summary::Summary;

/// The page of the run in `folder`, finished or not: curves of its metrics, sparsity by layer, settings.
///
/// # Errors
/// A file of the run that cannot be read.
pub fn run_page(folder: &Path) -> Result<String, Error> {
    let summary = folder.join("summary.json").exists().then(|| Summary::read(folder)).transpose()?;
    let path = folder.join("config.toml");
    let settings = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "read", e))?;
    let (mut steps, mut epochs) = (Vec::new(), Vec::new());
    for record in read_records(folder)? {
        match record {
            Record::Step(step) => steps.push(step),
            Record::Epoch(epoch) => epochs.push(epoch),
        }
    }
    let mut body = String::new();
    match &summary {
        Some(summary) => body += &html::cards(&headline(summary)),
        None => body += "<p>This run is not finished.</p>\n",
    }
    body += &html::charts(&curves(&steps, &epochs));
    if let Some(summary) = &summary {
        body += "<h2>Sparsity by layer</h2>\n";
        body += &html::table(&["layer", "weights", "left", "zeros", ""], 1, &layers(&summary.layers));
    }
    body += &format!("<h2>Settings</h2>\n<pre>{}</pre>\n", escaped(settings.trim_end()));
    Ok(html::page(&title(folder), &body))
}

fn percent(fraction: f64) -> String {
    format!("{:.2} %", 100.0 * fraction)
}

fn headline(summary: &Summary) -> [(String, &'static str); 6] {
    let left: usize = summary.layers.iter().map(|layer| layer.nonzero).sum();
    let passes = summary.passes;
    [
        (percent(summary.sparsity), "exact zeros"),
        (left.to_string(), "weights left"),
        (percent(summary.validation_accuracy), "validation accuracy"),
        (percent(summary.test_accuracy), "test accuracy"),
        (format!("{} + {}", passes.forward, passes.backward), "forward + backward passes"),
        (format!("{:.0} s", summary.seconds), "of training"),
    ]
}

fn curves(steps: &[StepRecord], epochs: &[EpochRecord]) -> Vec<String> {
    let by_step = |name: &str, value: fn(&StepRecord) -> f64| {
        Series::line(name, steps.iter().map(|step| (step.step as f64, value(step))))
    };
    let by_epoch = |name: &str, value: fn(&EpochRecord) -> f64| {
        let dots = epochs.len() <= 40;
        let line = Series::line(name, epochs.iter().map(|epoch| (epoch.step as f64, value(epoch))));
        Series { dots, ..line }
    };
    // A run of few steps logs none of them.
    let fine = |name: &str, step: fn(&StepRecord) -> f64, epoch: fn(&EpochRecord) -> f64| {
        if steps.is_empty() { by_epoch(name, epoch) } else { by_step(name, step) }
    };
    let batch = Series { thin: true, ..by_step("batch", |s| s.loss) };
    let rho = Series::line("rho", steps.iter().filter_map(|s| Some((s.step as f64, s.rho?))));
    let charts = [
        (
            "Loss",
            Axis::linear("cross-entropy, nats"),
            vec![
                by_epoch("training, mean of an epoch", |e| e.loss),
                by_epoch("validation", |e| e.validation_loss),
                batch,
            ],
        ),
        (
            "Accuracy",
            Axis::linear("%"),
            vec![
                by_epoch("training, augmented", |e| 100.0 * e.train_accuracy),
                by_epoch("validation", |e| 100.0 * e.validation_accuracy),
            ],
        ),
        (
            "Sparsity",
            Axis::linear("zeros, %"),
            vec![fine("prunable weights", |s| 100.0 * s.sparsity, |e| 100.0 * e.sparsity)],
        ),
        ("Step control", Axis::log("sigma"), vec![fine("sigma", |s| s.sigma, |e| e.sigma)]),
        ("Acceptance", Axis::linear("steps taken, %"), vec![by_epoch("of an epoch", |e| 100.0 * e.acceptance_rate)]),
        (
            "Stationarity",
            Axis::log("sqrt(sigma xi)"),
            vec![by_step("of the model that makes the step", |s| s.stationarity)],
        ),
        ("Penalty", Axis::log("lambda"), vec![by_step("largest of any layer", |s| s.lambda)]),
        ("Test", Axis::linear("actual / predicted decrease"), vec![rho]),
    ];
    let drawn = |(title, y, series): (&str, Axis, Vec<Series>)| {
        let chart = Chart { title: title.into(), x: Axis::linear("step"), y, series };
        (!chart.is_empty()).then(|| inline(&chart.scene()))
    };
    charts.into_iter().filter_map(drawn).collect()
}

fn layers(layers: &[LayerSparsity]) -> Vec<Vec<String>> {
    let row = |layer: &LayerSparsity| {
        let zeros = 1.0 - layer.nonzero as f64 / layer.weights as f64;
        let numbers = [layer.weights.to_string(), layer.nonzero.to_string(), percent(zeros), html::bar(zeros)];
        [vec![escaped(&layer.name)], numbers.into()].concat()
    };
    layers.iter().map(row).collect()
}
