//! Rearranges the input of a convolution of one small image, vector by vector.

use std::collections::HashMap;

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
    pub(crate) moves: Moves,
}

/// What the vectors of a channel's panels consist of.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// Vectors that hold every second value of two vectors.
    halved: Vec<Halved>,
    /// The other vectors, by their numbers.
    picked: Vec<(usize, Vec<Pick>)>,
}

/// Two vectors of a channel, from the start of its plane, and to which vectors their even and their odd lanes go.
#[derive(Debug, Clone)]
struct Halved {
    from: [usize; 2],
    to: [Option<usize>; 2],
}

/// Values of one vector of a channel.
#[derive(Debug, Clone)]
struct Pick {
    /// Where the vector starts, from the start of the channel's plane.
    from: usize,
    /// For each lane which one of the vector it takes, or -1 for none.
    lanes: [i32; 16],
}

impl Moves {
    /// For vectors of `lanes` values, where `sources` says where in a channel each value lies, if it is not a zero. The last
    /// vector may reach past them. `None` where more than `most` vectors would have to be read to put others together lane
    /// by lane.
    pub(crate) fn new(mut sources: impl Iterator<Item = Option<usize>>, lanes: usize, most: usize) -> Option<Self> {
        let (mut moves, mut count) = (Self::default(), 0);
        // Those of `halved` that read each two vectors.
        let mut readers: HashMap<[usize; 2], Vec<usize>> = HashMap::new();
        let mut vector = Vec::with_capacity(lanes);
        for i in 0.. {
            vector.clear();
            vector.extend(sources.by_ref().take(lanes));
            if vector.is_empty() {
                break;
            }
            let Some((from, odd)) = halves(&vector, lanes) else {
                let picks = picks(&vector, lanes);
                count += picks.len();
                if count > most {
                    return None;
                }
                moves.picked.push((i, picks));
                continue;
            };
            let readers = readers.entry(from).or_default();
            let free = readers.iter().copied().find(|at| moves.halved[*at].to[odd].is_none());
            let at = free.unwrap_or_else(|| {
                moves.halved.push(Halved { from, to: [None; 2] });
                readers.push(moves.halved.len() - 1);
                moves.halved.len() - 1
            });
            moves.halved[at].to[odd] = Some(i);
        }
        Some(moves)
    }

    /// Bytes of its lists.
    pub(crate) fn bytes(&self) -> usize {
        let picks = self.picked.iter().map(|(_, picks)| size_of_val(&picks[..])).sum::<usize>();
        size_of_val(&self.halved[..]) + size_of_val(&self.picked[..]) + picks
    }
}

/// The two vectors of whose even lanes, or of whose odd ones (1), a vector consists.
fn halves(sources: &[Option<usize>], lanes: usize) -> Option<([usize; 2], usize)> {
    let half = lanes / 2;
    let from = [sources[0]?, (*sources.get(half)?)?];
    let odd = from[0] % lanes;
    let follows = |(i, source): (usize, &Option<usize>)| *source == Some(from[i / half] + i % half * 2);
    let is_halved =
        odd < 2 && from[1] % lanes == odd && sources.len() == lanes && sources.iter().enumerate().all(follows);
    is_halved.then(|| (from.map(|from| from - odd), odd))
}

fn picks(sources: &[Option<usize>], lanes: usize) -> Vec<Pick> {
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
                for Halved { from: sources, to: [even, odd] } in &s.moves.halved {
                    let [a, b] = sources.map(|source| V::load(from.add(source)));
                    if let Some(i) = even {
                        a.even(b).store(to.add(i * V::LANES));
                    }
                    if let Some(i) = odd {
                        a.odd(b).store(to.add(i * V::LANES));
                    }
                }
                for (i, picks) in &s.moves.picked {
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
