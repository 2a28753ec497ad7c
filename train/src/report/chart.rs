//! Charts of lines and dots over two axes.

use super::scene::{Anchor, Ink, Scene, Shape};

/// A chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
}

/// An axis: its label, and whether it is logarithmic.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    pub label: String,
    pub log: bool,
}

/// A line, dots, or both.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    pub points: Vec<Point>,
    /// Whether points are marked.
    pub dots: bool,
    /// Whether it is drawn thin, as a background of others.
    pub thin: bool,
}

/// A point and the half length of its error bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub error: Option<f64>,
}

const WIDTH: f64 = 560.0;
const PLOT_HEIGHT: f64 = 250.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 18.0;
const BOTTOM: f64 = 48.0;
const SMALL: f64 = 12.0;
/// Width of a letter over the size of the text, about.
const LETTER: f64 = 0.58;
/// Points of a line beyond which only every n-th is drawn.
const MOST_POINTS: usize = 1500;

impl Axis {
    pub fn linear(label: &str) -> Self {
        Self { label: label.into(), log: false }
    }

    pub fn log(label: &str) -> Self {
        Self { label: label.into(), log: true }
    }
}

impl Series {
    /// A line without marks.
    pub fn line(name: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let points = points.into_iter().map(|(x, y)| Point { x, y, error: None }).collect();
        Self { name: name.into(), points, dots: false, thin: false }
    }
}

impl Chart {
    /// Whether it would show no point.
    pub fn is_empty(&self) -> bool {
        self.series.iter().all(|series| self.shown(series).next().is_none())
    }

    fn shown<'a>(&'a self, series: &'a Series) -> impl Iterator<Item = &'a Point> {
        let on = |axis: &Axis, value: f64| value.is_finite() && (!axis.log || value > 0.0);
        series.points.iter().filter(move |p| on(&self.x, p.x) && on(&self.y, p.y))
    }

    /// Lays it out. Points that are not finite, or not above 0 on a logarithmic axis, are left out.
    pub fn scene(&self) -> Scene {
        let series: Vec<Vec<Point>> = self.series.iter().map(|s| thinned(self.shown(s).copied().collect())).collect();
        let mut shapes = vec![text((LEFT, 20.0), &self.title, 15.0, Anchor::Start, Ink::Text)];
        let top = self.legend(&mut shapes) + 14.0;
        let height = top + PLOT_HEIGHT + BOTTOM;
        let all = || series.iter().flatten();
        let x = Scale::new(&self.x, all().map(|p| p.x), (LEFT, WIDTH - RIGHT));
        let reach = all().flat_map(|p| {
            let error = p.error.unwrap_or(0.0);
            [p.y - error, p.y + error]
        });
        let y = Scale::new(&self.y, reach.filter(|y| !self.y.log || *y > 0.0), (top + PLOT_HEIGHT, top));
        self.axes(&x, &y, top, &mut shapes);
        for (i, (points, Series { name, dots, thin, .. })) in series.iter().zip(&self.series).enumerate() {
            let ink = Ink::Series(i);
            let at = |p: &Point| (x.place(p.x), y.place(p.y));
            if points.len() > 1 {
                let width = if *thin { 1.0 } else { 2.0 };
                shapes.push(Shape::Line { points: points.iter().map(at).collect(), width, ink });
            }
            for p in points.iter().filter(|_| *dots || points.len() == 1) {
                let (px, py) = at(p);
                let mut hint = format!("{name}: {} {}, {} {}", self.x.label, short(p.x), self.y.label, short(p.y));
                if let Some(error) = p.error {
                    hint += &format!(" ± {}", short(error));
                    let (low, high) = (y.place(p.y - error), y.place(p.y + error));
                    for [a, b] in [
                        [(px, low), (px, high)],
                        [(px - 4.0, low), (px + 4.0, low)],
                        [(px - 4.0, high), (px + 4.0, high)],
                    ] {
                        shapes.push(Shape::Line { points: vec![a, b], width: 1.2, ink });
                    }
                }
                shapes.push(Shape::Dot { center: (px, py), radius: 4.0, ink, hint });
            }
        }
        Scene { width: WIDTH, height, shapes }
    }

