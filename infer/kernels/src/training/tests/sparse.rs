//! The sparse convolution and its gradients against loops over every product.

use super::convolution::{for_each_product, shapes};
use super::*;
use crate::Isa;
use crate::guard::both;
use crate::training::{SparseConvolution, SparseInputGradient, SparseWeightGradient, SparseWeights};

/// Weights of which about a fraction `sparsity` is zero, one row whole and one empty where there are three.
fn sparse_values(seed: u64, rows: usize, len: usize, sparsity: f32) -> Vec<f32> {
    let mut weights = values(seed, len);
    weights
        .iter_mut()
        .zip(values(seed + 100, len))
        .for_each(|(w, u)| *w = if u + 1.0 < 2.0 * sparsity { 0.0 } else { *w });
    if rows > 2 && sparsity > 0.0 && sparsity < 1.0 {
        weights[..len / rows].copy_from_slice(&values(seed, len)[..len / rows]);
        weights[len - len / rows..].fill(0.0);
    }
    weights
}

#[test]
fn sparse_convolutions_and_their_gradients_agree_with_the_naive_twin() {
    both(|| {
        for (seed, s) in shapes().into_iter().enumerate() {
            let Some(plan) = SparseConvolution::new(s) else {
                assert!(s.groups == s.in_channels && s.groups == s.out_channels, "{s:?}");
                continue;
            };
            // One list for all: each weight has other zeros than the one before.
            let (mut forward, mut backward) = (SparseWeights::default(), SparseWeights::default());
            for (images, sparsity) in [(1, 0.9), (3, 0.0), (3, 0.5), (17, 0.9), (3, 0.99), (1, 1.0)] {
                let (in_area, out_area) = (s.input[0] * s.input[1], s.output[0] * s.output[1]);
                let weights_len = s.out_channels * s.in_channels / s.groups * s.kernel[0] * s.kernel[1];
                let x = values(seed as u64 + 1, images * s.in_channels * in_area);
                let dy = values(seed as u64 + 2, images * s.out_channels * out_area);
                let w = sparse_values(seed as u64 + 3, s.out_channels, weights_len, sparsity);
                let bias = values(seed as u64 + 4, s.out_channels);

                let mut y_expected: Vec<f64> =
                    (0..dy.len()).map(|i| f64::from(bias[i / out_area % s.out_channels])).collect();
                let (mut dx_expected, mut dw_expected) = (vec![0.0; x.len()], vec![0.0; w.len()]);
                for_each_product(&s, images, |o, i, k| {
                    if w[k] != 0.0 {
                        y_expected[o] += f64::from(x[i]) * f64::from(w[k]);
                        dx_expected[i] += f64::from(dy[o]) * f64::from(w[k]);
                        dw_expected[k] += f64::from(x[i]) * f64::from(dy[o]);
                    }
                });

                plan.refresh_forward(&mut forward, &vec![1.0; w.len()]);
                plan.refresh_forward(&mut forward, &w);
                plan.refresh_backward(&mut backward, &w.iter().map(|w| 2.0 * w).collect::<Vec<_>>());
                plan.refresh_backward(&mut backward, &w);
                let mut padded_bias = bias.clone();
                padded_bias.resize(blocked_channels(s.out_channels), 0.0);
                let (bx, bdy) = (block(s.in_channels, in_area, &x), block(s.out_channels, out_area, &dy));
                for isa in Isa::available() {
                    let what = |part| format!("{part} of {s:?}, {images} images, sparsity {sparsity}, {}", isa.name());
                    let mut scratch = Vec::new();
                    let mut y = vec![f32::NAN; bdy.len()];
                    plan.forward(isa, &bx, &forward, Some(&padded_bias), &mut y, &mut scratch);
                    assert_close(&what("output"), &unblock(s.out_channels, out_area, &y), &y_expected);

                    let (mut dx, mut sums) = (vec![f32::NAN; bx.len()], vec![0.0; backward.nnz()]);
                    let input = Some(SparseInputGradient { values: &mut dx, accumulate: false });
                    let weight = Some(SparseWeightGradient { input: &bx, sums: &mut sums });
                    plan.backward(isa, &bdy, &backward, input, weight, &mut scratch);
                    assert_close(&what("input gradient"), &unblock(s.in_channels, in_area, &dx), &dx_expected);
                    let mut dw = vec![0.0; w.len()];
                    backward.add_to_gradient(&sums, &mut dw);
                    assert_close(&what("weight gradient"), &dw, &dw_expected);

                    let mut alone = vec![0.0; sums.len()];
                    let weight = Some(SparseWeightGradient { input: &bx, sums: &mut alone });
                    plan.backward(isa, &bdy, &backward, None, weight, &mut scratch);
                    assert_eq!(alone, sums, "{}", what("weight gradient alone"));
                    let input = Some(SparseInputGradient { values: &mut dx, accumulate: true });
                    plan.backward(isa, &bdy, &backward, input, None, &mut scratch);
                    let twice: Vec<f64> = dx_expected.iter().map(|v| 2.0 * v).collect();
                    assert_close(&what("accumulated gradient"), &unblock(s.in_channels, in_area, &dx), &twice);
                }
            }
        }
    });
}
