//! Rearranges the input of a convolution of one small image, vector by vector.

use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// As [`crate::arrange::Arrange`] of one image a position.
#[derive(Debug)]
pub(crate) struct Select {
    pub(crate) x_start: usize,
    pub(crate) x_stride: usize,
    pub(crate) channels: usize,
    pub(crate) to: usize,
    pub(crate) stride: usize,
    /// For each vector of a channel's panels what it consists of.
    pub(crate) vectors: Vec<Vec<Pick>>,
}

/// Values of one vector of a channel.
#[derive(Debug, Clone)]
pub(crate) struct Pick {
    /// Where the vector starts, from the start of the channel's plane.
    from: usize,
    /// For each lane which one of the vector it takes, or -1 for none.
    lanes: [i32; 16],
}

/// What each vector of `lanes` values consists of, where `sources` says where in a channel each value lies, if it is not
/// a zero. The last vector may reach past them.
pub(crate) fn picks(sources: &[Option<usize>], lanes: usize) -> Vec<Vec<Pick>> {
    let of_vector = |sources: &[Option<usize>]| {
        let mut picks: Vec<Pick> = Vec::new();
        for (lane, source) in sources.iter().enumerate().filter_map(|(lane, source)| Some((lane, (*source)?))) {
            let from = source / lanes * lanes;
            let at = picks.iter().position(|pick| pick.from == from).unwrap_or_else(|| {
                picks.push(Pick { from, lanes: [-1; 16] });
                picks.len() - 1
            });
            picks[at].lanes[lane] = (source - from) as i32;
        }
        picks
    };
    sources.chunks(lanes).map(of_vector).collect()
}

impl Kernel for Call<'_, Select> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        for channel in self.site.part.of(s.channels) {
            // SAFETY: the program checked that the planes of `x` consist of whole vectors, and gave the panels of each
            // channel room for whole vectors in the scratch, which no plane overlaps.
            unsafe {
                let from = self.site.arena.add(s.x_start + channel * s.x_stride).cast_const();
                let to = self.site.arena.add(s.to + channel * s.stride);
                for (i, picks) in s.vectors.iter().enumerate() {
                    let mut vector = V::splat(0.0);
                    for pick in picks {
                        vector = vector.add(V::load(from.add(pick.from)).select(pick.lanes.as_ptr()));
                    }
                    vector.store(to.add(i * V::LANES));
                }
            }
        }
    }
}
