//! Linear layers; for a vector of images these are 1x1 convolutions.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sr2_formats::CsrMatrix;

use super::convolution::{Packing, Sum, weights};
use super::{Expected, Twin, edges, values};
use crate::{ProgramBuilder, Weights};

pub(super) fn sparse_linear_f32() {
    linear(Packing::Sparse);
}

pub(super) fn dense_linear_f32() {
    linear(Packing::Dense);
}

fn linear(packing: Packing) {
    let rng = &mut ChaCha8Rng::seed_from_u64(5);
    for features in edges().chain([63, 64, 65, 127, 128, 129, 200]) {
        for (outputs, sparsity) in [(1, 0.0), (10, 0.5), (7, 0.9), (5, 0.99), (6, 1.0)] {
            let weight = weights(rng, outputs, features, sparsity);
            let matrix = CsrMatrix::from_dense(&weight).unwrap();
            let bias = values(rng, outputs, 1.0);
            let clip = [-0.75, f32::INFINITY];
            let packed = match packing {
                Packing::Sparse => Weights::Sparse(&matrix),
                _ => Weights::Dense(weight.data()),
            };
            let steps = |b: &mut ProgramBuilder| _ = b.linear(0, 1, packed, Some(&bias), clip).unwrap();
            let expected = |x: &[f32]| -> Vec<Expected> {
                let row = |(row, bias): (&[f32], &f32)| {
                    let mut sum = Sum::of(*bias);
                    row.iter().zip(x).for_each(|(weight, x)| sum.add(*weight, *x));
                    sum.expected(clip)
                };
                weight.data().chunks(features).zip(&bias).map(row).collect()
            };
            let twin = Twin { buffers: &[&[features], &[outputs]], steps: &steps, expected: &expected, range: 1.0 };
            twin.check(&(features, outputs, sparsity, packing));
        }
    }
}
