//! Loads every form of ONNX file with tract and RTen. Each must give the logits of the reference interpreter or, where
//! [`OnnxReader::loads`] says that it does not load the form, fail.

#[path = "../../tests/networks/mod.rs"]
mod networks;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;
use sr2_export::{LOGITS_TOLERANCE, OnnxForm, OnnxReader, to_onnx};
use sr2_models::{passes, reference};
use tract_onnx::prelude::{DatumExt, Framework, InferenceModelExt, IntoRunnable, Tensor, tvec};

/// Logits of a file for a batch of images of a shape.
type Run = fn(&Path, [usize; 4], &[f32]) -> Result<Vec<f32>>;

const READERS: [(OnnxReader, Run); 2] = [(OnnxReader::Tract, tract), (OnnxReader::Rten, rten)];

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.onnx");
    for model in [networks::sparse_model("resnet8"), networks::every_operator()] {
        let model = passes::fold_batch_norm(&model);
        let [c, h, w] = model.graph().input_shape() else { bail!("images have three axes") };
        let shape = [2, *c, *h, *w];
        let mut rng = ChaCha8Rng::seed_from_u64(networks::SEED);
        let images: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-2.0..2.0)).collect();
        let logits = reference::logits(&model, &images, shape[0]);
        for form in OnnxForm::ALL {
            sr2_formats::onnx::write(&path, &to_onnx(&model, form, &BTreeMap::new()))?;
            for (reader, run) in READERS {
                let found = run(&path, shape, &images);
                let name = model.graph().name();
                match (found, reader.loads(form)) {
                    (Err(_), false) => println!("{name}: {reader} refuses {form}"),
                    (Ok(_), false) => bail!("{name}: {reader} loads {form}, which it was not known to"),
                    (Err(error), true) => return Err(error.context(format!("{name}: {reader} does not load {form}"))),
                    (Ok(found), true) => {
                        let difference = difference(&found, &logits);
                        println!("{name}: {reader} loads {form}, logits within {difference:.1e}");
                        ensure!(difference <= LOGITS_TOLERANCE, "allowed is {LOGITS_TOLERANCE:.0e}");
                    }
                }
            }
        }
    }
    Ok(())
}

/// Largest difference, relative to the largest logit expected; infinite where a value is not finite.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, f32::max);
    if found.len() != expected.len() || !found.iter().all(|v| v.is_finite()) {
        return f64::INFINITY;
    }
    let difference = largest(&mut found.iter().zip(expected).map(|(a, b)| (a - b).abs()));
    f64::from(difference / largest(&mut expected.iter().map(|v| v.abs())))
}

fn tract(path: &Path, shape: [usize; 4], images: &[f32]) -> Result<Vec<f32>> {
    let images = Tensor::from_shape(&shape, images)?;
    let model = tract_onnx::onnx().model_for_path(path)?.with_input_fact(0, f32::fact(shape).into())?;
    let outputs = model.into_optimized()?.into_runnable()?.run(tvec!(images.into()))?;
    Ok(outputs[0].try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
}

fn rten(path: &Path, shape: [usize; 4], images: &[f32]) -> Result<Vec<f32>> {
    let model = rten::Model::load_file(path)?;
    let images = NdTensor::from_data(shape, images.to_vec());
    let logits: NdTensor<f32, 2> = model.run_one(images.into(), None)?.try_into()?;
    Ok(logits.to_vec())
}
