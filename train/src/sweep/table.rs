//! Results over seeds: mean and standard deviation.

use std::collections::BTreeSet;
use std::fmt;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table as Grid};
use serde::Serialize;

use super::Row;

/// The settings whose values tell runs of one group apart.
const REPEATED: &str = "seed";
/// Settings that groups must share to be compared with each other.
const COMPARED_AT: [&str; 6] = ["network", "from", "dataset", "method", "sparsity", "lambda"];

/// The groups of a sweep: runs that differ in their seed alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// The settings that differ between groups.
    pub keys: Vec<String>,
    /// In the order of the results.
    pub groups: Vec<Group>,
}

/// Runs that differ in their seed alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// Values of the table's keys, as text.
    pub settings: Vec<String>,
    /// Number of runs.
    pub runs: usize,
    /// Fraction of exact zeros.
    pub sparsity: MeanSd,
    /// Accuracy on the held-out images.
    pub validation_accuracy: MeanSd,
    /// Accuracy on the test images.
    pub test_accuracy: MeanSd,
    /// Forward passes of a run.
    pub forward_passes: MeanSd,
    /// Backward passes of a run.
    pub backward_passes: MeanSd,
    /// Seconds of training of a run.
    pub training_seconds: MeanSd,
    /// Whether it has the best mean validation accuracy of the groups with the same network, method and amount of
    /// pruning; nothing where it is the only one.
    pub chosen: Option<bool>,
}

/// Mean and sample standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MeanSd {
    /// Mean.
    pub mean: f64,
    /// Sample standard deviation (n - 1); none of one value.
    pub sd: Option<f64>,
}

impl MeanSd {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        Self { mean, sd: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()) }
    }

    fn show(self, scale: f64, decimals: usize) -> String {
        let mean = scale * self.mean;
        match self.sd {
            Some(sd) if sd > 0.0 => format!("{mean:.decimals$} ± {:.decimals$}", scale * sd),
            _ => format!("{mean:.decimals$}"),
        }
    }
}

impl Table {
    /// Groups the rows of a sweep.
    pub fn new(rows: &[Row]) -> Self {
        let keys = differing(rows);
        let values = |row: &Row, keys: &[String]| keys.iter().map(|key| row.setting(key)).collect::<Vec<_>>();
        let mut members: Vec<(Vec<String>, Vec<&Row>)> = Vec::new();
        for row in rows {
            let settings = values(row, &keys);
            match members.iter_mut().find(|(known, _)| *known == settings) {
                Some((_, group)) => group.push(row),
                None => members.push((settings, vec![row])),
            }
        }
        let compared_at: Vec<_> = COMPARED_AT.map(str::to_string).into();
        let places: Vec<_> = members.iter().map(|(_, group)| values(group[0], &compared_at)).collect();
        let mut groups: Vec<_> = members.iter().map(|(settings, rows)| Group::new(settings.clone(), rows)).collect();
        let accuracies: Vec<_> = groups.iter().map(|group| group.validation_accuracy.mean).collect();
        for (i, group) in groups.iter_mut().enumerate() {
            let rivals = || (0..places.len()).filter(|j| *j != i && places[*j] == places[i]);
            group.chosen = rivals().next().map(|_| rivals().all(|j| accuracies[j] <= accuracies[i]));
        }
        Self { keys, groups }
    }
}

/// The settings, but for the seed, in which the rows differ.
fn differing(rows: &[Row]) -> Vec<String> {
    let all: BTreeSet<&String> = rows.iter().flat_map(|row| row.settings.keys()).collect();
    let differs = |key: &&&String| {
        let first = rows[0].setting(key);
        key.as_str() != REPEATED && rows.iter().any(|row| row.setting(key) != first)
    };
    let mut keys: Vec<String> = all.iter().filter(differs).map(|key| key.to_string()).collect();
    // What a reader looks for first.
    keys.sort_by_key(|key| match key.as_str() {
        "network" => 0,
        "method" => 1,
        "sparsity" => 2,
        "lambda" => 3,
        _ => 4,
    });
    keys
}

impl Group {
    fn new(settings: Vec<String>, rows: &[&Row]) -> Self {
        let of = |value: fn(&Row) -> f64| MeanSd::of(&rows.iter().map(|row| value(row)).collect::<Vec<_>>());
        Self {
            settings,
            runs: rows.len(),
            sparsity: of(|row| row.sparsity),
            validation_accuracy: of(|row| row.validation_accuracy),
            test_accuracy: of(|row| row.test_accuracy),
            forward_passes: of(|row| row.forward_passes as f64),
            backward_passes: of(|row| row.backward_passes as f64),
            training_seconds: of(|row| row.training_seconds),
            chosen: None,
        }
    }
}

impl Table {
    /// Header and cells, as text; the first columns are the table's keys.
    pub fn cells(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let choice = self.groups.iter().any(|group| group.chosen.is_some());
        let measured = ["runs", "sparsity %", "validation %", "test %", "forward", "backward", "seconds"];
        let measured = measured.into_iter().chain(choice.then_some("chosen")).map(str::to_string);
        let cells = |group: &Group| {
            let mut cells = group.settings.clone();
            cells.extend([
                group.runs.to_string(),
                group.sparsity.show(100.0, 2),
                group.validation_accuracy.show(100.0, 2),
                group.test_accuracy.show(100.0, 2),
                group.forward_passes.show(1.0, 0),
                group.backward_passes.show(1.0, 0),
                group.training_seconds.show(1.0, 0),
            ]);
            cells.extend(choice.then(|| if group.chosen == Some(true) { "*".into() } else { String::new() }));
            cells
        };
        (self.keys.iter().cloned().chain(measured).collect(), self.groups.iter().map(cells).collect())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (header, rows) = self.cells();
        let mut grid = Grid::new();
        grid.load_style(ASCII_MARKDOWN).set_header(header).add_rows(rows);
        for column in grid.column_iter_mut().skip(self.keys.len()) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        write!(f, "{grid}")
    }
}
