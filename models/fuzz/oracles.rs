//! What each reader must satisfy on any bytes: it refuses them, or what it reads survives a round trip. The fuzz targets
//! and `models/tests/fuzz_corpus.rs` share these.

use std::cell::OnceCell;
use std::path::Path;

use sr2_formats::csr_file::{self, CsrFile};
use sr2_formats::srz::{self, Values};
use sr2_formats::{TensorMap, dense};
use sr2_models::{Graph, Model, onnx};
use tempfile::TempDir;

/// A name, and what must hold for any bytes.
pub type Oracle = (&'static str, fn(&[u8]));

/// One for each reader.
pub const ORACLES: [Oracle; 4] = [("srz", srz), ("csr", csr), ("dense", dense), ("onnx", onnx)];

/// What a container decodes to is encoded and decoded again, bit for bit. Its checksum is made right first.
pub fn srz(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= 32 {
        let length = bytes.len() as u64;
        bytes[8..16].copy_from_slice(&length.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[20..]);
        bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
    }
    let bits = |file: &CsrFile| -> Vec<u32> {
        let sparse = file.sparse.values().flat_map(|p| p.matrix().values());
        sparse.chain(file.dense.values().flat_map(|t| t.data())).map(|v| v.to_bits()).collect()
    };
    let path = Path::new("m.srz");
    if let Ok(file) = srz::decode(path, &bytes) {
        let again = srz::decode(path, &srz::encode(path, &file, Values::F32).unwrap()).unwrap();
        assert_eq!(file, again);
        assert_eq!(bits(&file), bits(&again));
    }
}

/// What a CSR safetensors file holds is written and read again.
pub fn csr(bytes: &[u8]) {
    in_file("m.csr.safetensors", bytes, |path| {
        if let Ok(file) = csr_file::read(path) {
            csr_file::write(path, &file).unwrap();
            let again = csr_file::read(path).unwrap();
            assert_eq!((file.sparse, file.dense), (again.sparse, again.dense));
        }
    });
}

/// What a dense safetensors file holds is written and read again, NaN included.
pub fn dense(bytes: &[u8]) {
    fn bits(tensors: &TensorMap) -> Vec<(&str, &[usize], Vec<u32>)> {
        let bits = |data: &[f32]| data.iter().map(|v| v.to_bits()).collect();
        tensors.iter().map(|(name, t)| (name.as_str(), t.shape(), bits(t.data()))).collect()
    }
    in_file("m.safetensors", bytes, |path| {
        if let Ok(file) = dense::read(path) {
            dense::write(path, &file.tensors, &file.metadata).unwrap();
            assert_eq!(bits(&file.tensors), bits(&dense::read(path).unwrap().tensors));
        }
    });
}

/// A network that is imported has the shapes its graph says, and the same graph from its own description.
pub fn onnx(bytes: &[u8]) {
    in_file("m.onnx", bytes, |path| {
        if let Ok(model) = onnx::import(path) {
            let (graph, parameters) = model.into_parts();
            let again = Graph::try_new(graph.name(), graph.input_shape(), graph.nodes().to_vec()).unwrap();
            assert_eq!(graph, again);
            Model::try_new(again, parameters).unwrap();
        }
    });
}

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// The bytes as a file called `name`, for readers that take a path.
fn in_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    FOLDER.with(|folder| {
        let path = folder.get_or_init(|| tempfile::tempdir().expect("a temporary folder")).path().join(name);
        std::fs::write(&path, bytes).expect("a temporary file");
        read(&path);
    });
}
