//! Dense 3x3 convolution with fewer products: Winograd's F(4, 3) down the columns of an image, Toom and Cook's choice of
//! points 0, 1, -1, 2, -2 and infinity (Lavin and Gray, arXiv 1509.09308).
//!
//! Four output rows and the six input rows that they read become six rows each, between which a convolution of 1x3
//! weights makes 18 products where the window would make 36. Along a row everything stays as it is, so rows are added
//! as whole vectors, of one image or of a vector of images. A large map goes through these steps in bands of rows, one
//! after the other, which stay in a cache from step to step.

use std::collections::BTreeMap;

use crate::Isa;
use crate::builder::Conv;
use crate::dense_conv::{self, DenseConv};
use crate::masks::Masks;
use crate::packing::Layer;
use crate::plane::{Place, Plane};
use crate::registry::Step;
use crate::simd::{Kernel, Vector};
use crate::source::{Scratch, Source};
use crate::step::Call;
use crate::window::Window;

/// Output rows of a group, and input rows, and rows of products.
pub(crate) const GROUP: usize = 4;
pub(crate) const PRODUCTS: usize = GROUP + 2;

/// The window that the transforms are made for.
const WINDOW: Window = Window { kernel: [3, 3], stride: [1, 1], pads: [1; 4], dilation: [1, 1] };

/// What each row of products takes of a column of weights.
pub(crate) const OF_WEIGHTS: [[f64; 3]; PRODUCTS] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// Values that the scratch of a convolution may take.
const MOST: usize = 1 << 28;

/// Bytes of weights from which on they are read anew for every pass, and what 64 bytes of them then cost, in multiply-adds
/// of a vector.
const WEIGHTS_STREAMED: f64 = (1 << 20) as f64;
const STREAMING: f64 = 10.0;

/// Bytes of a band of transformed rows and their products, about half of which stay in a second-level cache until the next
/// step reads them, and bytes of weights up to which reading them again for each band costs less than that saves.
const BAND: usize = 1400 << 10;
const BAND_WEIGHTS: usize = 2 << 20;

/// What a vector of a group of rows costs on the way in and on the way out, in multiply-adds of a vector.
const TRANSFORMS: [f64; 2] = [12.0, 46.0];

impl Conv<'_> {
    /// The time of a dense convolution by [`Weights::Winograd`](crate::Weights::Winograd) as a share of that by
    /// [`Weights::Dense`](crate::Weights::Dense), about, or `None` where it cannot run from `x` to `y`.
    pub fn winograd(&self, x: &Plane, y: &Plane, [inputs, outputs]: [usize; 2], isa: Isa) -> Option<f64> {
        let plane = plane(y, y.height().div_ceil(GROUP));
        let most = inputs.max(outputs).checked_mul(2 * PRODUCTS * plane.stride())?;
        // The last vector of a row that is shorter reaches into the rows behind.
        let reach = (y.height() - 1) * y.pitch() * y.lanes() + isa.lanes();
        let fits = (self.window, self.groups) == (WINDOW, 1) && y.head() + reach <= y.stride() && most <= MOST;
        let vectors = |plane: &Plane| match plane.lanes() {
            1 => plane.values().div_ceil(isa.lanes()),
            _ => plane.height() * plane.width(),
        };
        let cost = |weights: usize, positions: usize| {
            let weights = weights as f64 * inputs as f64 * outputs as f64;
            let streaming = if weights * 4.0 > WEIGHTS_STREAMED { STREAMING / 16.0 } else { 0.0 };
            weights * (positions as f64 + streaming)
        };
        let rows = (plane.height() * (plane.width() * plane.lanes()).div_ceil(isa.lanes())) as f64;
        let transforms = rows * (TRANSFORMS[0] * inputs as f64 + TRANSFORMS[1] * outputs as f64);
        (fits && x.lanes() == y.lanes())
            .then(|| (cost(3 * PRODUCTS, vectors(&plane)) + transforms) / cost(9, vectors(y)))
    }
}

/// The plane of one of the rows of products of `groups` groups, for outputs in `y`.
fn plane(y: &Plane, groups: usize) -> Plane {
    if y.lanes() == 1 { Plane::rows(groups, y.width(), 1) } else { Plane::image(groups, y.width(), 1, y.lanes()) }
}

