//! Sums of products over a window that slides over an image: the shape of a convolution's forward pass and of its
//! gradient with respect to the input.
//!
//! A window at the edge of the image holds fewer taps, as if zeros lay outside. Positions whose windows hold the same
//! taps form a region, so that no image is copied into a padded one and no product with a zero outside is computed: on
//! a map of 2x2, four taps of nine are left.

use std::ops::Range;

use super::BLOCK;

/// Where one output position reads and writes, in values from the start of a group of images.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// Where the taps count from, in block 0 of the source.
    pub source: u32,
    /// The position in block 0 of the destination.
    pub destination: u32,
}

/// The planes of a blocked tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planes {
    pub channels: usize,
    /// Height and width.
    pub size: [usize; 2],
    pub order: Order,
}

/// How the images of a group lie; innermost are always the lanes of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// `[image][block][place]`, as activations do.
    Images,
    /// `[block][image][place]`.
    Blocks,
    /// `[block][place][image]`, with room for so many images.
    Places(usize),
}

impl Planes {
    /// Image after image.
    pub fn new(channels: usize, size: [usize; 2]) -> Self {
        Self { channels, size, order: Order::Images }
    }

    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(BLOCK)
    }

    /// Values in one block of one image.
    pub fn plane(&self) -> usize {
        self.size[0] * self.size[1] * BLOCK
    }

    /// Values in one image.
    pub fn image(&self) -> usize {
        self.blocks() * self.plane()
    }

    /// Values from an image to the next.
    pub fn image_step(&self) -> usize {
        match self.order {
            Order::Images => self.image(),
            Order::Blocks => self.plane(),
            Order::Places(_) => BLOCK,
        }
    }

    /// Values from a block to the next, in a group of `images`.
    pub fn block_step(&self, images: usize) -> usize {
        match self.order {
            Order::Images => self.plane(),
            Order::Blocks => images * self.plane(),
            Order::Places(room) => room * self.plane(),
        }
    }

    /// Values from a place in a plane to the next.
    pub fn place_step(&self) -> usize {
        match self.order {
            Order::Images | Order::Blocks => BLOCK,
            Order::Places(room) => room * BLOCK,
        }
    }

    /// Values that a group of `images` takes.
    pub fn group(&self, images: usize) -> usize {
        match self.order {
            Order::Images | Order::Blocks => images * self.image(),
            Order::Places(room) => room * self.image(),
        }
    }

    /// Channels of `block` that hold values.
    pub fn channels_of(&self, block: usize) -> usize {
        (self.channels - block * BLOCK).min(BLOCK)
    }

    /// Offset of a place in a plane.
    pub fn at(&self, row: usize, column: usize) -> usize {
        (row * self.size[1] + column) * self.place_step()
    }
}

/// For each output position, the sum over taps and source channels of source times weight.
#[derive(Debug, Clone)]
pub(super) struct Correlation {
    source: Planes,
    destination: Planes,
    taps: usize,
    regions: Vec<Region>,
    /// For each axis and each of its taps, where it lies inside the image.
    inside: [Vec<Inside>; 2],
    /// From a position's source to the next one's, down and right.
    steps: [usize; 2],
}

/// Positions along one axis whose windows hold a tap that lies inside the image.
#[derive(Debug, Clone)]
pub(super) struct Inside {
    pub positions: Range<usize>,
    /// What the tap reads at the first of them.
    first: usize,
}

/// Positions whose windows hold the same taps.
#[derive(Debug, Clone)]
pub(super) struct Region {
    pub taps: Vec<Tap>,
    /// Positions of as many images as a group may have, image by image; of the first, if the source lies by places.
    positions: Vec<Position>,
    positions_per_image: usize,
    /// So many positions each read sources [`BLOCK`] apart.
    pub row: usize,
}

impl Region {
    /// Positions of the first `images` images.
    pub fn positions(&self, images: usize) -> &[Position] {
        &self.positions[..images * self.positions_per_image]
    }
}

/// A tap inside the image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tap {
    /// Its number among all taps of the window.
    pub index: usize,
    /// Offset from a position's source.
    pub offset: usize,
}

/// One axis of a [`Correlation`]: `count` positions whose windows step by `step` through the source and which write to
/// `to`, stepping by `to_step`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub count: usize,
    pub step: usize,
    pub to: usize,
    pub to_step: usize,
}

