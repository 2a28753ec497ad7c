use std::path::Path;

use super::chart::{Axis, Chart, Point, Series, short};
use super::scene::{Ink, Shape};
use super::*;
use crate::sweep::Row;

fn chart(points: Vec<Point>, log: bool) -> Chart {
    let series = vec![Series { name: "a & <b>".into(), points, dots: true, thin: false }];
    Chart { title: "t".into(), x: Axis::linear("x"), y: Axis { label: "y".into(), log }, series }
}

fn point(x: f64, y: f64) -> Point {
    Point { x, y, error: None }
}

/// Centres of the dots.
fn dots(chart: &Chart) -> Vec<(f64, f64)> {
    let center = |shape: Shape| match shape {
        Shape::Dot { center, .. } => Some(center),
        _ => None,
    };
    chart.scene().shapes.into_iter().filter_map(center).collect()
}

#[test]
fn points_lie_where_their_values_do() {
    let linear = dots(&chart(vec![point(0.0, 1.0), point(5.0, 2.0), point(10.0, 3.0)], false));
    let [first, middle, last] = linear.as_slice() else { panic!("three dots") };
    assert!(first.0 < last.0 && first.1 > last.1, "to the right and up: {linear:?}");
    for (a, b, m) in [(first.0, last.0, middle.0), (first.1, last.1, middle.1)] {
        assert!(((a + b) / 2.0 - m).abs() < 1e-9, "{linear:?}");
    }
    let log = dots(&chart(vec![point(0.0, 0.01), point(5.0, 1.0), point(10.0, 100.0)], true));
    assert!(((log[0].1 + log[2].1) / 2.0 - log[1].1).abs() < 1e-9, "{log:?}");
}

#[test]
fn what_cannot_be_shown_is_left_out() {
    let odd = [f64::NAN, f64::INFINITY, 1.0, 1.0];
    assert_eq!(dots(&chart(odd.map(|y| point(0.0, y)).into(), false)).len(), 2);
    assert_eq!(dots(&chart([-1.0, 0.0, 1.0].map(|y| point(0.0, y)).into(), true)).len(), 1);
    for log in [false, true] {
        for points in [vec![], vec![point(3.0, 7.0)], vec![point(1e300, 1e-300), point(-1e300, 1e300)]] {
            let svg = svg::standalone(&chart(points, log).scene());
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
    let many = Chart { series: vec![Series::line("l", (0..100_000).map(|i| (i as f64, 1.0)))], ..chart(vec![], false) };
    let longest =
        many.scene().shapes.iter().map(|s| if let Shape::Line { points, .. } = s { points.len() } else { 0 }).max();
    assert!(longest.unwrap() <= 1501, "{longest:?}");
}

#[test]
fn numbers_are_short() {
    let texts = [0.0, 90.0, 0.95, 1234.56, 12.5, 1e-7, 2e6, -0.00001, 97.25].map(short);
    assert_eq!(texts, ["0", "90", "0.95", "1235", "12.5", "1e-7", "2e6", "-1e-5", "97.25"]);
}

#[test]
fn text_is_escaped() {
    let svg = svg::standalone(&chart(vec![point(1.0, 1.0)], false).scene());
    assert!(svg.contains("a &amp; &lt;b&gt;") && !svg.contains("<b>"), "{svg}");
}

#[test]
fn a_png_has_the_colours_of_what_is_on_it() {
    let file = png::encode(&chart(vec![point(0.0, 0.0), point(1.0, 1.0)], false).scene());
    let mut reader = ::png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!(info.width, 1120);
    for ink in [Ink::Series(0), Ink::Grid, Ink::Text] {
        let hex = scene::LIGHT[ink.index()];
        let value = u32::from_str_radix(&hex[1..], 16).unwrap().to_be_bytes();
        let found = pixels.chunks_exact(4).filter(|p| p[..3] == value[1..]).count();
        assert!(found > 20, "{ink:?}: {found} pixels");
    }
    assert!(pixels.chunks_exact(4).all(|p| p[3] == 255), "opaque");
}

fn row(method: &str, epochs: u64, sparsity: f64, seed: u64) -> Row {
    let settings = serde_json::json!({ "method": method, "epochs": epochs, "sparsity": sparsity, "seed": seed });
    Row {
        run: format!("{method},{sparsity},{seed}"),
        settings: settings.as_object().unwrap().clone(),
        validation_accuracy: 0.7,
        test_accuracy: 0.6 + 0.02 * seed as f64,
        sparsity,
        nonzero: 10,
        weights: 100,
        steps: 7,
        forward_passes: 14,
        backward_passes: 7,
        training_seconds: 2.0,
    }
}

#[test]
fn a_plot_has_one_line_a_method_and_a_page_asks_nobody() {
    let mut rows = Vec::new();
    for (method, epochs) in [("sr2", 3), ("magnitude", 4)] {
        for sparsity in [0.95, 0.9] {
            rows.extend([0, 1].map(|seed| row(method, epochs, sparsity, seed)));
        }
    }
    let svg = Pareto::of_test(&Table::new(&rows)).svg();
    assert_eq!(svg.matches("<circle").count(), 4, "{svg}");
    assert!(svg.contains(">sr2</text>") && svg.contains(">magnitude</text>"), "epochs follow from the method: {svg}");
    assert!(svg.contains("exact zeros, % 90, accuracy, % 61 ± 1.41"), "{svg}");
    let page = sweep_page("study", &rows);
    for asks in ["http:", "https:", "src=", "href=", "@import", "url("] {
        assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(asks), "{asks}");
    }
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("61.00 ± 1.41"));
    let error = write_report(Path::new("/nowhere")).unwrap_err().to_string();
    assert!(error.contains("/nowhere"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert!(write_report(empty.path()).unwrap_err().to_string().contains("neither a run"));
}
