//! Every kernel at every tier of this CPU against a naive twin in f64.

mod convolution;
mod norm;
mod pool;
mod sparse;

use super::{BLOCK, block_images, blocked_channels};

/// Largest difference, relative to the largest value of the reference, that rounding in f32 may cause here.
const TOLERANCE: f64 = 2e-6;

/// Reproducible values between -1 and 1.
fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Blocks a batch of plain images.
fn block(channels: usize, area: usize, plain: &[f32]) -> Vec<f32> {
    let mut blocked = vec![f32::NAN; plain.len() / channels * blocked_channels(channels)];
    let images = blocked.chunks_exact_mut(blocked_channels(channels) * area);
    images.zip(plain.chunks_exact(channels * area)).for_each(|(b, p)| block_images(channels, area, p, b));
    blocked
}

/// The plain images of a blocked batch; lanes past the last channel must be zero.
fn unblock(channels: usize, area: usize, blocked: &[f32]) -> Vec<f32> {
    let mut plain = Vec::new();
    for image in blocked.chunks_exact(blocked_channels(channels) * area) {
        let at = |c: usize, p: usize| image[(c / BLOCK * area + p) * BLOCK + c % BLOCK];
        plain.extend((0..channels).flat_map(|c| (0..area).map(move |p| at(c, p))));
        let padding = (channels..blocked_channels(channels)).flat_map(|c| (0..area).map(move |p| at(c, p)));
        assert!(padding.clone().all(|v| v == 0.0), "padded lanes hold values");
    }
    plain
}

/// Largest difference relative to the largest expected value; infinite where one is not finite.
fn distance(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(f64::MIN_POSITIVE, |m, e| m.max(e.abs()));
    let difference = |(f, e): (&f32, &f64)| if f.is_finite() { (f64::from(*f) - e).abs() } else { f64::INFINITY };
    found.iter().zip(expected).map(difference).fold(0.0, f64::max) / scale
}

#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f64]) {
    let distance = distance(found, expected);
    assert!(distance <= TOLERANCE, "{what}: relative distance {distance:e}");
}

#[test]
fn distance_sees_what_it_should() {
    assert_eq!(distance(&[0.0, -0.0], &[-0.0, 0.0]), 0.0);
    assert_eq!(distance(&[1.0, 3.0], &[1.0, 2.0]), 0.5);
    assert_eq!(distance(&[f32::NAN], &[1.0]), f64::INFINITY);
    assert_eq!(distance(&[f32::INFINITY], &[1.0]), f64::INFINITY);
    assert!(distance(&[f32::from_bits(1)], &[0.0]) > 1.0);
}
