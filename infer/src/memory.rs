//! Where values live: a layout for each, and as few buffers as lifetimes allow.

use std::collections::BTreeMap;

use sr2_kernels::{Buffer, Isa, Plane};
use sr2_models::{CompressedModel, Conv, ValueId};

use crate::fuse::{Kind, Layer};
use crate::{Error, cost, fuse};

/// Larger activations do not fit the kernels' 32-bit byte offsets.
pub(crate) const MAX_VALUES: usize = 1 << 28;

/// More bytes of activations, and of lists of where they are, are taken for an error.
pub(crate) const MAX_BYTES: usize = 4 << 30;

/// Bytes that 32-bit byte offsets reach, less what a step may read past a buffer.
const MAX_BUFFER: usize = u32::MAX as usize - (4 << 10);

/// The buffers of a network, and the one that holds each value.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) of: Vec<usize>,
}

/// Plans the buffers of `layers`, from `input` to `output`. Values share a buffer when one is last read before the
/// other is made and both have one layout: so the zeros around planes, which no step writes, stay zero.
pub(crate) fn plan(
    model: &CompressedModel,
    layers: &[Layer<'_>],
    sparse: &[bool],
    [input, output]: [ValueId; 2],
    isa: Isa,
    lanes: usize,
) -> Result<Memory, Error> {
    let graph = model.graph();
    let values = || std::iter::once((input, graph.name())).chain(layers.iter().map(|layer| (layer.output, layer.name)));
    for (value, name) in values() {
        buffer(graph.shape(value), Padding::default(), lanes, name)?;
    }
    let padding = padding(model, layers, sparse, isa, lanes);
    let last_read = fuse::last_read(layers, output);
    let mut buffers: Vec<Buffer> = Vec::new();
    let mut free_from: Vec<usize> = Vec::new();
    let mut of = vec![usize::MAX; graph.nodes().len() + 1];
    for (at, (value, name)) in values().enumerate() {
        // The input is made before the first layer.
        let at = at.saturating_sub(1);
        let padding = match graph.shape(value) {
            &[_, height, width] => padding.get(&[height, width]).copied().unwrap_or_default(),
            _ => Padding::default(),
        };
        let buffer = buffer(graph.shape(value), padding, lanes, name)?;
        let until = last_read.get(&value).map_or(at + 1, |last| last + 1);
        // Channels must match too: sums and residuals ask for one layout.
        let slot = (0..buffers.len()).find(|slot| buffers[*slot] == buffer && free_from[*slot] <= at);
        of[value] = slot.unwrap_or_else(|| {
            buffers.push(buffer);
            free_from.push(0);
            buffers.len() - 1
        });
        free_from[of[value]] = until;
    }
    let bytes = buffers.iter().map(|buffer| buffer.channels.saturating_mul(buffer.plane.bytes()));
    let found = bytes.fold(0, usize::saturating_add);
    if found > MAX_BYTES {
        return Err(Error::Memory { what: "activations", found, limit: MAX_BYTES });
    }
    Ok(Memory { buffers, of })
}

/// The zeros around the planes of one map size.
#[derive(Debug, Clone, Copy, Default)]
struct Padding {
    pad: usize,
    /// Whether there are as many between rows, or only above and below.
    gaps: bool,
}

/// For each map size, the padding its planes carry: that of the widest convolution that keeps the size, between rows
/// too or not, or none, whichever takes its convolutions the least time.
fn padding(
    model: &CompressedModel,
    layers: &[Layer<'_>],
    sparse: &[bool],
    isa: Isa,
    lanes: usize,
) -> BTreeMap<[usize; 2], Padding> {
    let graph = model.graph();
    let convolutions = layers.iter().zip(sparse).filter_map(|(layer, sparse)| match layer.kind {
        Kind::Conv(conv) => Some((conv, *sparse, graph.shape(layer.inputs[0]), graph.shape(layer.output))),
        _ => None,
    });
    let mut widest = BTreeMap::new();
    for (conv, _, x, y) in convolutions.clone() {
        let pad = conv.pads.into_iter().max().unwrap_or(0);
        if conv.stride == [1, 1] && x[1..] == y[1..] && pad <= x[2] {
            let entry = widest.entry([x[1], x[2]]).or_insert(0);
            *entry = pad.max(*entry);
        }
    }
    let images = || layers.iter().flat_map(|l| l.inputs.iter().chain([&l.output])).map(|value| graph.shape(*value));
    let choose = |(size, pad): ([usize; 2], usize)| {
        let of_size = || convolutions.clone().filter(|(_, _, x, y)| x[1..] == size[..] || y[1..] == size[..]);
        let channels = images().filter(|shape| shape[1..] == size).map(|shape| shape[0]).max().unwrap_or(1);
        let choices = [Padding::default(), Padding { pad, gaps: true }, Padding { pad, gaps: false }];
        let time = |padding: &Padding| -> f64 {
            let gap = if padding.gaps { pad } else { 0 };
            let values = (size[0] - 1) * (size[1] + gap) + size[1];
            let vectors = if lanes == 1 { cost::vectors(values, isa) } else { size[0] * size[1] } as f64;
            let of_convolution = |(conv, sparse, x, y): (&Conv, bool, &[usize], &[usize])| {
                let depthwise = !sparse && cost::is_depthwise(conv, x[0]);
                let aligned = depthwise && lanes == 1 && !padding.gaps && cost::is_aligned_depthwise(conv, x, y, isa);
                let keeps = conv.stride == [1, 1] && x[1..] == y[1..];
                let computing = model.weight(&conv.weight).nnz() as f64 * vectors;
                let arranging = |rows: usize| {
                    x[0] as f64 * cost::rearranging(conv.kernel[1] * (rows + conv.kernel[0] - 1) * y[2], isa, lanes)
                };
                if y[1..] != size[..] {
                    let arranged = depthwise && !aligned && !(padding.gaps && (lanes > 1 || y[2] >= isa.lanes()));
                    return if arranged { arranging(2 * y[1]) } else { 0.0 };
                }
                if !keeps || aligned || conv.kernel == [1, 1] {
                    return computing;
                }
                let unpadded = || cost::without_padding(conv, &x[1..], &y[1..], isa);
                let generated = || cost::is_generated(model, conv, [x, y], isa, lanes);
                let inside = if sparse && lanes > 1 { unpadded() } else { None };
                match (padding, inside) {
                    (Padding { gaps: true, .. }, _) if lanes > 1 => computing,
                    (Padding { gaps: true, .. }, _) if depthwise && size[1] >= isa.lanes() => computing,
                    (Padding { gaps: true, .. }, _) => computing * cost::UNALIGNED,
                    (Padding { pad: 0, .. }, Some(inside)) => computing * inside,
                    (Padding { pad: 1, .. }, _) if depthwise => computing * cost::UNALIGNED,
                    (Padding { pad: 1, .. }, _) if !sparse || isa.holds_rows(size[1]) || generated() => computing,
                    _ => computing + arranging(size[0]),
                }
            };
            of_size().map(of_convolution).sum()
        };
        let possible = choices[..if lanes == 1 { 3 } else { 2 }].iter();
        let possible =
            possible.filter(|padding| values([channels, size[0], size[1]], padding.pad, lanes) <= MAX_VALUES);
        let best = possible.min_by(|a, b| time(a).total_cmp(&time(b))).expect("no padding is a choice");
        (size, *best)
    };
    widest.into_iter().map(choose).collect()
}

/// Values of a buffer of images with `pad` zeros on every side.
fn values([channels, height, width]: [usize; 3], pad: usize, lanes: usize) -> usize {
    [height + 2 * pad, width + 2 * pad, lanes].iter().fold(channels, |values, size| values.saturating_mul(*size))
}

fn buffer(shape: &[usize], padding: Padding, lanes: usize, node: &str) -> Result<Buffer, Error> {
    let Padding { pad, gaps } = padding;
    let (channels, height, width) = match shape {
        &[channels, height, width] => (channels, height, width),
        features => (features.iter().product(), 1, 1),
    };
    let too_large = || Error::Size { node: node.into(), channels, height: height + 2 * pad, width: width + 2 * pad };
    if values([channels, height, width], pad, lanes) > MAX_VALUES {
        return Err(too_large());
    }
    let plane = match shape.len() {
        3 if pad > 0 && !gaps => Plane::rows(height, width, pad),
        3 => Plane::image(height, width, pad, lanes),
        _ => Plane::feature(lanes),
    };
    // Small planes are rounded up to cache lines.
    if channels.saturating_mul(plane.bytes()) > MAX_BUFFER { Err(too_large()) } else { Ok(Buffer { plane, channels }) }
}
