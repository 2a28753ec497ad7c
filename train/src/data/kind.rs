//! What is fixed about each dataset: names, classes, counts, file names and normalisation constants.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::class_names;

/// Which dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatasetKind {
    /// 10 classes.
    Cifar10,
    /// 100 classes (the fine labels).
    Cifar100,
}

/// Which of a dataset's two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// 50,000 images.
    Train,
    /// 10,000 images.
    Test,
}

impl DatasetKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Cifar10, Self::Cifar100];

    /// Name on the command line and of the folder in the cache: `cifar10` or `cifar100`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
        }
    }

    /// Name in prose.
    pub fn title(self) -> &'static str {
        match self {
            Self::Cifar10 => "CIFAR-10",
            Self::Cifar100 => "CIFAR-100",
        }
    }

    /// Number of classes.
    pub fn classes(self) -> usize {
        self.class_names().len()
    }

    /// Name of each class, in the order of the labels.
    pub fn class_names(self) -> &'static [&'static str] {
        match self {
            Self::Cifar10 => &class_names::CIFAR10,
            Self::Cifar100 => &class_names::CIFAR100,
        }
    }

    /// Mean of each channel (red, green, blue) over the official training set, pixels in 0..1.
    pub fn mean(self) -> [f32; 3] {
        match self {
            Self::Cifar10 => [0.4914, 0.4822, 0.4465],
            Self::Cifar100 => [0.5071, 0.4865, 0.4409],
        }
    }

    /// Standard deviation of each channel (red, green, blue) over the official training set, pixels in 0..1.
    pub fn std(self) -> [f32; 3] {
        match self {
            Self::Cifar10 => [0.2470, 0.2435, 0.2616],
            Self::Cifar100 => [0.2673, 0.2564, 0.2762],
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Cifar10 => Self::Cifar100,
            Self::Cifar100 => Self::Cifar10,
        }
    }

    /// Folder inside the official archive.
    pub(super) fn official_folder(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar-10-batches-bin",
            Self::Cifar100 => "cifar-100-binary",
        }
    }

    /// Where below the given folder the files may lie; the empty name is the folder itself.
    pub(super) fn folders(self) -> [&'static str; 4] {
        ["", self.name(), "plain_text", self.official_folder()]
    }

    /// Official binary files of a part, in order.
    pub(super) fn binary_files(self, part: Part) -> &'static [&'static str] {
        match (self, part) {
            (Self::Cifar10, Part::Train) => {
                &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"]
            }
            (Self::Cifar10, Part::Test) => &["test_batch.bin"],
            (Self::Cifar100, Part::Train) => &["train.bin"],
            (Self::Cifar100, Part::Test) => &["test.bin"],
        }
    }

    /// Records in each official binary file of a part.
    pub(super) fn records_per_file(self, part: Part) -> usize {
        part.images() / self.binary_files(part).len()
    }

    /// Label bytes before the pixels of an official binary record: the class is the last of them.
    pub(super) fn label_bytes(self) -> usize {
        match self {
            Self::Cifar10 => 1,
            Self::Cifar100 => 2,
        }
    }

    /// Column of the class in the Hugging Face files.
    pub(super) fn label_column(self) -> &'static str {
        match self {
            Self::Cifar10 => "label",
            Self::Cifar100 => "fine_label",
        }
    }
}

impl Part {
    /// Both parts.
    pub const ALL: [Self; 2] = [Self::Train, Self::Test];

    /// Images in the official part.
    pub fn images(self) -> usize {
        match self {
            Self::Train => 50_000,
            Self::Test => 10_000,
        }
    }

    /// `train` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }

    /// Names of the Hugging Face files: as exported by hand, and as on the hub.
    pub(super) fn parquet_files(self) -> [&'static str; 2] {
        match self {
            Self::Train => ["train.parquet", "train-00000-of-00001.parquet"],
            Self::Test => ["test.parquet", "test-00000-of-00001.parquet"],
        }
    }
}

impl fmt::Display for DatasetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DatasetKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| format!("unknown dataset `{name}`: expected cifar10 or cifar100"))
    }
}
