//! Every tier of the convolutions and linear layers against a naive twin in f64.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sr2_formats::{CsrMatrix, Tensor};

use crate::guard::both;
use crate::{Buffer, Conv, Isa, NO_CLIP, Plane, Pooling, ProgramBuilder, Weights, Window};

/// Unit roundoff of f32.
const ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;

/// One convolution to test.
#[derive(Debug, Clone, Copy)]
struct Case {
    channels: [usize; 2],
    size: [usize; 2],
    window: Window,
    groups: usize,
    sparsity: f64,
    clip: [f32; 2],
    residual: bool,
}

/// What a value should be, and how far off it may be: `(terms + 2) 2^-24 sum |a x|`.
#[derive(Clone, Copy)]
struct Expected {
    value: f64,
    bound: f64,
}

fn values(rng: &mut ChaCha8Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Weights with about `sparsity` zeros, the first row full and the second empty where there are three or more.
fn weights(rng: &mut ChaCha8Rng, rows: usize, columns: usize, sparsity: f64) -> Tensor {
    let mut data = values(rng, rows * columns);
    for (i, value) in data.iter_mut().enumerate() {
        let keep = match i / columns {
            0 if rows > 2 && sparsity < 1.0 => true,
            1 if rows > 2 => false,
            _ => rng.random_range(0.0..1.0) >= sparsity,
        };
        *value = if keep { *value } else { 0.0 };
    }
    Tensor::new([rows, columns], data)
}

/// One image `[channels, height, width]`; `twice` adds the result before the clip, as the residual test does.
fn naive_conv(case: &Case, weight: &Tensor, bias: &[f32], image: &[f32], twice: bool) -> Vec<Expected> {
    let Case { channels: [inputs, outputs], size: [height, width], window: w, groups, .. } = *case;
    let [rows, cols] = w.positions(case.size).unwrap();
    let (group_in, group_out) = (inputs / groups, outputs / groups);
    let mut expected = Vec::new();
    for (o, bias) in bias.iter().enumerate().take(outputs) {
        for (row, col) in (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c))) {
            let (mut sum, mut magnitude, mut terms) = (f64::from(*bias), f64::from(bias.abs()), 1.0);
            for i in 0..group_in {
                for (kh, kw) in (0..w.kernel[0]).flat_map(|h| (0..w.kernel[1]).map(move |w| (h, w))) {
                    let y = (row * w.stride[0] + kh * w.dilation[0]).wrapping_sub(w.pads[0]);
                    let x = (col * w.stride[1] + kw * w.dilation[1]).wrapping_sub(w.pads[1]);
                    if y >= height || x >= width {
                        continue;
                    }
                    let channel = o / group_out * group_in + i;
                    let a = f64::from(weight.data()[((o * group_in + i) * w.kernel[0] + kh) * w.kernel[1] + kw]);
                    let product = a * f64::from(image[(channel * height + y) * width + x]);
                    (sum, magnitude, terms) = (sum + product, magnitude + product.abs(), terms + 1.0);
                }
            }
            let times = if twice { 2.0 } else { 1.0 };
            let value = (sum * times).clamp(f64::from(case.clip[0]), f64::from(case.clip[1]));
            expected.push(Expected { value, bound: times * (terms + 2.0) * ROUNDOFF * magnitude });
        }
    }
    expected
}

/// All outputs within their bounds; the message names the worst.
fn check(what: &str, found: &[f32], expected: &[Expected]) {
    assert_eq!(found.len(), expected.len(), "{what}: number of outputs");
    for (i, (found, Expected { value, bound })) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - value).abs();
        assert!(error <= *bound, "{what}: output {i} is {found}, expected {value} within {bound:e}");
    }
}

/// Runs the case on every tier, one image and a vector of images at a time, sparse and dense, 1 to 3 threads.
fn test_conv(case: Case, seed: u64) {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let [inputs, outputs] = case.channels;
    let [rows, cols] = case.window.positions(case.size).unwrap();
    let weight =
        weights(rng, outputs, inputs / case.groups * case.window.kernel.iter().product::<usize>(), case.sparsity);
    let matrix = CsrMatrix::from_dense(&weight).unwrap();
    let bias = values(rng, outputs);
    let image = inputs * case.size[0] * case.size[1];
    for isa in Isa::available() {
        for (lanes, count) in [(1, 2), (isa.lanes(), 2 * isa.lanes() + 1)] {
            let images = values(rng, count * image);
            let twin = |image| naive_conv(&case, &weight, &bias, image, case.residual);
            let expected: Vec<Expected> = images.chunks(image).flat_map(twin).collect();
            for (pad, threads) in [(0, 1), (1, 2), (2, 3)] {
                for packed in [Weights::Sparse(&matrix), Weights::Dense(weight.data())] {
                    let x = Buffer { plane: Plane::image(case.size[0], case.size[1], pad, lanes), channels: inputs };
                    let y = Buffer { plane: Plane::image(rows, cols, pad, lanes), channels: outputs };
                    let mut builder = ProgramBuilder::new(isa, &[x, y, y]);
                    builder.import(0);
                    let (window, groups) = (case.window, case.groups);
                    let mut conv = Conv { window, groups, bias: Some(&bias), residual: None, clip: NO_CLIP };
                    if case.residual {
                        builder.conv(0, 1, packed, &conv);
                        conv.residual = Some(1);
                    }
                    conv.clip = case.clip;
                    builder.conv(0, 2, packed, &conv);
                    builder.export(2);
                    let mut program = builder.build(threads, count).unwrap();
                    let what = format!("{case:?} on {isa}, {lanes} lanes, pad {pad}, {threads} threads, {packed:.20?}");
                    // Twice: a run must leave the zeros around its planes as they were.
                    for _ in 0..2 {
                        let mut found = vec![f32::NAN; expected.len()];
                        program.run(&images, count, &mut found);
                        check(&what, &found, &expected);
                    }
                }
            }
        }
    }
}

