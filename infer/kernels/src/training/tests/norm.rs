//! Batch-norm passes against their formulas in f64.

use super::*;
use crate::Isa;
use crate::guard::both;
use crate::training::{
    Activation, Mask, NormInputGradient, accumulate_gradient_moments, accumulate_moments, norm_input_gradient,
    normalize,
};

const CHANNELS: usize = 21;
const AREA: usize = 13;
const LANES: usize = 32;

#[test]
fn moments_keep_their_digits_far_from_zero() {
    both(|| {
        let plain: Vec<f32> = values(1, CHANNELS * AREA).iter().map(|v| v + 1000.0).collect();
        let image = block(CHANNELS, AREA, &plain);
        for isa in Isa::available() {
            let mut moments = vec![f32::NAN; 2 * LANES];
            accumulate_moments(isa, AREA, &image, &mut moments);
            for (c, channel) in plain.chunks_exact(AREA).enumerate() {
                let mean = channel.iter().map(|v| f64::from(*v)).sum::<f64>() / AREA as f64;
                let squares: f64 = channel.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum();
                assert_close("mean", &[moments[c]], &[mean]);
                assert_close("squares", &[moments[LANES + c]], &[squares]);
            }
        }
    });
}

#[test]
fn normalize_and_its_gradient_passes_follow_their_formulas() {
    both(|| {
        let activations = [Activation::Identity, Activation::Relu, Activation::Clip { low: 0.0, high: 0.5 }];
        let plain = |seed| values(seed, CHANNELS * AREA);
        let (x, r, g) = (plain(1), plain(2), plain(3));
        let channel = |seed| {
            let mut lanes = values(seed, LANES);
            lanes[CHANNELS..].fill(0.0);
            lanes
        };
        let (scale, shift, mean) = (channel(4), channel(5), channel(6));
        let at = |v: &[f32], i: usize| f64::from(v[i]);
        for isa in Isa::available() {
            for activation in activations {
                let [low, high] = activation.bounds().map(f64::from);
                for residual in [None, Some(block(CHANNELS, AREA, &r))] {
                    let expected: Vec<f64> = (0..x.len())
                        .map(|i| {
                            let c = i / AREA;
                            let r = if residual.is_some() { at(&r, i) } else { 0.0 };
                            (at(&x, i) * at(&scale, c) + at(&shift, c) + r).clamp(low, high)
                        })
                        .collect();
                    let (bx, mut y) = (block(CHANNELS, AREA, &x), vec![f32::NAN; LANES * AREA]);
                    let coefficients = [scale.clone(), shift.clone()].concat();
                    normalize(isa, AREA, &coefficients, activation, &bx, residual.as_deref(), &mut y);
                    assert_close("normalized", &unblock(CHANNELS, AREA, &y), &expected);

                    let (mut gradient, mut sums) = (block(CHANNELS, AREA, &g), vec![f32::NAN; 2 * LANES]);
                    let mask = Mask::Output(activation, &y);
                    accumulate_gradient_moments(isa, AREA, &mean, mask, &bx, &mut gradient, &mut sums);
                    if residual.is_none() {
                        let (mut unmasked, mut again) = (block(CHANNELS, AREA, &g), vec![f32::NAN; 2 * LANES]);
                        let mask = Mask::Coefficients(activation, &coefficients);
                        accumulate_gradient_moments(isa, AREA, &mean, mask, &bx, &mut unmasked, &mut again);
                        assert_eq!(unmasked, block(CHANNELS, AREA, &g));
                        assert_eq!(again, sums);

                        let plain = NormInputGradient {
                            means: &mean,
                            gradient: &scale,
                            centered: &shift,
                            constant: &scale,
                            mask: None,
                        };
                        let masked = NormInputGradient { mask: Some((activation, &coefficients)), ..plain };
                        let mut expected = gradient.clone();
                        norm_input_gradient(isa, AREA, plain, &bx, None, false, &mut expected);
                        let mut other = expected.clone();
                        norm_input_gradient(isa, AREA, masked, &bx, Some(&unmasked), false, &mut other);
                        assert_eq!(other, expected);
                        norm_input_gradient(isa, AREA, masked, &bx, None, false, &mut unmasked);
                        assert_eq!(unmasked, expected);
                    }
                    let passes = |i: usize| expected[i] > low && expected[i] < high;
                    let masked: Vec<f64> = (0..x.len()).map(|i| if passes(i) { at(&g, i) } else { 0.0 }).collect();
                    assert_close("masked gradient", &unblock(CHANNELS, AREA, &gradient), &masked);
                    for c in 0..CHANNELS {
                        let range = c * AREA..(c + 1) * AREA;
                        let centered = |i: usize| masked[i] * (at(&x, i) - at(&mean, c));
                        let expected = [masked[range.clone()].iter().sum(), range.map(centered).sum()];
                        let magnitude = AREA as f64;
                        assert_close("sums", &[sums[c], AREA as f32], &[expected[0], magnitude]);
                        assert_close("centered sums", &[sums[LANES + c], AREA as f32], &[expected[1], magnitude]);
                    }
                }
            }
            let coefficients =
                NormInputGradient { means: &mean, gradient: &scale, centered: &shift, constant: &scale, mask: None };
            let value = |i: usize| {
                let c = i / AREA;
                at(&scale, c) * at(&g, i) + at(&shift, c) * (at(&x, i) - at(&mean, c)) + at(&scale, c)
            };
            let bx = block(CHANNELS, AREA, &x);
            let bg = block(CHANNELS, AREA, &g);
            let once: Vec<f64> = (0..x.len()).map(value).collect();
            let mut in_place = bg.clone();
            norm_input_gradient(isa, AREA, coefficients, &bx, None, false, &mut in_place);
            assert_close("in place", &unblock(CHANNELS, AREA, &in_place), &once);
            let mut target = block(CHANNELS, AREA, &r);
            norm_input_gradient(isa, AREA, coefficients, &bx, Some(&bg), true, &mut target);
            let added: Vec<f64> = (0..x.len()).map(|i| value(i) + at(&r, i)).collect();
            assert_close("added", &unblock(CHANNELS, AREA, &target), &added);
            norm_input_gradient(isa, AREA, coefficients, &bx, Some(&bg), false, &mut target);
            assert_close("replaced", &unblock(CHANNELS, AREA, &target), &once);
        }
    });
}
