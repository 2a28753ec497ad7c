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
        let Place { plane, .. } = s.y;
        let (height, width, lanes) = (plane.height(), plane.width(), plane.lanes());
        // Rows with nothing between are one.
        let (rows, len) = if plane.gap() == 0 { (1, height * width) } else { (height, width) };
        for (channel, row) in site.part.of(s.y.channels).flat_map(|channel| (0..rows).map(move |row| (channel, row))) {
            // SAFETY: the program checked that the buffer lies inside the arena, and gave this thread channels of its
            // own; there are `count` images.
            unsafe {
                let from = site.images.add((channel * height + row) * width);
                let to = site.arena.add(s.y.row(channel, row));
                if lanes == 1 {
                    to.copy_from_nonoverlapping(from, len);
                } else {
                    let whole = if site.count == lanes { len / lanes * lanes } else { 0 };
                    for at in (0..whole).step_by(lanes) {
                        transpose::<V>(from.add(at), s.y.image(), to.add(at * lanes));
                    }
                    for (at, lane) in (whole..len).flat_map(|at| (0..lanes).map(move |lane| (at, lane))) {
                        let value = if lane < site.count { *from.add(lane * s.y.image() + at) } else { 0.0 };
                        *to.add(at * lanes + lane) = value;
                    }
                }
            }
        }
    }
}

/// Writes as many vectors as they have lanes, where each holds one lane of those `stride` values apart at `from`.
///
/// # Safety
/// All of them must be readable and writable.
#[inline(always)]
unsafe fn transpose<V: Vector>(from: *const f32, stride: usize, to: *mut f32) {
    // SAFETY: the caller's promise; 16 vectors are those of the widest tier.
    unsafe {
        let mut vectors = [V::splat(0.0); 16];
        for (i, vector) in vectors.iter_mut().enumerate().take(V::LANES) {
            *vector = V::load(from.add(i * stride));
        }
        for _ in 0..V::LANES.ilog2() {
            let before = vectors;
            for i in 0..V::LANES / 2 {
                (vectors[2 * i], vectors[2 * i + 1]) = before[i].zip(before[i + V::LANES / 2]);
            }
        }
        for (i, vector) in vectors.iter().enumerate().take(V::LANES) {
            vector.store(to.add(i * V::LANES));
        }
    }
}

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
