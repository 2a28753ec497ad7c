//! What a layer costs, sparse or dense, one image or a vector of images at a time.

use sr2_kernels::{Conv, Isa, NO_CLIP, Plane, Window};
use sr2_models::{CompressedModel, Pool, ValueId, Weight};

use crate::fuse::{Kind, Layer};
use crate::memory;

/// Output channels that the dense kernel computes at a time, about: 6 or 8, by tier.
const BLOCK: usize = 8;

/// Time of one non-zero of the one-image linear kernel, which gathers, in units of one of `all` weights of the dense dot
/// product, which is as fast as its weights come.
fn gather_over_dot(all: usize, isa: Isa) -> f64 {
    if all * size_of::<f32>() > WEIGHTS_STREAMED { 2.5 } else { isa.lanes() as f64 }
}

/// The density from which code made for the weights is faster than the other sparse kernels, to maps of this plane: for each
/// input that it reads it has as many products as output channels, up to 30, times the density. Inputs are cheap where no
/// vector of them crosses a cache line.
fn generated_from(window: &Window, y: &Plane, isa: Isa) -> f64 {
    let (width, lanes) = (y.width(), isa.lanes());
    match width.is_multiple_of(lanes) {
        _ if y.lanes() > 1 => 0.025,
        _ if lanes.is_multiple_of(width) => 0.015,
        true if window.kernel == [1, 1] => 0.015,
        true => 0.04,
        false => 0.07,
    }
}

/// Non-zeros for each vector of outputs up to which it is: it is longer than weights and indices are.
const CODE_OF_VECTOR: usize = 20_000;

/// Positions of a map of a vector of images from which it is: the other kernel has all of a smaller one in registers.
const LARGE_MAP: usize = 32;

/// Whether a sparse convolution between these planes is faster by code made for its weights.
pub(crate) fn generated(conv: &Conv<'_>, [x, y]: [&Plane; 2], weight: Weight<'_>, isa: Isa) -> bool {
    let is_one = y.lanes() == 1;
    let density = weight.nnz() as f64 / weight.shape().iter().product::<usize>() as f64;
    conv.is_generated(x, y, isa)
        && density >= generated_from(&conv.window, y, isa)
        && weight.nnz() <= CODE_OF_VECTOR * vectors(y.values(), isa)
        && (is_one || y.height() * y.width() >= LARGE_MAP)
}

/// As [`generated`], for a layer; also for one that [`memory`] refuses as too large.
pub(crate) fn is_generated(
    model: &CompressedModel,
    conv: &sr2_models::Conv,
    [x, y]: [&[usize]; 2],
    isa: Isa,
    lanes: usize,
) -> bool {
    if [x, y].iter().any(|size| is_too_large(size, lanes)) {
        return false;
    }
    let plane = |size: &[usize]| match lanes {
        1 => Plane::rows(size[1], size[2], 1),
        _ => Plane::image(size[1], size[2], 0, lanes),
    };
    generated(&settings(conv), [&plane(x), &plane(y)], model.weight(&conv.weight), isa)
}

/// Whether the planes of a map, with a border of one, may be larger than [`memory`] allows.
fn is_too_large(size: &[usize], lanes: usize) -> bool {
    (size[1] + 2) * (size[2] + 2) * lanes > memory::MAX_VALUES
}

/// Share of the time of a dense convolution that one with fewer products takes, where that pays.
pub(crate) fn winograd(conv: &Conv<'_>, x: &Plane, y: &Plane, channels: [usize; 2], isa: Isa) -> Option<f64> {
    const WORTHWHILE: f64 = 0.9;
    conv.winograd(x, y, channels, isa).filter(|share| *share < WORTHWHILE)
}

/// As [`winograd`], for a layer, or 1; also for one that [`memory`] refuses as too large.
pub(crate) fn dense_share(conv: &sr2_models::Conv, x: &[usize], y: &[usize], isa: Isa, lanes: usize) -> f64 {
    if [x, y].iter().any(|size| is_too_large(size, lanes)) {
        return 1.0;
    }
    let plane = |size: &[usize]| match lanes {
        1 => Plane::rows(size[1], size[2], 1),
        _ => Plane::image(size[1], size[2], 1, lanes),
    };
    winograd(&settings(conv), &plane(x), &plane(y), [x[0], y[0]], isa).unwrap_or(1.0)
}

/// Whether a depthwise convolution is: only where few of a channel's weights are left, as starting a channel costs the
/// sparse kernel some.
pub(crate) fn depthwise_is_sparse(density: f64) -> bool {
    density < 0.25
}

/// The window of a convolution.
pub(crate) fn window(conv: &sr2_models::Conv) -> Window {
    Window { kernel: conv.kernel, stride: conv.stride, pads: conv.pads, dilation: conv.dilation }
}

/// The window of a pooling.
pub(crate) fn pool_window(pool: &Pool) -> Window {
    Window { kernel: pool.kernel, stride: pool.stride, pads: pool.pads, dilation: pool.dilation }
}

