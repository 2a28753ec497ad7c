//! One measurement from start to end: open the engines, check that they agree, race them, report.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sr2_infer::{Isa, MAX_BATCH, MAX_THREADS};

use crate::engine_kind::EngineSpec;
use crate::model_files::ModelFiles;
use crate::timing::Samples;
use crate::{
    Agreement, BenchError, EngineKind, EngineResult, Machine, OnnxRuntime, Places, Report, RivalResult, Runner, SCHEMA,
    Unavailable, agreement, peak_memory, timing,
};

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// An export folder, an `.onnx` file or a `.csr.safetensors` file.
    pub model: PathBuf,
    /// Engines, in the order of the report; each once.
    pub engines: Vec<EngineKind>,
    /// Other ONNX files to time beside it by ONNX Runtime, such as int8 or distilled ones. They take the same images
    /// and give as many outputs, but need not agree.
    pub against: Vec<PathBuf>,
    /// Images in a batch.
    pub batch: usize,
    /// Threads of each engine.
    pub threads: usize,
    /// Whether waiting threads of ours spin before they sleep.
    pub spin: bool,
    /// Whether each thread of ours but the first stays on a CPU of its own.
    pub pin: bool,
    /// Seconds to time each engine, warm-up not counted.
    pub seconds: f64,
    /// A saved measurement that the sparse engine's plan follows.
    pub tuning: Option<PathBuf>,
    /// Instruction-set tier of the engine's kernels.
    pub isa: Isa,
    /// Images to check agreement and accuracy on; seeded random ones, and no accuracy, without.
    pub data: Option<LabelledImages>,
    /// Where to look for ONNX Runtime.
    pub places: Places,
    /// A program to start for the measurement of memory, which calls [`crate::measure_if_asked`] first of all;
    /// memory is not measured without.
    pub program: Option<PathBuf>,
}

/// Images as the network takes them, and their classes.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledImages {
    /// `[N, C, H, W]` flat, normalised as in training.
    pub images: Vec<f32>,
    /// Class of each image.
    pub labels: Vec<usize>,
}

/// Fewest random images on which agreement is checked.
const RANDOM_IMAGES: usize = 16;

/// Seed of the random images.
const SEED: u64 = 1;

/// An engine opened, with what it needs to be opened again in another process.
type Opened = (EngineSpec, Box<dyn Runner>);

/// Opens the engines, checks that their answers agree, then times them in interleaved rounds.
///
/// An engine that is not installed or cannot run the file in such batches is left out and named in the report; anything
/// else that goes wrong is an error.
pub fn bench(options: &BenchOptions) -> Result<Report, BenchError> {
    check_options(options)?;
    let files = ModelFiles::find(&options.model)?;
    let (mut opened, unavailable) = open(options, &files)?;
    let engines = opened.len();
    for file in &options.against {
        let spec = rival(file, options)?;
        let runner = spec.open()?;
        opened.push((spec, runner));
    }
    check_interfaces(&opened)?;

    let images = images(options, &*opened[0].1)?;
    let (agreement, accuracies, same_class) = check_answers(&mut opened, engines, options, &images)?;
    let (specs, mut runners): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
    let values = options.batch * runners[0].input_shape().iter().product::<usize>();
    let batch: Vec<f32> = images.iter().copied().cycle().take(values).collect();
    let all_samples = timing::race(&mut runners, &batch, options.batch, options.seconds)?;

    let samples = &all_samples;
    let mut results = Vec::new();
    let baseline = specs[..engines].iter().position(|spec| spec.kind == EngineKind::Ort);
    let baseline = baseline.map(|index| &samples[index]);
    for (((spec, runner), samples), accuracy) in specs.iter().zip(&runners).zip(samples).zip(accuracies) {
        let peak_rss_bytes = match &options.program {
            Some(program) => peak_memory::peak_rss_bytes(program, spec)?,
            None => None,
        };
        results.push(EngineResult {
            peak_rss_bytes,
            accuracy,
            ..result(spec, runner.weight_bytes(), samples, baseline)
        });
    }
    let rivals = results.split_off(engines);
    let against = specs[engines..].iter().zip(rivals).zip(&samples[engines..]).zip(same_class);
    let against = against.map(|(((spec, result), samples), same_class)| RivalResult {
        file: spec.file.clone(),
        speed_of_first: all_samples[0].speed_over(samples),
        same_class,
        result,
    });
    Ok(Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        onnx_runtime: specs.iter().find_map(|spec| spec.library.clone()),
        machine: Machine::this(),
        isa: options.isa.name(),
        model: options.model.clone(),
        network: runners.iter().find_map(|runner| runner.network()),
        batch: options.batch,
        threads: options.threads,
        seconds: options.seconds,
        agreement,
        results,
        against: against.collect(),
        unavailable,
    })
}

