//! Direct sparse convolution by machine code made for its weights.
//!
//! Every other sparse kernel reads an input for each multiply-add, which is as much as the first-level cache gives. Here a
//! function holds one vector of each of up to [`ROWS`] output channels in registers, reads an input once for all of them
//! and multiplies it with a weight from memory for each non-zero: which register a non-zero adds to is part of the
//! instruction.

use std::collections::BTreeSet;
use std::ops::Range;

use memmap2::Mmap;
use sr2_formats::CsrMatrix;

use crate::machine_code::{Assembler, Base, Operand};
use crate::map_conv;
use crate::packing::Layer;
use crate::plane::{ALIGN, Place, Plane};
use crate::simd::{Kernel, Vector};
use crate::step::Call;
use crate::window::Window;
use crate::{Conv, Isa, NO_CLIP};

/// Output channels of a function at most: as many as there are registers, but for two.
const ROWS: usize = 30;
/// Register of an input, and of the one at the place of the outputs of which those to the side are made; in the end they
/// hold the bounds.
const INPUT: u8 = 30;
const CENTER: u8 = 31;
/// Masks that [`Tile::kept`] holds at most.
const MASKS: usize = 4;
/// Inputs of one position that a function reads at most, so that those of its neighbours stay near: where a row of one
/// image is longer than a vector, and elsewhere.
const TAPS: [usize; 2] = [288, 576];
/// Non-zeros that a function must give an output channel to pay for its pass over the sums.
const WORTHWHILE: usize = 12;
/// Non-zeros of a function at most, about, so that its code stays in the first-level cache from one tile to the next.
const LONGEST: usize = 4000;
/// Positions that run through all functions before the next.
const TILES: usize = 64;

/// The same sum as [`crate::sparse_conv::SparseConv`].
#[derive(Debug)]
pub(crate) struct GeneratedConv {
    /// Offsets in the arena: taps are relative to `x`, which wraps around below 0 where taps reach up to a row and a
    /// position before their plane; channel `o` of `y` and `residual` is `o * stride` further.
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) residual: Option<usize>,
    pub(crate) stride: usize,
    pub(crate) tiles: Vec<Tile>,
    pub(crate) functions: Functions,
}

/// A vector of outputs of each channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tile {
    /// Where it is in a channel of `y`, and in one of `x`.
    y: usize,
    x: usize,
    /// What a function leaves out there, see [`Reach`].
    kept: u64,
}

/// The functions of a convolution, for each block of output channels one for each chunk of input channels, and the weights
/// that they read.
#[derive(Debug)]
pub(crate) struct Functions {
    code: Mmap,
    entries: Vec<Entry>,
    chunks: usize,
    weights: Vec<f32>,
}

/// A function: its first output channel, where its code begins in bytes and its weights in values.
#[derive(Debug, Clone, Copy)]
struct Entry {
    row: usize,
    code: usize,
    weights: usize,
}

/// `function(x, y, weights, kept, residual)`.
#[cfg(target_arch = "x86_64")]
type Code = unsafe extern "sysv64" fn(*const f32, *mut f32, *const f32, u64, *const f32);
#[cfg(not(target_arch = "x86_64"))]
type Code = unsafe extern "C" fn(*const f32, *mut f32, *const f32, u64, *const f32);

/// How a function leaves out what a tile has not: lanes behind the last output, taps of padding. Zeros above and below are
/// read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reach {
    /// In the lanes of [`Tile::kept`], 16 for each of the distances to the side that taps have, and 16 for the outputs unless
    /// all tiles are whole.
    Sideways { distances: Vec<isize>, is_whole: bool, aside: Option<Aside> },
    /// All taps of a [`map_conv::group`] of which [`Tile::kept`] has no bit.
    Around,
}

/// How the inputs to the side of a tile's outputs are made of those at their place, which a vector has to itself: read, they
/// would cross a cache line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Aside {
    /// By rotating them, as a vector holds whole rows.
    Rotated,
    /// Of two vectors, as a row is several.
    Joined,
}

