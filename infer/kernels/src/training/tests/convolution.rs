//! The convolution, its gradients and its weight packing against loops over every product.

use super::*;
use crate::guard::both;
use crate::training::{Arithmetic, ConvShape, Convolution, WinogradConvolution, pair_rows};
use crate::{Bf16, Isa};

/// A shape with its output inferred.
#[allow(clippy::too_many_arguments, reason = "one row of the table of shapes")]
pub(super) fn shape(
    channels: [usize; 2],
    groups: usize,
    input: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    pads: [usize; 4],
    dilation: [usize; 2],
) -> ConvShape {
    let output =
        std::array::from_fn(|a| (input[a] + pads[a] + pads[a + 2] - dilation[a] * (kernel[a] - 1) - 1) / stride[a] + 1);
    let [in_channels, out_channels] = channels;
    ConvShape { in_channels, out_channels, groups, input, output, kernel, stride, pads, dilation }
}

pub(super) fn shapes() -> Vec<ConvShape> {
    let square = |channels, groups, size, k: usize, stride, pad| {
        shape(channels, groups, [size; 2], [k; 2], [stride; 2], [pad; 4], [1; 2])
    };
    vec![
        square([3, 16], 1, 9, 3, 1, 1),
        square([16, 16], 1, 8, 3, 1, 1),
        square([16, 32], 1, 8, 3, 2, 1),
        square([32, 17], 1, 7, 3, 2, 1),
        square([16, 32], 1, 8, 1, 2, 0),
        square([20, 40], 1, 5, 1, 1, 0),
        square([1, 1], 1, 1, 1, 1, 0),
        square([64, 48], 1, 4, 3, 1, 1),
        square([16, 16], 1, 24, 3, 6, 0),
        square([3, 8], 1, 15, 7, 2, 3),
        square([5, 6], 1, 11, 5, 3, 2),
        square([4, 4], 1, 6, 3, 1, 0),
        square([4, 4], 1, 5, 2, 2, 0),
        square([4, 4], 1, 4, 1, 1, 2),
        square([4, 4], 1, 2, 1, 3, 0),
        square([100, 10], 1, 1, 1, 1, 0),
        square([24, 24], 24, 8, 3, 1, 1),
        square([40, 40], 40, 9, 3, 2, 1),
        square([16, 16], 16, 7, 5, 1, 2),
        square([8, 16], 8, 6, 3, 1, 1),
        square([36, 54], 2, 6, 3, 2, 1),
        shape([3, 5], 1, [7, 10], [3, 1], [2, 3], [1, 0, 0, 2], [1, 1]),
        shape([17, 4], 1, [9, 8], [3, 2], [1, 2], [2, 0, 1, 1], [2, 3]),
        shape([20, 20], 20, [9, 8], [3, 2], [2, 1], [2, 0, 1, 1], [2, 3]),
    ]
}

/// The naive twin: calls `f(output index, input index, weight index)` for every product.
pub(super) fn for_each_product(s: &ConvShape, images: usize, mut f: impl FnMut(usize, usize, usize)) {
    let per_group = [s.in_channels / s.groups, s.out_channels / s.groups];
    for n in 0..images {
        for o in 0..s.out_channels {
            for y in 0..s.output[0] * s.output[1] {
                let (oy, ox) = (y / s.output[1], y % s.output[1]);
                for i in 0..per_group[0] {
                    for k in 0..s.kernel[0] * s.kernel[1] {
                        let iy = oy * s.stride[0] + k / s.kernel[1] * s.dilation[0];
                        let ix = ox * s.stride[1] + k % s.kernel[1] * s.dilation[1];
                        let (Some(iy), Some(ix)) = (iy.checked_sub(s.pads[0]), ix.checked_sub(s.pads[1])) else {
                            continue;
                        };
                        if iy < s.input[0] && ix < s.input[1] {
                            let channel = o / per_group[1] * per_group[0] + i;
                            f(
                                (n * s.out_channels + o) * s.output[0] * s.output[1] + y,
                                ((n * s.in_channels + channel) * s.input[0] + iy) * s.input[1] + ix,
                                (o * per_group[0] + i) * s.kernel[0] * s.kernel[1] + k,
                            );
                        }
                    }
                }
            }
        }
    }
}

fn pack(blocks: usize, len: usize, pack: impl Fn(usize, &mut [f32])) -> Vec<f32> {
    let mut packed = vec![f32::NAN; blocks * len];
    packed.chunks_exact_mut(len).enumerate().for_each(|(block, chunk)| pack(block, chunk));
    packed
}

