//! Convolutions and poolings: windows whose padding a file may leave to its reader.

use sr2_formats::Error;

use super::Importer;
use super::node::NodeView;
use crate::{Conv, Op, Pad, Pool, ValueId};

/// Padding that follows from the sizes of the image and the window.
#[derive(Clone, Copy, PartialEq)]
enum AutoPad {
    /// The attribute `pads`.
    Explicit,
    /// Outputs of size `ceil(size / stride)`; an odd place goes behind.
    SameUpper,
    /// As before; an odd place goes in front.
    SameLower,
    /// None.
    Valid,
}

impl<'a> Importer<'a> {
    pub(super) fn conv(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"])?;
        let input = self.value(node, 0)?;
        let (name, weight) = self.required(node, 1)?;
        let &[out_channels, _, height, width] = weight.shape() else {
            let problem = format!("weight {name:?} has shape {:?}, supported is [O, I, kH, kW]", weight.shape());
            return Err(node.unsupported(problem));
        };
        let kernel = [height, width];
        if let Some(stated) = node.sizes("kernel_shape")?.filter(|stated| *stated != kernel) {
            return Err(node.malformed(format!("kernel_shape is {stated:?}, but the weight's is {kernel:?}")));
        }
        let groups = node.int("group", 1)?;
        let groups = usize::try_from(groups).map_err(|_| node.malformed(format!("group is {groups}")))?;
        let Pool { stride, pads, dilation, .. } = self.window(node, input, kernel, 1)?;
        let conv = Conv {
            weight: self.parameter(node, name, weight)?,
            bias: self.bias(node, 2, out_channels, 1.0)?,
            out_channels,
            kernel,
            stride,
            pads,
            dilation,
            groups,
        };
        self.push(node, Op::Conv(conv), vec![input])
    }

    pub(super) fn max_pool(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"])?;
        node.int_is("storage_order", 0, 0)?;
        let input = self.value(node, 0)?;
        let pool = self.pool(node, input)?;
        let extra = self.ceil_padding(node, input, &pool)?;
        self.push(node, Op::MaxPool(Pool { pads: behind(pool.pads, extra), ..pool }), vec![input])
    }

