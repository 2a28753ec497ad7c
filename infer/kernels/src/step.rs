//! What every step of a program shares: where it runs, and which part of it one thread does.

use std::ops::Range;

use crate::plane::Place;

/// The memory one run of a step works on.
#[derive(Clone, Copy)]
pub(crate) struct Site {
    /// Start of the arena.
    pub(crate) arena: *mut f32,
    /// First value of the first image of the group.
    pub(crate) images: *const f32,
    /// First value of the outputs of that image.
    pub(crate) outputs: *mut f32,
    /// Images in the group, at most the lanes of the program.
    pub(crate) count: usize,
    /// The share of the calling thread.
    pub(crate) part: Part,
}

impl Site {
    /// The values of a row.
    ///
    /// # Safety
    /// The place must lie inside the arena, and nothing write the row meanwhile.
    pub(crate) unsafe fn row<'a>(&self, place: &Place, channel: usize, row: usize) -> &'a [f32] {
        let len = place.plane.width() * place.plane.lanes();
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.arena.add(place.row(channel, row)), len) }
    }

    /// The values of a row, to be written.
    ///
    /// # Safety
    /// The place must lie inside the arena, and nothing else read or write the row meanwhile.
    pub(crate) unsafe fn row_mut<'a>(&self, place: &Place, channel: usize, row: usize) -> &'a mut [f32] {
        let len = place.plane.width() * place.plane.lanes();
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.arena.add(place.row(channel, row)), len) }
    }
}

/// One of `count` equal shares of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) index: usize,
    pub(crate) count: usize,
}

impl Part {
    /// This share of `0..len`.
    pub(crate) fn of(self, len: usize) -> Range<usize> {
        len * self.index / self.count..len * (self.index + 1) / self.count
    }

    /// The rows and the tiles of this share of a convolution, whose rows cost as in [`Part::weighted`]: tiles where they
    /// part evenly, as a thread then finds most of what it reads in its own cache, where it wrote it a layer before; else
    /// rows where there are enough for every thread.
    pub(crate) fn rows_or_tiles(self, cumulative: &[u64], tiles: usize) -> (Range<usize>, Range<usize>) {
        let rows = cumulative.len() - 1;
        if tiles.is_multiple_of(self.count) || rows < 4 * self.count && tiles >= self.count {
            (0..rows, self.of(tiles))
        } else {
            (self.weighted(cumulative), 0..tiles)
        }
    }

    /// This share of `0..n`, where item `i` costs `cumulative[i + 1] - cumulative[i]` and `cumulative` has `n + 1` entries.
    pub(crate) fn weighted(self, cumulative: &[u64]) -> Range<usize> {
        let total = cumulative[cumulative.len() - 1];
        let edge = |k: usize| match k {
            _ if k == self.count => cumulative.len() - 1,
            _ => cumulative.partition_point(|c| *c < total * k as u64 / self.count as u64),
        };
        edge(self.index)..edge(self.index + 1)
    }
}

/// One step of a program run on one site.
pub(crate) struct Call<'a, T> {
    pub(crate) step: &'a T,
    pub(crate) site: Site,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_once() {
        let cumulative = [0, 5, 5, 6, 40, 41, 41, 100];
        for count in 1..12 {
            let (mut plain, mut weighted) = (0, 0);
            for index in 0..count {
                let part = Part { index, count };
                assert_eq!((part.of(7).start, part.weighted(&cumulative).start), (plain, weighted));
                (plain, weighted) = (part.of(7).end, part.weighted(&cumulative).end);
            }
            assert_eq!((plain, weighted), (7, 7));
        }
    }
}
