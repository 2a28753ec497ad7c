//! Convolutions: dense, sparse and depthwise, and the rearranging before them.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sr2_formats::{CsrMatrix, Tensor};

use super::{Expected, Twin, edges, values};
use crate::{Buffer, Conv, Isa, NO_CLIP, Plane, ProgramBuilder, TooLarge, Weights, Window};

/// One convolution.
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

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Packing {
    Dense,
    Sparse,
    /// Where there is code for it, else sparse.
    Generated,
    /// Where it can be, else dense.
    Winograd,
}

const SAME: Window = Window { kernel: [3, 3], stride: [1, 1], pads: [1; 4], dilation: [1, 1] };

fn case(channels: [usize; 2], size: [usize; 2], window: Window, sparsity: f64) -> Case {
    Case { channels, size, window, groups: 1, sparsity, clip: NO_CLIP, residual: false }
}

/// Around the edges of vectors, tiles and blocks, at every sparsity, for every kind of window.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for width in edges() {
        cases.push(case([3, 5], [4, width], SAME, 0.5));
        cases.push(case([2, 3], [width, 3], SAME, 0.5));
    }
    // Tiles of a single run: of 12 vectors in the sparse kernel.
    for width in [48, 96, 192].into_iter().flat_map(|edge| [edge - 1, edge, edge + 1]) {
        cases.push(case([2, 3], [1, width], SAME, 0.5));
    }
    // Blocks of 6 or 8 output channels in the dense kernel.
    for channels in [1, 2, 5, 6, 7, 11, 12, 13] {
        cases.push(case([channels, 14 - channels], [3, 3], SAME, 0.5));
    }
    for sparsity in [0.0, 0.5, 0.9, 0.95, 0.99, 1.0] {
        cases.push(case([40, 6], [9, 9], SAME, sparsity));
        cases.push(case([17, 33], [4, 4], Window::POINT, sparsity));
    }
    for window in [
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
    ] {
        cases.push(case([3, 4], [11, 13], window, 0.4));
    }
    for (channels, groups) in [([8, 8], 8), ([4, 12], 4), ([6, 10], 2), ([9, 3], 3)] {
        for stride in [1, 2] {
            let window = Window { stride: [stride; 2], ..SAME };
            cases.push(Case { groups, ..case(channels, [9, 14], window, 0.3) });
        }
    }
    for clip in [[0.0, f32::INFINITY], [0.0, 6.0], [-0.5, 0.5], NO_CLIP] {
        for residual in [false, true] {
            cases.push(Case { residual, clip, ..case([5, 7], [6, 13], SAME, 0.6) });
        }
    }
    // One value behind whole vectors, with blocks that are not full, edges, chunks and groups.
    for size in [[7, 7], [3, 11], [1, 17]] {
        for channels in [1, 5, 8, 14] {
            cases.push(Case { residual: true, clip: [-0.5, 0.5], ..case([3, channels], size, Window::POINT, 0.3) });
        }
        cases.push(case([5, 7], size, SAME, 0.3));
        cases.push(case([300, 9], size, Window::POINT, 0.9));
        cases.push(Case { groups: 2, residual: true, ..case([260, 6], size, SAME, 0.9) });
    }
    // Cut into blocks of input channels, and into tiles.
    cases.push(case([96, 4], [33, 34], SAME, 0.8));
    cases.push(case([300, 3], [5, 5], SAME, 0.7));
    cases
}

pub(super) fn sparse_conv_f32() {
    cases().iter().for_each(|case| test(case, Packing::Sparse));
}

/// Rows of one to eight vectors of every tier, channels of one tile or more, in one block of input channels or several.
pub(super) fn sparse_row_conv_f32() {
    for width in [4, 7, 8, 12, 14, 15, 16, 20, 23, 24, 28, 32, 48, 56, 64, 127, 128] {
        cases_of_rows(width).iter().for_each(|case| test(case, Packing::Sparse));
    }
}

