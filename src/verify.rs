//! `sr2-prune verify`.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use sr2_bench::{AGREEMENT, Places, VerifyOptions};
use sr2_infer::{Isa, Model};
use sr2_train::data;

use crate::exit::Usage;
use crate::model::{self, TestImages};
use crate::{Format, cache};

/// Run two files on the same images and compare their outputs; exit code 1 if they differ
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sr2-prune verify runs/r/best.safetensors runs/r/export/model.csr.safetensors
  sr2-prune verify model.csr.safetensors model.onnx --with ort --data examples/data
  sr2-prune verify model.onnx smaller.onnx --images cat.png dog.png --tolerance 1e-2 --format json")]
pub struct Arguments {
    /// The file that sets the standard: .onnx, .csr.safetensors, .srz or a checkpoint
    expected: PathBuf,
    /// The file to compare with it
    found: PathBuf,
    /// Number of random images, where no others are named
    #[arg(long, value_name = "N", default_value_t = 64, conflicts_with_all = ["images", "data"],
          value_parser = clap::value_parser!(u16).range(1..))]
    random: u16,
    /// PNG or JPEG files of 32x32 pixels
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["data", "limit"])]
    images: Vec<PathBuf>,
    #[command(flatten)]
    test: TestImages,
    /// Run .onnx files in another engine
    #[arg(long, value_name = "ENGINE")]
    with: Option<Other>,
    /// ONNX Runtime's library, or its folder [default: searched for, see `sr2-prune doctor`]
    #[arg(long, value_name = "FILE|DIR", requires = "with")]
    ort: Option<PathBuf>,
    /// Largest difference of an output, relative to the range of the expected outputs
    #[arg(long, value_name = "T", default_value_t = AGREEMENT)]
    tolerance: f32,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// An engine that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Other {
    /// ONNX Runtime
    Ort,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { expected, found, tolerance, .. } = arguments;
    if !(*tolerance >= 0.0 && tolerance.is_finite()) {
        bail!(Usage(format!("tolerance is {tolerance}, expected 0 or more")));
    }
    arguments.test.check_used(!arguments.images.is_empty())?;
    let options = VerifyOptions {
        expected: expected.clone(),
        found: found.clone(),
        images: images(arguments)?,
        random: arguments.random.into(),
        onnx_runtime: arguments.with == Some(Other::Ort),
        tolerance: *tolerance,
        isa: Isa::from_env().map_err(sr2_infer::Error::from)?,
        places: Places::of_process(arguments.ort.clone(), cache::folder()),
    };
    let verification = sr2_bench::verify(&options)?;
    arguments.format.print(&verification)?;
    if !verification.agree {
        let difference = verification.max_difference;
        let [expected, found] = [expected, found].map(|path| path.display());
        bail!("{found} differs from {expected} by {difference:.1e} of the outputs' range, allowed is {tolerance:.1e}");
    }
    Ok(())
}

/// The images named, if any, normalised as in training.
fn images(arguments: &Arguments) -> anyhow::Result<Option<Vec<f32>>> {
    if arguments.images.is_empty() && arguments.test.data.is_none() {
        return Ok(None);
    }
    let classes = Model::load(&arguments.expected)?.output_shape().iter().product();
    let dataset = match arguments.test.data {
        None => data::read_images(arguments.test.kind(classes)?, &arguments.images)?,
        Some(_) => arguments.test.load(classes)?,
    };
    Ok(Some(model::normalised(&dataset).0))
}
