//! 3x3 convolutions with fewer products: Winograd's F(4, 3) down the columns, as [`crate::winograd`] has it for the
//! engine. The six rows of products of each four output rows lie in images of their own, one for each row of products,
//! between which a convolution of 1x3 weights is planned like any other.

use super::BLOCK;
use super::arithmetic::Arithmetic;
use super::bf16::align;
use super::convolution::{ConvShape, Convolution};
use super::tiered::tiered;
use crate::Isa;
use crate::winograd::{GROUP, OF_WEIGHTS, PRODUCTS};

/// Bytes of rows of products that are computed together: about what the second-level cache holds, or as many as there are
/// of weights, which are read anew each time.
const TOGETHER: usize = 768 << 10;

/// Most images of a group.
const GROUP_IMAGES: usize = 64;

/// A planned convolution and its input gradient, in f32.
#[derive(Debug, Clone)]
pub struct WinogradConvolution {
    shape: ConvShape,
    /// Of a band of each image: nothing of one is needed for the next.
    rows: Convolution,
    group: usize,
}

impl WinogradConvolution {
    /// Plans a convolution; `None` if it is not one of 3x3 windows with padding 1, stride 1 and one group, or not faster so.
    pub fn new(shape: ConvShape) -> Option<Self> {
        let ConvShape { in_channels, out_channels, groups, input, kernel, stride, pads, dilation, .. } = shape;
        let fits = (kernel, stride, pads, dilation, groups) == ([3, 3], [1, 1], [1; 4], [1, 1], 1);
        // Of fewer the transforms take longer than the products that they save.
        let pays = in_channels.min(out_channels) >= BLOCK && input[0] >= GROUP;
        if !fits || !pays {
            return None;
        }
        let groups = input[0].div_ceil(GROUP);
        let channels = in_channels.next_multiple_of(BLOCK) + out_channels.next_multiple_of(BLOCK);
        let bytes = size_of::<f32>() * PRODUCTS * channels * input[1];
        let weights = size_of::<f32>() * PRODUCTS * 3 * in_channels * out_channels;
        let together = TOGETHER.max(weights);
        let fits = |band: &usize| groups.is_multiple_of(*band) && band * bytes <= together;
        let band = (1..=groups).rev().find(fits).unwrap_or(1);
        let (size, kernel, pads) = ([band, input[1]], [1, 3], [0, 1, 0, 1]);
        let rows = Convolution::new(ConvShape { input: size, output: size, kernel, pads, ..shape })?;
        let group = if band < groups { 1 } else { (together / (band * bytes)).clamp(1, GROUP_IMAGES) };
        Some(Self { shape, rows, group })
    }

    /// The convolution between rows of products; its weights are packed once for each of [`WinogradConvolution::PRODUCTS`],
    /// one behind the other.
    pub fn rows(&self) -> &Convolution {
        &self.rows
    }

    /// Rows of products of four output rows.
    pub const PRODUCTS: usize = PRODUCTS;

    /// Images that are worth computing together.
    pub fn group(&self) -> usize {
        self.group
    }

    /// The 1x3 weights of one of the products, from 3x3 weights; for the input gradient if `backward`.
    pub fn transform_weights(product: usize, backward: bool, weights: &[f32], transformed: &mut [f32]) {
        let mut of_rows = OF_WEIGHTS[product].map(|factor| factor as f32);
        if backward {
            of_rows.reverse();
        }
        for (to, from) in transformed.as_chunks_mut::<3>().0.iter_mut().zip(weights.as_chunks::<9>().0) {
            for (i, to) in to.iter_mut().enumerate() {
                *to = of_rows[0] * from[i] + of_rows[1] * from[3 + i] + of_rows[2] * from[6 + i];
            }
        }
    }

