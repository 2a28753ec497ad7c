//! Every byte of a small good file changed, and every prefix of it: each reader refuses it or gives a model that satisfies
//! the rules; no panic, no hang, and no more memory than twice the file and 32 MiB.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};

use sr2_formats::csr_file::{self, CsrFile, CsrParameter, ValueType};
use sr2_formats::srz::{self, Values};
use sr2_formats::{Tensor, TensorMap, dense, onnx};

const MEMORY_KIB: u64 = 32 << 10;
/// Of one read; a good one takes microseconds.
const TIME: Duration = Duration::from_secs(2);

fn good() -> CsrFile {
    let value = |k: usize| if k % 5 == 2 { k as f32 / 7.0 - 3.0 } else { 0.0 };
    let weight = Tensor::new([4, 3, 3, 3], (0..108).map(value).collect());
    let mut file = CsrFile::default();
    file.sparse.insert("w".into(), CsrParameter::from_dense(&weight).unwrap());
    file.dense.insert("b".into(), Tensor::new([4], vec![0.5, 0.0, -1.0, 2.0]));
    file.metadata.insert("sr2.graph".into(), "{}".into());
    file
}

/// What a reader gives can be written and is read back the same, unless a changed shape made it large.
fn satisfies_the_rules(file: &CsrFile) {
    let weights: usize = file.sparse.values().map(|p| p.matrix().rows() * p.matrix().cols()).sum();
    if weights > 1 << 20 {
        return;
    }
    if let Ok(bytes) = srz::encode(Path::new("again.srz"), file, Values::F32) {
        assert_eq!(&srz::decode(Path::new("again.srz"), &bytes).unwrap(), file);
    }
}

/// Reads `bytes` as `path`; whether it was refused.
type Read = fn(&Path) -> bool;

fn read_srz(path: &Path) -> bool {
    srz::read(path).map(|file| satisfies_the_rules(&file)).is_err()
}

fn read_csr(path: &Path) -> bool {
    csr_file::read(path).map(|file| satisfies_the_rules(&file)).is_err()
}

fn read_dense(path: &Path) -> bool {
    let tensors = dense::read(path).map(|file| file.tensors);
    tensors.map(|tensors| assert!(tensors.values().all(|t| t.len() == t.shape().iter().product::<usize>()))).is_err()
}

fn read_onnx(path: &Path) -> bool {
    let Ok(model) = onnx::read(path) else { return true };
    let tensors = model.graph.unwrap_or_default().initializer;
    tensors.iter().any(|tensor| onnx::tensor_f32(path, tensor).is_err())
}

/// Reads every mutation and every prefix; `fix` makes a changed file's checksum right again.
fn sweep(name: &str, bytes: &[u8], read: Read, fix: Option<fn(&mut [u8])>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let attempt = |bytes: &[u8], what: String| {
        fs::write(&path, bytes).unwrap();
        let start = Instant::now();
        let refused = catch_unwind(|| read(&path)).unwrap_or_else(|_| panic!("{name}, {what}: panicked"));
        assert!(start.elapsed() < TIME, "{name}, {what}: took {:?}", start.elapsed());
        refused
    };
    assert!(!attempt(bytes, "unchanged".into()));
    for length in 0..bytes.len() {
        assert!(attempt(&bytes[..length], format!("cut to {length} bytes")), "{name} cut to {length} bytes was read");
    }
    for position in 0..bytes.len() {
        for change in [0x80, 0xff] {
            let mut changed = bytes.to_vec();
            changed[position] ^= change;
            attempt(&changed, format!("byte {position} ^ {change:#x}"));
            if let Some(fix) = fix {
                fix(&mut changed);
                attempt(&changed, format!("byte {position} ^ {change:#x}, checksum made right"));
            }
        }
    }
}

fn fix_srz(bytes: &mut [u8]) {
    let checksum = crc32fast::hash(&bytes[20..]);
    bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
}

/// Most memory that the process has ever asked for.
fn peak_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmPeak:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The only test of this file, so that nothing else takes memory meanwhile.
#[test]
fn changed_and_cut_files_are_refused_or_valid() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("good");
    let written = |write: &dyn Fn(&Path)| {
        write(&path);
        fs::read(&path).unwrap()
    };
    let file = good();
    let tensors: TensorMap = [("w".into(), file.sparse["w"].to_dense()), ("b".into(), file.dense["b"].clone())].into();
    let graph = onnx::proto::GraphProto {
        initializer: tensors.iter().map(|(name, tensor)| onnx::float_tensor(name, tensor)).collect(),
        ..Default::default()
    };
    let model = onnx::proto::ModelProto { graph: Some(graph), ..Default::default() };
    let start = peak_kib();
    for values in [Values::F32, Values::Int(8), Values::Palette] {
        sweep("m.srz", &srz::encode(&path, &file, values).unwrap(), read_srz, Some(fix_srz));
    }
    for values in [ValueType::F32, ValueType::Int8] {
        let bytes = written(&|path| csr_file::write_as(path, &file, values).unwrap());
        sweep("m.csr.safetensors", &bytes, read_csr, None);
    }
    let bytes = written(&|path| dense::write(path, &tensors, &file.metadata).unwrap());
    sweep("m.safetensors", &bytes, read_dense, None);
    let bytes = written(&|path| onnx::write(path, &model).unwrap());
    sweep("m.onnx", &bytes, read_onnx, None);
    match (start, peak_kib()) {
        (Some(start), Some(peak)) => assert!(peak - start <= MEMORY_KIB, "took {} KiB more", peak - start),
        _ => eprintln!("SKIP: this system does not tell a process's memory"),
    }
}