impl Conv<'_> {
    /// Whether [`Weights::Generated`](crate::Weights::Generated) can be, from `x` to `y`.
    pub fn is_generated(&self, x: &Plane, y: &Plane, isa: Isa) -> bool {
        cfg!(target_arch = "x86_64")
            && matches!(isa, Isa::Avx512(_))
            && self.groups == 1
            && Reach::of(&self.window, x, y, isa).is_some()
    }
}

impl Reach {
    /// Of a window from `x` to `y`, if there is code for it.
    pub(crate) fn of(window: &Window, x: &Plane, y: &Plane, isa: Isa) -> Option<Self> {
        if window.is_by_maps(x, y, isa) {
            return Some(Self::Around);
        }
        let distances = (0..window.kernel[1]).map(|k| window.place(1, k).1).filter(|distance| *distance != 0);
        let distances: BTreeSet<isize> = distances.collect();
        let is_whole = y.values().is_multiple_of(ALIGN);
        let is_point = *window == Window::POINT && y.gap() == 0 && window.is_direct(x, y);
        let fits = distances.len() + usize::from(!is_whole) <= MASKS;
        let distances = distances.into_iter().collect();
        // Whole vectors are read before the first row and behind the last.
        let has_border = x.pad() > 0 || !window.keeps_rows(x, y);
        let aside = match y.width() {
            width if ALIGN.is_multiple_of(width) => Some(Aside::Rotated),
            width if width.is_multiple_of(ALIGN) && has_border => Some(Aside::Joined),
            _ => None,
        };
        (fits && (is_point || window.is_sideways(x, y))).then_some(Self::Sideways { distances, is_whole, aside })
    }

    /// The masks that a function takes, and the one of its outputs, 0 for all lanes.
    fn masks(&self) -> (u8, u8) {
        match self {
            Self::Sideways { distances, is_whole: false, .. } => (distances.len() as u8 + 1, distances.len() as u8 + 1),
            Self::Sideways { distances, .. } => (distances.len() as u8, 0),
            Self::Around => (0, 0),
        }
    }

    /// The mask of a tap of the kernel, 0 for all lanes, and the bits without one of which it is left out.
    fn of_tap(&self, window: &Window, tap: usize) -> (u8, u32) {
        let place = [window.place(0, tap / window.kernel[1]).1, window.place(1, tap % window.kernel[1]).1];
        match self {
            Self::Sideways { distances, .. } => {
                (distances.iter().position(|distance| *distance == place[1]).map_or(0, |i| i as u8 + 1), 0)
            }
            Self::Around if place == [0, 0] => (0, 0),
            Self::Around => (0, 1 << map_conv::group(place)),
        }
    }

    /// The tiles of `y`.
    pub(crate) fn tiles(&self, window: &Window, y: &Plane) -> Vec<Tile> {
        let (height, width, lanes) = (y.height() as isize, y.width() as isize, y.lanes());
        if *self == Self::Around {
            let stride = window.stride[0];
            let position = |row: isize, column: isize| {
                let (inside, at) = (|at: isize, size| (0..size).contains(&at), row * width + column);
                let around = (-1..=1).flat_map(|down| (-1..=1).map(move |right| [down, right]));
                let kept = around.filter(|[down, right]| inside(row + down, height) && inside(column + right, width));
                Tile {
                    y: at as usize * lanes,
                    x: stride * (row * stride as isize * width + column) as usize * lanes,
                    kept: kept.map(|place| 1 << map_conv::group(place)).sum(),
                }
            };
            return (0..height).flat_map(|row| (0..width).map(move |column| position(row, column))).collect();
        }
        let distances = if let Self::Sideways { distances, .. } = self { &distances[..] } else { &[] };
        let kept = |at: usize| {
            let values = at..at + ALIGN;
            let inside = |value: usize, distance: isize| (0..width).contains(&(value as isize % width + distance));
            let sideways =
                distances.iter().flat_map(|distance| values.clone().map(move |value| inside(value, *distance)));
            let lanes = sideways.chain(values.clone().map(|value| value < y.values()));
            lanes.take(ALIGN * MASKS).enumerate().map(|(i, kept)| u64::from(kept) << i).sum()
        };
        (0..y.values()).step_by(ALIGN).map(|at| Tile { y: at, x: at, kept: kept(at) }).collect()
    }
}

