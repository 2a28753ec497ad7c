//! Times a network of the zoo with random weights, layer by layer and whole.
//!
//! `profile NAME SPARSITY BATCH THREADS [auto|sparse|dense] [auto|image|images]`; the times are the least of many runs.

use std::time::{Duration, Instant};

use sr2_infer::{Layout, Model, Options, WeightPolicy};
use sr2_models::{initialisation, zoo};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, sparsity, batch, threads, policy @ ..] = &arguments[..] else {
        return Err("usage: profile NAME|FILE SPARSITY BATCH THREADS [auto|sparse|dense] [auto|image|images]".into());
    };
    let (batch, threads) = (batch.parse()?, threads.parse()?);
    let weights = match policy.first().map(String::as_str) {
        None | Some("auto") => WeightPolicy::Auto,
        Some("sparse") => WeightPolicy::Sparse,
        Some("dense") => WeightPolicy::Dense,
        Some(other) => return Err(format!("unknown policy {other:?}").into()),
    };
    let layout = match policy.get(1).map(String::as_str) {
        None | Some("auto") => Layout::Auto,
        Some("image") => Layout::OneImage,
        Some("images") => Layout::Images,
        Some(other) => return Err(format!("unknown layout {other:?}").into()),
    };
    let options = Options { threads, batch, weights, layout, ..Default::default() };
    let model = match zoo::build(name, 10) {
        Ok(graph) => Model::from(&random_model(graph, sparsity.parse()?)?),
        Err(_) => Model::load(name)?,
    };
    let engine = model.plan(&options)?;
    let mut scratch = engine.scratch()?;

    let images = vec![0.5; batch * engine.input_shape().iter().product::<usize>()];
    let mut logits = vec![0.0; batch * engine.output_shape().iter().product::<usize>()];
    let mut layers = engine.profile(&images, &mut scratch)?;
    let mut runs = Vec::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        for (least, time) in layers.iter_mut().zip(engine.profile(&images, &mut scratch)?) {
            *least = time.min(*least);
        }
        let run = Instant::now();
        engine.run(&images, &mut logits, &mut scratch)?;
        runs.push(run.elapsed());
    }
    println!("{}", engine.plan());
    println!("{:>9} {:>9} {:>9}  layer", "us", "GFLOP/s", "dense-eq");
    for (layer, time) in engine.plan().iter().zip(&layers) {
        let seconds = time.as_secs_f64();
        let flops = 2.0 * layer.macs as f64 * batch.min(engine.images_a_pass()) as f64 / seconds / 1e9;
        println!(
            "{:9.1} {:9.1} {flops:9.1}  {} {}",
            seconds * 1e6,
            flops * (1.0 - layer.sparsity()),
            layer.name,
            layer.op
        );
    }
    runs.sort();
    let (least, median) = (runs[0], runs[runs.len() / 2]);
    println!("layers of a pass {:?}, whole batch {least:?}, median {median:?}", layers.iter().sum::<Duration>());
    Ok(())
}

/// Random weights, the first convolution and depthwise ones dense, of all others `sparsity` zero.
fn random_model(graph: sr2_models::Graph, sparsity: f64) -> Result<sr2_models::Model, sr2_models::ModelError> {
    let mut parameters = initialisation::initialise(&graph, 1);
    let mut state = 1u64;
    for spec in graph.parameters().iter().filter(|p| p.role.is_prunable() && p.shape.get(1).is_some_and(|c| *c > 3)) {
        let tensor = parameters.get_mut(&spec.name).expect("every parameter is initialised");
        for value in tensor.data_mut() {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *value = if ((state >> 33) as f64) < sparsity * (1u64 << 31) as f64 { 0.0 } else { *value };
        }
    }
    sr2_models::Model::try_new(graph, parameters)
}