fn cases_of_rows(width: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for height in [1, 2, 3, 5, 7, 8, 9, 17] {
        cases.push(Case { residual: height % 2 == 0, ..case([3, 5], [height, width], SAME, 0.5) });
    }
    for window in [
        Window { kernel: [1, 3], pads: [0, 1, 0, 1], ..SAME },
        Window { kernel: [2, 2], pads: [1, 0, 0, 1], ..SAME },
        Window { kernel: [2, 2], pads: [0, 1, 1, 0], ..SAME },
        Window { kernel: [5, 3], pads: [2, 1, 2, 1], ..SAME },
        Window { dilation: [2, 1], pads: [2, 1, 2, 1], ..SAME },
    ] {
        cases.push(Case { clip: [-0.5, 0.5], ..case([4, 3], [6, width], window, 0.4) });
    }
    if width == 16 {
        for sparsity in [0.0, 0.5, 0.9, 0.95, 0.99, 1.0] {
            cases.push(case([40, 6], [9, width], SAME, sparsity));
        }
        cases.push(Case { groups: 3, ..case([9, 6], [4, width], SAME, 0.3) });
        cases.push(Case { residual: true, ..case([96, 4], [24, width], SAME, 0.6) });
    }
    cases
}

/// Maps of every width and of one tile or more, directly and strided from even and odd sizes, in one block of input
/// channels or several.
pub(super) fn sparse_map_conv_f32() {
    for size in [[8, 8], [4, 4], [2, 2], [1, 8], [2, 8], [6, 8], [2, 4], [8, 4], [2, 2], [6, 2]] {
        cases_of_maps(size).iter().for_each(|case| test(case, Packing::Sparse));
    }
}

fn cases_of_maps(size: [usize; 2]) -> Vec<Case> {
    let mut cases = Vec::new();
    for window in [
        SAME,
        Window { kernel: [1, 3], pads: [0, 1, 0, 1], ..SAME },
        Window { kernel: [3, 1], pads: [1, 0, 1, 0], ..SAME },
        Window { kernel: [2, 2], pads: [1, 0, 0, 1], ..SAME },
        Window { kernel: [2, 2], pads: [0, 1, 1, 0], ..SAME },
    ] {
        cases.push(Case { clip: [-0.5, 0.5], residual: true, ..case([4, 3], size, window, 0.4) });
    }
    let [even, odd] = [size.map(|n| 2 * n), size.map(|n| 2 * n - 1)];
    let strided = Window { stride: [2, 2], ..SAME };
    cases.push(case([3, 4], even, strided, 0.4));
    cases.push(Case { residual: true, ..case([3, 4], odd, strided, 0.4) });
    for (kernel, pads) in [([1, 1], [0; 4]), ([2, 2], [0; 4]), ([4, 4], [2, 2, 1, 1]), ([4, 4], [1, 1, 2, 2])] {
        cases.push(Case { residual: true, ..case([3, 4], even, Window { kernel, pads, ..strided }, 0.4) });
    }
    cases.push(case([3, 4], [size[0], even[1]], Window { stride: [1, 2], ..SAME }, 0.4));
    if size[0] == size[1] {
        for sparsity in [0.0, 0.5, 0.9, 0.95, 0.99, 1.0] {
            cases.push(case([40, 6], size, SAME, sparsity));
        }
        cases.push(Case { groups: 3, ..case([9, 6], size, SAME, 0.3) });
        cases.push(Case { residual: true, ..case([96, 4], size, SAME, 0.6) });
        cases.push(case([96, 4], even, strided, 0.8));
    }
    cases
}

/// Maps of whole vectors or not, blocks of channels of one function or more, in chunks of input channels or one, at every
/// sparsity.
pub(super) fn generated_conv_f32() {
    let run = |case: Case| test(&case, Packing::Generated);
    let strided = Window { stride: [2, 2], ..SAME };
    let sizes = [
        [4, 4],
        [8, 8],
        [2, 8],
        [1, 16],
        [3, 16],
        [4, 20],
        [16, 3],
        [2, 2],
        [16, 16],
        [7, 7],
        [3, 11],
        [3, 32],
        [1, 48],
    ];
    for size in sizes {
        for window in [
            SAME,
            Window::POINT,
            Window { kernel: [1, 3], pads: [0, 1, 0, 1], ..SAME },
            Window { kernel: [3, 1], pads: [1, 0, 1, 0], ..SAME },
            Window { kernel: [2, 2], pads: [1, 0, 0, 1], ..SAME },
            Window { kernel: [5, 5], pads: [2; 4], ..SAME },
            Window { dilation: [2, 2], pads: [2; 4], ..SAME },
        ] {
            run(Case { clip: [-0.5, 0.5], residual: true, ..case([4, 3], size, window, 0.4) });
        }
        for (i, window) in [strided, Window { kernel: [1, 1], pads: [0; 4], ..strided }].into_iter().enumerate() {
            run(Case { residual: i == 0, ..case([3, 4], size.map(|n| 2 * n), window, 0.3) });
        }
    }
    for sparsity in [0.0, 0.5, 0.9, 0.95, 0.99, 1.0] {
        run(case([40, 6], [4, 4], SAME, sparsity));
        run(Case { clip: [0.0, f32::INFINITY], ..case([17, 33], [2, 8], Window::POINT, sparsity) });
    }
    // Several functions, weights further than a distance of one byte, and chunks.
    for outputs in [29, 30, 31, 61] {
        run(Case { residual: true, ..case([5, outputs], [4, 4], SAME, 0.2) });
    }
    run(Case { clip: [f32::NEG_INFINITY, 0.5], residual: true, ..case([96, 30], [4, 8], SAME, 0.7) });
    run(case([600, 3], [4, 4], Window::POINT, 0.5));
    // Chunks for the length of the code alone.
    run(case([40, 30], [4, 4], SAME, 0.0));
}

