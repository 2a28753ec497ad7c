//! A scene as pixels: the light colours, two pixels a unit.

use tiny_skia::{Color, FillRule, LineJoin, Paint, Path, PathBuilder, Pixmap, Stroke, Transform};
use ttf_parser::{Face, OutlineBuilder};

use super::scene::{Anchor, Ink, LIGHT, Scene, Shape};

/// The ASCII part of DejaVu Sans with a few signs, so that no font need be installed (`labels.md`).
const FONT: &[u8] = include_bytes!("labels.ttf");
const SCALE: f32 = 2.0;

/// The bytes of a PNG file.
pub fn encode(scene: &Scene) -> Vec<u8> {
    let (width, height) = ((scene.width as f32 * SCALE).ceil() as u32, (scene.height as f32 * SCALE).ceil() as u32);
    let mut pixels = Pixmap::new(width, height).expect("a chart has a size");
    pixels.fill(colour(0));
    let face = Face::parse(FONT, 0).expect("the font is part of the program");
    scene.shapes.iter().for_each(|shape| draw(shape, &face, &mut pixels));
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgba);
    // The background is opaque, so premultiplied alpha is plain.
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(pixels.data()));
    written.expect("memory takes any file");
    file
}

fn colour(index: usize) -> Color {
    let value = u32::from_str_radix(&LIGHT[index][1..], 16).expect("colours are hexadecimal");
    let [_, r, g, b] = value.to_be_bytes();
    Color::from_rgba8(r, g, b, 255)
}

fn draw(shape: &Shape, face: &Face, pixels: &mut Pixmap) {
    let paint = |ink: Ink| {
        let mut paint = Paint { anti_alias: true, ..Paint::default() };
        paint.set_color(colour(ink.index()));
        paint
    };
    let scaled = Transform::from_scale(SCALE, SCALE);
    match shape {
        Shape::Line { points, width, ink } => {
            let mut path = PathBuilder::new();
            for (i, (x, y)) in points.iter().enumerate() {
                let (x, y) = (*x as f32, *y as f32);
                if i == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
            }
            let stroke = Stroke { width: *width as f32, line_join: LineJoin::Round, ..Stroke::default() };
            if let Some(path) = path.finish() {
                pixels.stroke_path(&path, &paint(*ink), &stroke, scaled, None);
            }
        }
        Shape::Dot { center: (x, y), radius, ink, .. } => {
            if let Some(path) = PathBuilder::from_circle(*x as f32, *y as f32, *radius as f32) {
                pixels.fill_path(&path, &paint(*ink), FillRule::Winding, scaled, None);
            }
        }
        Shape::Text { at: (x, y), text, size, anchor, upwards, ink } => {
            let unit = *size as f32 / f32::from(face.units_per_em());
            let (path, width) = outline(face, text);
            let shift = match anchor {
                Anchor::Start => 0.0,
                Anchor::Middle => -0.5,
                Anchor::End => -1.0,
            };
            let turn = if *upwards { Transform::from_rotate(-90.0) } else { Transform::identity() };
            let place = Transform::from_translate(shift * width, 0.0)
                .post_scale(unit, -unit)
                .post_concat(turn)
                .post_translate(*x as f32, *y as f32)
                .post_concat(scaled);
            if let Some(path) = path {
                pixels.fill_path(&path, &paint(*ink), FillRule::Winding, place, None);
            }
        }
    }
}

/// The outline of a line of text in the font's units, y upwards, and its width. Signs that the font lacks become `?`.
fn outline(face: &Face, text: &str) -> (Option<Path>, f32) {
    let mut pen = Pen { path: PathBuilder::new(), x: 0.0 };
    for sign in text.chars() {
        let glyph = face.glyph_index(sign).or_else(|| face.glyph_index('?')).expect("the font has ?");
        face.outline_glyph(glyph, &mut pen);
        pen.x += f32::from(face.glyph_hor_advance(glyph).unwrap_or(0));
    }
    (pen.path.finish(), pen.x)
}

/// Puts glyphs one after the other into a path.
struct Pen {
    path: PathBuilder,
    x: f32,
}

impl OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        self.path.move_to(self.x + x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.path.line_to(self.x + x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.path.quad_to(self.x + x1, y1, self.x + x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.path.cubic_to(self.x + x1, y1, self.x + x2, y2, self.x + x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}
