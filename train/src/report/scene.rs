//! What a chart consists of, before it is SVG or pixels.

/// Shapes, painted in order, in a space of `width` x `height` pixels, y downwards.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    pub width: f64,
    pub height: f64,
    pub shapes: Vec<Shape>,
}

/// One shape.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// A line through points.
    Line { points: Vec<(f64, f64)>, width: f64, ink: Ink },
    /// A filled circle; `hint` is shown under the pointer.
    Dot { center: (f64, f64), radius: f64, ink: Ink, hint: String },
    /// One line of text.
    Text { at: (f64, f64), text: String, size: f64, anchor: Anchor, upwards: bool, ink: Ink },
}

/// A colour by its use, so that light and dark differ in the style alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// Titles.
    Text,
    /// Axes and their labels.
    Muted,
    /// Grid lines.
    Grid,
    /// The n-th series; there are [`SERIES`] colours.
    Series(usize),
}

/// Where a text lies from its point: to the right, around, to the left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// Number of colours of series.
pub const SERIES: usize = 8;

/// Background, text, muted, grid, then the series.
pub const LIGHT: [&str; 4 + SERIES] = [
    "#ffffff", "#1b2330", "#5d6b7e", "#e3e8ef", "#2563eb", "#d9730d", "#0d9467", "#cf2f4a", "#7c3aed", "#0e8fb3",
    "#b5287f", "#6f8f12",
];
/// The same in the dark.
pub const DARK: [&str; 4 + SERIES] = [
    "#12161d", "#e7ecf3", "#97a3b4", "#2a323e", "#73a7ff", "#ffab5e", "#4fd6a3", "#ff8394", "#b99bff", "#58cdec",
    "#ff8ccb", "#bcdc55",
];

impl Ink {
    /// Place in [`LIGHT`] and [`DARK`].
    pub fn index(self) -> usize {
        match self {
            Self::Text => 1,
            Self::Muted => 2,
            Self::Grid => 3,
            Self::Series(n) => 4 + n % SERIES,
        }
    }
}