impl Functions {
    /// The functions of a layer whose outputs are `to`; none where they are beyond the distances of an instruction, or the
    /// system lets no code be made.
    pub(crate) fn generate(
        layer: &Layer,
        matrix: &CsrMatrix,
        (window, reach): (&Window, &Reach),
        to: &Place,
        has_residual: bool,
        clip: [f32; 2],
    ) -> Option<Self> {
        let kernel = layer.source.taps.len();
        let channels = layer.channels;
        // Distances are signed.
        let furthest = layer.source.extent(channels, to.plane.values()) * size_of::<f32>();
        i32::try_from(furthest.max(ROWS * to.plane.bytes())).ok()?;
        let is_wide = kernel > 1 && to.plane.lanes() == 1 && to.plane.width() > ALIGN;
        let most = if is_wide { TAPS[0] } else { TAPS[1] };
        let worthwhile = (matrix.nnz() / layer.rows / WORTHWHILE).max(1);
        let blocks = layer.rows.div_ceil(ROWS);
        let chunks = (channels * kernel).div_ceil(most).min(worthwhile);
        let chunks = chunks.max((matrix.nnz() / blocks).div_ceil(LONGEST)).min(channels);
        let mut order: Vec<usize> = (0..kernel).collect();
        order.sort_by_key(|tap| (reach.of_tap(window, *tap).1, center(layer, window, *tap)));
        let source = Source { layer, window, reach, to: &to.plane, order: &order, has_residual, clip };
        let weights = Vec::with_capacity(matrix.nnz() + 2 * chunks * layer.rows);
        let mut writer = Writer { weights, ..Writer::default() };
        let mut entries = Vec::with_capacity(blocks * chunks);
        for block in 0..blocks {
            let rows = layer.rows * block / blocks..layer.rows * (block + 1) / blocks;
            let of_column = by_column(matrix, rows.clone());
            for chunk in 0..chunks {
                let of_chunk = channels * chunk / chunks..channels * (chunk + 1) / chunks;
                entries.push(writer.function(&source, &rows, of_chunk, &of_column));
            }
        }
        Some(Self { code: writer.assembler.finish()?, entries, chunks, weights: writer.weights })
    }

    /// Bytes of code and weights.
    pub(crate) fn bytes(&self) -> usize {
        self.code.len() + size_of_val(&self.weights[..])
    }
}

/// The non-zeros of each column in these rows, with their rows counted from the first.
fn by_column(matrix: &CsrMatrix, rows: Range<usize>) -> Vec<Vec<(u8, f32)>> {
    let mut of_column = vec![Vec::new(); matrix.cols()];
    for (r, row) in rows.enumerate() {
        let (columns, weights) = matrix.row(row);
        for (column, weight) in columns.iter().zip(weights) {
            of_column[*column as usize].push((r as u8, *weight));
        }
    }
    of_column
}

/// How many positions to the right of its output a tap of the kernel reads.
fn right(window: &Window, tap: usize) -> isize {
    window.place(1, tap % window.kernel[1]).1
}

/// Where, in a channel of the source, the input lies that a tap of the kernel would read were it not to the side.
fn center(layer: &Layer, window: &Window, tap: usize) -> usize {
    layer.source.taps[tap].wrapping_add_signed(-right(window, tap))
}

