//! Images in, features out, and planes flattened to features.

use crate::plane::Place;
use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// Copies NCHW images into a buffer; lanes without an image become 0.
#[derive(Debug)]
pub(crate) struct Import {
    pub(crate) y: Place,
}

/// Copies a buffer to NCHW outputs; lanes without an image are left out.
#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) x: Place,
}

/// `y[(c H + h) W + w] = x[c][h][w]`; `y` starts at that value of the arena.
#[derive(Debug)]
pub(crate) struct Flatten {
    pub(crate) x: Place,
    pub(crate) y: usize,
}

impl Kernel for Call<'_, Import> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let (s, site) = (self.step, &self.site);
        let (height, width, lanes) = (s.y.plane.height(), s.y.plane.width(), s.y.plane.lanes());
        for channel in site.part.of(s.y.channels) {
            // SAFETY: the program checked that the buffer lies inside the arena, and gave this thread channels of its
            // own.
            let to = |row| unsafe { site.row_mut(&s.y, channel, row) };
            let from = |lane: usize, row: usize| {
                let from = lane * s.y.image() + (channel * height + row) * width;
                // SAFETY: there are `count` images.
                unsafe { std::slice::from_raw_parts(site.images.add(from), width) }
            };
            if lanes == 1 {
                (0..height).for_each(|row| to(row).copy_from_slice(from(0, row)));
                continue;
            }
            if site.count < lanes {
                (0..height).for_each(|row| to(row).fill(0.0));
            }
            // Rows of an image that lie together one after the other, as all images may fall into the same cache sets.
            let together = (TOGETHER / width).max(1);
            for first in (0..height).step_by(together) {
                for lane in 0..site.count {
                    for row in first..height.min(first + together) {
                        for (to, from) in to(row).chunks_exact_mut(V::LANES).zip(from(lane, row)) {
                            to[lane] = *from;
                        }
                    }
                }
            }
        }
    }
}

/// Positions of a channel that are filled lane by lane: a quarter of the first-level cache.
const TOGETHER: usize = 128;

impl Kernel for Call<'_, Export> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let (s, site) = (self.step, &self.site);
        let (height, width, lanes) = (s.x.plane.height(), s.x.plane.width(), s.x.plane.lanes());
        for (channel, row) in s.x.rows(site.part) {
            // SAFETY: the program checked that the buffer lies inside the arena.
            let from = unsafe { site.row(&s.x, channel, row) };
            for lane in 0..site.count {
                let to = lane * s.x.image() + (channel * height + row) * width;
                // SAFETY: there is room for the outputs of `count` images, of which this thread has channels of its own.
                let to = unsafe { std::slice::from_raw_parts_mut(site.outputs.add(to), width) };
                if lanes == 1 {
                    to.copy_from_slice(from);
                } else {
                    to.iter_mut().zip(from.chunks_exact(V::LANES)).for_each(|(to, from)| *to = from[lane]);
                }
            }
        }
    }
}

impl Kernel for Call<'_, Flatten> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let (s, site) = (self.step, &self.site);
        for (channel, row) in s.x.rows(site.part) {
            // SAFETY: the program checked that both buffers lie inside the arena and do not overlap, and gave this
            // thread channels of its own.
            unsafe {
                let from = site.row(&s.x, channel, row);
                let to = s.y + (channel * s.x.plane.height() + row) * from.len();
                std::slice::from_raw_parts_mut(site.arena.add(to), from.len()).copy_from_slice(from);
            }
        }
    }
}
