//! Images in, features out, and planes flattened to features.

use crate::plane::Plane;
use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// Copies NCHW images into a buffer; lanes without an image become 0.
#[derive(Debug)]
pub(crate) struct Import {
    pub(crate) y: Plane,
    pub(crate) y_start: usize,
    pub(crate) channels: usize,
}

/// Copies a buffer to NCHW outputs; lanes without an image are left out.
#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) x: Plane,
    pub(crate) x_start: usize,
    pub(crate) channels: usize,
}

/// `y[(c H + h) W + w] = x[c][h][w]`.
#[derive(Debug)]
pub(crate) struct Flatten {
    pub(crate) x: Plane,
    pub(crate) x_start: usize,
    pub(crate) y_start: usize,
    pub(crate) channels: usize,
}

impl Kernel for Call<'_, Import> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let (s, p) = (self.step, &self.step.y);
        let (height, width, lanes) = (p.height(), p.width(), p.lanes());
        let image = s.channels * height * width;
        for channel in self.site.part.of(s.channels) {
            for row in 0..height {
                let to = s.y_start + channel * p.stride() + p.head() + row * p.pitch() * lanes;
                // SAFETY: the program checked that the plane lies inside the arena and that there are `count` images.
                let to = unsafe { std::slice::from_raw_parts_mut(self.site.arena.add(to), width * lanes) };
                if self.site.count < lanes {
                    to.fill(0.0);
                }
                for lane in 0..self.site.count {
                    let from = lane * image + (channel * height + row) * width;
                    // SAFETY: as above.
                    let from = unsafe { std::slice::from_raw_parts(self.site.images.add(from), width) };
                    if lanes == 1 {
                        to.copy_from_slice(from);
                    } else {
                        to.iter_mut().skip(lane).step_by(lanes).zip(from).for_each(|(to, from)| *to = *from);
                    }
                }
            }
        }
    }
}

impl Kernel for Call<'_, Export> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let (s, p) = (self.step, &self.step.x);
        let (height, width, lanes) = (p.height(), p.width(), p.lanes());
        let image = s.channels * height * width;
        for channel in self.site.part.of(s.channels) {
            for at in 0..height * width {
                let from = s.x_start + channel * p.stride() + p.head() + (at / width * p.pitch() + at % width) * lanes;
                for lane in 0..self.site.count {
                    // SAFETY: the program checked that the plane lies inside the arena and that there is room for
                    // the outputs of `count` images.
                    unsafe {
                        *self.site.outputs.add(lane * image + channel * height * width + at) =
                            *self.site.arena.add(from + lane);
                    }
                }
            }
        }
    }
}

impl Kernel for Call<'_, Flatten> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let (s, p) = (self.step, &self.step.x);
        let row = p.width() * p.lanes();
        for channel in self.site.part.of(s.channels) {
            for h in 0..p.height() {
                let from = s.x_start + channel * p.stride() + p.head() + h * p.pitch() * p.lanes();
                let to = s.y_start + (channel * p.height() + h) * row;
                // SAFETY: the program checked that both rows lie inside the arena, in different buffers.
                unsafe { std::ptr::copy_nonoverlapping(self.site.arena.add(from), self.site.arena.add(to), row) };
            }
        }
    }
}
