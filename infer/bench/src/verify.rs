//! Whether two files hold the same network: both run on the same images.

use std::fmt;
use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use sr2_formats::lossy_path;
use sr2_infer::Isa;

use crate::agreement::{self, largest};
use crate::engine_kind::EngineSpec;
use crate::{BenchError, EngineKind, OnnxRuntime, Places, Runner, bench};

/// Which files to compare, and on what.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// The file that sets the standard: `.onnx`, `.csr.safetensors`, or a checkpoint.
    pub expected: PathBuf,
    /// The file compared with it.
    pub found: PathBuf,
    /// `[count, C, H, W]` flat; without any, `random` images.
    pub images: Option<Vec<f32>>,
    /// Number of random images.
    pub random: usize,
    /// Run `.onnx` files in ONNX Runtime; the engine runs all others.
    pub onnx_runtime: bool,
    /// Largest difference allowed, relative to the range of the expected outputs (zero included).
    pub tolerance: f32,
    /// Instruction-set tier of the engine's kernels.
    pub isa: Isa,
    /// Where to look for ONNX Runtime.
    pub places: Places,
}

/// How far two files' outputs are apart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verification {
    /// The file that sets the standard.
    #[serde(serialize_with = "lossy_path")]
    pub expected: PathBuf,
    /// The engine that ran it.
    pub expected_engine: &'static str,
    /// The file compared with it.
    #[serde(serialize_with = "lossy_path")]
    pub found: PathBuf,
    /// The engine that ran it.
    pub found_engine: &'static str,
    /// Number of images compared.
    pub images: usize,
    /// Whether no output differs by more than `tolerance`.
    pub agree: bool,
    /// Largest difference of an output, relative to the range of all expected outputs (zero included).
    pub max_difference: f32,
    /// The largest such difference allowed.
    pub tolerance: f32,
    /// Fraction of images whose largest output is the same one.
    pub same_class: f64,
    /// The same by output.
    pub outputs: Vec<OutputDifference>,
}

/// One output over all images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OutputDifference {
    /// Index of the output.
    pub output: usize,
    /// Index of the image where the difference is largest.
    pub image: usize,
    /// What is expected there.
    pub expected: f32,
    /// What is found.
    pub found: f32,
    /// Their difference, relative to the range of all expected outputs.
    pub difference: f32,
}

/// Images that an engine takes at a time.
const BATCH: usize = 16;

/// Runs two files on the same images and compares their outputs.
///
/// # Errors
/// A file that cannot be read or run, networks of different shapes, images that do not fit, outputs that are not finite.
pub fn verify(options: &VerifyOptions) -> Result<Verification, BenchError> {
    if options.onnx_runtime && ![&options.expected, &options.found].iter().any(|path| is_onnx(path)) {
        let message = "ONNX Runtime runs .onnx files, and neither file is one; leave out --with ort, or name one";
        return Err(BenchError::Usage(message.into()));
    }
    let (mut expected, mut found) = (open(options, &options.expected)?, open(options, &options.found)?);
    let interface = |runner: &dyn Runner| (runner.input_shape(), runner.outputs());
    let (one, other) = (interface(&*expected), interface(&*found));
    if one != other {
        let [expected, found] = [&options.expected, &options.found].map(|path| path.display());
        return Err(BenchError::Usage(format!(
            "{found}: maps images {:?} to {} outputs, but {expected} maps {:?} to {}; they cannot be compared",
            other.0, other.1, one.0, one.1
        )));
    }
    let (size, outputs) = (one.0.iter().product::<usize>(), one.1);
    let random = || bench::random_images(options.random * size);
    let images = options.images.as_ref().map_or_else(|| random().into(), std::borrow::Cow::from);
    if images.is_empty() || !images.len().is_multiple_of(size) {
        let message = format!("{} values are no images of shape {:?}", images.len(), one.0);
        return Err(BenchError::Usage(message));
    }
    let engines = (expected.name(), found.name());
    let expected = agreement::answers(&mut *expected, &images, BATCH)?;
    let found = agreement::answers(&mut *found, &images, BATCH)?;
    Ok(compare(options, engines, &expected, &found, outputs))
}

fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "onnx")
}

fn open(options: &VerifyOptions, file: &Path) -> Result<Box<dyn Runner>, BenchError> {
    let (kind, library) = match options.onnx_runtime && is_onnx(file) {
        true => (EngineKind::Ort, Some(OnnxRuntime::find(&options.places)?)),
        false => (EngineKind::Sparse, None),
    };
    let (file, isa) = (file.into(), options.isa.name().into());
    EngineSpec { kind, file, batch: BATCH, threads: 1, spin: true, pin: false, isa, library, tuning: None }.open()
}