#[test]
fn convolutions_and_their_gradients_agree_with_the_naive_twin() {
    both(|| {
        for (seed, s) in shapes().into_iter().enumerate() {
            let plan = Convolution::new(s).unwrap();
            for images in [1, 3, plan.group() + 1] {
                let (in_area, out_area) = (s.input[0] * s.input[1], s.output[0] * s.output[1]);
                let weights_len = s.out_channels * s.in_channels / s.groups * s.kernel[0] * s.kernel[1];
                let x = values(seed as u64 + 1, images * s.in_channels * in_area);
                let dy = values(seed as u64 + 2, images * s.out_channels * out_area);
                let w = values(seed as u64 + 3, weights_len);
                let bias = values(seed as u64 + 4, s.out_channels);

                let mut y_expected: Vec<f64> =
                    (0..dy.len()).map(|i| f64::from(bias[i / out_area % s.out_channels])).collect();
                let (mut dx_expected, mut dw_expected) = (vec![0.0; x.len()], vec![0.0; w.len()]);
                for_each_product(&s, images, |o, i, k| {
                    y_expected[o] += f64::from(x[i]) * f64::from(w[k]);
                    dx_expected[i] += f64::from(dy[o]) * f64::from(w[k]);
                    dw_expected[k] += f64::from(x[i]) * f64::from(dy[o]);
                });

                let forward =
                    pack(plan.output_blocks(), plan.forward_block_len(), |b, to| plan.pack_forward(b, &w, to));
                let backward =
                    pack(plan.input_blocks(), plan.backward_block_len(), |b, to| plan.pack_backward(b, &w, to));
                let mut padded_bias = bias.clone();
                padded_bias.resize(plan.output_blocks() * BLOCK, 0.0);
                let (bx, bdy) = (block(s.in_channels, in_area, &x), block(s.out_channels, out_area, &dy));
                for isa in Isa::available() {
                    let what = |part| format!("{part} of {s:?}, {images} images, {}", isa.name());
                    let (f32s, mut scratch) = (Arithmetic::F32(isa), Vec::new());
                    let mut y = vec![f32::NAN; bdy.len()];
                    plan.forward(f32s, &bx, &forward, Some(&padded_bias), &mut y, &mut scratch);
                    assert_close(&what("output"), &unblock(s.out_channels, out_area, &y), &y_expected);

                    let mut dx = vec![f32::NAN; bx.len()];
                    plan.input_gradient(f32s, &bdy, &backward, &mut dx, false, &mut scratch);
                    assert_close(&what("input gradient"), &unblock(s.in_channels, in_area, &dx), &dx_expected);
                    plan.input_gradient(f32s, &bdy, &backward, &mut dx, true, &mut scratch);
                    let twice: Vec<f64> = dx_expected.iter().map(|v| 2.0 * v).collect();
                    assert_close(&what("accumulated gradient"), &unblock(s.in_channels, in_area, &dx), &twice);

                    let mut packed = vec![0.0; forward.len()];
                    plan.weight_gradient(f32s, 0..plan.output_blocks(), &bx, &bdy, &mut packed, &mut scratch);
                    let mut dw = vec![0.0; w.len()];
                    let per_block = (s.in_channels / s.groups) * s.kernel[0] * s.kernel[1] * BLOCK;
                    for (b, dw) in dw.chunks_mut(per_block).enumerate() {
                        let len = plan.forward_block_len();
                        plan.unpack_gradient(b, &packed[b * len..(b + 1) * len], dw);
                    }
                    assert_close(&what("weight gradient"), &dw, &dw_expected);
                }
            }
        }
    });
}

/// Largest difference, relative to the largest value of the reference, where sums of products are themselves added with
/// weights of up to 8.
const WINOGRAD_TOLERANCE: f64 = 2e-5;

