//! Which outputs of a channel a convolution computes, and in which tiles.

use crate::plane::Plane;

/// `height` runs of `width` values, `pitch` values apart.
///
/// With one image a vector spans rows, so all rows with the gaps between them are one run. With a vector of images
/// every position is a vector of its own, and each row is a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    height: usize,
    width: usize,
    pitch: usize,
}

/// A part of a grid that is held in registers: `rows` runs of `vectors` vectors from the flat value `at` on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tile {
    pub(crate) at: usize,
    pub(crate) rows: usize,
    pub(crate) vectors: usize,
}

impl Grid {
    /// The grid of a plane.
    pub(crate) fn of(plane: &Plane) -> Self {
        match plane.lanes() {
            1 => Self { height: 1, width: plane.values(), pitch: plane.values() },
            lanes => Self { height: plane.height(), width: plane.width() * lanes, pitch: plane.pitch() * lanes },
        }
    }

    /// The grid of `height` rows of `width` values behind each other, whose rows are runs.
    pub(crate) fn rows(height: usize, width: usize) -> Self {
        Self { height, width, pitch: width }
    }

    /// Values from one run to the next.
    pub(crate) fn pitch(&self) -> usize {
        self.pitch
    }

    /// Cuts the grid into tiles of about one size, each of at most `single` vectors in a grid of one run, and of at
    /// most `[rows, vectors]` in others.
    pub(crate) fn tiles(&self, lanes: usize, single: usize, [rows, vectors]: [usize; 2]) -> Vec<Tile> {
        let most = if self.height == 1 { [1, single] } else { [rows, vectors] };
        let width = self.width.div_ceil(lanes);
        let cut = |len: usize, most: usize| {
            let parts = len.div_ceil(most);
            (0..parts).map(move |i| len * i / parts..len * (i + 1) / parts)
        };
        let mut tiles = Vec::new();
        for rows in cut(self.height, most[0]) {
            for vectors in cut(width, most[1]) {
                let at = rows.start * self.pitch + vectors.start * lanes;
                tiles.push(Tile { at, rows: rows.len(), vectors: vectors.len() });
            }
        }
        tiles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_value_once() {
        for (height, width, lanes) in [(1, 70, 1), (7, 5, 1), (7, 7, 8), (32, 9, 8), (1, 1, 16)] {
            let plane = Plane::image(height, width, 1, lanes);
            let (vector, grid) = (8.max(lanes), Grid::of(&plane));
            let mut covered = vec![0; plane.values().next_multiple_of(vector)];
            for tile in grid.tiles(vector, 12, [2, 4]) {
                assert!(tile.rows * tile.vectors <= 12, "{tile:?}");
                for row in 0..tile.rows {
                    let start = tile.at + row * grid.pitch();
                    covered[start..start + tile.vectors * vector].iter_mut().for_each(|c| *c += 1);
                }
            }
            let inside = |i: usize| lanes == 1 || i / lanes % plane.pitch() < width;
            assert!(covered.iter().enumerate().all(|(i, c)| *c == usize::from(inside(i))), "{plane:?}");
        }
    }
}