impl Correlation {
    /// `taps` are the rows and the columns that the first position's window reads, outside the source too; all pairs
    /// are taps, numbered row by row. Positions are planned for groups of up to `images` images.
    pub fn new(source: Planes, destination: Planes, taps: [&[isize]; 2], axes: [Axis; 2], images: usize) -> Self {
        for (axis, size) in axes.iter().zip(destination.size) {
            assert!(axis.count > 0 && axis.to + (axis.count - 1) * axis.to_step < size, "{axis:?} {destination:?}");
        }
        assert!(images * source.image().max(destination.image()) <= u32::MAX as usize, "group too large");
        let [rows, columns] = [0, 1].map(|a| stretches(axes[a], taps[a], source.size[a]));
        let mut regions = Vec::with_capacity(rows.len() * columns.len());
        for row in &rows {
            for column in &columns {
                let in_window = row.taps.iter().flat_map(|r| column.taps.iter().map(move |c| (r, c)));
                let in_window = in_window.map(|(r, c)| Tap {
                    index: r.index * taps[1].len() + c.index,
                    offset: source.at(r.offset, c.offset),
                });
                let mut region = Region {
                    taps: in_window.collect(),
                    positions: vec![],
                    positions_per_image: 0,
                    row: if axes[1].step == 1 { column.positions.len() } else { 1 },
                };
                let planned = if matches!(source.order, Order::Places(_)) { 1 } else { images };
                for image in 0..planned {
                    for y in row.positions.clone() {
                        for x in column.positions.clone() {
                            let from = source.at(row.source(axes[0], y), column.source(axes[1], x));
                            let to = [(0, y), (1, x)].map(|(a, i): (usize, usize)| axes[a].to + i * axes[a].to_step);
                            region.positions.push(Position {
                                source: (image * source.image_step() + from) as u32,
                                destination: (image * destination.image_step() + destination.at(to[0], to[1])) as u32,
                            });
                        }
                    }
                }
                region.positions_per_image = row.positions.len() * column.positions.len();
                regions.push(region);
            }
        }
        let inside = [0, 1].map(|a| taps[a].iter().map(|tap| Inside::new(axes[a], *tap, source.size[a])).collect());
        let steps = axes.map(|axis| axis.step);
        Self { source, destination, taps: taps[0].len() * taps[1].len(), regions, inside, steps }
    }

    /// Rows and columns of the positions whose windows hold each tap, tap by tap.
    pub fn inside(&self) -> impl Iterator<Item = [&Inside; 2]> {
        self.inside[0].iter().flat_map(|row| self.inside[1].iter().map(move |column| [row, column]))
    }

    /// What a tap reads at the first of its positions that lie in row `row`, in the first image.
    pub fn source_of(&self, [rows, columns]: [&Inside; 2], row: usize) -> usize {
        self.source.at(rows.first + (row - rows.positions.start) * self.steps[0], columns.first)
    }

    /// Values from the source of a position to that of the next, down and right.
    pub fn source_steps(&self) -> [usize; 2] {
        [self.source.at(self.steps[0], 0), self.source.at(0, self.steps[1])]
    }

    /// Taps of a whole window.
    pub fn taps(&self) -> usize {
        self.taps
    }

    pub fn source(&self) -> Planes {
        self.source
    }

    pub fn destination(&self) -> Planes {
        self.destination
    }

    /// The regions, after checking that so many values of `source` and `destination` hold `images` images: then for each position of theirs every tap
    /// and the destination lie within the buffers, for every block.
    pub fn regions(&self, images: usize, source: usize, destination: usize) -> &[Region] {
        for (found, planes) in [(source, self.source), (destination, self.destination)] {
            assert!(found >= planes.group(images), "{found} for {images} of {planes:?}");
            assert!(!matches!(planes.order, Order::Places(room) if room < images), "{images} of {planes:?}");
        }
        &self.regions
    }
}

impl Inside {
    fn new(axis: Axis, tap: isize, size: usize) -> Self {
        let place = |position: &usize| (position * axis.step) as isize + tap;
        let mut positions = (0..axis.count).filter(|p| (0..size as isize).contains(&place(p)));
        let Some(start) = positions.next() else { return Self { positions: 0..0, first: 0 } };
        Self { first: place(&start) as usize, positions: start..positions.next_back().unwrap_or(start) + 1 }
    }
}

/// Consecutive positions along one axis whose windows hold the same taps.
struct Stretch {
    positions: Range<usize>,
    taps: Vec<Tap>,
    /// Least tap, from which the offsets of the others count.
    first: isize,
}

impl Stretch {
    /// Place in the source from which the taps of a position count.
    fn source(&self, axis: Axis, position: usize) -> usize {
        if self.taps.is_empty() { 0 } else { ((position * axis.step) as isize + self.first) as usize }
    }
}

fn stretches(axis: Axis, taps: &[isize], size: usize) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut before = None;
    for position in 0..axis.count {
        let place = |tap: isize| (position * axis.step) as isize + tap;
        let inside: Vec<usize> = (0..taps.len()).filter(|t| (0..size as isize).contains(&place(taps[*t]))).collect();
        if before.as_ref() == Some(&inside) {
            stretches.last_mut().expect("there is one before").positions.end = position + 1;
            continue;
        }
        let first = inside.iter().map(|t| taps[*t]).min().unwrap_or(0);
        let tap = |index: &usize| Tap { index: *index, offset: (taps[*index] - first) as usize };
        stretches.push(Stretch { positions: position..position + 1, taps: inside.iter().map(tap).collect(), first });
        before = Some(inside);
    }
    stretches
}
