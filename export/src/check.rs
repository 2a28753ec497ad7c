//! Reading an export back: same zeros, same outputs.

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sr2_formats::Error;
use sr2_models::{Model, reference};

use crate::ExportError;

/// Largest difference of a logit, relative to the largest logit of the checkpoint, that rounding explains.
pub const LOGITS_TOLERANCE: f64 = 1e-4;
/// Images the networks are compared on; the reference interpreter takes its time.
const IMAGES: usize = 2;
const SEED: u64 = 0x5352_3200;

/// The outputs of a checkpoint on seeded random images.
pub struct Expected {
    images: Vec<f32>,
    logits: Vec<f32>,
    scale: f64,
}

impl Expected {
    /// Runs the network once; its outputs must be finite.
    pub fn of(model: &Model, checkpoint: &Path) -> Result<Self, ExportError> {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let len = IMAGES * model.graph().input_shape().iter().product::<usize>();
        let images: Vec<f32> = (0..len).map(|_| rng.random_range(-2.0..2.0)).collect();
        let logits = reference::logits(model, &images, IMAGES);
        if let Some(value) = logits.iter().find(|v| !v.is_finite()) {
            let problem = format!("the network's output on a random image is {value}; did the training diverge?");
            return Err(Error::malformed(checkpoint, problem).into());
        }
        let scale = logits.iter().fold(0.0, |largest: f64, v| largest.max(f64::from(v.abs())));
        Ok(Self { images, logits, scale })
    }

    /// Checks that `found`, read back from `file`, has the zeros of `written` and the checkpoint's outputs. Returns
    /// the largest relative difference of a logit.
    pub fn compare(&self, file: &str, found: &Model, written: &Model) -> Result<f64, ExportError> {
        let relative = self.difference(file, found, written)?;
        if relative <= LOGITS_TOLERANCE {
            return Ok(relative);
        }
        let problem = format!("logits by {relative:.1e} of the largest, allowed {LOGITS_TOLERANCE:.0e}");
        Err(ExportError::Differs { file: file.into(), problem })
    }

    /// The same for a file whose values were rounded: its outputs may differ.
    pub fn difference(&self, file: &str, found: &Model, written: &Model) -> Result<f64, ExportError> {
        let differs = |problem| ExportError::Differs { file: file.into(), problem };
        same_zeros(found, written).map_err(differs)?;
        let logits = reference::logits(found, &self.images, IMAGES);
        if logits.len() != self.logits.len() {
            return Err(differs(format!("{} logits, expected {}", logits.len(), self.logits.len())));
        }
        let differences = logits.iter().zip(&self.logits).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
        // A NaN must not be lost in the maximum.
        let largest = differences.fold(0.0, |max: f64, d| if d > max || d.is_nan() { d } else { max });
        Ok(if largest == 0.0 { 0.0 } else { largest / self.scale })
    }
}

/// Whether each prunable weight of `expected` is in `found` with the same zeros.
fn same_zeros(found: &Model, expected: &Model) -> Result<(), String> {
    for spec in expected.graph().parameters().iter().filter(|p| p.role.is_prunable()) {
        let Some(tensor) = found.parameters().get(&spec.name) else {
            return Err(format!("weight {:?} is missing", spec.name));
        };
        if tensor.shape() != spec.shape {
            return Err(format!("weight {:?} has shape {:?}, expected {:?}", spec.name, tensor.shape(), spec.shape));
        }
        let pairs = tensor.data().iter().zip(expected.parameter(&spec.name).data());
        if let Some((index, (a, b))) = pairs.enumerate().find(|(_, (a, b))| (**a == 0.0) != (**b == 0.0)) {
            return Err(format!("weight {:?} [{index}] is {a}, expected {b}", spec.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sr2_models::initialisation::initialise;
    use sr2_models::zoo;

    use super::*;

    fn changed(model: &Model, name: &str, change: impl FnOnce(&mut [f32])) -> Model {
        let (graph, mut parameters) = model.clone().into_parts();
        change(parameters.get_mut(name).unwrap().data_mut());
        Model::try_new(graph, parameters).unwrap()
    }

    #[test]
    fn sees_what_differs_and_nothing_else() {
        let graph = zoo::build("resnet8", 10).unwrap();
        let parameters = initialise(&graph, 1);
        let dense = Model::try_new(graph, parameters).unwrap();
        let model = changed(&dense, "fc.weight", |w| w[7] = 0.0);
        let expected = Expected::of(&model, Path::new("checkpoint")).unwrap();
        assert_eq!(expected.compare("file", &model, &model).unwrap(), 0.0);

        let refused = |found: &Model, message: &str| {
            let error = expected.compare("file", found, &model).unwrap_err();
            assert!(matches!(error, ExportError::Differs { .. }));
            assert!(error.to_string().contains(message), "{error}");
        };
        refused(&changed(&model, "fc.weight", |w| w[8] = 0.0), "weight \"fc.weight\" [8] is 0, expected");
        refused(&changed(&model, "fc.weight", |w| w[7] = 1e-20), "weight \"fc.weight\" [7] is ");
        refused(&changed(&model, "fc.bias", |b| b[0] += 0.01), "logits by");
        refused(&changed(&model, "fc.bias", |b| b[0] = f32::NAN), "logits by NaN");
    }

    #[test]
    fn a_network_of_other_weights_is_refused() {
        let model = |name| {
            let graph = zoo::build(name, 10).unwrap();
            let parameters = initialise(&graph, 1);
            Model::try_new(graph, parameters).unwrap()
        };
        let (found, written) = (model("resnet8"), model("resnet20"));
        let expected = Expected::of(&written, Path::new("checkpoint")).unwrap();
        let error = expected.compare("file", &found, &written).unwrap_err();
        assert!(error.to_string().contains("shape [24, 3, 3, 3], expected [16, 3, 3, 3]"), "{error}");
    }
}