const SAME: Window = Window { kernel: [3, 3], stride: [1, 1], pads: [1; 4], dilation: [1, 1] };

fn case(channels: [usize; 2], size: [usize; 2], window: Window, sparsity: f64) -> Case {
    Case { channels, size, window, groups: 1, sparsity, clip: NO_CLIP, residual: false }
}

#[test]
fn convolutions_agree_at_every_size_around_a_vector() {
    both(|| {
        for (seed, width) in (1..=18).chain([31, 32, 33]).enumerate() {
            test_conv(case([3, 5], [4, width], SAME, 0.5), seed as u64);
            test_conv(case([2, 3], [width, 3], SAME, 0.5), 100 + seed as u64);
        }
    });
}

#[test]
fn convolutions_agree_at_every_sparsity() {
    both(|| {
        for (seed, sparsity) in [0.0, 0.5, 0.9, 0.95, 0.99, 1.0].into_iter().enumerate() {
            test_conv(case([40, 6], [9, 9], SAME, sparsity), seed as u64);
            test_conv(case([17, 33], [4, 4], Window::POINT, sparsity), seed as u64);
        }
    });
}

#[test]
fn convolutions_agree_for_every_window() {
    both(|| {
        let windows = [
            Window { stride: [2, 2], ..SAME },
            Window { stride: [3, 2], ..SAME },
            Window { kernel: [5, 5], pads: [2; 4], ..SAME },
            Window { kernel: [7, 7], stride: [2, 2], pads: [3; 4], ..SAME },
            Window { pads: [0; 4], ..SAME },
            Window { dilation: [2, 3], pads: [2, 3, 2, 3], ..SAME },
            Window { dilation: [2, 1], stride: [3, 2], pads: [4, 0, 1, 3], ..SAME },
            Window { kernel: [1, 3], pads: [0, 1, 0, 1], ..SAME },
            Window { kernel: [2, 4], pads: [1, 2, 0, 1], ..SAME },
            Window { kernel: [1, 1], stride: [2, 2], pads: [0; 4], ..SAME },
            Window { kernel: [1, 1], pads: [1, 2, 3, 4], ..SAME },
        ];
        for (seed, window) in windows.into_iter().enumerate() {
            test_conv(case([3, 4], [11, 13], window, 0.4), seed as u64);
        }
    });
}

#[test]
fn grouped_and_depthwise_convolutions_agree() {
    both(|| {
        for (seed, (channels, groups)) in [([8, 8], 8), ([4, 12], 4), ([6, 10], 2), ([9, 3], 3)].into_iter().enumerate()
        {
            for stride in [1, 2] {
                let window = Window { stride: [stride; 2], ..SAME };
                test_conv(Case { groups, ..case(channels, [9, 14], window, 0.3) }, seed as u64);
            }
        }
    });
}

#[test]
fn depthwise_windows_agree_at_every_width() {
    both(|| {
        for (seed, width) in (1..=20).chain([33, 40]).enumerate() {
            for stride in [1, 2] {
                let window = Window { stride: [stride; 2], ..SAME };
                let case = Case { groups: 3, clip: [-0.5, 0.5], ..case([3, 3], [width.min(9), width], window, 0.3) };
                test_conv(Case { residual: seed % 2 == 0, ..case }, seed as u64);
            }
        }
    });
}

#[test]
fn residuals_and_clips_come_last() {
    both(|| {
        let case = case([5, 7], [6, 13], SAME, 0.6);
        for (seed, clip) in [[0.0, f32::INFINITY], [0.0, 6.0], [-0.5, 0.5], NO_CLIP].into_iter().enumerate() {
            test_conv(Case { residual: true, clip, ..case }, seed as u64);
            test_conv(Case { clip, ..case }, seed as u64);
        }
    });
}

