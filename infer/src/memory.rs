//! Where values live: a layout for each, and as few buffers as lifetimes allow.

use std::collections::BTreeMap;

use sr2_kernels::{Buffer, Isa, Plane};
use sr2_models::{CompressedModel, ValueId};

use crate::fuse::{Kind, Layer};
use crate::{Error, cost, fuse};

/// Larger activations do not fit the kernels' 32-bit byte offsets.
pub(crate) const MAX_VALUES: usize = 1 << 28;

/// More bytes of activations are taken for an error.
const MAX_BYTES: usize = 4 << 30;

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
    [input, output]: [ValueId; 2],
    isa: Isa,
    lanes: usize,
) -> Result<Memory, Error> {
    let graph = model.graph();
    let padding = padding(model, layers, isa, lanes);
    let last_read = fuse::last_read(layers, output);
    let mut buffers: Vec<Buffer> = Vec::new();
    let mut free_from: Vec<usize> = Vec::new();
    let mut of = vec![usize::MAX; graph.nodes().len() + 1];
    let made = std::iter::once((input, 0, graph.name()));
    for (value, at, name) in made.chain(layers.iter().enumerate().map(|(i, l)| (l.output, i, l.name))) {
        let buffer = buffer(graph.shape(value), &padding, lanes, name)?;
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
        return Err(Error::Memory { found, limit: MAX_BYTES });
    }
    Ok(Memory { buffers, of })
}

/// For each map size, the padding its planes carry: that of the widest convolution that keeps the size, where the gaps
/// this puts into every row cost less than rearranging the inputs of those convolutions.
fn padding(model: &CompressedModel, layers: &[Layer<'_>], isa: Isa, lanes: usize) -> BTreeMap<[usize; 2], usize> {
    let graph = model.graph();
    let mut padding = BTreeMap::new();
    let convolutions = layers.iter().filter_map(|layer| match layer.kind {
        Kind::Conv(conv) => Some((conv, graph.shape(layer.inputs[0]), graph.shape(layer.output))),
        _ => None,
    });
    for (conv, x, y) in convolutions.clone() {
        let pad = conv.pads.into_iter().max().unwrap_or(0);
        if conv.stride == [1, 1] && x[1..] == y[1..] && pad <= x[2] {
            let entry = padding.entry([x[1], x[2]]).or_insert(0);
            *entry = pad.max(*entry);
        }
    }
    padding.retain(|size, pad| {
        let vectors = |pad| cost::vectors(Plane::image(size[0], size[1], pad, lanes).values(), isa);
        let wasted = (vectors(*pad) - vectors(0)) as f64;
        let (mut gaps, mut rearranging) = (0.0, 0.0);
        for (conv, x, y) in convolutions.clone().filter(|(_, _, y)| y[1..] == size[..]) {
            gaps += model.weight(&conv.weight).nnz() as f64 * wasted;
            if conv.stride == [1, 1] && x[1..] == y[1..] && conv.kernel != [1, 1] {
                let positions = conv.kernel[1] * (size[0] + conv.kernel[0] - 1) * size[1];
                rearranging += x[0] as f64 * cost::rearranging(positions, isa, lanes);
            }
        }
        gaps < rearranging
    });
    padding
}

fn buffer(shape: &[usize], padding: &BTreeMap<[usize; 2], usize>, lanes: usize, node: &str) -> Result<Buffer, Error> {
    match shape {
        &[channels, height, width] => {
            let pad = padding.get(&[height, width]).copied().unwrap_or(0);
            let (height_padded, width_padded) = (height + 2 * pad, width + 2 * pad);
            let values = channels.saturating_mul(height_padded).saturating_mul(width_padded).saturating_mul(lanes);
            if values > MAX_VALUES {
                let (height, width) = (height_padded, width_padded);
                return Err(Error::Size { node: node.into(), channels, height, width });
            }
            Ok(Buffer { plane: Plane::image(height, width, pad, lanes), channels })
        }
        shape => {
            let channels = shape.iter().product();
            if channels > MAX_VALUES / lanes {
                return Err(Error::Size { node: node.into(), channels, height: 1, width: 1 });
            }
            Ok(Buffer { plane: Plane::feature(lanes), channels })
        }
    }
}
