//! A scene as SVG.

use std::fmt::Write;

use super::scene::{Anchor, DARK, LIGHT, Scene, Shape};

/// The element, which takes its colours from the variables `--c0` .. of the page around it.
pub fn inline(scene: &Scene) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\">\n",
        scene.width, scene.height
    );
    for shape in &scene.shapes {
        draw(shape, &mut svg);
    }
    svg + "</svg>\n"
}

/// A file of its own, light or dark as the viewer is.
pub fn standalone(scene: &Scene) -> String {
    let style = format!(
        "<style>{}\nsvg {{ background: var(--c0); }} text {{ font-family: system-ui, sans-serif; }}</style>\n",
        colours("svg")
    );
    inline(scene).replacen('\n', &format!("\n{style}"), 1)
}

/// The variables of the colours on `selector`.
pub fn colours(selector: &str) -> String {
    let list = |palette: &[&str]| palette.iter().enumerate().map(|(i, c)| format!("--c{i}: {c}; ")).collect::<String>();
    let (light, dark) = (list(&LIGHT), list(&DARK));
    format!("{selector} {{ {light}}}\n@media (prefers-color-scheme: dark) {{ {selector} {{ {dark}}} }}")
}

/// Text as it stands in XML and HTML.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn draw(shape: &Shape, svg: &mut String) {
    let result = match shape {
        Shape::Line { points, width, ink } => {
            let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            writeln!(
                svg,
                "<polyline points=\"{}\" style=\"fill:none;stroke:var(--c{});stroke-width:{width};stroke-linejoin:round\"/>",
                points.join(" "),
                ink.index()
            )
        }
        Shape::Dot { center: (x, y), radius, ink, hint } => writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" style=\"fill:var(--c{})\"><title>{}</title></circle>",
            ink.index(),
            escaped(hint)
        ),
        Shape::Text { at: (x, y), text, size, anchor, upwards, ink } => {
            let anchor = match anchor {
                Anchor::Start => "start",
                Anchor::Middle => "middle",
                Anchor::End => "end",
            };
            let turn = if *upwards { format!(" transform=\"rotate(-90 {x:.1} {y:.1})\"") } else { String::new() };
            writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y:.1}\"{turn} style=\"fill:var(--c{});font-size:{size}px;text-anchor:{anchor}\">{}</text>",
                ink.index(),
                escaped(text)
            )
        }
    };
    result.expect("a string takes any text");
}
