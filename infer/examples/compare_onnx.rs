//! Compares the engine with answers that another runtime gave: `compare_onnx MODEL.onnx ANSWERS.safetensors`, where the
//! answers hold `input` `[N, C, H, W]` and `output`. `export_torchvision.py` writes both.

use sr2_formats::dense;
use sr2_infer::{MAX_BATCH, Model, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, answers] = &arguments[..] else {
        return Err("usage: compare_onnx MODEL.onnx ANSWERS.safetensors".into());
    };
    let answers = dense::read(answers)?.tensors;
    let get = |name: &str| answers.get(name).ok_or(format!("the answers hold no tensor {name:?}"));
    let (input, expected) = (get("input")?, get("output")?);
    let count = input.shape().first().copied().unwrap_or_default();
    let engine = Model::load(model)?.plan(&Options { batch: count.clamp(1, MAX_BATCH), ..Default::default() })?;
    let mut found = vec![0.0; expected.len()];
    engine.run(input.data(), &mut found, &mut engine.scratch()?)?;
    if let Some(value) = found.iter().chain(expected.data()).find(|value| !value.is_finite()) {
        return Err(format!("an output is {value}, expected finite ones").into());
    }
    let differences = found.iter().zip(expected.data()).map(|(a, b)| (a - b).abs());
    let range = expected.data().iter().fold(0f32, |most, v| most.max(v.abs()));
    println!("{}: {:.1e} of the largest output", engine.name(), differences.fold(0f32, f32::max) / range);
    Ok(())
}