pub(super) fn dense_conv_f32() {
    cases().iter().for_each(|case| test(case, Packing::Dense));
}

pub(super) fn winograd_input_f32() {
    winograd(|_| true);
}

pub(super) fn winograd_output_f32() {
    winograd(|case| case.residual || case.clip != NO_CLIP);
}

fn winograd(of: impl Fn(&Case) -> bool) {
    let cases = cases().into_iter().filter(|case| case.window == SAME && case.groups == 1);
    // In bands of different heights, the last of which ends within a group of rows.
    let bands = Case { residual: true, ..case([3, 2], [17, 2500], SAME, 0.0) };
    cases.chain([bands]).filter(of).for_each(|case| test(&case, Packing::Winograd));
}

pub(super) fn depthwise_conv_f32() {
    for (i, width) in edges().chain([40]).enumerate() {
        for stride in [1, 2] {
            let window = Window { stride: [stride; 2], ..SAME };
            let case = Case { groups: 3, clip: [-0.5, 0.5], ..case([3, 3], [width.min(9), width], window, 0.3) };
            test(&Case { residual: i % 2 == 0, ..case }, Packing::Dense);
        }
    }
}

/// Rows of several vectors, of one, and of a part of one, on every tier.
pub(super) fn depthwise_aligned_f32() {
    let strided = Window { stride: [2, 2], ..SAME };
    for size in [[4, 4], [8, 8], [2, 8], [6, 8], [8, 2], [16, 1], [1, 16], [3, 16], [4, 16], [5, 32], [3, 48]] {
        for (i, window) in [SAME, strided, Window { pads: [1, 1, 0, 0], ..strided }].into_iter().enumerate() {
            let case = case([3, 3], size.map(|n| n * window.stride[0]), window, 0.3);
            test(&Case { groups: 3, clip: [-0.5, 0.5], residual: i % 2 == 0, ..case }, Packing::Dense);
        }
    }
}

/// In planes without gaps between rows.
pub(super) fn depthwise_rows_f32() {
    depthwise_conv_f32();
}

fn test(case: &Case, packing: Packing) {
    let rng = &mut ChaCha8Rng::seed_from_u64(case.size.iter().sum::<usize>() as u64);
    let Case { channels: [inputs, outputs], size: [height, width], window, groups, clip, residual, .. } = *case;
    let [rows, cols] = window.positions(case.size).unwrap();
    let columns = inputs / groups * window.kernel.iter().product::<usize>();
    let weight = weights(rng, outputs, columns, case.sparsity);
    let matrix = CsrMatrix::from_dense(&weight).unwrap();
    let bias = values(rng, outputs, 1.0);
    let steps = |b: &mut ProgramBuilder| {
        let mut conv = Conv { window, groups, bias: Some(&bias), residual: None, clip: NO_CLIP };
        let [x, y] = [0, 1].map(|buffer| b.buffers[buffer].plane);
        let packed = match packing {
            Packing::Generated if conv.is_generated(&x, &y, b.isa) => Weights::Generated(&matrix),
            Packing::Sparse | Packing::Generated => Weights::Sparse(&matrix),
            Packing::Winograd if conv.winograd(&x, &y, case.channels, b.isa).is_some() => {
                Weights::Winograd(weight.data())
            }
            _ => Weights::Dense(weight.data()),
        };
        if residual {
            b.conv(0, 1, packed, &conv).unwrap();
            conv.residual = Some(1);
        }
        conv.clip = clip;
        b.conv(0, 2, packed, &conv).unwrap();
    };
    let output = [outputs, rows, cols];
    let twin = Twin {
        buffers: &[&[inputs, height, width], &output, &output],
        steps: &steps,
        expected: &|image| naive(case, packing, &weight, &bias, image),
        range: 1.0,
    };
    twin.check(&(case, packing));
}