    /// An average that counts padded places is one over an image with a border of zeros.
    pub(super) fn average_pool(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&["auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"])?;
        let mut input = self.value(node, 0)?;
        let mut pool = self.pool(node, input)?;
        let extra = self.ceil_padding(node, input, &pool)?;
        if node.int("count_include_pad", 0)? != 0 && pool.pads != [0; 4] {
            input = self.push(node, Op::Pad(Pad { pads: pool.pads, value: 0.0 }), vec![input])?;
            pool.pads = [0; 4];
        }
        self.push(node, Op::AveragePool(Pool { pads: behind(pool.pads, extra), ..pool }), vec![input])
    }

    pub(super) fn pad(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        let mode = node.string("mode", "constant")?;
        if mode != "constant" {
            return Err(node.unsupported(format!("attribute \"mode\" is {mode:?}, supported is \"constant\"")));
        }
        let (widths, value, axes) = if node.opset < 11 {
            node.only(&["mode", "pads", "value"])?;
            (node.ints("pads")?.map(<[i64]>::to_vec), node.float("value", 0.0)?, None)
        } else {
            node.only(&["mode"])?;
            (self.integers(node, 1)?, self.scalar(node, 2, 0.0)?, self.integers(node, 3)?)
        };
        let widths = widths.ok_or_else(|| node.malformed("the widths of its borders are missing"))?;
        let axes = axes.unwrap_or_else(|| vec![0, 1, 2, 3]);
        if widths.len() != 2 * axes.len() {
            return Err(node.malformed(format!("has {} widths for {} axes", widths.len(), axes.len())));
        }
        let mut pads = [0; 4];
        for (k, axis) in axes.iter().enumerate() {
            let pair = [widths[k], widths[k + axes.len()]].map(|width| usize::try_from(width).ok());
            match (axis, pair) {
                (2 | -2, [Some(top), Some(bottom)]) => (pads[0], pads[2]) = (top, bottom),
                (3 | -1, [Some(left), Some(right)]) => (pads[1], pads[3]) = (left, right),
                (-4 | -3 | 0 | 1, [Some(0), Some(0)]) => {}
                _ => {
                    let problem =
                        format!("pads {widths:?} on axes {axes:?}, supported are height and width of an image");
                    return Err(node.unsupported(problem));
                }
            }
        }
        let input = self.value(node, 0)?;
        self.push(node, Op::Pad(Pad { pads, value }), vec![input])
    }

    fn pool(&self, node: &NodeView<'a>, input: ValueId) -> Result<Pool, Error> {
        let kernel = node.sizes("kernel_shape")?;
        let kernel = kernel.ok_or_else(|| node.malformed("attribute \"kernel_shape\" is missing"))?;
        self.window(node, input, kernel, 0)
    }

    /// The window of a node, its padding worked out. Where windows smaller than their stride leave more than `spare` places
    /// between the last one and the image's end, "same" padding is negative, and runtimes do not agree what that means.
    fn window(&self, node: &NodeView<'a>, input: ValueId, kernel: [usize; 2], spare: usize) -> Result<Pool, Error> {
        let auto_pad = match node.string("auto_pad", "NOTSET")?.as_str() {
            "NOTSET" => AutoPad::Explicit,
            "SAME_UPPER" => AutoPad::SameUpper,
            "SAME_LOWER" => AutoPad::SameLower,
            "VALID" => AutoPad::Valid,
            other => return Err(node.malformed(format!("attribute \"auto_pad\" is {other:?}"))),
        };
        let stride = node.sizes("strides")?.unwrap_or([1; 2]);
        let dilation = node.sizes("dilations")?.unwrap_or([1; 2]);
        let mut pads = match auto_pad {
            AutoPad::Explicit => node.sizes("pads")?.unwrap_or([0; 4]),
            _ => [0; 4],
        };
        if let (AutoPad::SameUpper | AutoPad::SameLower, Some(size)) = (auto_pad, self.image_size(input)) {
            for axis in 0..2 {
                // A stride of 0 is refused where the operator is added.
                let places = size[axis].div_ceil(stride[axis].max(1));
                let reach = (places.saturating_sub(1)).saturating_mul(stride[axis]);
                let end = reach.saturating_add(Op::extent(kernel[axis], dilation[axis]));
                if stride[axis] > 0 && end.saturating_add(spare) < size[axis] {
                    let problem = format!(
                        "attribute \"auto_pad\" asks windows of {kernel:?} with strides {stride:?} for negative padding, \
                         which runtimes take differently; state what is meant as \"pads\""
                    );
                    return Err(node.unsupported(problem));
                }
                let total = end.saturating_sub(size[axis]);
                let (less, more) = (total / 2, total - total / 2);
                let upper = auto_pad == AutoPad::SameUpper;
                (pads[axis], pads[axis + 2]) = if upper { (less, more) } else { (more, less) };
            }
        }
        Ok(Pool { kernel, stride, pads, dilation })
    }

    /// Places that `ceil_mode` adds at the bottom and right, so that no place of the padded image is left out.
    ///
    /// A window that would start behind the image and its front padding is dropped.
    fn ceil_padding(&self, node: &NodeView<'a>, input: ValueId, pool: &Pool) -> Result<[usize; 2], Error> {
        let (0 | 1) = node.int("ceil_mode", 0)? else {
            return Err(node.malformed("attribute \"ceil_mode\" must be 0 or 1"));
        };
        let Some(size) = self.image_size(input).filter(|_| node.int("ceil_mode", 0).is_ok_and(|mode| mode == 1)) else {
            return Ok([0; 2]);
        };
        Ok([0, 1].map(|axis| {
            let (extent, stride) = (Op::extent(pool.kernel[axis], pool.dilation[axis]), pool.stride[axis].max(1));
            let front = size[axis].saturating_add(pool.pads[axis]);
            let padded = front.saturating_add(pool.pads[axis + 2]);
            let last = padded.saturating_sub(extent).div_ceil(stride).min(front.saturating_sub(1) / stride);
            last.saturating_mul(stride).saturating_add(extent).saturating_sub(padded)
        }))
    }

    fn image_size(&self, value: ValueId) -> Option<[usize; 2]> {
        match self.builder.shape(value) {
            &[_, height, width] => Some([height, width]),
            _ => None,
        }
    }
}

fn behind([top, left, bottom, right]: [usize; 4], extra: [usize; 2]) -> [usize; 4] {
    [top, left, bottom.saturating_add(extra[0]), right.saturating_add(extra[1])]
}
