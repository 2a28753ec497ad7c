//! Networks, loaded once and planned as often as wanted.

use std::path::Path;

use sr2_formats::csr_file;
use sr2_models::{CompressedModel, Node, Op, checkpoint, onnx, passes};

use crate::{Engine, Error, Options, Tuning, fuse};

/// A network with its weights, to be planned for one or more ways of running it.
///
/// The weights of `.srz` and CSR files whose batch norms are folded go to the plan as CSR matrices and are never dense,
/// except in layers that the plan computes densely.
#[derive(Debug)]
pub struct Model(pub(crate) CompressedModel);

/// The files of an export folder that hold a whole network, best first.
const EXPORTED: [&str; 3] = ["model.csr.safetensors", "model.srz", "model.onnx"];

impl Model {
    /// Loads a `.onnx`, `.srz` or `.csr.safetensors` file, a checkpoint, or the first such `model` file of an export
    /// folder; batch norms are folded.
    ///
    /// # Errors
    /// If the file cannot be read or breaks its format's rules.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let model = read(path.as_ref())?;
        let is_norm = |node: &Node| matches!(node.op, Op::BatchNormalization(_));
        match model.graph().nodes().iter().any(is_norm) {
            true => Ok(Self::from(&model.into_model())),
            false => Ok(Self(model)),
        }
    }

    /// Decides how each layer runs, and packs its weights for that.
    ///
    /// # Errors
    /// If the network has an operator the engine does not run, and for options out of range.
    pub fn plan(&self, options: &Options) -> Result<Engine, Error> {
        Engine::new(&self.0, options)
    }

    /// Plans the network as a measurement found it fastest. Of the options, `weights` and `layout` do not count.
    ///
    /// # Errors
    /// If the measurement was of another network, tier, batch or number of threads, and as [`Model::plan`].
    pub fn plan_tuned(&self, options: &Options, tuning: &Tuning) -> Result<Engine, Error> {
        let isa = options.check()?;
        let layers = fuse::layers(self.0.graph())?;
        let decisions = tuning.decisions(&self.0, &layers, isa, options)?;
        Engine::decided(&self.0, &layers, &decisions, isa, options)
    }

    /// The network with every weight dense; batch norms are folded.
    pub fn into_network(self) -> sr2_models::Model {
        self.0.into_model()
    }

    /// Name of the network.
    pub fn name(&self) -> &str {
        self.0.graph().name()
    }

    /// Shape of one image, `[C, H, W]`.
    pub fn input_shape(&self) -> &[usize] {
        self.0.graph().input_shape()
    }

    /// Shape of one output.
    pub fn output_shape(&self) -> &[usize] {
        self.0.graph().output_shape()
    }
}

/// Batch norms are folded.
impl From<&sr2_models::Model> for Model {
    fn from(model: &sr2_models::Model) -> Self {
        Self(passes::fold_batch_norm(model).into())
    }
}

fn read(path: &Path) -> sr2_formats::Result<CompressedModel> {
    let found = std::fs::metadata(path).map_err(|e| sr2_formats::Error::io(path, "open", e))?;
    if found.is_dir() {
        let Some(file) = EXPORTED.iter().map(|name| path.join(name)).find(|file| file.exists()) else {
            return Err(sr2_formats::Error::unsupported(path, format!("holds none of {}", EXPORTED.join(", "))));
        };
        return read(&file);
    }
    let named_csr = path.as_os_str().as_encoded_bytes().ends_with(b".csr.safetensors");
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") if !named_csr && !csr_file::is_csr(path)? => Ok(checkpoint::read(path)?.model.into()),
        Some("safetensors" | "srz") => CompressedModel::read(path),
        Some("onnx") => Ok(onnx::import(path)?.into()),
        _ => {
            let expected = "expected a file .onnx, .srz or .csr.safetensors, a checkpoint, or an export folder";
            Err(sr2_formats::Error::unsupported(path, expected))
        }
    }
}