/// The steps of a convolution, and the values of scratch that it takes.
pub(crate) fn steps(
    [x, y]: [Place; 2],
    weights: &[f32],
    bias: Vec<f32>,
    residual: Option<usize>,
    clip: [f32; 2],
    Scratch { start, isa }: Scratch,
    masks: &mut Masks,
) -> (Vec<Step>, usize) {
    let groups = y.plane.height().div_ceil(GROUP);
    let weights: [Vec<f32>; PRODUCTS] = OF_WEIGHTS.map(|of_weights| {
        let of_weights = of_weights.map(|factor| factor as f32);
        (weights.as_chunks::<9>().0.iter())
            .flat_map(|w| (0..3).map(move |i| (0..3).map(|row| of_weights[row] * w[3 * row + i]).sum::<f32>()))
            .collect()
    });
    let count = bands(&x, &y, groups);
    let (mut steps, mut size) = (Vec::new(), 0);
    // Of the convolutions of a band of so many groups, which all bands of as many share.
    let mut products = BTreeMap::<usize, Vec<DenseConv>>::new();
    for band in 0..count {
        let band = groups * band / count..groups * (band + 1) / count;
        let plane = plane(&y.plane, band.len());
        let to = Place { start, plane, channels: x.channels };
        let from = Place { start: start + PRODUCTS * to.values(), plane, channels: y.channels };
        size = size.max(PRODUCTS * (to.values() + from.values()));
        let of_band = products.entry(band.len()).or_insert_with(|| {
            let place = |product| [&to, &from].map(|place| place.further(product));
            let of_product = |(product, weights): (usize, &Vec<f32>)| of_product(place(product), weights, isa, masks);
            weights.iter().enumerate().map(of_product).collect()
        });
        steps.push(Step::WinogradInput(WinogradInput { x, first: band.start, to }));
        steps.extend(of_band.iter().cloned().map(Step::DenseConv));
        let (bias, first) = (bias.clone(), band.start);
        steps.push(Step::WinogradOutput(WinogradOutput { from, first, y, residual, bias, clip }));
    }
    (steps, size)
}

/// How many bands of groups of rows a convolution is cut into, of which each runs through all steps before the next.
fn bands(x: &Place, y: &Place, groups: usize) -> usize {
    let weights = 3 * PRODUCTS * x.channels * y.channels * size_of::<f32>();
    let values = PRODUCTS * (x.channels + y.channels) * plane(&y.plane, groups).stride() * size_of::<f32>();
    if weights > BAND_WEIGHTS { 1 } else { values.div_ceil(BAND).clamp(1, groups) }
}

/// The convolution along the rows of `x`.
fn of_product([x, y]: [Place; 2], weights: &[f32], isa: Isa, masks: &mut Masks) -> DenseConv {
    let bias = vec![0.0; y.channels];
    let layer = Layer { source: Source::sideways(&x), groups: 1, rows: y.channels, channels: x.channels, bias };
    let (rows, tiles) = (dense_conv::rows(isa), dense_conv::tiles(&y.plane, isa));
    let reaches: &[isize] = if y.plane.lanes() == 1 { &[-1, 1] } else { &[] };
    let edge = |tap: usize| reaches.iter().position(|reach| *reach == tap as isize - 1);
    let (chunks, order) = layer.chunks(&tiles[0], isa.lanes(), rows, edge);
    let (weights, blocks) = layer.dense(weights, &order, &chunks, rows);
    DenseConv {
        x: layer.source.base,
        y: y.row(0, 0),
        residual: None,
        stride: y.plane.stride(),
        tiles,
        mask: None,
        weights: weights.into(),
        rows,
        offsets: order.iter().map(|column| layer.offset(0, *column)).collect(),
        chunks,
        edges: reaches.iter().map(|right| masks.edge(&y.plane, *right)).collect(),
        blocks,
        block_first: y.channels * 3 > layer.source.channel,
        far: false,
        clip: crate::NO_CLIP,
    }
}

/// The rows that the products take of each group of input rows, of which those outside the image are 0:
/// `[4, 0, -5, 0, 1, 0]`, `[0, -4, -4, 1, 1, 0]`, `[0, 4, -4, -1, 1, 0]`, `[0, -2, -1, 2, 1, 0]`, `[0, 2, -1, -2, 1, 0]`,
/// `[0, 4, 0, -5, 0, 1]`.
#[derive(Debug)]
pub(crate) struct WinogradInput {
    x: Place,
    /// The first group.
    first: usize,
    /// Of the first product; those of the others follow.
    to: Place,
}

/// The output rows of each group of rows of products, `[1, 1, 1, 1, 1, 0]`, `[0, 1, -1, 2, -2, 0]`,
/// `[0, 1, 1, 4, 4, 0]`, `[0, 1, -1, 8, -8, 1]`, and what a convolution adds to them.
#[derive(Debug)]
pub(crate) struct WinogradOutput {
    /// Of the first product; those of the others follow.
    from: Place,
    /// The first group.
    first: usize,
    y: Place,
    residual: Option<usize>,
    bias: Vec<f32>,
    clip: [f32; 2],
}