pub(crate) fn check_options(options: &BenchOptions) -> Result<(), BenchError> {
    let usage = |message: String| Err(BenchError::Usage(message));
    let engines = &options.engines;
    if let Some(twice) = engines.iter().enumerate().find(|(i, kind)| engines[..*i].contains(kind)) {
        return usage(format!("engine {} is named twice", twice.1));
    }
    match options {
        o if o.engines.is_empty() => usage("no engine to measure".into()),
        o if !(1..=MAX_BATCH).contains(&o.batch) => usage(format!("batch is {}, expected 1 to {MAX_BATCH}", o.batch)),
        o if !(1..=MAX_THREADS).contains(&o.threads) => {
            usage(format!("threads is {}, expected 1 to {MAX_THREADS}", o.threads))
        }
        o if !(0.0..=MAX_SECONDS).contains(&o.seconds) => {
            usage(format!("seconds is {}, expected 0 to {MAX_SECONDS}", o.seconds))
        }
        _ => Ok(()),
    }
}

const MAX_SECONDS: f64 = 3600.0;

/// The engines that can run, opened, and those that are not there; an error if none is left.
fn open(options: &BenchOptions, files: &ModelFiles) -> Result<(Vec<Opened>, Vec<Unavailable>), BenchError> {
    let (mut opened, mut absent) = (Vec::new(), Vec::new());
    for &kind in &options.engines {
        match spec(kind, options, files).and_then(|spec| Ok((spec.open()?, spec))) {
            Ok((runner, spec)) => opened.push((spec, runner)),
            Err(error) if error.is_absence() => absent.push((kind, error)),
            Err(error) => return Err(error),
        }
    }
    if opened.is_empty()
        && let Some((_, error)) = absent.pop()
    {
        return Err(error);
    }
    let unavailable = absent.into_iter().map(|(engine, error)| Unavailable { engine, reason: error.to_string() });
    Ok((opened, unavailable.collect()))
}

pub(crate) fn spec(kind: EngineKind, options: &BenchOptions, files: &ModelFiles) -> Result<EngineSpec, BenchError> {
    let (file, library) = match kind {
        EngineKind::Sparse | EngineKind::Dense => (files.native(), None),
        EngineKind::Ort => {
            let file = files.onnx().ok_or_else(|| BenchError::NoOnnxFile { path: options.model.clone() })?;
            (file, Some(OnnxRuntime::find(&options.places)?))
        }
    };
    let isa = options.isa.name().to_string();
    let BenchOptions { batch, threads, spin, pin, .. } = *options;
    let tuning = options.tuning.clone().filter(|_| kind == EngineKind::Sparse);
    Ok(EngineSpec { kind, file: file.into(), batch, threads, spin, pin, isa, library, tuning })
}

/// Another ONNX file, by ONNX Runtime.
fn rival(file: &Path, options: &BenchOptions) -> Result<EngineSpec, BenchError> {
    let library = Some(OnnxRuntime::find(&options.places)?);
    let (isa, file) = (options.isa.name().to_string(), file.to_path_buf());
    let BenchOptions { batch, threads, spin, pin, .. } = *options;
    Ok(EngineSpec { kind: EngineKind::Ort, file, batch, threads, spin, pin, isa, library, tuning: None })
}

