//! Programs of several stages, each with a layout of its own, for every number of images and threads around the edges
//! of the groups.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::values;
use crate::guard::both;
use crate::{Buffer, Isa, NO_CLIP, Plane, Program, ProgramBuilder, Threads};

const SHAPE: [usize; 3] = [3, 5, 7];

/// `y = factor x + channel`.
fn stage(isa: Isa, lanes: usize, pad: usize, factor: f32) -> ProgramBuilder {
    let [channels, height, width] = SHAPE;
    let plane = Plane::image(height, width, pad, lanes);
    let mut builder = ProgramBuilder::new(isa, &[Buffer { plane, channels }; 2]);
    builder.import(0);
    let affine = (0..channels).map(|channel| [factor, channel as f32]).collect();
    builder.pointwise(0, 1, 0, Some(affine), None, NO_CLIP);
    builder.export(1);
    builder
}

#[test]
fn stages_hand_every_image_on() {
    both(|| {
        for isa in Isa::available() {
            let vector = isa.lanes();
            for lanes in [&[1, vector][..], &[vector, 1], &[1, vector, 1], &[1, 1]] {
                for count in [1, 3, vector, vector + 1, 4 * vector] {
                    (1..=3).for_each(|threads| run(isa, lanes, count, threads));
                }
            }
        }
    });
}

fn run(isa: Isa, lanes: &[usize], count: usize, threads: usize) {
    let factors = [2.0, -0.5, 4.0];
    let stages = lanes.iter().enumerate().map(|(i, lanes)| stage(isa, *lanes, i % 2, factors[i])).collect();
    let program = Program::chain(stages, Threads { count: threads, spin: false, pin: false }, count);
    let image: usize = SHAPE.iter().product();
    let images = values(&mut ChaCha8Rng::seed_from_u64(1), count * image, 1.0);
    // Factors are powers of two and images have few digits left behind the integers: nothing rounds.
    let images: Vec<f32> = images.iter().map(|value| (value * 256.0).round() / 256.0).collect();
    let expected = images.iter().enumerate().map(|(i, value)| {
        let channel = (i % image / (SHAPE[1] * SHAPE[2])) as f32;
        factors[..lanes.len()].iter().fold(*value, |value, factor| factor * value + channel)
    });
    let expected: Vec<f32> = expected.collect();
    let mut workspace = program.workspace().unwrap();
    for alone in [false, false, true, true] {
        workspace.settle(count, alone);
        let mut found = vec![f32::NAN; images.len()];
        program.run(&images, count, &mut found, &mut workspace);
        assert_eq!(found, expected, "{isa}, {lanes:?}, {count} images, {threads} threads");
    }
    let count = count.min(program.lanes());
    let mut found = vec![f32::NAN; count * image];
    program.run_timed(&images[..count * image], count, &mut found, &mut workspace);
    assert_eq!(found, expected[..count * image], "{isa}, {lanes:?}, {count} images, {threads} threads, timed");
}

#[test]
fn shared_runs_are_timed() {
    let program = Program::chain(vec![stage(Isa::Scalar, 1, 0, 2.0)], Threads { count: 2, spin: false, pin: false }, 1);
    let mut workspace = program.workspace().unwrap();
    let images = vec![0.5; SHAPE.iter().product()];
    let mut compared = |runs: usize| {
        (0..runs).any(|_| {
            program.run(&images, 1, &mut images.clone(), &mut workspace);
            workspace.has_compared()
        })
    };
    assert!(!compared(3));
    assert!(compared(5));
}