/// Whether a convolution from so many channels has a kernel of its own for dense weights.
pub(crate) fn is_depthwise(conv: &sr2_models::Conv, inputs: usize) -> bool {
    settings(conv).is_depthwise(inputs, conv.out_channels)
}

fn settings(conv: &sr2_models::Conv) -> Conv<'static> {
    Conv { window: window(conv), groups: conv.groups, bias: None, residual: None, clip: NO_CLIP }
}

/// Whether a convolution of this kind, of one image in planes without gaps, needs neither padding nor rearranging.
pub(crate) fn is_aligned_depthwise(conv: &sr2_models::Conv, x: &[usize], y: &[usize], isa: Isa) -> bool {
    is_depthwise(conv, x[0]) && window(conv).is_aligned([x[1], x[2]], [y[1], y[2]], isa)
}

/// Of the products of a convolution from maps of `from` to maps of `to` positions, the share that a vector of images
/// takes where the maps are not padded, if there is a kernel for it and they are not too large.
pub(crate) fn without_padding(conv: &sr2_models::Conv, from: &[usize], to: &[usize], isa: Isa) -> Option<f64> {
    if [from, to].iter().any(|size| size[0] * size[1] > memory::MAX_VALUES / isa.lanes()) {
        return None;
    }
    let [x, y] = [from, to].map(|size| Plane::image(size[0], size[1], 0, isa.lanes()));
    let inside = |axis: usize| {
        let position =
            |i: usize, k: usize| (i * conv.stride[axis] + k * conv.dilation[axis]).wrapping_sub(conv.pads[axis]);
        let taps = (0..to[axis]).flat_map(|i| (0..conv.kernel[axis]).map(move |k| (i, k)));
        let inside = taps.filter(|(i, k)| position(*i, *k) < from[axis]).count();
        inside as f64 / (to[axis] * conv.kernel[axis]) as f64
    };
    window(conv).is_by_maps(&x, &y, isa).then(|| inside(0) * inside(1))
}

/// Vectors that hold `values` values.
pub(crate) fn vectors(values: usize, isa: Isa) -> usize {
    values.div_ceil(isa.lanes())
}

/// Time of a multiply-add of a vector at a place that is not a multiple of its size, relative to one that is, for taps
/// of which a third are.
pub(crate) const UNALIGNED: f64 = 1.4;

/// Time of rearranging `positions` positions of one channel, in multiply-adds of a vector: with one lane some
/// permutations for each vector, else a load and a store for each position.
pub(crate) fn rearranging(positions: usize, isa: Isa, lanes: usize) -> f64 {
    const GATHER: f64 = 8.0;
    const COPY: f64 = 6.0;
    if lanes == 1 { GATHER * vectors(positions, isa) as f64 } else { COPY * positions as f64 }
}

/// Bytes of inputs and outputs of a layer from which on they come slowly, as they leave the second-level cache between
/// layers and within a layer, and from which on they come from memory.
const STREAMED: [usize; 2] = [3 << 20, 16 << 20];

/// Bytes of weights that do not stay in the second-level cache from one image to the next.
const WEIGHTS_STREAMED: usize = 1 << 20;

/// Time that a vector of what is streamed costs, in multiply-adds of a vector.
const STREAMING: f64 = 10.0;

/// Time of starting a tap for a tile of one image, in multiply-adds of a vector, and the vectors of a tile.
const TAP: f64 = 1.0;
const TILE: usize = 12;

/// Time of a multiply-add whose input is a vector of images and one of several around its output: a tile and what lies
/// around it then leave the first-level cache sooner than those of one image. On AVX2 it is hardly
/// longer than that of one image, where half of the loads beside the output cross cache lines.
fn around(isa: Isa) -> f64 {
    if matches!(isa, Isa::Avx2(_)) { 1.1 } else { 1.4 }
}

/// The same of the dense kernel, and of the sparse one on a map that it has in registers.
const AROUND_HELD: f64 = 1.2;

/// Time of a multiply-add by code made for the weights, and of the dense kernel: both read an input once for several
/// output channels.
const GENERATED_TAP: f64 = 0.78;
const DENSE_TAP: f64 = 0.8;

/// Time of a multiply-add of the dense kernel of depthwise convolutions.
const DEPTHWISE_TAP: f64 = 0.5;

/// Time of a multiply-add of a dense linear layer for a vector of images.
const LINEAR_TAP: f64 = 0.5;

/// Time of a vector of outputs, and of an output where there is no vector of them, of a pooling, in multiply-adds of a
/// vector.
const POOLING: [f64; 2] = [16.0, 8.0];

/// Time of a value handed on to a vector of images, where it stays in a cache and where it does not, in multiply-adds
/// of a vector.
const REGROUPING: [f64; 2] = [2.0, 7.0];