#[test]
fn convolutions_with_fewer_products_agree_with_the_naive_twin() {
    let shapes = [([16, 16], [8, 8]), ([32, 48], [4, 4]), ([20, 17], [5, 3]), ([64, 16], [7, 7]), ([16, 33], [14, 9])];
    both(|| {
        for (seed, (channels, input)) in shapes.into_iter().enumerate() {
            let s = shape(channels, 1, input, [3, 3], [1, 1], [1; 4], [1, 1]);
            let plan = WinogradConvolution::new(s).unwrap();
            for images in [1, plan.group() + 1] {
                let area = input[0] * input[1];
                let x = values(seed as u64 + 1, images * s.in_channels * area);
                let dy = values(seed as u64 + 2, images * s.out_channels * area);
                let w = values(seed as u64 + 3, s.out_channels * s.in_channels * 9);
                let mut bias = values(seed as u64 + 4, s.out_channels);
                let mut y_expected: Vec<f64> =
                    (0..dy.len()).map(|i| f64::from(bias[i / area % s.out_channels])).collect();
                let mut dx_expected = vec![0.0; x.len()];
                for_each_product(&s, images, |o, i, k| {
                    y_expected[o] += f64::from(x[i]) * f64::from(w[k]);
                    dx_expected[i] += f64::from(dy[o]) * f64::from(w[k]);
                });
                bias.resize(plan.rows().output_blocks() * BLOCK, 0.0);

                let rows = plan.rows();
                let [mut forward, mut backward] = [Vec::new(), Vec::new()];
                for product in 0..WinogradConvolution::PRODUCTS {
                    let transformed = |is_backward| {
                        let mut transformed = vec![f32::NAN; w.len() / 3];
                        WinogradConvolution::transform_weights(product, is_backward, &w, &mut transformed);
                        transformed
                    };
                    let [ahead, back] = [false, true].map(transformed);
                    forward.extend(pack(rows.output_blocks(), rows.forward_block_len(), |b, to| {
                        rows.pack_forward(b, &ahead, to);
                    }));
                    backward.extend(pack(rows.input_blocks(), rows.backward_block_len(), |b, to| {
                        rows.pack_backward(b, &back, to);
                    }));
                }
                let (bx, bdy) = (block(s.in_channels, area, &x), block(s.out_channels, area, &dy));
                for isa in Isa::available() {
                    let close = |part, channels, found: &[f32], expected: &[f64]| {
                        let distance = distance(&unblock(channels, area, found), expected);
                        assert!(
                            distance <= WINOGRAD_TOLERANCE,
                            "{part} of {s:?}, {images} images, {isa}: {distance:e}"
                        );
                    };
                    let [mut first, mut second] = [Vec::new(), Vec::new()];
                    let mut y = vec![f32::NAN; bdy.len()];
                    plan.forward(isa, &bx, &forward, Some(&bias), &mut y, [&mut first, &mut second]);
                    close("output", s.out_channels, &y, &y_expected);
                    let mut dx = vec![f32::NAN; bx.len()];
                    plan.input_gradient(isa, &bdy, &backward, &mut dx, false, [&mut first, &mut second]);
                    close("input gradient", s.in_channels, &dx, &dx_expected);
                    plan.input_gradient(isa, &bdy, &backward, &mut dx, true, [&mut first, &mut second]);
                    let twice: Vec<f64> = dx_expected.iter().map(|v| 2.0 * v).collect();
                    close("accumulated gradient", s.in_channels, &dx, &twice);
                }
            }
        }
    });
}

#[test]
fn the_weight_gradient_of_some_blocks_is_part_of_the_whole() {
    both(|| {
        let s = shape([20, 50], 1, [6, 5], [3, 3], [1, 1], [1, 1, 1, 1], [1, 1]);
        let plan = Convolution::new(s).unwrap();
        let (x, dy) = (block(20, 30, &values(1, 2 * 20 * 30)), block(50, 30, &values(2, 2 * 50 * 30)));
        let len = plan.forward_block_len();
        let (mut whole, mut part) = (vec![0.0; 4 * len], vec![0.0; 2 * len]);
        let best = Arithmetic::F32(Isa::best());
        plan.weight_gradient(best, 0..4, &x, &dy, &mut whole, &mut Vec::new());
        plan.weight_gradient(best, 1..3, &x, &dy, &mut part, &mut Vec::new());
        assert_eq!(part, whole[len..3 * len]);
    });
}

#[test]
fn rewritten_images_give_the_same_weight_gradient() {
    both(|| {
        let s = shape([20, 50], 1, [4, 4], [3, 3], [1, 1], [1, 1, 1, 1], [1, 1]);
        let plan = Convolution::new(s).unwrap();
        let (group, images) = (plan.summed_images(), 2 * plan.summed_images() + 3);
        let (x, dy) = (block(20, 16, &values(1, images * 20 * 16)), block(50, 16, &values(2, images * 50 * 16)));
        let bf16 = Bf16::available().into_iter().map(Arithmetic::Bf16);
        for arithmetic in Isa::available().into_iter().map(Arithmetic::F32).chain(bf16) {
            assert!(!plan.reads_images(arithmetic));
            let mut words = vec![f32::NAN; plan.paired_len(arithmetic, images)];
            let groups = words.chunks_mut(plan.paired_len(arithmetic, group));
            let batch = x.chunks(group * plan.input_len()).zip(dy.chunks(group * plan.output_len()));
            groups.zip(batch).for_each(|(words, (x, dy))| plan.pair_images(arithmetic, 0..4, [x, dy], words));
            let (mut direct, mut paired) =
                (vec![0.0; 2 * plan.forward_block_len()], vec![0.0; 2 * plan.forward_block_len()]);
            plan.weight_gradient(arithmetic, 1..3, &x, &dy, &mut direct, &mut Vec::new());
            plan.paired_weight_gradient(arithmetic, 1..3, images, &words, &mut paired);
            assert_eq!(paired, direct, "{arithmetic:?}");
        }
    });
}

