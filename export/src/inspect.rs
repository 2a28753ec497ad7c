//! What a file's zeros are worth: each weight's sparsity, and its size in every coding.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use sr2_formats::csr_file::{CsrParameter, GRAPH_KEY};
use sr2_formats::{CsrMatrix, Error, dense, lossy_path, onnx, srz};
use sr2_models::Graph;

use crate::compressors::zstd;
use crate::weights;

/// A file's weights and what they would take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// The file.
    #[serde(serialize_with = "lossy_path")]
    pub file: PathBuf,
    /// Its size.
    pub file_bytes: u64,
    /// Name of the network, where the file holds a graph.
    pub network: Option<String>,
    /// The weights: of a network its Conv and Gemm weights, of other files all tensors of two dimensions and more.
    pub layers: Vec<Layer>,
    /// All layers together.
    pub total: Layer,
    /// Values in other tensors.
    pub other_values: usize,
}

/// One weight tensor, or all of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// Its shape; of all together `[values]`.
    pub shape: Vec<usize>,
    /// Values that are not zero.
    pub nnz: usize,
    /// Fraction of zeros.
    pub sparsity: f64,
    /// Least, median and most non-zeros of a row (an output channel).
    pub row_nnz: [usize; 3],
    /// Bytes in each coding.
    pub bytes: Bytes,
}

/// Bytes of the same values in different codings; all are lossless f32 but [`Bytes::now`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Bytes {
    /// In the file, where tensors lie there one by one.
    pub now: Option<u64>,
    /// Dense f32.
    pub dense: u64,
    /// CSR with int32 indices.
    pub csr: u64,
    /// One bit a value, and the non-zeros.
    pub bitmask: u64,
    /// One byte for each 255 zeros in a row and for each non-zero, and the non-zeros.
    pub gap: u64,
    /// `.srz`, without its header.
    pub srz: u64,
    /// `zstd -19` of the dense values.
    pub zstd: u64,
}

/// Reads a `.safetensors` (dense or CSR), `.onnx` or `.srz` file of any origin and measures its weights.
///
/// # Errors
/// A file that cannot be read, breaks its format, or of another kind.
pub fn inspect(path: &Path) -> Result<Inspection, Error> {
    let file = weights::read(path)?;
    let now = stored_bytes(path)?;
    let layers: Vec<Layer> = file.sparse.iter().map(|(name, p)| layer(name, p, now.get(name).copied())).collect();
    let graph = file.metadata.get(GRAPH_KEY).and_then(|json| serde_json::from_str::<Graph>(json).ok());
    let file_bytes = std::fs::metadata(path).map_err(|e| Error::io(path, "read", e))?.len();
    let rows = file.sparse.values().flat_map(|p| row_nnz(p.matrix())).collect();
    Ok(Inspection {
        file: path.to_path_buf(),
        file_bytes,
        network: graph.map(|graph| graph.name().to_string()),
        total: total(&layers, rows),
        layers,
        other_values: file.dense.values().map(|tensor| tensor.len()).sum(),
    })
}

/// Bytes of each tensor where a file holds them one by one.
fn stored_bytes(path: &Path) -> Result<BTreeMap<String, u64>, Error> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => dense::stored_bytes(path),
        Some("onnx") => onnx::stored_bytes(path),
        _ => Ok(BTreeMap::new()),
    }
}

fn layer(name: &str, parameter: &CsrParameter, now: Option<u64>) -> Layer {
    let (matrix, shape) = (parameter.matrix(), parameter.shape().to_vec());
    let (len, nnz) = (matrix.rows() * matrix.cols(), matrix.nnz());
    let values = parameter.to_dense().into_data();
    let dense: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let bytes = Bytes {
        now,
        dense: dense.len() as u64,
        csr: 8 * nnz as u64 + 4 * (matrix.rows() as u64 + 1),
        bitmask: len.div_ceil(8) as u64 + 4 * nnz as u64,
        gap: gap_bytes(matrix) + 4 * nnz as u64,
        srz: srz::coded_bytes(parameter) as u64,
        zstd: zstd(&dense),
    };
    let sparsity = 1.0 - nnz as f64 / len.max(1) as f64;
    Layer { name: name.into(), shape, nnz, sparsity, row_nnz: spread(row_nnz(matrix)), bytes }
}

