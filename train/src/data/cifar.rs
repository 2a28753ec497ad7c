//! A folder with a dataset: which files hold it, and reading them.

use std::io;
use std::path::{Path, PathBuf};

use sr2_formats::{Error, Result};

use super::pixels::IMAGE_BYTES;
use super::{Dataset, DatasetKind, Part, binary, parquet_file};

/// The files of a dataset, found but not read. The test images are read only when asked for.
#[derive(Debug, Clone)]
pub struct Cifar {
    kind: DatasetKind,
    train: Source,
    test: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Parquet(PathBuf),
    Binary(Vec<PathBuf>),
}

impl Cifar {
    /// Looks for the files in `dir` and in its subfolders of the usual names: Parquet (`train.parquet`,
    /// `train-00000-of-00001.parquet`) before the official binary files (`data_batch_1.bin` ..., or `train.bin`).
    ///
    /// The binary files may be samples: shorter than the official ones. Then later training batches may be absent.
    ///
    /// # Errors
    /// If the folder, or files of the training or the test part, are missing: the error says what was looked for.
    pub fn open(dir: &Path, kind: DatasetKind) -> Result<Self> {
        for folder in kind.folders().map(|name| dir.join(name)) {
            if let Some(train) = Source::find(&folder, kind, Part::Train)? {
                let test = Source::find(&folder, kind, Part::Test)?.ok_or_else(|| {
                    missing(&folder, kind, &format!("the training files are here, but no {}", names(kind, Part::Test)))
                })?;
                return Ok(Self { kind, train, test });
            }
        }
        Err(nothing_found(dir, kind))
    }

    /// Which dataset it is.
    pub fn kind(&self) -> DatasetKind {
        self.kind
    }

    /// Reads the training images.
    ///
    /// # Errors
    /// If a file is cut, is something else, holds the other dataset, or an image in it is broken.
    pub fn load_train(&self) -> Result<Dataset> {
        self.load(Part::Train)
    }

    /// Reads the test images. Errors as [`Cifar::load_train`].
    pub fn load_test(&self) -> Result<Dataset> {
        self.load(Part::Test)
    }

    /// Reads one part. Errors as [`Cifar::load_train`].
    pub fn load(&self, part: Part) -> Result<Dataset> {
        match self.source(part) {
            Source::Parquet(path) => parquet_file::read(path, self.kind, part.images()),
            Source::Binary(paths) => binary::read(paths, self.kind, self.kind.records_per_file(part)),
        }
    }

    /// The files that hold a part.
    pub fn files(&self, part: Part) -> &[PathBuf] {
        match self.source(part) {
            Source::Parquet(path) => std::slice::from_ref(path),
            Source::Binary(paths) => paths,
        }
    }

    fn source(&self, part: Part) -> &Source {
        match part {
            Part::Train => &self.train,
            Part::Test => &self.test,
        }
    }
}

impl Source {
    fn find(folder: &Path, kind: DatasetKind, part: Part) -> Result<Option<Self>> {
        if let Some(path) = part.parquet_files().map(|name| folder.join(name)).into_iter().find(|path| path.is_file()) {
            return Ok(Some(Self::Parquet(path)));
        }
        let mut paths: Vec<_> = kind.binary_files(part).iter().map(|name| folder.join(name)).collect();
        if !paths[0].is_file() {
            return Ok(None);
        }
        if let Some(present) = paths.iter().position(|path| !path.is_file()) {
            let last = &paths[present - 1];
            let length = last.metadata().map_err(|error| Error::io(last, "read", error))?.len();
            let full = (kind.records_per_file(part) * (kind.label_bytes() + IMAGE_BYTES)) as u64;
            let later = paths[present..].iter().any(|path| path.is_file());
            if length >= full || later {
                let name = kind.binary_files(part)[present];
                return Err(missing(folder, kind, &format!("other batches are here, but no {name}")));
            }
            paths.truncate(present);
        }
        Ok(Some(Self::Binary(paths)))
    }
}

fn nothing_found(dir: &Path, kind: DatasetKind) -> Error {
    if !dir.is_dir() {
        return missing(dir, kind, "no such folder");
    }
    let other = kind.other();
    let foreign = |folder: &str| dir.join(folder).join(other.binary_files(Part::Train)[0]).is_file();
    if other.folders().into_iter().any(foreign) {
        return missing(dir, kind, &format!("the files here are of {}", other.title()));
    }
    let [_, folders @ ..] = kind.folders().map(|folder| format!("{folder}/"));
    let what = format!("no {} here or in {}", names(kind, Part::Train), folders.join(", "));
    missing(dir, kind, &what)
}

fn names(kind: DatasetKind, part: Part) -> String {
    let [by_hand, hub] = part.parquet_files();
    format!("{by_hand}, {hub} or {}", kind.binary_files(part)[0])
}

/// The error of an absent file, with the next step.
pub(super) fn missing(place: &Path, kind: DatasetKind, what: &str) -> Error {
    let sample = match kind {
        DatasetKind::Cifar10 => ", or try the bundled sample with `--data examples/data`",
        DatasetKind::Cifar100 => "",
    };
    let message = format!("{what}; run `sr2-prune data fetch {kind}`{sample}");
    let source = io::Error::new(io::ErrorKind::NotFound, message);
    Error::io(place, &format!("find {}", kind.title()), source)
}