/// Weights with about `sparsity` zeros, the first row full and the second empty where there are three or more.
pub(super) fn weights(rng: &mut ChaCha8Rng, rows: usize, columns: usize, sparsity: f64) -> Tensor {
    let mut data = values(rng, rows * columns, 1.0);
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

/// What a bias and products of non-zero weights and values add up to.
///
/// Products with zeros are exact, and so are sums with them: in whatever order `n` products and a bias are added, each
/// goes through at most `n + 1` roundings, that of the product included.
pub(super) struct Sum {
    value: f64,
    magnitude: f64,
    products: f64,
}

impl Sum {
    pub(super) fn of(bias: f32) -> Self {
        Self { value: bias.into(), magnitude: bias.abs().into(), products: 0.0 }
    }

    pub(super) fn add(&mut self, weight: f32, x: f32) {
        let product = f64::from(weight) * f64::from(x);
        self.value += product;
        self.magnitude += product.abs();
        self.products += if weight == 0.0 { 0.0 } else { 1.0 };
    }

    /// The sum, limited to a range.
    pub(super) fn expected(&self, clip: [f32; 2]) -> Expected {
        let expected = Expected::rounded(self.value, self.products + 1.0, self.magnitude);
        Expected { value: expected.value.clamp(clip[0].into(), clip[1].into()), ..expected }
    }

    /// Twice the sum: one that was computed before is added as a residual, with its own error, which is one rounding
    /// more for this sum, and one for that.
    fn twice(&self, clip: [f32; 2]) -> Expected {
        let before = self.expected(NO_CLIP).bound;
        let sum = Expected::rounded(0.0, self.products + 2.0, self.magnitude).bound;
        let residual = Expected::rounded(0.0, 1.0, self.magnitude + before).bound;
        let value = (2.0 * self.value).clamp(clip[0].into(), clip[1].into());
        Expected { value, bound: before + sum + residual }
    }
}

/// The absolute values of the transforms of F(4, 3).
struct Transforms {
    weights: [[f64; 3]; 6],
    inputs: [[f64; 6]; 6],
    outputs: [[f64; 6]; 4],
}

const WINOGRAD: Transforms = Transforms {
    weights: [
        [1.0 / 4.0, 0.0, 0.0],
        [1.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0],
        [1.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ],
    inputs: [
        [4.0, 0.0, 5.0, 0.0, 1.0, 0.0],
        [0.0, 4.0, 4.0, 1.0, 1.0, 0.0],
        [0.0, 4.0, 4.0, 1.0, 1.0, 0.0],
        [0.0, 2.0, 1.0, 2.0, 1.0, 0.0],
        [0.0, 2.0, 1.0, 2.0, 1.0, 0.0],
        [0.0, 4.0, 0.0, 5.0, 0.0, 1.0],
    ],
    outputs: [
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        [0.0, 1.0, 1.0, 2.0, 2.0, 0.0],
        [0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
        [0.0, 1.0, 1.0, 8.0, 8.0, 1.0],
    ],
};

/// One image `[channels, height, width]`.
fn naive(case: &Case, packing: Packing, weight: &Tensor, bias: &[f32], image: &[f32]) -> Vec<Expected> {
    let Case { channels: [inputs, outputs], size: [height, width], window: w, groups, .. } = *case;
    let [rows, cols] = w.positions(case.size).unwrap();
    let (group_in, group_out) = (inputs / groups, outputs / groups);
    let mut expected = Vec::new();
    for (o, bias) in bias.iter().enumerate() {
        for (row, col) in (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c))) {
            let mut sum = Sum::of(*bias);
            for i in 0..group_in {
                for (kh, kw) in (0..w.kernel[0]).flat_map(|h| (0..w.kernel[1]).map(move |w| (h, w))) {
                    let y = (row * w.stride[0] + kh * w.dilation[0]).wrapping_sub(w.pads[0]);
                    let x = (col * w.stride[1] + kw * w.dilation[1]).wrapping_sub(w.pads[1]);
                    if y < height && x < width {
                        let channel = o / group_out * group_in + i;
                        let a = weight.data()[((o * group_in + i) * w.kernel[0] + kh) * w.kernel[1] + kw];
                        sum.add(a, image[(channel * height + y) * width + x]);
                    }
                }
            }
            if packing == Packing::Winograd && w == SAME && groups == 1 {
                sum.magnitude = f64::from(bias.abs());
                // Those of the products, and of the sums that make their factors and that are made of them.
                sum.products = 3.0 * inputs as f64 + 16.0;
                for (c, kw) in (0..inputs)
                    .flat_map(|c| (0..3).map(move |kw| (c, kw)))
                    .filter(|(_, kw)| (1..=width).contains(&(col + kw)))
                {
                    let x = |i: usize| match (row / 4 * 4 + i).checked_sub(1).filter(|y| *y < height) {
                        Some(y) => f64::from(image[(c * height + y) * width + col + kw - 1]).abs(),
                        None => 0.0,
                    };
                    let a = |kh: usize| f64::from(weight.data()[((o * inputs + c) * 3 + kh) * 3 + kw]).abs();
                    for (t, of_output) in WINOGRAD.outputs[row % 4].iter().enumerate() {
                        let weight: f64 = (0..3).map(|i| WINOGRAD.weights[t][i] * a(i)).sum();
                        let input: f64 = (0..6).map(|i| WINOGRAD.inputs[t][i] * x(i)).sum();
                        sum.magnitude += of_output * weight * input;
                    }
                }
            }
            expected.push(if case.residual { sum.twice(case.clip) } else { sum.expected(case.clip) });
        }
    }
    expected
}

/// A convolution whose rows have one weight, 1, moves values, and so shows where each position went.
pub(super) fn arrange_f32() {
    let windows = [
        Window { stride: [2, 2], ..SAME },
        Window { stride: [3, 2], pads: [0, 1, 2, 0], ..SAME },
        Window { kernel: [2, 5], stride: [1, 3], pads: [1, 2, 0, 3], dilation: [2, 1] },
        Window { pads: [2; 4], ..SAME },
    ];
    for (width, window) in edges().flat_map(|width| windows.map(|window| (width, window))) {
        let Some([rows, cols]) = window.positions([4, width]) else { continue };
        let taps = 2 * window.kernel[0] * window.kernel[1];
        let ones = (0..taps * taps).map(|i| if i % (taps + 1) == 0 { 1.0 } else { 0.0 }).collect();
        let matrix = CsrMatrix::from_dense(&Tensor::new([taps, taps], ones)).unwrap();
        let conv = Conv { window, groups: 1, bias: None, residual: None, clip: NO_CLIP };
        let steps = |b: &mut ProgramBuilder| _ = b.conv(0, 1, Weights::Sparse(&matrix), &conv).unwrap();
        let expected = |image: &[f32]| {
            let at = |i: usize| {
                let (tap, row, col) = (i / (rows * cols), i / cols % rows, i % cols);
                let (channel, kh, kw) =
                    (2 * tap / taps, tap / window.kernel[1] % window.kernel[0], tap % window.kernel[1]);
                let y = (row * window.stride[0] + kh * window.dilation[0]).wrapping_sub(window.pads[0]);
                let x = (col * window.stride[1] + kw * window.dilation[1]).wrapping_sub(window.pads[1]);
                Expected::exact(if y < 4 && x < width { image[(channel * 4 + y) * width + x] } else { 0.0 })
            };
            (0..taps * rows * cols).map(at).collect()
        };
        let buffers: [&[usize]; 2] = [&[2, 4, width], &[taps, rows, cols]];
        Twin { buffers: &buffers, steps: &steps, expected: &expected, range: 1.0 }.check(&(width, window));
    }
}

/// One image, small enough.
pub(super) fn select_f32() {
    arrange_f32();
}

/// The buffers are within the offsets, but each channel of one position takes three cache lines when it is rearranged.
#[test]
fn an_input_too_large_to_be_rearranged_is_refused() {
    const CHANNELS: usize = 1 << 25;
    let buffer = |channels| Buffer { plane: Plane::image(1, 1, 0, 1), channels };
    let mut builder = ProgramBuilder::new(Isa::best(), &[buffer(CHANNELS), buffer(1)]);
    let matrix = CsrMatrix::try_new(1, CHANNELS, vec![0, 0], Vec::new(), Vec::new()).unwrap();
    let window = Window { stride: [2, 2], ..Window::POINT };
    let conv = Conv { window, groups: 1, bias: None, residual: None, clip: NO_CLIP };
    assert_eq!(builder.conv(0, 1, Weights::Sparse(&matrix), &conv), Err(TooLarge));
}