    /// As [`Convolution::forward`].
    pub fn forward(
        &self,
        isa: Isa,
        input: &[f32],
        weights: &[f32],
        bias: Option<&[f32]>,
        output: &mut [f32],
        scratch: [&mut Vec<f32>; 2],
    ) {
        let blocks = [self.rows.input_blocks(), self.rows.output_blocks()];
        let rows = |product: &Product<'_>, scratch: &mut Vec<f32>, to: &mut [f32]| {
            let weights = &weights[product.index * blocks[1] * self.rows.forward_block_len()..];
            self.rows.forward(Arithmetic::F32(isa), product.input, weights, None, to, scratch);
        };
        self.transformed(isa, blocks, input, bias, output, false, scratch, rows);
    }

    /// As [`Convolution::input_gradient`].
    pub fn input_gradient(
        &self,
        isa: Isa,
        output_gradient: &[f32],
        weights: &[f32],
        input_gradient: &mut [f32],
        accumulate: bool,
        scratch: [&mut Vec<f32>; 2],
    ) {
        let blocks = [self.rows.output_blocks(), self.rows.input_blocks()];
        let rows = |product: &Product<'_>, scratch: &mut Vec<f32>, to: &mut [f32]| {
            let weights = &weights[product.index * blocks[1] * self.rows.backward_block_len()..];
            self.rows.input_gradient(Arithmetic::F32(isa), product.input, weights, to, false, scratch);
        };
        self.transformed(isa, blocks, output_gradient, None, input_gradient, accumulate, scratch, rows);
    }

    /// `to = (+=)` what `rows` make of the products of `from`, of so many blocks.
    #[allow(clippy::too_many_arguments, reason = "what both passes differ in")]
    fn transformed(
        &self,
        isa: Isa,
        blocks: [usize; 2],
        from: &[f32],
        bias: Option<&[f32]>,
        to: &mut [f32],
        accumulate: bool,
        [scratch, of_rows]: [&mut Vec<f32>; 2],
        rows: impl Fn(&Product<'_>, &mut Vec<f32>, &mut [f32]),
    ) {
        let [height, width] = self.shape.input;
        let row = width * BLOCK;
        let [from_image, to_image] = blocks.map(|blocks| blocks * height * row);
        let band = self.rows.shape().input[0];
        for (from, to) in from.chunks(self.group * from_image).zip(to.chunks_mut(self.group * to_image)) {
            let images = from.len() / from_image;
            let [inputs, outputs] = blocks.map(|blocks| images * blocks * band * row);
            let (products, sums) = align(scratch, PRODUCTS * (inputs + outputs)).split_at_mut(PRODUCTS * inputs);
            for first in (0..height.div_ceil(GROUP)).step_by(band) {
                let groups = Groups { height, row, first, count: band };
                to_products(isa, groups, from, products);
                for (index, (input, sums)) in products.chunks(inputs).zip(sums.chunks_mut(outputs)).enumerate() {
                    rows(&Product { index, input }, of_rows, sums);
                }
                from_products(isa, groups, sums, bias, accumulate, to);
            }
        }
    }
}

/// Some groups of four rows of planes of `height` rows of `row` values.
#[derive(Clone, Copy)]
pub struct Groups {
    height: usize,
    row: usize,
    first: usize,
    count: usize,
}

/// The input of one of the products.
struct Product<'a> {
    index: usize,
    input: &'a [f32],
}

tiered! {
    /// The rows of products of some groups of every plane: see [`crate::winograd::WinogradInput`].
    pub fn to_products(groups: Groups, planes: &[f32], products: &mut [f32]) {
        let Groups { height, row, first, count } = groups;
        let zeros = vec![0.0; row];
        let len = products.len() / PRODUCTS;
        let mut products = products.chunks_exact_mut(len).map(|product| product.chunks_exact_mut(row));
        let mut products: [_; PRODUCTS] = std::array::from_fn(|_| products.next().expect("six rows of products"));
        for plane in planes.chunks_exact(height * row) {
            for group in first..first + count {
                let from: [&[f32]; PRODUCTS] = std::array::from_fn(|i| {
                    let inside = (GROUP * group + i).checked_sub(1).filter(|row| *row < height);
                    inside.map_or(&zeros[..], |at| &plane[at * row..(at + 1) * row])
                });
                let [v0, v1, v2, v3, v4, v5] = products.each_mut().map(|rows| rows.next().expect("a row for each group"));
                for i in 0..row {
                    let [d0, d1, d2, d3, d4, d5] = from.map(|row| row[i]);
                    let (even, odd) = (d4 - 4.0 * d2, d3 - 4.0 * d1);
                    let (near, far) = (d4 - d2, 2.0 * (d3 - d1));
                    v0[i] = 4.0 * d0 - 5.0 * d2 + d4;
                    v1[i] = even + odd;
                    v2[i] = even - odd;
                    v3[i] = near + far;
                    v4[i] = near - far;
                    v5[i] = 4.0 * d1 - 5.0 * d3 + d5;
                }
            }
        }
    }
}

tiered! {
    /// `planes = (+=)` the rows that come of rows of products, and a bias for each channel: see
    /// [`crate::winograd::WinogradOutput`].
    pub fn from_products(
        groups: Groups,
        products: &[f32],
        bias: Option<&[f32]>,
        accumulate: bool,
        planes: &mut [f32],
    ) {
        let Groups { height, row, first, count } = groups;
        let len = products.len() / PRODUCTS;
        let blocks = bias.map_or(1, |bias| bias.len() / BLOCK);
        for (index, plane) in planes.chunks_exact_mut(height * row).enumerate() {
            let bias = bias.map_or(&[0.0; BLOCK], |bias| &bias.as_chunks::<BLOCK>().0[index % blocks]);
            for (group, rows) in plane.chunks_mut(GROUP * row).skip(first).take(count).enumerate() {
                let at = (index * count + group) * row;
                let [m0, m1, m2, m3, m4, m5] =
                    std::array::from_fn(|product| &products[product * len + at..product * len + at + row]);
                for (place, to) in rows.chunks_exact_mut(row).enumerate() {
                    for (i, to) in to.iter_mut().enumerate() {
                        let sum = match place {
                            0 => m0[i] + (m1[i] + m2[i]) + (m3[i] + m4[i]),
                            1 => (m1[i] - m2[i]) + 2.0 * (m3[i] - m4[i]),
                            2 => (m1[i] + m2[i]) + 4.0 * (m3[i] + m4[i]),
                            _ => (m1[i] - m2[i]) + 8.0 * (m3[i] - m4[i]) + m5[i],
                        };
                        let sum = sum + bias[i % BLOCK];
                        *to = if accumulate { *to + sum } else { sum };
                    }
                }
            }
        }
    }
}