/// Bytes of the distances between non-zeros, of 255 and a rest where they are longer.
fn gap_bytes(matrix: &CsrMatrix) -> u64 {
    let (mut bytes, mut next) = (0, 0u64);
    for row in 0..matrix.rows() {
        for col in matrix.row(row).0 {
            let place = row as u64 * matrix.cols() as u64 + *col as u64;
            bytes += (place - next) / 255 + 1;
            next = place + 1;
        }
    }
    bytes
}

fn row_nnz(matrix: &CsrMatrix) -> Vec<usize> {
    matrix.crow_indices().windows(2).map(|ends| (ends[1] - ends[0]) as usize).collect()
}

/// Least, median and most.
fn spread(mut numbers: Vec<usize>) -> [usize; 3] {
    numbers.sort();
    match numbers[..] {
        [] => [0; 3],
        [first, ..] => [first, numbers[numbers.len() / 2], numbers[numbers.len() - 1]],
    }
}

fn total(layers: &[Layer], rows: Vec<usize>) -> Layer {
    let sum = |get: fn(&Bytes) -> u64| layers.iter().map(|layer| get(&layer.bytes)).sum();
    let bytes = Bytes {
        now: layers.iter().map(|layer| layer.bytes.now).sum(),
        dense: sum(|b| b.dense),
        csr: sum(|b| b.csr),
        bitmask: sum(|b| b.bitmask),
        gap: sum(|b| b.gap),
        srz: sum(|b| b.srz),
        zstd: sum(|b| b.zstd),
    };
    let nnz = layers.iter().map(|layer| layer.nnz).sum();
    let values = bytes.dense as usize / 4;
    let sparsity = 1.0 - nnz as f64 / values.max(1) as f64;
    Layer { name: "all".into(), shape: vec![values], nnz, sparsity, row_nnz: spread(rows), bytes }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN).set_header([
            "weight", "shape", "nnz", "zeros", "row nnz", "now", "csr", "bitmask", "gap", "srz", "zstd -19",
        ]);
        for layer in self.layers.iter().chain([&self.total]) {
            let Layer { name, shape, nnz, sparsity, row_nnz: [least, median, most], bytes } = layer;
            let shape = shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
            let now = bytes.now.map_or("-".into(), |n| n.to_string());
            let mut row = vec![name.clone(), shape, nnz.to_string(), format!("{:.2} %", 100.0 * sparsity)];
            row.extend([format!("{least}..{median}..{most}"), now]);
            row.extend([bytes.csr, bytes.bitmask, bytes.gap, bytes.srz, bytes.zstd].map(|n| n.to_string()));
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "{table}")?;
        let Bytes { dense, csr, srz, zstd, .. } = self.total.bytes;
        let smaller = |bytes: u64| dense as f64 / bytes.max(1) as f64;
        write!(
            f,
            "{}: {} bytes{}; {} other values. Its weights, {dense} bytes as dense f32, are {:.1}x smaller as .srz, {:.1}x by \
             zstd -19, {:.1}x as CSR",
            self.file.display(),
            self.file_bytes,
            self.network.as_ref().map(|name| format!(", {name}")).unwrap_or_default(),
            self.other_values,
            smaller(srz),
            smaller(zstd),
            smaller(csr),
        )
    }
}

#[cfg(test)]
mod tests {
    use sr2_formats::Tensor;

    use super::*;

    #[test]
    fn sizes_of_a_known_matrix() {
        let mut data = vec![0.0; 3 * 600];
        for place in [0, 1, 300, 599, 1250] {
            data[place] = 1.5;
        }
        let parameter = CsrParameter::from_dense(&Tensor::new([3, 600], data)).unwrap();
        let layer = layer("w", &parameter, Some(7));
        assert_eq!((layer.nnz, layer.row_nnz), (5, [0, 1, 4]));
        assert!((layer.sparsity - 1795.0 / 1800.0).abs() < 1e-12);
        let Bytes { now, dense, csr, bitmask, gap, .. } = layer.bytes;
        assert_eq!((now, dense, csr, bitmask), (Some(7), 7200, 40 + 16, 225 + 20));
        // Distances 0, 0, 298, 298, 650.
        assert_eq!(gap, 1 + 1 + 2 + 2 + 3 + 20);
    }
}
