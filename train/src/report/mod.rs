//! What a run or a sweep looks like: charts as SVG and PNG, and HTML pages that need no other file and no network.

use std::path::{Path, PathBuf};

use sr2_formats::{Error, write_atomic};

use crate::sweep::{Table, read_results};

mod chart;
mod html;
mod png;
mod run;
mod scene;
mod svg;
mod sweep;
#[cfg(test)]
mod tests;

use run::run_page;
use sweep::{Pareto, sweep_page};

/// Writes the report of the run or sweep in `folder` into it: `report.html`, and of a sweep `pareto.svg` and
/// `pareto.png`. Returns what was written.
///
/// # Errors
/// A folder that holds neither, a file that cannot be read or written.
pub fn write_report(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let write = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        write_atomic(&path, |w| w.write_all(content)).map(|()| path)
    };
    if folder.join("config.toml").exists() {
        return Ok(vec![write("report.html", run_page(folder)?.as_bytes())?]);
    }
    let rows = read_results(folder)?;
    if rows.is_empty() {
        let problem = "neither a run (no config.toml) nor a sweep with a finished run (no row in results*.jsonl)";
        return Err(Error::malformed(folder, problem));
    }
    let plot = Pareto::of_test(&Table::new(&rows));
    Ok(vec![
        write("report.html", sweep_page(&title(folder), &rows).as_bytes())?,
        write("pareto.svg", plot.svg().as_bytes())?,
        write("pareto.png", &plot.png())?,
    ])
}

/// The folder's own name.
fn title(folder: &Path) -> String {
    let full = std::path::absolute(folder).unwrap_or_else(|_| folder.into());
    full.file_name().map_or_else(|| full.display().to_string(), |name| name.to_string_lossy().into_owned())
}
