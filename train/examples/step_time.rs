//! Times one training step of the CPU executor: `step_time NETWORK [BATCH] [THREADS] [SECONDS]`.
//!
//! Prints one line of JSON: median milliseconds of the loss with its gradient and of the loss alone, and GFLOP/s of the
//! convolutions and linear layers (three passes a step, two operations a multiply-add, padded lanes not counted).

use std::time::{Duration, Instant};

use sr2_models::ParameterRole;
use sr2_train::executor::{Batch, Executor};
use sr2_train::tape::TapeExecutor;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let network = arguments.next().unwrap_or_else(|| "resnet20".into());
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |a| a.parse());
    let (batch_len, threads, seconds) = (number(128)?, number(2)?, number(5)?);

    let graph = sr2_models::zoo::build(&network, 10)?;
    let mut executor = TapeExecutor::new(&graph, batch_len, threads)?;
    let mut parameters = vec![0.0; executor.layout().trainable_len()];
    for segment in executor.layout().trainable() {
        let fan_in: usize = segment.spec.shape[1..].iter().product();
        let scale = match segment.spec.role {
            ParameterRole::Weight => (6.0 / fan_in as f32).sqrt(),
            _ => 0.0,
        };
        let offset = if segment.spec.role == ParameterRole::NormScale { 1.0 } else { 0.0 };
        for (i, value) in parameters[segment.range.clone()].iter_mut().enumerate() {
            *value = offset + scale * noise(segment.range.start + i);
        }
    }
    let image_len: usize = graph.input_shape().iter().product();
    let batch = Batch {
        images: (0..batch_len * image_len).map(noise).collect(),
        labels: (0..batch_len as u32).map(|i| i % 10).collect(),
    };
    let mut gradient = vec![0.0; parameters.len()];
    executor.loss_and_gradient(&parameters, &batch, &mut gradient)?;

    let (mut steps, mut losses) = (Vec::new(), Vec::new());
    let end = Instant::now() + Duration::from_secs(seconds as u64);
    while Instant::now() < end {
        let start = Instant::now();
        executor.loss_and_gradient(&parameters, &batch, &mut gradient)?;
        let middle = Instant::now();
        executor.loss(&parameters, &batch)?;
        steps.push(middle - start);
        losses.push(middle.elapsed());
    }
    let (step, loss) = (median_ms(steps), median_ms(losses));
    let gflops = 6e-6 * (executor.multiplications() * batch_len) as f64 / step;
    println!(
        "{{\"engine\":\"tape\",\"network\":\"{network}\",\"batch\":{batch_len},\"threads\":{threads},\
         \"step_ms\":{step:.1},\"loss_ms\":{loss:.1},\"gflops\":{gflops:.0},\"buffers_mb\":{}}}",
        executor.memory_bytes() >> 20
    );
    Ok(())
}

fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// A value between -1 and 1 that depends only on `index`.
fn noise(index: usize) -> f32 {
    let hash = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / (1 << 23) as f32 - 1.0
}
