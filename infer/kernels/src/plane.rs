//! Where the values of one channel, and those of a buffer, lie in memory.

use crate::step::Part;
use crate::window::MASKED;

/// Values that the widest vector holds; strides are multiples of it.
pub(crate) const ALIGN: usize = 16;

/// Layout of one channel of an image: rows of positions, each position `lanes` values (one image each).
///
/// Rows follow each other at `pitch = width + gap` positions, so the zeros right of a row are also the zeros left of
/// the next; `pad` rows of zeros lie above and below. Where the gap is `pad` too, a convolution with at most that
/// padding and stride 1 reads every tap of every position at one constant distance from the position, and the whole
/// channel is one run of `flat` values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Plane {
    height: usize,
    width: usize,
    pad: usize,
    gap: usize,
    lanes: usize,
    head: usize,
    stride: usize,
}

impl Plane {
    /// A plane of `height` x `width` positions with `pad` zeros on every side.
    ///
    /// # Panics
    /// If a size is 0 or the plane does not fit 32-bit byte offsets.
    pub fn image(height: usize, width: usize, pad: usize, lanes: usize) -> Self {
        Self::padded(height, width, [pad, pad], lanes)
    }

    /// A plane of one image with `pad` rows of zeros above and below, and rows without gaps.
    ///
    /// # Panics
    /// As [`Plane::image`].
    pub fn rows(height: usize, width: usize, pad: usize) -> Self {
        Self::padded(height, width, [pad, 0], 1)
    }

    fn padded(height: usize, width: usize, [pad, gap]: [usize; 2], lanes: usize) -> Self {
        assert!(height > 0 && width > 0 && lanes > 0, "empty plane {height}x{width}, {lanes} lanes");
        assert!([height, width, pad].iter().all(|n| *n <= 1 << 17), "plane {height}x{width}, pad {pad} is too large");
        let pitch = width + gap;
        let border = (pad * pitch + gap) * lanes;
        // Values before the zeros above are read, and masked out, where there is no gap.
        let head = if pad > 0 && gap == 0 { border + MASKED as usize } else { border }.next_multiple_of(ALIGN);
        let flat = ((height - 1) * pitch + width) * lanes;
        // The last vector of the last row may reach one vector too far, on the way in and on the way out.
        let stride = odd_lines(head + flat.next_multiple_of(ALIGN) + border + if pad > 0 { ALIGN } else { 0 });
        assert!(stride < 1 << 29, "plane {height}x{width}, pad {pad}, {lanes} lanes is too large");
        Self { height, width, pad, gap, lanes, head, stride }
    }

    /// One feature: `lanes` values, the next feature's right behind.
    pub fn feature(lanes: usize) -> Self {
        Self { height: 1, width: 1, pad: 0, gap: 0, lanes, head: 0, stride: lanes }
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Positions in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows of zeros above and below.
    pub fn pad(&self) -> usize {
        self.pad
    }

    /// Zeros between rows.
    pub fn gap(&self) -> usize {
        self.gap
    }

    /// Whether the zeros around the image are as many as a window's top, left, bottom and right padding asks for.
    pub(crate) fn holds(&self, [top, left, bottom, right]: [usize; 4]) -> bool {
        top.max(bottom) <= self.pad && left.max(right) <= self.gap
    }

    /// Images side by side at each position.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Positions from one row to the next.
    pub fn pitch(&self) -> usize {
        self.width + self.gap
    }

    /// Bytes from one channel to the next.
    pub fn bytes(&self) -> usize {
        self.stride * size_of::<f32>()
    }

    /// Values before row `row`.
    pub(crate) fn row(&self, row: usize) -> usize {
        self.head + row * self.pitch() * self.lanes
    }

    /// Values before the first row.
    pub(crate) fn head(&self) -> usize {
        self.head
    }

    /// Values from one channel to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Values from the first of the first row to the last of the last row, gaps included: what a convolution computes.
    pub fn values(&self) -> usize {
        ((self.height - 1) * self.pitch() + self.width) * self.lanes
    }

    /// For each value of a plane without gaps, rounded up to whole vectors: all bits set where the value `right` of it is
    /// one of the same row.
    pub(crate) fn edge(&self, right: isize) -> Vec<f32> {
        let inside = |i: usize| (i % self.width).checked_add_signed(right).is_some_and(|column| column < self.width);
        let edge = |i| f32::from_bits(if inside(i) { u32::MAX } else { 0 });
        (0..self.values().next_multiple_of(ALIGN)).map(edge).collect()
    }

    /// For each value of `flat`, rounded up to whole vectors: all bits set inside the image, none in a gap.
    /// `None` where no zeros lie within reach.
    pub(crate) fn mask(&self) -> Option<Vec<f32>> {
        let keep = |i: usize| i < self.values() && i / self.lanes % self.pitch() < self.width;
        let mask = |i| f32::from_bits(if keep(i) { u32::MAX } else { 0 });
        (self.gap > 0 || self.pad > 0 && !self.values().is_multiple_of(ALIGN))
            .then(|| (0..self.values().next_multiple_of(ALIGN)).map(mask).collect())
    }
}

/// Where a buffer lies: `channels` planes, one behind the other, from value `start` of the arena on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) start: usize,
    pub(crate) plane: Plane,
    pub(crate) channels: usize,
}

impl Place {
    /// Values of one image.
    pub(crate) fn image(&self) -> usize {
        self.channels * self.plane.height() * self.plane.width()
    }

    /// Values from its start to its end.
    pub(crate) fn values(&self) -> usize {
        self.channels * self.plane.stride()
    }

    /// The place of the same layout that is `count` such places behind.
    pub(crate) fn further(&self, count: usize) -> Self {
        Self { start: self.start + count * self.values(), ..*self }
    }

    /// Values before a row of a channel.
    pub(crate) fn row(&self, channel: usize, row: usize) -> usize {
        self.start + channel * self.plane.stride() + self.plane.row(row)
    }

    /// One thread's share of the channels, with each row of them.
    pub(crate) fn rows(&self, part: Part) -> impl Iterator<Item = (usize, usize)> {
        let height = self.plane.height();
        part.of(self.channels).flat_map(move |channel| (0..height).map(move |row| (channel, row)))
    }
}

/// Rounds up to an odd number of cache lines, so that channels do not all fall into the same cache sets.
pub(crate) fn odd_lines(values: usize) -> usize {
    (values.div_ceil(ALIGN) | 1) * ALIGN
}
