//! `sr2-prune export`.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use sr2_export::{ExportOptions, ExportReport, OnnxForm, OnnxReader, Passes};
use sr2_formats::srz::Values;
use sr2_infer::{Model, Options};

use crate::exit::Usage;
use crate::output::say;
use crate::{Format, model};

/// Write a trained network as dense and CSR safetensors, as .srz and as ONNX, and check each file
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sr2-prune export                                  the newest finished run in runs/
  sr2-prune export runs/resnet20-1 --out shipped
  sr2-prune export runs/resnet20-1/best.safetensors
  sr2-prune export --target openvino                the smallest ONNX file that OpenVINO loads without loss of speed
  sr2-prune export --onnx dense,scatter,gap         three ONNX files, to compare
  sr2-prune export --remove-dead-channels           smaller dense, too, where whole filters are zero
  sr2-prune export --values int8                    a smaller model.srz, and what it costs in accuracy")]
pub struct Arguments {
    /// A checkpoint or a run folder [default: the newest finished run, or the newest if none is finished]
    source: Option<PathBuf>,
    /// The folder of runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// The folder to write; an older export there is replaced [default: `export` beside the checkpoint]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How the ONNX file stores weights; further forms are further files [default: dense, or what --target needs]
    ///
    /// dense: 4 bytes a weight. scatter: 5 to 8 bytes a non-zero, put in place by ConstantOfShape and ScatterElements.
    /// gap: 5 bytes a non-zero, by CumSum too. sparse-init and sparse-const: ONNX's own sparse tensors, 5 to 8 bytes a
    /// non-zero, which few tools load.
    #[arg(long, value_name = "FORM", value_delimiter = ',')]
    onnx: Vec<OnnxForm>,
    /// The tool that is to load the ONNX file: ort, openvino, tract, rten, opencv, onnx (the reference) or any of them;
    /// picks the smallest form, or checks the one named
    #[arg(long, value_name = "TOOL")]
    target: Option<OnnxReader>,
    /// Leave batch norms as trained in the CSR and ONNX files, e.g. to train on
    #[arg(long)]
    no_fold: bool,
    /// Leave out of the CSR and ONNX files what structured zeros make superfluous, so that they are smaller and faster
    /// dense too: filters without non-zeros, filters that nothing reads, residual branches that add a constant
    #[arg(long)]
    remove_dead_channels: bool,
    /// Values in model.srz: f32, f16, int8 to int2 (a power-of-two step for each output channel) or palette (16 magnitudes a
    /// tensor); all but f32 are rounded, and the accuracy on the validation images is printed before and after
    #[arg(long, default_value = "f32")]
    values: Values,
    /// Folder of the dataset for that [default: $SR2_DATA, then the cache]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How to print the report
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Images the engine takes at a time.
const BATCH: usize = 64;

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    export: ExportReport,
    /// Accuracy on the validation images, where the values of `model.srz` are rounded and the images are there.
    validation: Option<Rounding>,
}

#[derive(Debug, Serialize)]
struct Rounding {
    images: usize,
    exact_accuracy: f64,
    rounded_accuracy: f64,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { source, runs, out, onnx, target, no_fold, remove_dead_channels, values, data, format } = arguments;
    if data.is_some() && *values == Values::F32 {
        return Err(Usage("--data is for the accuracy that --values costs, and f32 costs none".into()).into());
    }
    let onnx = OnnxForm::choose(onnx, *target).map_err(|e| Usage(e.to_string()))?;
    let passes = Passes { fold_batch_norm: !no_fold, remove_dead_channels: *remove_dead_channels };
    let (source, runs, out) = (source.clone(), runs.clone(), out.clone());
    let options = ExportOptions { source, runs, out, onnx, passes, values: *values };
    let export = sr2_export::export(&options)?;
    if export.unfinished {
        let (checkpoint, reason) = (export.checkpoint.display(), sr2_export::UNFINISHED);
        say(format!("{checkpoint}: {reason}; go on with it by `sr2-prune train --resume`"));
    }
    let validation = match (values, data) {
        (Values::F32, _) => None,
        (_, Some(data)) => Some(rounding(&export.folder, Some(data))?),
        (_, None) => match rounding(&export.folder, None) {
            Ok(rounding) => Some(rounding),
            Err(error) => {
                say(format!(
                    "the accuracy that {values} costs was not measured; name the images with --data: {error:#}"
                ));
                None
            }
        },
    };
    format.print(&Report { export, validation })
}

/// Accuracy with exact and with rounded values.
fn rounding(folder: &Path, data: Option<&Path>) -> anyhow::Result<Rounding> {
    let options = Options { batch: BATCH, ..Options::default() };
    let exact = Model::load(folder.join("model.csr.safetensors"))?.plan(&options)?;
    let rounded = Model::load(folder.join("model.srz"))?.plan(&options)?;
    let dataset = model::validation_images(data, exact.output_shape().iter().product())?;
    let (images, labels) = model::normalised(&dataset);
    Ok(Rounding {
        images: labels.len(),
        exact_accuracy: model::accuracy(&exact, &images, &labels)?,
        rounded_accuracy: model::accuracy(&rounded, &images, &labels)?,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.export)?;
        let Some(Rounding { images, exact_accuracy, rounded_accuracy }) = self.validation else { return Ok(()) };
        let points = 100.0 * (exact_accuracy - rounded_accuracy);
        let (exact, rounded, values) = (100.0 * exact_accuracy, 100.0 * rounded_accuracy, &self.export.values);
        write!(
            f,
            "\naccuracy on {images} validation images: f32 {exact:.2} %, {values} {rounded:.2} %, {points:+.2} lost"
        )
    }
}