/// `expected` and `found` are `[images, outputs]` and finite.
fn compare(
    options: &VerifyOptions,
    engines: (&'static str, &'static str),
    expected: &[f32],
    found: &[f32],
    outputs: usize,
) -> Verification {
    let (low, high) = expected.iter().fold((0f32, 0f32), |(low, high), v| (low.min(*v), high.max(*v)));
    let relative = |(a, b): (f32, f32)| match (a - b).abs() {
        0.0 => 0.0,
        difference => difference / (high - low),
    };
    let images = expected.len() / outputs;
    let of_output = |output: usize| {
        let at = |image: usize| (expected[image * outputs + output], found[image * outputs + output]);
        let farthest = (0..images).max_by(|a, b| relative(at(*a)).total_cmp(&relative(at(*b))));
        let image = farthest.expect("there is an image");
        let (expected, found) = at(image);
        OutputDifference { output, image, expected, found, difference: relative((expected, found)) }
    };
    let differences: Vec<OutputDifference> = (0..outputs).map(of_output).collect();
    let max_difference = differences.iter().fold(0f32, |max, d| max.max(d.difference));
    let pairs = expected.chunks(outputs).zip(found.chunks(outputs));
    let same = pairs.filter(|(a, b)| largest(a) == largest(b)).count();
    Verification {
        expected: options.expected.clone(),
        expected_engine: engines.0,
        found: options.found.clone(),
        found_engine: engines.1,
        images,
        agree: max_difference <= options.tolerance,
        max_difference,
        tolerance: options.tolerance,
        same_class: same as f64 / images as f64,
        outputs: differences,
    }
}

/// Outputs that the table lists, those that differ most.
const LISTED: usize = 10;

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        let header = ["output", "image", "expected", "found", "difference"];
        table.load_style(presets::ASCII_MARKDOWN).set_header(header);
        let mut worst = self.outputs.clone();
        worst.sort_by(|a, b| b.difference.total_cmp(&a.difference));
        for row in worst.iter().take(LISTED) {
            let OutputDifference { output, image, expected, found, difference } = row;
            let (expected, found) = (format!("{expected:.6}"), format!("{found:.6}"));
            table.add_row([output.to_string(), image.to_string(), expected, found, format!("{difference:.1e}")]);
        }
        table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        let Self { expected_engine, found_engine, images, max_difference, tolerance, .. } = self;
        writeln!(f, "expected: {} ({expected_engine})", self.expected.display())?;
        writeln!(f, "found:    {} ({found_engine})", self.found.display())?;
        writeln!(f, "{table}")?;
        writeln!(f, "the same class for {:.2} % of {images} images", 100.0 * self.same_class)?;
        let verdict = if self.agree { "agree" } else { "differ" };
        write!(f, "they {verdict}: by {max_difference:.1e} of the outputs' range at most, allowed is {tolerance:.1e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(expected: &[f32], found: &[f32]) -> Verification {
        let options = VerifyOptions {
            expected: "a".into(),
            found: "b".into(),
            images: None,
            random: 1,
            onnx_runtime: false,
            tolerance: 1e-2,
            isa: Isa::best(),
            places: Places::default(),
        };
        compare(&options, ("sparse", "sparse"), expected, found, 2)
    }

    #[test]
    fn differences_are_relative_to_the_range_and_name_their_image() {
        let verification = compared(&[-2.0, 6.0, 1.0, 0.5], &[-2.0, 6.0, 1.0, 1.3]);
        assert_eq!((verification.images, verification.same_class, verification.agree), (2, 0.5, false));
        let second = verification.outputs[1];
        assert_eq!((second.image, second.expected, second.found), (1, 0.5, 1.3));
        assert!((second.difference - 0.1).abs() < 1e-6 && verification.max_difference == second.difference);
        assert_eq!(verification.outputs[0].difference, 0.0);
        assert!(verification.to_string().contains("they differ: by 1.0e-1"), "{verification}");
    }

    #[test]
    fn zeros_agree_with_zeros_alone() {
        let same = compared(&[0.0; 2], &[0.0; 2]);
        assert!(same.agree && same.max_difference == 0.0 && same.same_class == 1.0);
        let other = compared(&[0.0; 2], &[0.0, 1e-20]);
        assert!(!other.agree && other.max_difference.is_infinite());
    }
}
