//! The page and the plot of a sweep.

use std::collections::BTreeSet;

use super::chart::{Axis, Chart, Point, Series};
use super::html;
use super::png;
use super::svg::{escaped, inline, standalone};
use crate::sweep::{Group, MeanSd, Row, Table};

/// Accuracy against sparsity: one line a method.
#[derive(Debug, Clone)]
pub struct Pareto {
    chart: Chart,
}

/// Settings that decide how much is pruned: along a line they change.
const ALONG: [&str; 2] = ["sparsity", "lambda"];

impl Pareto {
    /// Mean test accuracies of a sweep's groups, with standard deviations where there are several seeds.
    pub fn of_test(table: &Table) -> Self {
        Self::new(table, "Test accuracy against sparsity", |group| group.test_accuracy)
    }

    /// The same of the validation accuracies.
    pub fn of_validation(table: &Table) -> Self {
        Self::new(table, "Validation accuracy against sparsity", |group| group.validation_accuracy)
    }

    fn new(table: &Table, title: &str, accuracy: fn(&Group) -> MeanSd) -> Self {
        let keys = naming(table);
        let mut series: Vec<Series> = Vec::new();
        for group in &table.groups {
            let name = name(group, &keys);
            let MeanSd { mean, sd } = accuracy(group);
            let point = Point { x: 100.0 * group.sparsity.mean, y: 100.0 * mean, error: sd.map(|sd| 100.0 * sd) };
            match series.iter_mut().find(|series| series.name == name) {
                Some(series) => series.points.push(point),
                None => series.push(Series { name, points: vec![point], dots: true, thin: false }),
            }
        }
        series.iter_mut().for_each(|series| series.points.sort_by(|a, b| a.x.total_cmp(&b.x)));
        let (x, y) = (Axis::linear("exact zeros, %"), Axis::linear("accuracy, %"));
        Self { chart: Chart { title: title.into(), x, y, series } }
    }

    /// As an SVG file.
    pub fn svg(&self) -> String {
        standalone(&self.chart.scene())
    }

    /// As a PNG file.
    pub fn png(&self) -> Vec<u8> {
        png::encode(&self.chart.scene())
    }
}

/// The keys, by place, that name lines: network, method, and what else it takes to tell groups apart that prune as much.
fn naming(table: &Table) -> Vec<usize> {
    let key = |i: &usize| table.keys[*i].as_str();
    let (along, mut keys): (Vec<usize>, Vec<usize>) = (0..table.keys.len()).partition(|i| ALONG.contains(&key(i)));
    let places = |keys: &[usize]| {
        let place = |group: &Group| [keys, &along].concat().iter().map(|i| group.settings[*i].clone()).collect();
        table.groups.iter().map(place).collect::<BTreeSet<Vec<String>>>().len()
    };
    let all = places(&keys);
    for i in (0..table.keys.len()).rev().filter(|i| !["network", "method"].contains(&key(i))) {
        let fewer: Vec<usize> = keys.iter().copied().filter(|k| *k != i).collect();
        if places(&fewer) == all {
            keys = fewer;
        }
    }
    keys
}

fn name(group: &Group, keys: &[usize]) -> String {
    let name = keys.iter().map(|i| group.settings[*i].as_str()).collect::<Vec<_>>().join(" ");
    if name.is_empty() { "all runs".into() } else { name }
}

/// The page of a sweep called `name` with these results.
pub fn sweep_page(name: &str, rows: &[Row]) -> String {
    let table = Table::new(rows);
    let charts = [Pareto::of_test(&table), Pareto::of_validation(&table)].map(|plot| inline(&plot.chart.scene()));
    let mut body = format!(
        "<p>{} runs in {} groups. Numbers are mean ± standard deviation over the seeds; validation accuracy alone \
         selects, test accuracy is reported.</p>\n",
        rows.len(),
        table.groups.len()
    );
    body += &html::charts(&charts);
    body += "<h2>Groups</h2>\n";
    let (header, groups) = table.cells();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let groups: Vec<Vec<String>> =
        groups.iter().map(|cells| cells.iter().map(|cell| escaped(cell)).collect()).collect();
    body += &html::table(&header, table.keys.len(), &groups);
    body += "<h2>Runs</h2>\n";
    let run = |row: &Row| {
        let percent = |fraction: f64| format!("{:.2}", 100.0 * fraction);
        vec![
            escaped(&row.run),
            percent(row.sparsity),
            row.nonzero.to_string(),
            percent(row.validation_accuracy),
            percent(row.test_accuracy),
            row.forward_passes.to_string(),
            row.backward_passes.to_string(),
            format!("{:.0}", row.training_seconds),
        ]
    };
    let header = ["run", "sparsity %", "weights left", "validation %", "test %", "forward", "backward", "seconds"];
    body += &html::table(&header, 1, &rows.iter().map(run).collect::<Vec<_>>());
    html::page(name, &body)
}