#[test]
fn an_image_too_large_for_the_plan_is_refused() {
    let s = shape([32, 16], 1, [1 << 14, 1 << 14], [1, 1], [1, 1], [0; 4], [1, 1]);
    assert!(Convolution::new(s).is_none());
}

/// Values that bf16 holds exactly.
fn bf16_values(seed: u64, len: usize) -> Vec<f32> {
    values(seed, len).into_iter().map(|v| (v * 256.0).round() / 256.0).collect()
}

#[test]
fn convolutions_of_bf16_and_their_gradients_agree_with_the_naive_twin() {
    both(|| {
        for (seed, s) in shapes().into_iter().enumerate() {
            let plan = Convolution::new(s).unwrap();
            if plan.is_depthwise() {
                continue;
            }
            for images in [1, 3, plan.group() + 1] {
                let (in_area, out_area) = (s.input[0] * s.input[1], s.output[0] * s.output[1]);
                let weights_len = s.out_channels * s.in_channels / s.groups * s.kernel[0] * s.kernel[1];
                // What rounding to bf16 does not change, so that only sums differ.
                let x = bf16_values(seed as u64 + 1, images * s.in_channels * in_area);
                let dy = bf16_values(seed as u64 + 2, images * s.out_channels * out_area);
                let w = bf16_values(seed as u64 + 3, weights_len);
                let bias = values(seed as u64 + 4, s.out_channels);

                let mut y_expected: Vec<f64> =
                    (0..dy.len()).map(|i| f64::from(bias[i / out_area % s.out_channels])).collect();
                let (mut dx_expected, mut dw_expected) = (vec![0.0; x.len()], vec![0.0; w.len()]);
                for_each_product(&s, images, |o, i, k| {
                    y_expected[o] += f64::from(x[i]) * f64::from(w[k]);
                    dx_expected[i] += f64::from(dy[o]) * f64::from(w[k]);
                    dw_expected[k] += f64::from(x[i]) * f64::from(dy[o]);
                });

                let pairs = |packed: Vec<f32>| {
                    let mut words = vec![f32::NAN; packed.len() / 2];
                    pair_rows(&packed, &mut words);
                    words
                };
                let block_len = plan.forward_block_len();
                let forward = pairs(pack(plan.output_blocks(), block_len, |b, to| plan.pack_forward(b, &w, to)));
                let backward =
                    pairs(pack(plan.input_blocks(), plan.backward_block_len(), |b, to| plan.pack_backward(b, &w, to)));
                let mut padded_bias = bias.clone();
                padded_bias.resize(plan.output_blocks() * BLOCK, 0.0);
                let (bx, bdy) = (block(s.in_channels, in_area, &x), block(s.out_channels, out_area, &dy));
                for bf16 in Bf16::available() {
                    let what = |part| format!("{part} of {s:?}, {images} images, {bf16:?}");
                    let (bf16, mut scratch) = (Arithmetic::Bf16(bf16), Vec::new());
                    let mut y = vec![f32::NAN; bdy.len()];
                    plan.forward(bf16, &bx, &forward, Some(&padded_bias), &mut y, &mut scratch);
                    assert_close(&what("output"), &unblock(s.out_channels, out_area, &y), &y_expected);

                    let mut dx = vec![f32::NAN; bx.len()];
                    plan.input_gradient(bf16, &bdy, &backward, &mut dx, false, &mut scratch);
                    assert_close(&what("input gradient"), &unblock(s.in_channels, in_area, &dx), &dx_expected);
                    plan.input_gradient(bf16, &bdy, &backward, &mut dx, true, &mut scratch);
                    let twice: Vec<f64> = dx_expected.iter().map(|v| 2.0 * v).collect();
                    assert_close(&what("accumulated gradient"), &unblock(s.in_channels, in_area, &dx), &twice);

                    let mut packed = vec![0.0; plan.output_blocks() * block_len];
                    plan.weight_gradient(bf16, 0..plan.output_blocks(), &bx, &bdy, &mut packed, &mut scratch);
                    let mut dw = vec![0.0; w.len()];
                    for (b, dw) in dw.chunks_mut(plan.block_weights()).enumerate() {
                        plan.unpack_gradient(b, &packed[b * block_len..(b + 1) * block_len], dw);
                    }
                    assert_close(&what("weight gradient"), &dw, &dw_expected);
                }
            }
        }
    });
}
