//! Rearranges an input for a convolution whose taps do not lie at constant distances: strides, small or unpadded maps.

use crate::plane::Plane;
use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// For every channel, fills the positions of its panels by one list of runs.
#[derive(Debug, Clone)]
pub(crate) struct Arrange {
    pub(crate) x: Plane,
    pub(crate) x_start: usize,
    pub(crate) channels: usize,
    /// Where the first channel's panels start, and how far the next channel's are: with one lane room for a vector
    /// behind the last run, because runs are written in whole vectors, each over what the one before wrote too much.
    pub(crate) to: usize,
    pub(crate) stride: usize,
    /// Positions from one of a run's sources to the next.
    pub(crate) step: usize,
    pub(crate) runs: Vec<Run>,
}

/// Neighbouring positions of the panels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) len: usize,
    /// Distance of the first position's source from the start of the channel's plane, in values; `None` is zeros.
    pub(crate) from: Option<usize>,
}

/// The runs that a list of sources consists of, where those of a run lie `step` values apart.
pub(crate) fn runs(sources: impl Iterator<Item = Option<usize>>, step: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    sources.for_each(|source| {
        let follows = |run: &Run| source == run.from.map(|from| from + run.len * step);
        match runs.last_mut().filter(|run| follows(run)) {
            Some(run) => run.len += 1,
            None => runs.push(Run { len: 1, from: source }),
        }
    });
    runs
}

impl Kernel for Call<'_, Arrange> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        for channel in self.site.part.of(s.channels) {
            // SAFETY: the program checked that the runs stay within the planes of `x`, and its positions within the
            // scratch, which no plane overlaps; a program has one lane or as many as `V`. With one lane the last
            // vectors may reach past a plane, but not out of the arena, and past a channel's panels by less than the
            // room that `stride` leaves.
            unsafe {
                let from = self.site.arena.add(s.x_start + channel * s.x.stride()).cast_const();
                let mut to = self.site.arena.add(s.to + channel * s.stride);
                for run in &s.runs {
                    let from = run.from.map(|source| from.add(source));
                    if s.x.lanes() == 1 {
                        values::<V>(from, to, run.len, s.step);
                    } else {
                        for i in 0..run.len {
                            let value = from.map_or(V::splat(0.0), |from| V::load(from.add(i * s.step * V::LANES)));
                            value.store(to.add(i * V::LANES));
                        }
                    }
                    to = to.add(run.len * s.x.lanes());
                }
            }
        }
    }
}

/// `to[i] = from[i * step]`, or 0, for `len` values and up to a vector more.
///
/// # Safety
/// The values and as much more must be readable and writable.
#[inline(always)]
unsafe fn values<V: Vector>(from: Option<*const f32>, to: *mut f32, len: usize, step: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match from {
            None => (0..len).step_by(V::LANES).for_each(|i| V::splat(0.0).store(to.add(i))),
            Some(from) if step == 1 => (0..len).step_by(V::LANES).for_each(|i| V::load(from.add(i)).store(to.add(i))),
            Some(from) if step == 2 => (0..len).step_by(V::LANES).for_each(|i| {
                let from = from.add(2 * i);
                V::load(from).even(V::load(from.add(V::LANES))).store(to.add(i));
            }),
            Some(from) => (0..len).for_each(|i| *to.add(i) = *from.add(i * step)),
        }
    }
}
