//! What there is of a run of a sweep.

use std::path::Path;

use serde_json::{Map, Value};

use super::{PlannedRun, SweepError};
use crate::config::{Config, ConfigError};

/// Settings that change neither the course of a run nor its result.
const IRRELEVANT: [&str; 5] = ["runs", "name", "data", "threads", "workers"];

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Not begun.
    Missing,
    /// Begun, to be resumed.
    Unfinished,
    /// Finished.
    Finished,
}

impl RunState {
    /// Looks into the folder `run.name` in `out`.
    ///
    /// # Errors
    /// If the run there has other settings.
    pub fn of(run: &PlannedRun, out: &Path) -> Result<Self, SweepError> {
        let folder = out.join(&run.name);
        let file = folder.join("config.toml");
        if !file.exists() {
            return Ok(Self::Missing);
        }
        let found = Config::read(&file)?.resolve()?;
        if let Some((key, found, expected)) = difference(&found, &run.config)? {
            return Err(SweepError::OtherSettings { folder, key, found, expected });
        }
        Ok(if folder.join("summary.json").exists() { Self::Finished } else { Self::Unfinished })
    }

    /// `missing`, `unfinished` or `finished`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unfinished => "unfinished",
            Self::Finished => "finished",
        }
    }
}

/// The first setting in which a run's resolved configuration differs from what was planned: key, found, expected.
fn difference(found: &Config, planned: &Config) -> Result<Option<(String, String, String)>, ConfigError> {
    let mut planned = planned.clone().resolve()?;
    for path in [&mut planned.from, &mut planned.teacher].into_iter().flatten() {
        *path = std::path::absolute(&*path).unwrap_or_default();
    }
    // The network of a file has got its name, and a budget has become epochs.
    if planned.network.is_none() {
        planned.network = found.network.clone();
    }
    if planned.minutes.take().is_some() {
        planned.epochs = found.epochs;
    }
    let (found, planned) = (map(found), map(&planned));
    let relevant = |key: &&String| !IRRELEVANT.contains(&key.as_str());
    let differs = planned.keys().filter(relevant).find(|key| found[*key] != planned[*key]);
    Ok(differs.map(|key| (key.clone(), found[key].to_string(), planned[key].to_string())))
}

fn map(config: &Config) -> Map<String, Value> {
    match serde_json::to_value(config).expect("a configuration is plain data") {
        Value::Object(map) => map,
        _ => unreachable!("a configuration is a map"),
    }
}