fn check_interfaces(opened: &[Opened]) -> Result<(), BenchError> {
    let interface = |runner: &dyn Runner| (runner.input_shape(), runner.outputs());
    let (first, expected) = (opened[0].1.name(), interface(&*opened[0].1));
    for (spec, runner) in opened {
        let found = interface(&**runner);
        if found != expected {
            let problem = format!("maps images {:?} to {} outputs", found.0, found.1);
            let problem = format!("{problem}, but {first} maps {:?} to {}", expected.0, expected.1);
            return Err(BenchError::Engine { engine: format!("{} on {}", spec.kind, spec.file.display()), problem });
        }
    }
    Ok(())
}

/// The images given, checked, or random ones.
fn images<'a>(options: &'a BenchOptions, runner: &dyn Runner) -> Result<Cow<'a, [f32]>, BenchError> {
    let size: usize = runner.input_shape().iter().product();
    let Some(LabelledImages { images, labels }) = &options.data else {
        return Ok(random_images(RANDOM_IMAGES.next_multiple_of(options.batch) * size).into());
    };
    let usage = |message| Err(BenchError::Usage(message));
    if labels.is_empty() || images.len() != labels.len() * size {
        let (values, labels, shape) = (images.len(), labels.len(), runner.input_shape());
        return usage(format!("data has {values} values and {labels} labels, expected images of shape {shape:?}"));
    }
    match labels.iter().find(|label| **label >= runner.outputs()) {
        Some(label) => usage(format!("data has label {label}, but the network has {} outputs", runner.outputs())),
        None => Ok(Cow::Borrowed(images)),
    }
}

/// So many values with the mean 0 and the variance 1 of normalised images, always the same.
pub(crate) fn random_images(values: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let bound = 3f32.sqrt();
    (0..values).map(|_| rng.random_range(-bound..bound)).collect()
}

/// Agreement of the first engines on all images; everyone's accuracy if there are labels; and the fraction of images
/// that each of the others gives the class that the first engine gives them.
type Checked = (Agreement, Vec<Option<f64>>, Vec<f64>);

/// Compares the answers on all images; those of the first `engines` must agree.
fn check_answers(
    opened: &mut [Opened],
    engines: usize,
    options: &BenchOptions,
    images: &[f32],
) -> Result<Checked, BenchError> {
    let mut answers = Vec::new();
    for (spec, runner) in opened.iter_mut() {
        answers.push((spec.kind.name(), agreement::answers(&mut **runner, images, options.batch)?));
    }
    let outputs = opened[0].1.outputs();
    let agreement = agreement::check(&answers[..engines], outputs)?;
    let classes = agreement::classes(&answers[0].1, outputs);
    let same_class = answers[engines..].iter().map(|(_, logits)| agreement::accuracy(logits, &classes)).collect();
    let labels = options.data.as_ref().map(|data| &data.labels);
    let accuracies = answers.iter().map(|(_, logits)| labels.map(|labels| agreement::accuracy(logits, labels)));
    Ok((agreement, accuracies.collect(), same_class))
}

fn result(spec: &EngineSpec, weight_bytes: u64, samples: &Samples, baseline: Option<&Samples>) -> EngineResult {
    let p50_ms = samples.percentile(50.0);
    EngineResult {
        engine: spec.kind,
        weight_bytes,
        p50_ms,
        p90_ms: samples.percentile(90.0),
        p99_ms: samples.percentile(99.0),
        round_p50_ms: samples.spread(),
        runs: samples.runs(),
        images_per_s: spec.batch as f64 * 1e3 / p50_ms,
        ratio_to_ort: baseline.map(|baseline| samples.speed_over(baseline)),
        peak_rss_bytes: None,
        accuracy: None,
    }
}