    /// Names of the series in as many rows as they need; returns where they end.
    fn legend(&self, shapes: &mut Vec<Shape>) -> f64 {
        let (mut x, mut y) = (LEFT, 40.0);
        for (i, series) in self.series.iter().enumerate().filter(|(_, series)| self.shown(series).next().is_some()) {
            let width = 40.0 + LETTER * SMALL * series.name.chars().count() as f64;
            if x + width > WIDTH && x > LEFT {
                (x, y) = (LEFT, y + 18.0);
            }
            let ink = Ink::Series(i);
            shapes.push(Shape::Line { points: vec![(x, y - 4.0), (x + 16.0, y - 4.0)], width: 3.0, ink });
            shapes.push(text((x + 22.0, y), &series.name, SMALL, Anchor::Start, Ink::Muted));
            x += width;
        }
        y
    }

    fn axes(&self, x: &Scale, y: &Scale, top: f64, shapes: &mut Vec<Shape>) {
        let bottom = top + PLOT_HEIGHT;
        let line = |a, b| Shape::Line { points: vec![a, b], width: 1.0, ink: Ink::Grid };
        for value in &y.ticks {
            let at = y.place(*value);
            shapes.push(line((LEFT, at), (WIDTH - RIGHT, at)));
            shapes.push(text((LEFT - 8.0, at + 4.0), &short(*value), SMALL, Anchor::End, Ink::Muted));
        }
        for value in &x.ticks {
            let at = x.place(*value);
            shapes.push(line((at, bottom), (at, bottom + 5.0)));
            shapes.push(text((at, bottom + 19.0), &short(*value), SMALL, Anchor::Middle, Ink::Muted));
        }
        shapes.push(line((LEFT, bottom), (WIDTH - RIGHT, bottom)));
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        shapes.push(text((middle, bottom + 40.0), &self.x.label, SMALL, Anchor::Middle, Ink::Muted));
        shapes.push(Shape::Text {
            at: (16.0, (top + bottom) / 2.0),
            text: self.y.label.clone(),
            size: SMALL,
            anchor: Anchor::Middle,
            upwards: true,
            ink: Ink::Muted,
        });
    }
}

/// From values to pixels.
struct Scale {
    log: bool,
    range: (f64, f64),
    pixels: (f64, f64),
    ticks: Vec<f64>,
}

impl Scale {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>, pixels: (f64, f64)) -> Self {
        let log = axis.log;
        let see = |value: f64| if log { value.log10() } else { value };
        let (mut low, mut high) =
            values.map(see).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        // Logarithms are exponents here.
        let least = if log { 1.0 } else { 1e-9 + 1e-6 * high.abs() };
        if high - low < least {
            let middle = (low + high) / 2.0;
            let half = if log { 0.5 } else { (0.05 * middle.abs()).max(0.5) };
            (low, high) = (middle - half, middle + half);
        }
        let margin = 0.04 * (high - low);
        (low, high) = (low - margin, high + margin);
        let step = step(high - low, log);
        let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
        let ticks = (first..=last).map(|k| k as f64 * step).map(|v| if log { 10f64.powf(v) } else { v }).collect();
        Self { log, range: (low, high), pixels, ticks }
    }

    fn place(&self, value: f64) -> f64 {
        let value = if self.log { value.log10() } else { value };
        let part = (value - self.range.0) / (self.range.1 - self.range.0);
        // An error bar may reach below a logarithmic axis.
        let part = if part.is_nan() { 0.0 } else { part.clamp(-0.02, 1.02) };
        self.pixels.0 + part * (self.pixels.1 - self.pixels.0)
    }
}

/// Distance of about five ticks: 1, 2 or 5 times a power of ten; whole exponents on a logarithmic axis.
fn step(span: f64, log: bool) -> f64 {
    let rough = span / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(power);
    if log { step.max(1.0) } else { step }
}

/// A number in as few digits as tell it.
pub fn short(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e6).contains(&size) {
        return format!("{value:.0e}");
    }
    let text = format!(
        "{value:.*}",
        if size >= 1000.0 {
            0
        } else if size >= 1.0 {
            2
        } else {
            4
        }
    );
    if !text.contains('.') {
        return text;
    }
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

fn thinned(points: Vec<Point>) -> Vec<Point> {
    let every = points.len().div_ceil(MOST_POINTS).max(1);
    let last = points.last().copied();
    let mut kept: Vec<Point> = points.into_iter().step_by(every).collect();
    if let (Some(last), true) = (last, every > 1) {
        kept.push(last);
    }
    kept
}

fn text(at: (f64, f64), text: &str, size: f64, anchor: Anchor, ink: Ink) -> Shape {
    Shape::Text { at, text: text.into(), size, anchor, upwards: false, ink }
}
