//! Pages: one file each, no script, no request.

use super::svg::{colours, escaped};

const STYLE: &str = "
* { box-sizing: border-box; }
body { margin: 0; background: var(--c0); color: var(--c1); font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 12px; }
p { margin: 0 0 12px; color: var(--c2); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 24px 0; }
.card { border: 1px solid var(--c3); border-radius: 10px; padding: 12px 16px; }
.card b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.card span { color: var(--c2); font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 16px; }
figure { margin: 0; border: 1px solid var(--c3); border-radius: 10px; padding: 8px; }
figure svg { display: block; width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: 5px 12px; border-bottom: 1px solid var(--c3); text-align: right; white-space: nowrap; }
th { color: var(--c2); font-weight: 600; }
th.name, td.name { text-align: left; }
td.bar { width: 34%; min-width: 120px; }
td.bar div { height: 10px; border-radius: 5px; background: var(--c3); overflow: hidden; }
td.bar i { display: block; height: 100%; background: var(--c4); }
pre { border: 1px solid var(--c3); border-radius: 10px; padding: 12px 16px; overflow-x: auto; font-size: 13px; }
summary { cursor: pointer; color: var(--c2); }
";

/// A page; `body` is HTML.
pub fn page(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{0}</title>\n<style>\n{1}{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<h1>{0}</h1>\n{body}</main>\n</body>\n</html>\n",
        escaped(title),
        colours(":root")
    )
}

/// Numbers in boxes: value, meaning.
pub fn cards(cards: &[(String, &str)]) -> String {
    let card = |(value, meaning): &(String, &str)| {
        format!("<div class=\"card\"><b>{}</b><span>{}</span></div>\n", escaped(value), escaped(meaning))
    };
    format!("<div class=\"cards\">\n{}</div>\n", cards.iter().map(card).collect::<String>())
}

/// Charts side by side.
pub fn charts(charts: &[String]) -> String {
    let figure = |svg: &String| format!("<figure>{svg}</figure>\n");
    format!("<div class=\"charts\">\n{}</div>\n", charts.iter().map(figure).collect::<String>())
}

/// A table whose first `names` columns are text; cells are HTML.
pub fn table(header: &[&str], names: usize, rows: &[Vec<String>]) -> String {
    let class = |i: usize| if i < names { " class=\"name\"" } else { "" };
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = String>| -> String {
        cells
            .enumerate()
            .map(|(i, cell)| match cell.strip_prefix("<div>") {
                Some(bar) => format!("<td class=\"bar\"><div>{bar}</td>"),
                None => format!("<{tag}{}>{cell}</{tag}>", class(i)),
            })
            .collect()
    };
    let head = cells("th", &mut header.iter().map(|name| escaped(name)));
    let body: String = rows.iter().map(|row| format!("<tr>{}</tr>\n", cells("td", &mut row.iter().cloned()))).collect();
    format!("<div class=\"wide\"><table>\n<tr>{head}</tr>\n{body}</table></div>\n")
}

/// A cell that is filled to a fraction.
pub fn bar(fraction: f64) -> String {
    format!("<div><i style=\"width:{:.2}%\"></i></div>", 100.0 * fraction)
}
