//! From the configuration of a sweep to its runs.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};
use sr2_formats::Error;
use toml::{Table, Value as Toml};

use super::SweepError;
use crate::config::{Config, parse};
use crate::training::check_layers;

/// Runs that a sweep may have.
const LIMIT: usize = 10_000;
/// Settings that decide where a run is and not what.
const RESERVED: [&str; 2] = ["name", "runs"];
const GRID: &str = "grid";

/// All runs of a sweep, in the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// At least one.
    pub runs: Vec<PlannedRun>,
}

/// One run of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedRun {
    /// Its grid values, `KEY=VALUE` joined by commas: also its folder's name.
    pub name: String,
    /// Every setting that the file gives it.
    pub settings: Map<String, Value>,
    /// The configuration, as the file has it: not resolved, `runs` and `name` not set.
    pub config: Config,
}

impl Plan {
    /// Reads the configuration of a sweep, and checks the settings of every run.
    ///
    /// # Errors
    /// A key that no setting has, a grid without values, values that no run can have: the run is named.
    pub fn read(path: &Path) -> Result<Self, SweepError> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
        let mut base: Table = parse(path, &text)?;
        let no_grid = || SweepError::NoGrid { path: path.into() };
        let blocks = match base.remove(GRID).ok_or_else(no_grid)? {
            Toml::Table(block) => vec![block],
            Toml::Array(blocks) => blocks
                .into_iter()
                .map(|block| match block {
                    Toml::Table(block) => Ok(block),
                    _ => Err(no_grid()),
                })
                .collect::<Result<_, _>>()?,
            _ => return Err(no_grid()),
        };
        if blocks.iter().all(Table::is_empty) {
            return Err(no_grid());
        }
        for key in base.keys().chain(blocks.iter().flat_map(Table::keys)) {
            if let Some(key) = RESERVED.into_iter().find(|reserved| reserved == key) {
                return Err(SweepError::Reserved { path: path.into(), key });
            }
            Config::check_key(path, key)?;
        }
        let mut runs = Vec::new();
        for block in &blocks {
            for values in combinations(path, block)? {
                runs.push(planned(path, &base, values)?);
                if runs.len() > LIMIT {
                    return Err(SweepError::TooMany { path: path.into(), limit: LIMIT });
                }
            }
        }
        let mut names = BTreeSet::new();
        match runs.iter().find(|run| !names.insert(run.name.as_str())) {
            Some(twice) => Err(SweepError::SameName { path: path.into(), run: twice.name.clone() }),
            None => Ok(Self { runs }),
        }
    }
}

/// Every combination of the values of a block, the last key's changing fastest.
fn combinations(path: &Path, block: &Table) -> Result<Vec<Table>, SweepError> {
    let mut all = vec![Table::new()];
    for (key, value) in block {
        let values = match value {
            Toml::Array(values) if values.is_empty() => {
                return Err(SweepError::NoValues { path: path.into(), key: key.clone() });
            }
            Toml::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        if all.len() * values.len() > LIMIT {
            return Err(SweepError::TooMany { path: path.into(), limit: LIMIT });
        }
        let with = |values_so_far: &Table, value: &Toml| {
            let mut values = values_so_far.clone();
            values.insert(key.clone(), value.clone());
            values
        };
        all =
            all.iter().flat_map(|so_far| values.iter().map(|value| with(so_far, value)).collect::<Vec<_>>()).collect();
    }
    Ok(all)
}

fn planned(path: &Path, base: &Table, values: Table) -> Result<PlannedRun, SweepError> {
    let name = values.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect::<Vec<_>>().join(",");
    let problem = |problem: String| SweepError::Setting { path: path.into(), run: name.clone(), problem };
    let mut table = base.clone();
    table.extend(values);
    let settings = serde_json::to_value(&table).expect("TOML is plain data");
    let Value::Object(settings) = settings else { unreachable!("a table is a map") };
    let config: Config = table.try_into().map_err(|e: toml::de::Error| problem(e.message().replace('\n', " ")))?;
    let resolved = config.clone().resolve().map_err(|e| problem(e.to_string()))?;
    check_layers(&resolved).map_err(|e| problem(e.to_string()))?;
    // Longer ones are no folder's name on common file systems.
    if name.len() > 200 {
        return Err(problem("its name, made of its values, is longer than 200 bytes".into()));
    }
    Ok(PlannedRun { name, settings, config })
}

/// A value as a part of a folder's name.
fn plain(value: &Toml) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "._-+".contains(c) { c } else { '_' }).collect()
}
