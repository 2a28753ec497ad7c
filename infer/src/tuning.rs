//! Plans made by measuring on this CPU, to be saved and used again.

use std::cmp::Ordering;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sr2_formats::write_atomic;
use sr2_kernels::Isa;
use sr2_models::CompressedModel;

use crate::decisions::{self, Cut, Decisions};
use crate::fuse::{self, Layers};
use crate::{Engine, Error, Model, Options, Scratch};

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

/// Part of the time that goes to layers; the rest goes to whole plans.
const LAYERS: f64 = 0.5;

/// Rounds that are measured at least, and passes of a candidate in each: the first finds the caches as the one before
/// left them.
const ROUNDS: usize = 2;
const PASSES: usize = 3;

/// Rounds of a race at least.
const RACES: usize = 5;

/// A run that takes longer finds its caches its own before it has gone far.
const LONG: Duration = Duration::from_millis(20);

/// What a plan must take of the default's time, at most, to be worth leaving it.
const WORTHWHILE: f64 = 0.98;

impl Tuning {
    /// Times each layer sparse and dense, in both layouts where the batch fills a vector, in interleaved rounds; then
    /// races the plans these times suggest against the default one, which stays where none is faster. Takes about
    /// `time`, and longer where two rounds do. Of the options it decides `weights` and `layout`.
    ///
    /// # Errors
    /// As [`Model::plan`] and [`Engine::scratch`].
    pub fn measure(model: &Model, options: &Options, time: Duration) -> Result<Self, Error> {
        let isa = options.check()?;
        let options = Options { weights: Options::default().weights, layout: Options::default().layout, ..*options };
        let layers = fuse::layers(model.0.graph())?;
        let default = Decisions::estimated(&model.0, &layers, isa, &options);
        let mut plans = vec![default];
        for plan in suggested(&model.0, &layers, isa, &options, time.mul_f64(LAYERS))? {
            if !plans.contains(&plan) {
                plans.push(plan);
            }
        }
        let times = race(&model.0, &layers, &plans, isa, &options, time.mul_f64(1.0 - LAYERS))?;
        // Round by round against the default, so that the drift of a machine hits both.
        let of_default = |plan: usize| {
            let ratios =
                times[plan].iter().zip(&times[0]).map(|(own, default)| own.as_secs_f64() / default.as_secs_f64());
            median(ratios.collect(), f64::total_cmp)
        };
        let fastest = (1..plans.len()).min_by(|a, b| of_default(*a).total_cmp(&of_default(*b))).unwrap_or(0);
        let is_faster = of_default(fastest) < WORTHWHILE && times[fastest].iter().min() < times[0].iter().min();
        let best = if is_faster { fastest } else { 0 };
        let [default_ns, tuned_ns] = [0, best].map(|plan| median(times[plan].clone(), Duration::cmp).as_nanos() as u64);
        let decided = layers.layers.iter().zip(&plans[best].sparse).filter(|(layer, _)| layer.weight().is_some());
        Ok(Self {
            version: VERSION,
            network: model.name().into(),
            fingerprint: fingerprint(&model.0, &layers),
            isa: isa.name().into(),
            batch: options.batch,
            threads: options.threads,
            vectors_from: plans[best].cut,
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
        let bytes = std::fs::read(path).map_err(|e| sr2_formats::Error::io(path, "read", e))?;
        let error = |problem: String| Error::TuningFile { path: path.into(), problem };
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

/// The fastest choice for each layer in every layout that the batch allows.
fn suggested(
    model: &CompressedModel,
    layers: &Layers<'_>,
    isa: Isa,
    options: &Options,
    time: Duration,
) -> Result<Vec<Decisions>, Error> {
    let (count, lanes) = (layers.layers.len(), isa.lanes());
    let vectors = options.batch >= lanes;
    // With a group for every thread each has its own, or else they share all steps.
    let threads = if options.batch >= lanes * options.threads && vectors { 1 } else { options.threads };
    let options = Options { threads, ..*options };
    let mut candidates = Vec::new();
    for cut in [count, 0].into_iter().take(if vectors { 2 } else { 1 }) {
        for sparse in [true, false] {
            let decisions = Decisions { cut, sparse: vec![sparse; count] };
            match Engine::decided(model, layers, &decisions, isa, &options) {
                Ok(engine) => candidates.push(Candidate::new(engine)?),
                // A vector of images may be too large for a network that fits image by image.
                Err(Error::Size { .. } | Error::Memory { .. }) if cut == 0 => (),
                Err(error) => return Err(error),
            }
        }
    }
    let images = images(lanes * candidates[0].engine.input_shape().iter().product::<usize>());
    let start = Instant::now();
    let mut round = 0;
    while round < ROUNDS || start.elapsed() < time {
        for candidate in &mut candidates {
            candidate.pass(&images)?;
        }
        round += 1;
    }

    let group = if vectors { lanes } else { 1 };
    // Every row of the plan but the first and the last is a layer.
    let fastest = |pair: &[Candidate]| -> (Vec<f64>, Vec<bool>) {
        let scale = (group / pair[0].engine.images_a_pass()) as f64;
        let rows = pair[0].least[1..].iter().zip(&pair[1].least[1..]).zip(&layers.layers);
        rows.map(|((sparse, dense), layer)| (scale * sparse.min(*dense), layer.weight().is_some() && sparse < dense))
            .unzip()
    };
    let (one, one_sparse) = fastest(&candidates[..2]);
    let mut plans = vec![Decisions { cut: count, sparse: one_sparse.clone() }];
    if candidates.len() == 4 {
        let (vector, vector_sparse) = fastest(&candidates[2..]);
        let importing = candidates[2].least[0] / (lanes * decisions::values(model, 0)) as f64;
        let handing = |cut: &Cut| importing * (lanes * decisions::values(model, cut.value)) as f64;
        let cut = decisions::cheapest(&one, &vector, &layers.cuts(), handing, 1.0);
        for cut in [0, cut] {
            let sparse = one_sparse[..cut].iter().chain(&vector_sparse[cut..]).copied().collect();
            plans.push(Decisions { cut, sparse });
        }
    }
    Ok(plans)
}

/// A plan that is measured.
struct Candidate {
    engine: Engine,
    scratch: Scratch,
    /// Least time of each row of its plan, in seconds.
    least: Vec<f64>,
}

impl Candidate {
    fn new(engine: Engine) -> Result<Self, Error> {
        let (scratch, least) = (engine.scratch()?, vec![f64::INFINITY; engine.plan().len()]);
        Ok(Self { engine, scratch, least })
    }

    fn pass(&mut self, images: &[f32]) -> Result<(), Error> {
        for _ in 0..PASSES {
            let times = self.engine.profile(images, &mut self.scratch)?;
            for (least, time) in self.least.iter_mut().zip(times) {
                *least = least.min(time.as_secs_f64());
            }
        }
        Ok(())
    }
}

/// Times of a batch by each plan over interleaved rounds, every second one in the opposite order.
fn race(
    model: &CompressedModel,
    layers: &Layers<'_>,
    plans: &[Decisions],
    isa: Isa,
    options: &Options,
    time: Duration,
) -> Result<Vec<Vec<Duration>>, Error> {
    let engines = plans.iter().map(|plan| Engine::decided(model, layers, plan, isa, options));
    let mut candidates = engines.map(|engine| Candidate::new(engine?)).collect::<Result<Vec<_>, _>>()?;
    let [input, output] = [candidates[0].engine.input_shape(), candidates[0].engine.output_shape()];
    let images = images(options.batch * input.iter().product::<usize>());
    let mut outputs = vec![0.0; options.batch * output.iter().product::<usize>()];
    let mut times = vec![Vec::<Duration>::new(); plans.len()];
    let (start, mut round) = (Instant::now(), 0);
    while round < RACES || start.elapsed() < time {
        for index in 0..plans.len() {
            let index = if round % 2 == 0 { index } else { plans.len() - 1 - index };
            let Candidate { engine, scratch, .. } = &mut candidates[index];
            if times[index].last().is_none_or(|last| *last < LONG) {
                engine.run(&images, &mut outputs, scratch)?;
            }
            let run = Instant::now();
            engine.run(&images, &mut outputs, scratch)?;
            times[index].push(run.elapsed());
        }
        round += 1;
    }
    Ok(times)
}

fn median<T: Copy>(mut values: Vec<T>, order: impl Fn(&T, &T) -> Ordering) -> T {
    values.sort_by(order);
    values[values.len() / 2]
}

/// Values between -1 and 1, always the same.
fn images(values: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        state as f32 / 2f32.powi(31) - 1.0
    };
    (0..values).map(|_| next()).collect()
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