/// What the functions of a convolution have in common.
struct Source<'a> {
    layer: &'a Layer,
    window: &'a Window,
    reach: &'a Reach,
    /// Where outputs and residuals are.
    to: &'a Plane,
    /// The taps of the kernel, those with the same bits of [`Reach::of_tap`] one after the other.
    order: &'a [usize],
    has_residual: bool,
    clip: [f32; 2],
}

/// Appends functions and their weights.
#[derive(Default)]
struct Writer {
    assembler: Assembler,
    weights: Vec<f32>,
    /// Where the weights of the function begin.
    start: usize,
    /// Where the cursor lies, in bytes behind the first weight.
    cursor: Option<i32>,
}

impl Writer {
    /// Appends the function that adds the products of these input channels to those rows.
    fn function(
        &mut self,
        source: &Source<'_>,
        rows: &Range<usize>,
        channels: Range<usize>,
        of_column: &[Vec<(u8, f32)>],
    ) -> Entry {
        let Source { layer, window, reach, to, order, has_residual, clip } = *source;
        let (first, last) = (channels.start == 0, channels.end == layer.channels);
        let (masks, of_outputs) = reach.masks();
        let bytes = |r: usize| (r * to.bytes()) as i32;
        self.start = self.weights.len();
        let entry = Entry { row: rows.start, code: self.assembler.begin(), weights: self.start };
        (1..=masks).for_each(|mask| self.assembler.take_mask(mask));
        for (r, row) in rows.clone().enumerate() {
            match first {
                true => self.splat(r as u8, layer.bias[row]),
                false => self.assembler.load(r as u8, Base::Second, bytes(r), 0),
            }
        }
        for taps in order.chunk_by(|a, b| reach.of_tap(window, *a).1 == reach.of_tap(window, *b).1) {
            let bits = reach.of_tap(window, taps[0]).1;
            let jump = (bits != 0).then(|| self.assembler.jump_without(bits));
            // Where a jump ends it may lie elsewhere.
            self.cursor = None;
            for channel in channels.clone() {
                for row in taps.chunk_by(|a, b| center(layer, window, *a) == center(layer, window, *b)) {
                    self.row(source, channel, row, of_column);
                }
            }
            jump.into_iter().for_each(|jump| self.assembler.land(jump));
        }
        if last {
            if has_residual {
                (0..rows.len()).for_each(|r| self.assembler.add(r as u8, Base::Fifth, bytes(r)));
            }
            self.clip(rows.len() as u8, clip);
        }
        (0..rows.len()).for_each(|r| self.assembler.store(r as u8, Base::Second, bytes(r), of_outputs));
        self.assembler.end();
        entry
    }

    /// Appends a weight, and says how many bytes behind the first it lies.
    fn weight(&mut self, weight: f32) -> i32 {
        self.weights.push(weight);
        ((self.weights.len() - 1 - self.start) * size_of::<f32>()) as i32
    }

    fn splat(&mut self, vector: u8, value: f32) {
        let at = self.weight(value);
        self.assembler.splat(vector, Base::Third, at);
    }

