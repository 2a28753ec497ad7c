//! The network that a run starts from: fresh, or out of a file.

use std::path::Path;

use sr2_formats::csr_file::GRAPH_KEY;
use sr2_formats::{Error, TensorMap, dense};
use sr2_models::checkpoint::{self, STATE_PREFIX};
use sr2_models::initialisation::initialise;
use sr2_models::{Model, ModelError, csr, onnx, zoo};

use crate::config::{Config, ConfigError};
use crate::data::SIDE;
use crate::train_error::TrainError;

/// The network of `config`: from its file if it names one, else one of the zoo with fresh weights.
///
/// # Errors
/// A file that cannot be read, tensors that do not fit the zoo's network, images or classes that are not the dataset's, a
/// network in the file that is not the one asked for.
pub(super) fn model(config: &Config) -> Result<Model, TrainError> {
    match &config.from {
        Some(path) => {
            let model = from_file(path, config)?;
            check_name(path, config, model.graph().name())?;
            Ok(model)
        }
        None => {
            let graph = zoo::build(config.zoo_network(), config.dataset.classes()).map_err(ConfigError::from)?;
            let parameters = initialise(&graph, config.seed);
            Ok(Model::try_new(graph, parameters).expect("initialisation fits its graph"))
        }
    }
}

/// The network that `config` distils, if any: read as one to start from.
pub(super) fn teacher(config: &Config) -> Result<Option<Model>, TrainError> {
    config.teacher.as_deref().map(|path| from_file(path, config)).transpose()
}

/// Refuses to train the network `found` in a file where another one is asked for.
fn check_name(path: &Path, config: &Config, found: &str) -> Result<(), ConfigError> {
    match &config.network {
        Some(network) if network != found => Err(ConfigError::Value {
            key: "network",
            found: format!("{network:?}"),
            expected: format!("{found:?}, which {} holds, or nothing", path.display()),
        }),
        _ => Ok(()),
    }
}

/// ONNX files, exports and our own checkpoints bring their graph; other safetensors files hold the weights of a network of the zoo
/// under its PyTorch names.
fn from_file(path: &Path, config: &Config) -> Result<Model, TrainError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let model = if name.ends_with(".onnx") {
        onnx::import(path)?
    } else if name.ends_with(".srz") || name.ends_with(".csr.safetensors") {
        csr::read(path)?
    } else {
        let file = dense::read(path)?;
        if file.metadata.contains_key(GRAPH_KEY) {
            checkpoint::read(path)?.model
        } else {
            named(path, config, file.tensors)?
        }
    };
    let graph = model.graph();
    let (images, classes) = (graph.input_shape(), graph.output_shape());
    let expected = ([3, SIDE, SIDE], [config.dataset.classes()]);
    if images != expected.0 || classes != expected.1 {
        let problem = format!(
            "maps images {images:?} to {classes:?}, but {} has images {:?} and {} classes",
            config.dataset.name(),
            expected.0,
            config.dataset.classes()
        );
        return Err(Error::unsupported(path, problem).into());
    }
    Ok(model)
}

fn named(path: &Path, config: &Config, mut tensors: TensorMap) -> Result<Model, TrainError> {
    let graph = zoo::build(config.zoo_network(), config.dataset.classes()).map_err(ConfigError::from)?;
    tensors.retain(|name, _| !name.starts_with(STATE_PREFIX));
    let fits = |e: ModelError| match e {
        ModelError::Variance { .. } => Error::malformed(path, e.to_string()),
        _ => Error::malformed(path, format!("{e}; --network names the network it holds")),
    };
    Ok(Model::try_read(graph, tensors).map_err(fits)?)
}