#[test]
fn large_layers_are_cut_into_blocks_and_tiles() {
    both(|| {
        test_conv(case([96, 4], [33, 34], SAME, 0.8), 1);
        test_conv(case([300, 3], [5, 5], SAME, 0.7), 2);
    });
}

#[test]
fn linear_layers_agree() {
    both(|| {
        let rng = &mut ChaCha8Rng::seed_from_u64(5);
        for features in [1, 7, 8, 31, 64, 65, 200] {
            for (outputs, sparsity) in [(1, 0.0), (10, 0.5), (7, 0.95), (5, 1.0)] {
                let case = case([features, outputs], [1, 1], Window::POINT, sparsity);
                let weight = weights(rng, outputs, features, sparsity);
                let matrix = CsrMatrix::from_dense(&weight).unwrap();
                let bias = values(rng, outputs);
                for isa in Isa::available() {
                    for (lanes, count) in [(1, 3), (isa.lanes(), isa.lanes() + 1)] {
                        let images = values(rng, count * features);
                        let twin = |image| naive_conv(&case, &weight, &bias, image, false);
                        let expected: Vec<Expected> = images.chunks(features).flat_map(twin).collect();
                        for packed in [Weights::Sparse(&matrix), Weights::Dense(weight.data())] {
                            let buffer = |channels| Buffer { plane: Plane::feature(lanes), channels };
                            let mut builder = ProgramBuilder::new(isa, &[buffer(features), buffer(outputs)]);
                            builder.import(0);
                            builder.linear(0, 1, packed, Some(&bias), NO_CLIP);
                            builder.export(1);
                            let mut found = vec![f32::NAN; expected.len()];
                            builder.build(2, count).unwrap().run(&images, count, &mut found);
                            check(
                                &format!("{features} -> {outputs} on {isa}, {lanes} lanes, {packed:.9?}"),
                                &found,
                                &expected,
                            );
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn pooling_takes_places_inside_the_image() {
    both(|| {
        let rng = &mut ChaCha8Rng::seed_from_u64(6);
        let window = |kernel, stride, pads| Window { kernel, stride, pads, dilation: [1, 1] };
        let windows = [
            window([3, 2], [2, 2], [1, 1, 2, 0]),
            window([2, 2], [2, 2], [0; 4]),
            window([3, 3], [2, 2], [1; 4]),
            window([3, 3], [1, 1], [1; 4]),
            window([2, 5], [1, 3], [0, 2, 1, 1]),
        ];
        for (window, width) in windows.into_iter().flat_map(|w| [4, 8, 9, 33, 70].map(|width| (w, width))) {
            let image = values(rng, 3 * 7 * width);
            for isa in Isa::available() {
                for lanes in [1, isa.lanes()] {
                    for pooling in [Pooling::Max, Pooling::Average] {
                        test_pool(isa, lanes, pooling, window, &image, [7, width]);
                    }
                }
            }
        }
    });
}

fn test_pool(isa: Isa, lanes: usize, pooling: Pooling, window: Window, image: &[f32], size: [usize; 2]) {
    let (channels, Window { kernel, stride, pads, .. }) = (3, window);
    let [rows, cols] = window.positions(size).unwrap();
    let plane = |[height, width]: [usize; 2]| Buffer { plane: Plane::image(height, width, 1, lanes), channels };
    let mut builder = ProgramBuilder::new(isa, &[plane(size), plane([rows, cols])]);
    builder.import(0);
    builder.pool(0, 1, pooling, window);
    builder.export(1);
    let mut found = vec![f32::NAN; channels * rows * cols];
    builder.build(2, 1).unwrap().run(image, 1, &mut found);
    for (i, found) in found.into_iter().enumerate() {
        let (channel, row, col) = (i / (rows * cols), i / cols % rows, i % cols);
        let places = (0..kernel[0])
            .flat_map(|h| (0..kernel[1]).map(move |w| (row * stride[0] + h, col * stride[1] + w)))
            .map(|(y, x)| (y.wrapping_sub(pads[0]), x.wrapping_sub(pads[1])))
            .filter(|(y, x)| *y < size[0] && *x < size[1]);
        let places: Vec<f32> = places.map(|(y, x)| image[(channel * size[0] + y) * size[1] + x]).collect();
        let expected = match pooling {
            Pooling::Max => places.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            Pooling::Average => places.iter().sum::<f32>() / places.len() as f32,
        };
        let error = (found - expected).abs();
        assert!(error <= 1e-6, "{pooling:?} {window:?} on {isa}, {lanes} lanes, {i}: {found}, expected {expected}");
    }
}

#[test]
fn tiers_that_this_cpu_lacks_are_named() {
    if Isa::available().len() < 3 {
        eprintln!("SKIP: this CPU lacks tiers; tested {:?}", Isa::available());
    }
}
