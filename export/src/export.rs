//! The export as a whole: read, fold, write, read back, publish.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use sr2_formats::csr_file;
use sr2_formats::onnx::proto::ModelProto;
use sr2_formats::srz::{self, Values};
use sr2_formats::{Error, TensorMap, onnx, write_atomic};
use sr2_models::Model;
use sr2_models::checkpoint::{self, Checkpoint, PROVENANCE_KEY};

use crate::check::Expected;
use crate::config::Config;
use crate::model_card::model_card;
use crate::passes::{self, Passes};
use crate::staging::{CONFIG, CSR, DENSE, README, SRZ, Staging, onnx_name};
use crate::{
    Compressed, ExportError, ExportReport, FileReport, OnnxForm, UNFINISHED, compressors, locate, to_onnx, weights,
};

/// What to export, and where to.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// A checkpoint, or a run folder, whose last checkpoint is meant; by default the newest run in `runs`,
    /// of those that finished if one has.
    pub source: Option<PathBuf>,
    /// The folder of run folders.
    pub runs: PathBuf,
    /// The folder to write; by default `export` beside the checkpoint. An older export there is replaced.
    pub out: Option<PathBuf>,
    /// The forms of ONNX file to write: the first as `model.onnx`, the others as `model.FORM.onnx`.
    pub onnx: Vec<OnnxForm>,
    /// What is done to the network of the CSR and ONNX files.
    pub passes: Passes,
    /// What `model.srz` keeps of the values.
    pub values: Values,
}

impl Default for ExportOptions {
    fn default() -> Self {
        let onnx = vec![OnnxForm::Dense];
        let (passes, values) = (Passes::default(), Values::F32);
        Self { source: None, runs: "runs".into(), out: None, onnx, passes, values }
    }
}

/// Writes the export of a checkpoint, reads every file back and compares it with the checkpoint.
///
/// The folder appears whole at the end, or not at all; an older export stays until then.
///
/// # Errors
/// No or a bad checkpoint, an output folder that holds something else, the operating system's, and a file that, read
/// back, has other zeros or other outputs than the checkpoint.
pub fn export(options: &ExportOptions) -> Result<ExportReport, ExportError> {
    let source = match &options.source {
        Some(source) => source.clone(),
        None => locate::newest_run(&options.runs)?,
    };
    let path = locate::last_checkpoint(&source)?;
    let folder = options.out.clone().unwrap_or_else(|| path.with_file_name("export"));
    let read = checkpoint::read(&path)?;
    let unfinished = locate::is_unfinished(&path, &read);
    let mut published = Checkpoint { state: TensorMap::new(), metadata: BTreeMap::new(), ..read };
    if unfinished {
        published.provenance.training.insert("finished".into(), format!("no: {UNFINISHED}").into());
    }
    let model = &published.model;
    weights::check_finite(model.parameters(), &path)?;
    let (rewritten, passes) = passes::apply(model, options.passes);
    weights::check_finite(rewritten.parameters(), &path)?;
    let state = options.passes.outcome();
    let expected = Expected::of(model, &path)?;

    let staging = Staging::new(&folder)?;
    let provenance = serde_json::to_string(&published.provenance).expect("provenance is plain data");
    let metadata = BTreeMap::from([(PROVENANCE_KEY.to_string(), provenance)]);
    let dense_bytes = model.parameters().values().map(|t| 4 * t.len() as u64).sum();
    let report = |name: &str, content: &str, found: &Model, written: &Model| {
        let path = staging.file(name);
        let max_difference = match name {
            SRZ if options.values != Values::F32 => expected.difference(name, found, written)?,
            _ => expected.compare(name, found, written)?,
        };
        let bytes = fs::metadata(&path).map_err(|e| Error::io(&path, "read", e))?.len();
        let ratio = dense_bytes as f64 / bytes as f64;
        Ok::<_, ExportError>(FileReport { name: name.into(), content: content.into(), bytes, ratio, max_difference })
    };

    let file = staging.file(DENSE);
    checkpoint::write(&file, &published)?;
    let content = "every parameter dense, batch norm as trained, PyTorch state-dict names";
    let mut files = vec![report(DENSE, content, &checkpoint::read(&file)?.model, model)?];

    let file = staging.file(CSR);
    let compressed = weights::of_model(&rewritten, metadata.clone(), &path)?;
    csr_file::write(&file, &compressed)?;
    let content = format!("weights in CSR, {state}; what `sr2-prune bench` runs");
    files.push(report(CSR, &content, &sr2_models::csr::read(&file)?, &rewritten)?);

    let file = staging.file(SRZ);
    srz::write(&file, &compressed, options.values)?;
    let content = "the same, entropy-coded: the small one; `sr2-prune bench` runs it too";
    files.push(report(SRZ, content, &sr2_models::csr::read(&file)?, &rewritten)?);

    for (index, form) in options.onnx.iter().enumerate() {
        let name = onnx_name((index > 0).then_some(*form));
        let file = staging.file(&name);
        onnx::write(&file, &to_onnx(&rewritten, *form, &metadata))?;
        let content = format!("{}; {state}, opset 17; `input` [N, C, H, W] to `output` (logits)", form.content());
        files.push(report(&name, &content, &sr2_models::onnx::import(&file)?, &rewritten)?);
    }

    let config = Config::new(model, published.provenance.clone());
    let report = ExportReport {
        checkpoint: path,
        unfinished,
        folder,
        network: config.architecture.clone(),
        sparsity: config.sparsity.clone(),
        dense_bytes,
        passes,
        values: options.values.to_string(),
        compressed: compressed_sizes(&staging.file(DENSE), &to_onnx(&rewritten, OnnxForm::Dense, &metadata))?,
        files,
    };
    let json = serde_json::to_vec_pretty(&config).expect("a config is plain data");
    write_atomic(staging.file(CONFIG), |file| file.write_all(&json))?;
    write_atomic(staging.file(README), |file| file.write_all(model_card(&config, &report).as_bytes()))?;
    staging.publish()?;
    Ok(report)
}

/// The dense safetensors file at `path`, and the dense ONNX file, under the compressors that any user has.
fn compressed_sizes(path: &Path, onnx: &ModelProto) -> Result<[Compressed; 2], ExportError> {
    let safetensors = fs::read(path).map_err(|e| Error::io(path, "read", e))?;
    let files = [("safetensors", safetensors), ("onnx", onnx.encode_to_vec())];
    Ok(std::thread::scope(|scope| {
        let jobs = files.each_ref().map(|(kind, bytes)| {
            (kind, scope.spawn(|| compressors::gzip(bytes)), scope.spawn(|| compressors::zstd(bytes)))
        });
        jobs.map(|(kind, gzip, zstd)| {
            let [gzip, zstd] = [gzip, zstd].map(|job| job.join().expect("compressing does not fail"));
            Compressed { kind, gzip, zstd }
        })
    }))
}
