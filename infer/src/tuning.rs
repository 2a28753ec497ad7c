//! Plans made by measuring on this CPU, to be saved and used again.

mod race;

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sr2_formats::write_atomic;
use sr2_kernels::Isa;
use sr2_models::CompressedModel;

use self::race::Course;
use crate::decisions::Decisions;
use crate::fuse::{self, Layers};
use crate::{Error, Model, Options};

/// What measuring found fastest for one network, tier, batch and number of threads: which layers are sparse, and from
/// which on they take a vector of images at a time. [`Model::plan_tuned`] plans by it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    version: u32,
    network: String,
    /// Hash of the layers' names and shapes and of their weights' numbers of non-zeros.
    fingerprint: String,
    isa: String,
    batch: usize,
    threads: usize,
    /// The layers from this one on take a vector of images at a time.
    vectors_from: usize,
    /// The layers with weights.
    layers: Vec<TunedLayer>,
    /// Median time of a batch by the plan without tuning, and by this one.
    default_ns: u64,
    tuned_ns: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TunedLayer {
    layer: String,
    sparse: bool,
}

/// Version of the file.
const VERSION: u32 = 1;

/// Bytes of a file with a line for each layer that a network may have.
const MAX_BYTES: u64 = 16 << 20;

impl Tuning {
    /// Times each layer sparse and dense, in both layouts where the batch fills a vector, in interleaved rounds, and
    /// races the plans these times suggest against the default one. Then it races the fastest against the plans that go
    /// over to a vector of images one or two places before or after, as long as one of them is faster. The default plan
    /// stays where none is faster. Takes about `time`, and longer where a few rounds of each do. Of the options it decides
    /// `weights` and `layout`.
    ///
    /// # Errors
    /// As [`Model::plan`] and [`Engine::scratch`](crate::Engine::scratch).
    pub fn measure(model: &Model, options: &Options, time: Duration) -> Result<Self, Error> {
        let isa = options.check()?;
        let options = Options { weights: Options::default().weights, layout: Options::default().layout, ..*options };
        let layers = fuse::layers(model.0.graph())?;
        let (plan, times) = Course { model: &model.0, layers: &layers, isa, options }.fastest(time)?;
        let [default_ns, tuned_ns] = times.map(|time| time.as_nanos() as u64);
        let decided = layers.layers.iter().zip(&plan.sparse).filter(|(layer, _)| layer.weight().is_some());
        Ok(Self {
            version: VERSION,
            network: model.name().into(),
            fingerprint: fingerprint(&model.0, &layers),
            isa: isa.name().into(),
            batch: options.batch,
            threads: options.threads,
            vectors_from: plan.cut,
            layers: decided.map(|(layer, sparse)| TunedLayer { layer: layer.name.into(), sparse: *sparse }).collect(),
            default_ns,
            tuned_ns,
        })
    }

    /// Reads a file that [`Tuning::save`] wrote.
    ///
    /// # Errors
    /// If it cannot be read or is none.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let path = path.as_ref();
        let error = |problem: String| Error::TuningFile { path: path.into(), problem };
        let found = std::fs::metadata(path).map_err(|e| sr2_formats::Error::io(path, "open", e))?;
        if !found.is_file() || found.len() > MAX_BYTES {
            return Err(error(format!("is no regular file of at most {MAX_BYTES} bytes")));
        }
        let bytes = std::fs::read(path).map_err(|e| sr2_formats::Error::io(path, "read", e))?;
        let json = |e: serde_json::Error| error(e.to_string());
        let Version { version } = serde_json::from_slice(&bytes).map_err(json)?;
        if version != VERSION {
            return Err(error(format!("has version {version}, expected {VERSION}")));
        }
        serde_json::from_slice(&bytes).map_err(json)
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        Ok(write_atomic(path, |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            writeln!(file)
        })?)
    }

    /// Median time of a batch, by the default plan and by this one.
    pub fn default_and_tuned(&self) -> [Duration; 2] {
        [self.default_ns, self.tuned_ns].map(Duration::from_nanos)
    }

    /// What it says of a network it was made for, with these options.
    pub(crate) fn decisions(
        &self,
        model: &CompressedModel,
        layers: &Layers<'_>,
        isa: Isa,
        options: &Options,
    ) -> Result<Decisions, Error> {
        let found = [&self.network, &self.fingerprint, &self.isa, &self.batch.to_string(), &self.threads.to_string()];
        let network = model.graph().name().to_string();
        let expected = [
            ("network", network),
            ("fingerprint of the weights", fingerprint(model, layers)),
            ("instruction set", isa.name().into()),
            ("batch", options.batch.to_string()),
            ("threads", options.threads.to_string()),
        ];
        for ((what, expected), found) in expected.into_iter().zip(found) {
            if *found != expected {
                return Err(Error::TuningMismatch { what, found: found.clone(), expected });
            }
        }
        let mut tuned = self.layers.iter();
        let mut sparse = Vec::with_capacity(layers.layers.len());
        for layer in &layers.layers {
            sparse.push(match layer.weight().map(|_| (layer.name, tuned.next())) {
                None => false,
                Some((name, Some(tuned))) if tuned.layer == name => tuned.sparse,
                Some((name, found)) => {
                    let found = found.map_or("missing", |found| &found.layer).to_string();
                    return Err(Error::TuningMismatch { what: "layer", found, expected: name.into() });
                }
            });
        }
        let is_place = |place: usize| layers.cuts().iter().any(|cut| cut.layer == place);
        let cut = self.vectors_from;
        if cut != 0 && cut != layers.layers.len() && !is_place(cut) {
            let expected = "a layer that needs one value of those before it".into();
            return Err(Error::TuningMismatch { what: "vectors_from", found: cut.to_string(), expected });
        }
        Ok(Decisions { cut, sparse })
    }
}

/// FNV-1a, 64 bits, over the layers' names and shapes and their weights' shapes and numbers of non-zeros.
fn fingerprint(model: &CompressedModel, layers: &Layers<'_>) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    for layer in &layers.layers {
        add(layer.name.as_bytes());
        let mut numbers = model.graph().shape(layer.output).to_vec();
        if let Some(name) = layer.weight() {
            let weight = model.weight(name);
            numbers.extend(weight.shape());
            numbers.push(weight.nnz());
        }
        numbers.push(usize::MAX);
        numbers.iter().for_each(|number| add(&(*number as u64).to_le_bytes()));
    }
    format!("{hash:016x}")
}
