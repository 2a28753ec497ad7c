//! The Hugging Face files: Parquet with `img` = struct of `bytes` (one JPEG or PNG) and `path`, and `label`
//! (CIFAR-10) or `fine_label` (CIFAR-100).

use std::fs::File;
use std::path::Path;

use parquet::basic::Type as PhysicalType;
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use rayon::prelude::*;
use sr2_formats::{Error, Result};

use super::contain::contain;
use super::pixels::IMAGE_BYTES;
use super::{Dataset, DatasetKind, image};

const IMAGE_COLUMN: &str = "img.bytes";

/// Reads a file of at most `most_rows` rows and decodes its images on all cores.
pub(super) fn read(path: &Path, kind: DatasetKind, most_rows: usize) -> Result<Dataset> {
    let table = Table::open(path, most_rows)?;
    let (label_column, other_label_column) = (kind.label_column(), kind.other().label_column());
    if table.column(label_column).is_none() && table.column(other_label_column).is_some() {
        let found = format!("holds {} (column `{other_label_column}`)", kind.other().title());
        return Err(Error::malformed(path, format!("{found}, but {} was asked for", kind.title())));
    }
    let labels = labels(path, kind, &table.read::<Int64Type>(label_column)?)?;
    let encoded = table.read::<ByteArrayType>(IMAGE_COLUMN)?;

    let mut images = vec![0; encoded.len() * IMAGE_BYTES];
    images.par_chunks_exact_mut(IMAGE_BYTES).zip(&encoded).enumerate().try_for_each(|(row, (planes, encoded))| {
        image::decode(encoded.data(), planes).map_err(|what| Error::malformed(path, format!("row {row}: {what}")))
    })?;
    Ok(Dataset::new(kind, images, labels))
}

fn labels(path: &Path, kind: DatasetKind, labels: &[i64]) -> Result<Vec<u8>> {
    let check = |(row, &label): (usize, &i64)| match u8::try_from(label) {
        Ok(class) if usize::from(class) < kind.classes() => Ok(class),
        _ => {
            let message = format!("row {row}: label {label}, expected 0 to {}", kind.classes() - 1);
            Err(Error::malformed(path, message))
        }
    };
    labels.iter().enumerate().map(check).collect()
}

/// An opened file whose columns are read whole, without nulls.
struct Table<'a> {
    path: &'a Path,
    reader: SerializedFileReader<File>,
    rows: usize,
}

impl<'a> Table<'a> {
    fn open(path: &'a Path, most_rows: usize) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path, "open", error))?;
        let reader = guarded(path, || SerializedFileReader::new(file))?;
        let found = reader.metadata().file_metadata().num_rows();
        match usize::try_from(found) {
            Ok(rows) if (1..=most_rows).contains(&rows) => Ok(Self { path, reader, rows }),
            _ => Err(Error::malformed(path, format!("{found} rows, expected 1 to {most_rows}"))),
        }
    }

    fn column(&self, name: &str) -> Option<usize> {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        schema.columns().iter().position(|column| column.path().string() == name)
    }

    fn read<T: DataType>(&self, name: &str) -> Result<Vec<T::T>> {
        let malformed = |message: String| Error::malformed(self.path, message);
        let index = self.column(name).ok_or_else(|| {
            malformed(format!("no column `{name}`: expected a Hugging Face file with `{IMAGE_COLUMN}` and a label"))
        })?;
        let column = self.reader.metadata().file_metadata().schema_descr().column(index);
        let expected: PhysicalType = T::get_physical_type();
        if column.physical_type() != expected || column.max_rep_level() != 0 {
            let found = column.physical_type();
            let list = if column.max_rep_level() != 0 { "a list of " } else { "" };
            return Err(malformed(format!("column `{name}` is {list}{found}, expected {expected}")));
        }

        let mut values = Vec::new();
        let mut levels = Vec::new();
        guarded(self.path, || self.read_groups::<T>(index, &mut values, &mut levels))?;
        if let Some(row) = levels.iter().position(|&level| level < column.max_def_level()) {
            return Err(malformed(format!("row {row}: no `{name}`")));
        }
        if values.len() != self.rows {
            return Err(malformed(format!("column `{name}` has {} rows, expected {}", values.len(), self.rows)));
        }
        Ok(values)
    }

    /// Reads at most one row more than the file claims, so that a false claim shows and costs nothing.
    fn read_groups<T: DataType>(
        &self,
        column: usize,
        values: &mut Vec<T::T>,
        levels: &mut Vec<i16>,
    ) -> std::result::Result<(), ParquetError> {
        for group in 0..self.reader.num_row_groups() {
            let group = self.reader.get_row_group(group)?;
            let mut reader = get_typed_column_reader::<T>(group.get_column_reader(column)?);
            let mut left = self.rows + 1 - values.len().min(self.rows + 1);
            while left > 0 {
                let (records, ..) = reader.read_records(left, Some(levels), None, values)?;
                if records == 0 {
                    break;
                }
                left -= records;
            }
        }
        Ok(())
    }
}

/// The parquet crate panics on some broken files, for example where a page needs a dictionary that is not there.
fn guarded<T>(path: &Path, read: impl FnOnce() -> std::result::Result<T, ParquetError>) -> Result<T> {
    let error = match contain(read) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic,
    };
    let error = error.replace('\n', " ");
    Err(Error::malformed(path, format!("cut, damaged, or not a Parquet file: {error}")))
}