/// Where the vectors of a row of `values` values start: the last one ends with the row, unless it is longer than it.
fn vectors<V: Vector>(values: usize) -> impl Iterator<Item = usize> {
    (0..values).step_by(V::LANES).map(move |at| at.min(values.saturating_sub(V::LANES)))
}

impl Kernel for Call<'_, WinogradInput> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let WinogradInput { x, first, to } = self.step;
        let (width, height) = (x.plane.width() * x.plane.lanes(), x.plane.height());
        // SAFETY: the program checked that a row that is rounded up to whole vectors is readable in `x` and in `to` reaches
        // but into rows that are written later, or past the last; threads have channels of their own.
        unsafe {
            let [two, four, minus_one, minus_four, minus_five] = [2.0, 4.0, -1.0, -4.0, -5.0].map(|n| V::splat(n));
            let zero = V::splat(0.0);
            for channel in self.site.part.of(x.channels) {
                if to.plane.gap() > 0 {
                    for product in 0..PRODUCTS {
                        zero.store(self.site.arena.add(to.further(product).row(channel, 0)).sub(V::LANES));
                    }
                }
                for group in 0..to.plane.height() {
                    let row = |product| self.site.arena.add(to.further(product).row(channel, group));
                    let from: [_; PRODUCTS] = std::array::from_fn(|i| {
                        let row = (GROUP * (first + group) + i).checked_sub(1).filter(|row| *row < height)?;
                        Some(self.site.arena.add(x.row(channel, row)).cast_const())
                    });
                    for at in vectors::<V>(width) {
                        let [d0, d1, d2, d3, d4, d5] = from.map(|row| row.map_or(zero, |row| V::load(row.add(at))));
                        let (even, odd) = (d2.mul_add(minus_four, d4), d1.mul_add(minus_four, d3));
                        let (near, far) = (d2.mul_add(minus_one, d4), d1.mul_add(minus_one, d3));
                        let rows = [
                            d0.mul_add(four, d2.mul_add(minus_five, d4)),
                            even.add(odd),
                            odd.mul_add(minus_one, even),
                            far.mul_add(two, near),
                            far.mul_add(minus_one.add(minus_one), near),
                            d1.mul_add(four, d3.mul_add(minus_five, d5)),
                        ];
                        for (product, sum) in rows.into_iter().enumerate() {
                            sum.store(row(product).add(at));
                        }
                    }
                    if to.plane.gap() > 0 {
                        (0..PRODUCTS).for_each(|product| zero.store(row(product).add(width)));
                    }
                }
            }
        }
    }
}

impl Kernel for Call<'_, WinogradOutput> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let WinogradOutput { from, first: first_group, y, residual, bias, clip } = self.step;
        let (width, height, first) = (y.plane.width() * y.plane.lanes(), y.plane.height(), y.row(0, 0));
        // SAFETY: as above; a row of `y` that is shorter than a vector reaches but into zeros or into rows of its channel
        // that are written later.
        unsafe {
            let [two, minus_one, four, eight] = [2.0, -1.0, 4.0, 8.0].map(|n| V::splat(n));
            let [low, high] = clip.map(|bound| V::splat(bound));
            let mut kept = [f32::from_bits(u32::MAX); 64];
            kept[width.min(V::LANES)..].fill(0.0);
            let kept = V::load(kept.as_ptr());
            for channel in self.site.part.of(y.channels) {
                let bias = V::splat(bias[channel]);
                for group in 0..from.plane.height() {
                    for at in vectors::<V>(width) {
                        let [m0, m1, m2, m3, m4, m5] = std::array::from_fn(|product| {
                            V::load(self.site.arena.add(from.further(product).row(channel, group) + at))
                        });
                        let (near, near_odd) = (m1.add(m2), m2.mul_add(minus_one, m1));
                        let (far, far_odd) = (m3.add(m4), m4.mul_add(minus_one, m3));
                        let rows = [
                            m0.add(near).add(far),
                            far_odd.mul_add(two, near_odd),
                            far.mul_add(four, near),
                            far_odd.mul_add(eight, near_odd).add(m5),
                        ];
                        for (row, sum) in (GROUP * (first_group + group)..height).zip(rows) {
                            let place = y.row(channel, row) + at;
                            let mut sum = sum.add(bias);
                            if let Some(residual) = residual {
                                sum = sum.add(V::load(self.site.arena.add(residual + place - first)));
                            }
                            sum.clamp(low, high).and(kept).store(self.site.arena.add(place));
                        }
                    }
                }
            }
        }
    }
}
