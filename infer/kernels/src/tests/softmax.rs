//! Softmax.

use super::{Expected, Twin, edges};
use crate::ProgramBuilder;

pub(super) fn softmax_f32() {
    for features in edges().chain([1000]) {
        for range in [1.0, 20.0] {
            let steps = |b: &mut ProgramBuilder| _ = b.softmax(0, 1);
            let twin = Twin { buffers: &[&[features], &[features]], steps: &steps, expected: &softmax, range };
            twin.check(&(features, range));
        }
    }
}

/// The rounding of `x - max` changes its exponential by as much, relative, as the difference is far from zero; each
/// exponential is right to a unit in the last place, two roundings; then come the sum and the quotient.
fn softmax(x: &[f32]) -> Vec<Expected> {
    let largest = x.iter().fold(f64::NEG_INFINITY, |m, v| m.max(f64::from(*v)));
    let distance = |x: &f32| largest - f64::from(*x);
    let furthest = x.iter().map(distance).fold(0.0, f64::max);
    let total: f64 = x.iter().map(|x| (-distance(x)).exp()).sum();
    let one = |of: &f32| {
        let value = (-distance(of)).exp() / total;
        Expected::rounded(value, distance(of) + furthest + 4.0 + x.len() as f64, value)
    };
    x.iter().map(one).collect()
}