/// Estimated time of a layer for as many images as a vector holds, `lanes` of them at a time, in multiply-adds of a
/// vector. `examples/profile.rs` with layouts `image` and `images` shows what it estimates.
pub(crate) fn of_layer(model: &CompressedModel, layer: &Layer<'_>, sparse: bool, isa: Isa, lanes: usize) -> f64 {
    let (graph, passes) = (model.graph(), (isa.lanes() / lanes) as f64);
    let values = |value: ValueId| graph.shape(value).iter().product::<usize>().saturating_mul(lanes);
    let touched = layer.inputs.iter().chain(&layer.residual).chain([&layer.output]).map(|value| values(*value));
    let touched = touched.fold(0, usize::saturating_add);
    let times = STREAMED.iter().filter(|limit| touched.saturating_mul(size_of::<f32>()) > **limit).count() as f64;
    let streaming = STREAMING * times * vectors(touched, isa) as f64;
    let computing = match layer.kind {
        Kind::Conv(conv) => of_convolution(model, layer, conv, sparse, isa, lanes),
        Kind::Gemm(gemm) => {
            let weight = model.weight(&gemm.weight);
            let (all, nnz) = (weight.shape().iter().product::<usize>(), weight.nnz() as f64);
            match (sparse, lanes) {
                (true, _) => nnz,
                (false, 1) => all as f64 / gather_over_dot(all, isa),
                (false, _) => all as f64 * LINEAR_TAP,
            }
        }
        Kind::MaxPool(pool) | Kind::AveragePool(pool) => {
            let [from, to] = [layer.inputs[0], layer.output].map(|value| [1, 2].map(|axis| graph.shape(value)[axis]));
            match lanes {
                1 if !pool_window(pool).halves(from, to, isa.lanes()) => POOLING[1] * values(layer.output) as f64,
                _ => POOLING[0] * vectors(values(layer.output), isa) as f64,
            }
        }
        _ => vectors(touched, isa) as f64,
    };
    passes * (computing + streaming)
}

fn of_convolution(
    model: &CompressedModel,
    layer: &Layer<'_>,
    conv: &sr2_models::Conv,
    sparse: bool,
    isa: Isa,
    lanes: usize,
) -> f64 {
    let (x, y) = (model.graph().shape(layer.inputs[0]), model.graph().shape(layer.output));
    let weight = model.weight(&conv.weight);
    let all = weight.shape().iter().product::<usize>() as f64;
    let is_point = conv.kernel == [1, 1];
    let pad = if is_point { 0 } else { conv.pads.into_iter().max().unwrap_or(0) };
    let is_direct = conv.stride == [1, 1] && x[1..] == y[1..];
    let is_depthwise = !sparse && is_depthwise(conv, x[0]);
    let is_dense = !sparse && !is_depthwise;
    let is_aligned = is_depthwise && lanes == 1 && is_aligned_depthwise(conv, x, y, isa);
    let generated = sparse && is_generated(model, conv, [x, y], isa, lanes);
    let is_flat = is_aligned || generated || is_dense || isa.holds_rows(y[2]);
    let has_gaps = is_direct && !is_flat;
    let run = if has_gaps { y[2].saturating_add(pad) } else { y[2] };
    let inside = if sparse && lanes > 1 { without_padding(conv, &x[1..], &y[1..], isa) } else { None };
    let vectors = if lanes == 1 { vectors(y[1].saturating_mul(run), isa) } else { y[1].saturating_mul(y[2]) };
    let reading = match inside {
        _ if generated => GENERATED_TAP * inside.unwrap_or(1.0),
        _ if is_dense => DENSE_TAP * if lanes == 1 || is_point { 1.0 } else { AROUND_HELD },
        _ if lanes == 1 => 1.0 + TAP * vectors.div_ceil(TILE) as f64 / vectors as f64,
        Some(inside) if vectors < LARGE_MAP => inside * AROUND_HELD,
        Some(inside) => inside * around(isa),
        None if is_point => 1.0,
        None => around(isa),
    };
    let tap = reading * vectors as f64;
    let (taps, bytes) = match sparse {
        true => (weight.nnz() as f64, 8.0 * weight.nnz() as f64),
        false if is_depthwise => (all * DEPTHWISE_TAP, 4.0 * all),
        false => {
            let channels = y[0] / conv.groups;
            let wasted = channels.next_multiple_of(BLOCK) as f64 / channels as f64;
            (all * wasted * dense_share(conv, x, y, isa, lanes), 4.0 * all)
        }
    };
    let arranging = if is_direct || is_aligned || inside.is_some() {
        0.0
    } else {
        let panels = (0..2).map(|axis| conv.kernel[axis].min(conv.stride[axis]) as f64).product::<f64>();
        panels * x[0] as f64 * rearranging(y[1].saturating_mul(y[2]), isa, lanes)
    };
    let streaming = if bytes > WEIGHTS_STREAMED as f64 { STREAMING * bytes / 64.0 } else { 0.0 };
    taps * tap + arranging + streaming
}

/// Estimated time of handing `values` values of each image from a stage that takes one at a time to a stage that takes
/// a vector of them, for as many as a vector holds, in multiply-adds of a vector.
pub(crate) fn of_regrouping(values: usize, isa: Isa) -> f64 {
    let values = values.saturating_mul(isa.lanes());
    let streams = values.saturating_mul(2 * size_of::<f32>()) > STREAMED[1];
    REGROUPING[usize::from(streams)] * values as f64
}
