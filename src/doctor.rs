//! `sr2-prune doctor`.

use std::fmt;

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use sr2_bench::{Diagnosis, Finding, Places};
use sr2_train::data::{self, DatasetKind};

use crate::{Format, cache};

/// Show what this machine has: processor, kernels, Python, ONNX Runtime, images
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sr2-prune doctor
  sr2-prune doctor --fetch-ort")]
pub struct Arguments {
    /// Download ONNX Runtime into the cache first (by pip; version and checksum are fixed)
    #[arg(long)]
    fetch_ort: bool,
    /// How to print the report
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    diagnosis: Diagnosis,
    data: Vec<Dataset>,
}

#[derive(Debug, Serialize)]
struct Dataset {
    dataset: DatasetKind,
    folder: Finding<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.diagnosis.fmt(f)?;
        for Dataset { dataset, folder } in &self.data {
            write!(f, "\n{:<14}{folder}", dataset.name())?;
        }
        Ok(())
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let cache = cache::folder();
    if arguments.fetch_ort {
        let cache = cache.as_deref().context("no cache folder: $HOME is not set")?;
        sr2_bench::fetch_onnx_runtime(cache)?;
    }
    let data = DatasetKind::ALL.into_iter().map(|dataset| Dataset { dataset, folder: images(dataset) });
    let report = Report { diagnosis: sr2_bench::doctor(&Places::of_process(None, cache)), data: data.collect() };
    arguments.format.print(&report)
}

fn images(kind: DatasetKind) -> Finding<String> {
    let found = data::locate(kind, None).and_then(|folder| data::Cifar::open(&folder, kind).map(|_| folder));
    found.map(|folder| folder.display().to_string()).map_err(|e| e.to_string()).into()
}
