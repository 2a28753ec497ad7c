//! Verifying a folder of data.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sr2_formats::Result;

use super::{Cifar, DatasetKind, Part};

/// What is in a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which dataset it was checked for.
    pub kind: DatasetKind,
    /// The training and the test part, as far as they could be read.
    pub parts: Vec<PartReport>,
    /// One line for each thing that is wrong. A sample, smaller than the official part, is not wrong.
    pub problems: Vec<String>,
}

/// What is in the files of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartReport {
    /// Which part.
    pub part: Part,
    /// Its files.
    pub files: Vec<PathBuf>,
    /// Images, every one of which decodes.
    pub images: usize,
    /// Images of the official part.
    pub official_images: usize,
    /// Images of each class.
    pub class_counts: Vec<usize>,
}

/// Reads everything in `dir`: every image is decoded and every label checked.
///
/// # Errors
/// If the files of the dataset are not there; what is wrong inside them goes to [`Report::problems`].
pub fn check(dir: &Path, kind: DatasetKind) -> Result<Report> {
    let cifar = Cifar::open(dir, kind)?;
    let mut report = Report { kind, parts: vec![], problems: vec![] };
    for part in Part::ALL {
        let dataset = match cifar.load(part) {
            Ok(dataset) => dataset,
            Err(error) => {
                report.problems.push(error.to_string());
                continue;
            }
        };
        let class_counts = dataset.class_counts();
        let each = part.images() / kind.classes();
        if dataset.len() == part.images()
            && let Some((class, count)) = class_counts.iter().enumerate().find(|&(_, &count)| count != each)
        {
            let file = cifar.files(part)[0].display();
            report.problems.push(format!("{file}: {count} images of class {class}, expected {each}"));
        }
        report.parts.push(PartReport {
            part,
            files: cifar.files(part).to_vec(),
            images: dataset.len(),
            official_images: part.images(),
            class_counts,
        });
    }
    Ok(report)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = self.kind.title();
        for PartReport { part, files, images, official_images, class_counts } in &self.parts {
            let (fewest, most) = (class_counts.iter().min(), class_counts.iter().max());
            let (fewest, most) = (fewest.copied().unwrap_or(0), most.copied().unwrap_or(0));
            write!(f, "{title} {}: {images} of {official_images} images, ", part.name())?;
            writeln!(f, "{fewest} to {most} a class, in {}", list(files))?;
        }
        self.problems.iter().try_for_each(|problem| writeln!(f, "problem: {problem}"))?;
        write!(f, "{}", if self.problems.is_empty() { "everything decodes" } else { "not usable as it is" })
    }
}

fn list(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}
