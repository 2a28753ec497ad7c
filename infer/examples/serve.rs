//! A server in small: a network is loaded once, and threads answer with it, each for itself and without allocating.
//!
//! `cargo run --release -p sr2-infer --example serve -- MODEL [THREADS]`

use std::time::{Duration, Instant};

use sr2_infer::{Engine, Error, Model, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("usage: serve MODEL [THREADS]")?;
    let threads: usize = arguments.next().map_or(Ok(2), |threads| threads.parse())?;

    let engine = Model::load(model)?.plan(&Options::default())?;
    println!("{}: {} kB of weights for all threads", engine.name(), engine.weight_bytes() / 1000);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| answer(&engine))).collect();
        for worker in workers {
            println!("{} images in a second", worker.join().expect("a worker does not panic")?);
        }
        Ok(())
    })
}

/// Classifies images for a second, and returns how many.
fn answer(engine: &Engine) -> Result<usize, Error> {
    let mut scratch = engine.scratch()?;
    let image = vec![0.5; engine.input_shape().iter().product()];
    let mut outputs = vec![0.0; engine.output_shape().iter().product()];
    let (mut answered, start) = (0, Instant::now());
    while start.elapsed() < Duration::from_secs(1) {
        engine.run(&image, &mut outputs, &mut scratch)?;
        answered += 1;
    }
    Ok(answered)
}