    /// Adds the products of the inputs of a channel at those taps, which have one [`center`].
    fn row(&mut self, source: &Source<'_>, channel: usize, taps: &[usize], of_column: &[Vec<(u8, f32)>]) {
        const VALUE: i32 = size_of::<f32>() as i32;
        const VECTOR: i32 = ALIGN as i32 * VALUE;
        let Source { layer, window, reach, .. } = *source;
        let column = |tap: usize| channel * layer.source.taps.len() + tap;
        let taps: Vec<usize> = taps.iter().copied().filter(|tap| !of_column[column(*tap)].is_empty()).collect();
        let aside = match reach {
            Reach::Sideways { aside: Some(aside), .. } if taps.len() > 1 => Some(aside),
            _ => None,
        };
        for (i, tap) in taps.iter().enumerate() {
            let (bytes, (mask, _)) = (layer.offset(0, column(*tap)) as i32, reach.of_tap(window, *tap));
            let right = right(window, *tap);
            let (center, lanes) = (bytes - right as i32 * VALUE, right.rem_euclid(ALIGN as isize) as u8);
            if i == 0 && aside.is_some() {
                self.assembler.load(CENTER, Base::First, center, 0);
            }
            let mut input = INPUT;
            match aside {
                None => self.assembler.load(INPUT, Base::First, bytes, mask),
                Some(_) if right == 0 => input = CENTER,
                Some(Aside::Rotated) => self.assembler.align(INPUT, Operand::Vector(CENTER), CENTER, lanes, mask),
                Some(Aside::Joined) if right < 0 => {
                    let before = Operand::Memory(Base::First, center - VECTOR);
                    self.assembler.align(INPUT, before, CENTER, lanes, mask);
                }
                Some(Aside::Joined) => {
                    self.assembler.load(INPUT, Base::First, center + VECTOR, 0);
                    self.assembler.align(INPUT, Operand::Vector(CENTER), INPUT, lanes, mask);
                }
            }
            self.products(input, &of_column[column(*tap)]);
        }
    }

    /// Adds the products of an input to the sums of `weights`.
    fn products(&mut self, input: u8, weights: &[(u8, f32)]) {
        // How far before and behind the cursor a distance of one byte reaches.
        const BEFORE: i32 = 128 * size_of::<f32>() as i32;
        for (sum, weight) in weights {
            let at = self.weight(*weight);
            let cursor = match self.cursor {
                Some(cursor) if at - cursor < BEFORE => cursor,
                _ => {
                    self.assembler.set_cursor(at + BEFORE);
                    at + BEFORE
                }
            };
            self.cursor = Some(cursor);
            self.assembler.multiply_add(*sum, input, Base::Cursor, at - cursor);
        }
    }

    /// Limits the first `sums` vectors.
    fn clip(&mut self, sums: u8, [low, high]: [f32; 2]) {
        if low > NO_CLIP[0] {
            self.splat(INPUT, low);
            (0..sums).for_each(|sum| self.assembler.max(sum, INPUT));
        }
        if high < NO_CLIP[1] {
            self.splat(CENTER, high);
            (0..sums).for_each(|sum| self.assembler.min(sum, CENTER));
        }
    }
}

impl Kernel for Call<'_, GeneratedConv> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let (s, part) = (self.step, self.site.part);
        let Functions { code, entries, chunks, weights } = &s.functions;
        let blocks = entries.len() / chunks;
        let by_tiles =
            s.tiles.len().is_multiple_of(part.count) || s.tiles.len() >= 4 * part.count || blocks < part.count;
        let (blocks, tiles) =
            if by_tiles { (0..blocks, part.of(s.tiles.len())) } else { (part.of(blocks), 0..s.tiles.len()) };
        for tiles in s.tiles[tiles].chunks(TILES) {
            for entry in &entries[blocks.start * chunks..blocks.end * chunks] {
                // SAFETY: an entry is where a function begins in code that was made for the step, on a CPU with AVX-512. It
                // reads the taps of a tile that it does not leave out and the vectors around them, weights, and of its
                // channels of `y` and the residual the tile, which the program checked to lie inside their buffers, as
                // `Reach::of` did for the vectors; `y` overlaps none of the others, and this thread has channels or tiles of
                // its own.
                unsafe {
                    let function = std::mem::transmute::<*const u8, Code>(code.as_ptr().add(entry.code));
                    let at = entry.row * s.stride;
                    let x = self.site.arena.cast_const().wrapping_add(s.x);
                    let y = self.site.arena.add(s.y + at);
                    let residual = self.site.arena.add(s.residual.map_or(s.y, |residual| residual) + at).cast_const();
                    let weights = weights.as_ptr().add(entry.weights);
                    for tile in tiles {
                        function(x.wrapping_add(tile.x), y.add(tile.y), weights, tile.kept, residual.add(tile.y));
                    }
                }
            }
        }
    }
}
