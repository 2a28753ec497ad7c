//! How a window slides over an image.

use crate::Isa;
use crate::map_conv;
use crate::plane::Plane;

/// How far to the side a tap may reach where rows have no gap, at most: so much before the first row may be read.
pub(crate) const MASKED: isize = 2;

/// A sliding window with ONNX semantics (floor mode).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Height and width.
    pub kernel: [usize; 2],
    /// Stride down and right.
    pub stride: [usize; 2],
    /// Zero padding: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Dilation down and right.
    pub dilation: [usize; 2],
}

impl Window {
    /// The 1x1 window of a linear layer.
    pub const POINT: Self = Self { kernel: [1, 1], stride: [1, 1], pads: [0; 4], dilation: [1, 1] };

    /// Number of window positions down and right on an image of `size`, or `None` where none fits.
    pub fn positions(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let axis = |i: usize| {
            let extent = self.dilation[i].checked_mul(self.kernel[i].checked_sub(1)?)?.checked_add(1)?;
            let padded = size[i].checked_add(self.pads[i])?.checked_add(self.pads[i + 2])?;
            Some(padded.checked_sub(extent)?.checked_div(self.stride[i])? + 1)
        };
        Some([axis(0)?, axis(1)?])
    }

    /// Whether every tap of every output position of `y` lies at one constant distance in `x`, zeros included.
    pub fn is_direct(&self, x: &Plane, y: &Plane) -> bool {
        self.stride == [1, 1]
            && (x.height(), x.width(), x.pitch()) == (y.height(), y.width(), y.pitch())
            && x.holds(self.pads)
    }

    /// Whether every tap of every output position of `y`, one image whose rows have no gap, lies at one constant distance
    /// in `x`, or in the phases of a stride, but for those left and right of a row, where the neighbouring rows lie.
    pub(crate) fn is_masked(&self, x: &Plane, y: &Plane) -> bool {
        self.is_sideways(x, y) && (self.stride != [1, 1] || x.pad() > 0 && self.keeps_rows(x, y))
    }

    /// As [`Window::is_masked`], or in rows that are put behind each other first.
    pub(crate) fn is_sideways(&self, x: &Plane, y: &Plane) -> bool {
        (y.lanes(), y.gap()) == (1, 0) && self.kernel[1] > 1 && self.reaches_at_most(MASKED, 1, x.width(), y.width())
    }

    /// Whether [`crate::row_conv`] can run it from `x` to `y`.
    pub(crate) fn is_by_rows(&self, x: &Plane, y: &Plane, isa: Isa) -> bool {
        y.lanes() == 1
            && isa.rows(y.width()).is_some()
            && (2..=3).contains(&self.kernel[1])
            && self.reaches_at_most(1, 1, x.width(), y.width())
    }

    /// Whether the rows of `x` that it reads for each row of `y` lie at a constant distance, zeros above and below
    /// included.
    pub(crate) fn keeps_rows(&self, x: &Plane, y: &Plane) -> bool {
        let [top, _, bottom, _] = self.pads;
        self.stride == [1, 1] && x == y && x.gap() == 0 && top.max(bottom) <= x.pad()
    }

    /// Whether there is a depthwise kernel, from maps of a size to maps of another of one image without gaps between rows,
    /// that needs no padding: it moves neighbours within vectors of whole rows, or within rows of whole vectors.
    pub fn is_aligned(&self, from: [usize; 2], [height, width]: [usize; 2], isa: Isa) -> bool {
        let (stride, lanes) = (self.stride[0], isa.lanes());
        (self.kernel, self.dilation) == ([3, 3], [1, 1])
            && (self.stride == [1, 1] || self.stride == [2, 2])
            && self.pads[..2] == [1, 1]
            && from == [stride * height, stride * width]
            && (width.is_multiple_of(lanes) || lanes.is_multiple_of(width) && (height * width).is_multiple_of(lanes))
    }

    /// Whether there is a sparse kernel from `x` to `y`, planes of a vector of images, that leaves out the padding.
    pub fn is_by_maps(&self, x: &Plane, y: &Plane, isa: Isa) -> bool {
        y.lanes() > 1
            && [x, y].iter().all(|plane| (plane.pad(), plane.gap()) == (0, 0))
            && (self.kernel, self.stride) != ([1, 1], [1, 1])
            && (self.stride == [1, 1] || self.stride == [2, 2])
            && [x.height(), x.width()] == [y.height(), y.width()].map(|size| size * self.stride[0])
            && map_conv::rows_of_tile(isa, [y.height(), y.width()]).is_some()
            && self.reaches_at_most(1, 0, x.height(), y.height())
            && self.reaches_at_most(1, 1, x.width(), y.width())
    }

    /// Whether every tap along an axis reads what belongs to its own output position or one at most `most` from it, or
    /// padding.
    fn reaches_at_most(&self, most: isize, axis: usize, from: usize, to: usize) -> bool {
        (0..self.kernel[axis]).all(|k| {
            let (phase, reach) = self.place(axis, k);
            // Behind the last output position there must be only padding.
            reach.abs() <= most && (reach < 1 || to * self.stride[axis] + phase >= from)
        })
    }

    /// Which of every `stride` input positions the tap `k` of an axis of the kernel reads, and of which output position:
    /// how far it is from its own.
    pub(crate) fn place(&self, axis: usize, k: usize) -> (usize, isize) {
        let (offset, stride) =
            ((k * self.dilation[axis]) as isize - self.pads[axis] as isize, self.stride[axis] as isize);
        (offset.rem_euclid(stride) as usize, offset.div_euclid(stride))
    }
}
