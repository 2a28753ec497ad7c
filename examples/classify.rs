//! Loads an exported network into the sparse engine and classifies one image with it.
//!
//! `cargo run --release --example classify -- runs/resnet20-cifar10-1/export [IMAGE.png]`
//! Without an image, a grey one is used.

use std::path::PathBuf;

use sr2_infer::{Model, Options};
use sr2_train::data::{Dataset, DatasetKind, EvaluationBatches, IMAGE_BYTES, read_images};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let model = arguments.next().ok_or("usage: classify MODEL [IMAGE]")?;
    let kind = DatasetKind::Cifar10;
    let image = match arguments.next() {
        Some(path) => read_images(kind, &[path])?,
        None => Dataset::new(kind, vec![128; IMAGE_BYTES], vec![0]),
    };
    let batch = EvaluationBatches::new(&image, 1).next().ok_or("no image")?;

    let engine = Model::load(&model)?.plan(&Options::default())?;
    let mut scratch = engine.scratch()?;
    let mut logits = vec![0.0; engine.output_shape().iter().product()];
    engine.run(&batch.images, &mut logits, &mut scratch)?;

    let mut ranked: Vec<usize> = (0..logits.len()).collect();
    ranked.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    for class in ranked.into_iter().take(3) {
        println!("{:>8.3}  {}", logits[class], kind.class_names().get(class).unwrap_or(&"?"));
    }
    Ok(())
}
