use std::fs;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::{ErrorKind, csr};

fn sparse(shape: &[usize], data: Vec<f32>) -> CsrParameter {
    CsrParameter::from_dense(&Tensor::new(shape, data)).unwrap()
}

/// Pruned values of a layer: `density` of them, the rows of different size.
fn layer(shape: &[usize], density: f64, seed: u64) -> CsrParameter {
    let cols: usize = shape[1..].iter().product();
    let mut data = csr::tests::random(shape.iter().product(), density, seed);
    data.iter_mut().enumerate().for_each(|(k, v)| *v *= 0.01 * (1 + k / cols) as f32);
    sparse(shape, data)
}

/// Every shape, density and kind of value that has a rule of its own.
fn example() -> CsrFile {
    let mut file = CsrFile::default();
    let mut add = |name: &str, parameter| file.sparse.insert(name.into(), parameter);
    add("conv", layer(&[16, 8, 3, 3], 0.1, 1));
    add("dense conv", layer(&[8, 4, 3, 3], 1.0, 2));
    add("empty", sparse(&[3, 5], vec![0.0; 15]));
    add("rank 1", sparse(&[4], vec![0.0, 1.0, 0.0, -2.5]));
    add("linear", layer(&[10, 33], 0.02, 3));
    let mut holes = csr::tests::random(6 * 4 * 9, 0.5, 4);
    holes.chunks_mut(9).enumerate().filter(|(k, _)| k / 4 == 2 || k % 4 == 1).for_each(|(_, taps)| taps.fill(0.0));
    add("empty row and channel", sparse(&[6, 4, 3, 3], holes));
    add("extremes", sparse(&[2, 3], vec![f32::MAX, -1e-45, 0.0, -f32::MIN_POSITIVE, 1.0, -f32::MAX]));
    let explicit = CsrMatrix::try_new(1, 3, vec![0, 3], vec![0, 1, 2], vec![0.0, -0.0, 1.0]).unwrap();
    add("stored zeros", CsrParameter::new(explicit, [1, 3]));
    let mut add = |name: &str, shape: &[usize], data| file.dense.insert(name.into(), Tensor::new(shape, data));
    add("bias", &[4], vec![0.5, 0.0, -0.0, 3.25]);
    add("scalar", &[], vec![7.0]);
    add("nothing", &[0, 3], vec![]);
    add("table", &[2, 2], vec![0.0, 1.0, 2.0, 0.0]);
    file.metadata.insert("sr2.graph".into(), "{\"name\": \"é\"}".into());
    file
}

fn path() -> &'static Path {
    Path::new("m.srz")
}

fn bits(file: &CsrFile) -> Vec<(String, Vec<u32>)> {
    let sparse = file.sparse.iter().map(|(name, p)| (name, p.matrix().values()));
    let dense = file.dense.iter().map(|(name, t)| (name, t.data()));
    sparse.chain(dense).map(|(name, v)| (name.clone(), v.iter().map(|v| v.to_bits()).collect())).collect()
}

#[test]
fn reads_back_every_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.srz");
    write(&path, &example(), Values::F32).unwrap();
    let back = read(&path).unwrap();
    assert_eq!(back, example());
    assert_eq!(bits(&back), bits(&example()));
}

/// Within one step of what was asked for, the same zeros, and what is read back is what a second writer keeps.
#[test]
fn other_values_keep_zeros_and_stay_near() {
    let mut file = example();
    file.sparse.retain(|name, _| !["extremes", "stored zeros"].contains(&name.as_str()));
    let relative = [(Values::F16, 1.0 / 2048.0), (Values::Int(8), 1.0 / 64.0), (Values::Int(4), 1.0 / 4.0)];
    for (values, error) in relative {
        let bytes = encode(path(), &file, values).unwrap();
        let back = decode(path(), &bytes).unwrap();
        assert_eq!(back.dense, file.dense);
        for (name, parameter) in &file.sparse {
            let (found, exact) = (back.sparse[name].matrix(), parameter.matrix());
            assert_eq!((found.crow_indices(), found.col_indices()), (exact.crow_indices(), exact.col_indices()));
            for row in 0..exact.rows() {
                let (found, exact) = (found.row(row).1, exact.row(row).1);
                let largest = exact.iter().fold(0f32, |max, v| max.max(v.abs()));
                for (a, b) in found.iter().zip(exact) {
                    assert!((a - b).abs() <= error * largest, "{name}, {values}: {a} for {b}, largest {largest}");
                    assert!(*a != 0.0 && a.is_sign_positive() == b.is_sign_positive());
                }
            }
        }
        assert_eq!(decode(path(), &encode(path(), &back, values).unwrap()).unwrap(), back, "{values}");
    }
}

#[test]
fn a_palette_has_at_most_16_magnitudes_and_is_best_where_it_fits() {
    let mut file = CsrFile::default();
    let data: Vec<f32> = (0..600).map(|k| [0.5, -1.25, 0.0, 3.0][k % 4]).collect();
    file.sparse.insert("few".into(), sparse(&[20, 30], data));
    file.sparse.insert("many".into(), layer(&[16, 8, 3, 3], 0.3, 5));
    let back = decode(path(), &encode(path(), &file, Values::Palette).unwrap()).unwrap();
    assert!(back.sparse["few"] == file.sparse["few"]);
    let mut magnitudes: Vec<u32> = back.sparse["many"].matrix().values().iter().map(|v| v.abs().to_bits()).collect();
    magnitudes.sort();
    magnitudes.dedup();
    assert!(magnitudes.len() <= 16, "{magnitudes:?}");
    let error = |a: &CsrParameter, b: &CsrParameter| {
        let pairs = a.matrix().values().iter().zip(b.matrix().values());
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    let energy = file.sparse["many"].matrix().values().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    let relative = error(&back.sparse["many"], &file.sparse["many"]) / energy;
    assert!(relative < 0.01, "{relative}");
}

/// A value that f16 does not reach is an error, and one that its smallest step swallows stays a stored value.
#[test]
fn limits_of_f16() {
    let file = |v| CsrFile { sparse: [("w".into(), sparse(&[1, 2], vec![v, 1.0]))].into(), ..Default::default() };
    let error = encode(path(), &file(1e6), Values::F16).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("tensor \"w\" holds 1e6, beyond f16's range"), "{error}");
    let back = decode(path(), &encode(path(), &file(-1e-30), Values::F16).unwrap()).unwrap();
    assert_eq!(back.sparse["w"].matrix().values(), [-(2f32.powi(-24)), 1.0]);
}

/// Within 1 % of what the zeros need, for a uniform mask, and less for one with empty channels.
#[test]
fn a_mask_costs_its_entropy() {
    let size = 64 * 32 * 9;
    for density in [0.02, 0.1, 0.5] {
        let ones: Vec<f32> = csr::tests::random(size, density, 6).iter().map(|v| f32::from(*v != 0.0)).collect();
        let p = ones.iter().sum::<f32>() as f64 / size as f64;
        let entropy = -(p * p.log2() + (1.0 - p) * (1.0 - p).log2()) * size as f64 / 8.0;
        // Of values that are all 1 nothing but the sign is left.
        let signs = p * size as f64 / 8.0;
        let mask = coded_bytes(&sparse(&[64, 32, 3, 3], ones)) as f64 - signs;
        assert!(mask < 1.01 * entropy + 16.0, "density {density}: {mask} bytes, entropy {entropy}");
    }
}

/// The bytes are a contract with files already written.
#[test]
fn golden_bytes() {
    let data: Vec<f32> = (0..2 * 3 * 9).map(|k| if k % 7 == 3 { k as f32 - 20.5 } else { 0.0 }).collect();
    let mut file = CsrFile::default();
    file.sparse.insert("w".into(), sparse(&[2, 3, 3, 3], data));
    file.dense.insert("b".into(), Tensor::new([2], vec![0.25, -3.0]));
    let bytes = encode(path(), &file, Values::F32).unwrap();
    let fixed = Fixed::parse(&bytes, bytes.len() as u64).unwrap();
    let header = inflate(&bytes[FIXED..FIXED + fixed.deflated], fixed.inflated).unwrap();
    let expected = concat!(
        r#"{"metadata":{},"tensors":["#,
        r#"{"name":"w","shape":[2,3,3,3],"sparse":true,"nnz":8,"values":{"float":5}},"#,
        r#"{"name":"b","shape":[2],"sparse":false,"nnz":2,"values":{"float":1}}]}"#,
    );
    assert_eq!(String::from_utf8(header).unwrap(), expected);
    let hex: String = bytes[FIXED + fixed.deflated..].iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, "9410ba1c96788b2aa2399ab4ab08327102");
}

/// A good file's bytes, changed, with the length and checksum made right again.
fn refuse(change: impl FnOnce(&mut Vec<u8>), problem: &str) {
    let mut bytes = encode(path(), &example(), Values::F32).unwrap();
    change(&mut bytes);
    let length = bytes.len() as u64;
    bytes[8..16].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[CHECKED_FROM..]);
    bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
    let error = decode(path(), &bytes).unwrap_err();
    assert!(error.to_string().contains(problem), "{error}, expected {problem:?}");
}

/// The same with its header replaced.
fn refuse_header(from: &str, to: &str, problem: &str) {
    refuse(
        |bytes| {
            let fixed = Fixed::parse(bytes, bytes.len() as u64).unwrap();
            let json = inflate(&bytes[FIXED..FIXED + fixed.deflated], fixed.inflated).unwrap();
            let json = String::from_utf8(json).unwrap();
            assert!(json.contains(from), "{json}");
            let json = json.replacen(from, to, 1);
            let deflated = deflate(json.as_bytes());
            bytes[20..24].copy_from_slice(&(deflated.len() as u32).to_le_bytes());
            bytes[24..28].copy_from_slice(&(json.len() as u32).to_le_bytes());
            bytes.splice(FIXED..FIXED + fixed.deflated, deflated);
        },
        problem,
    );
}

#[test]
fn a_bad_start() {
    refuse(|bytes| bytes[0] = 0, "does not start with");
    refuse(|bytes| bytes[4] = 2, "has version 2 of the format; this program reads 1");
    refuse(|bytes| bytes[23] = 1, "do not fit the file");
    refuse(|bytes| bytes[31] = 1, "do not fit the file");
    refuse(|bytes| bytes[27] = 1, "at most 4194304 are allowed");
    refuse(|bytes| bytes[24] ^= 1, "header does not inflate to its");
    refuse(|bytes| bytes.push(0), "streams do not end with its last tensor");
    for length in [0, 3, 31] {
        let bytes = encode(path(), &example(), Values::F32).unwrap();
        assert!(decode(path(), &bytes[..length]).is_err());
    }
    let mut bytes = encode(path(), &example(), Values::F32).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    assert!(decode(path(), &bytes).unwrap_err().to_string().contains("checksum is wrong"));
}

#[test]
fn a_bad_header() {
    refuse_header("\"tensors\"", "\"tensor\"", "header is invalid: unknown field");
    refuse_header("\"conv\"", "\"dense conv\"", "\"dense conv\" appears twice");
    refuse_header("\"conv\"", &format!("{:?}", "n".repeat(300)), "a name has 300 bytes");
    refuse_header("[16,8,3,3]", "[16,8,3,3,1,1,1,1,1]", "expected 1 to 8 dimensions");
    refuse_header("[16,8,3,3]", "[16,0,3,3]", "expected 1 to 8 dimensions");
    refuse_header("[16,8,3,3]", "[1600000,8,3000000,3000000]", "is too large");
    refuse_header("[16,8,3,3]", "[16,80000,30,30]", "weights, at most");
    refuse_header("[16,8,3,3]", "[8000000,1]", "weights, at most");
    refuse_header("\"nnz\":288", "\"nnz\":2880", "of 288 values cannot have");
    refuse_header("\"nnz\":122", "\"nnz\":121", "has more than its 121 stored values");
    refuse_header("\"nnz\":122", "\"nnz\":123", "has 122 stored values, expected 123");
    refuse_header("{\"float\":23}", "{\"float\":24}", "stored as Float(24)");
    refuse_header("{\"float\":23}", "{\"fixed\":7}", "stored as Fixed(7)");
    refuse_header("{\"float\":23}", "{\"palette\":3}", "stored as Palette(3)");
    refuse_header("{\"float\":23}", "{\"palette\":65536}", "stored as Palette(65536)");
}

#[test]
fn a_tensor_that_no_reader_would_take_is_not_written() {
    let mut file = example();
    file.sparse.insert("n".repeat(300), sparse(&[1, 1], vec![1.0]));
    let error = encode(path(), &file, Values::F32).unwrap_err();
    assert!(error.to_string().contains("not written, because it could not be read: a name has 300"), "{error}");
    let mut file = example();
    file.dense.insert("bias".into(), Tensor::new([1], vec![f32::NAN]));
    let error = encode(path(), &file, Values::F32).unwrap_err();
    assert!(error.to_string().contains("tensor \"bias\" [0] is NaN, expected finite"), "{error}");
}

/// `examples/read_srz.py` gives the same tensors, whatever the values.
#[test]
fn the_python_reader_agrees() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/read_srz.py");
    if !Command::new("python3").args(["-c", "import numpy"]).status().is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("SR2_REQUIRE_PYTHON").is_none(), "python3 lacks numpy");
        eprintln!("SKIP: python3 with numpy is not here");
        return;
    }
    let compare = "
import sys; sys.path.insert(0, sys.argv[1])
import numpy as np, read_srz
tensors, metadata = read_srz.read(sys.argv[2])
assert metadata == {'sr2.graph': '{\"name\": \"é\"}'}, metadata
with open(sys.argv[3], 'rb') as file:
    for name in sorted(tensors):
        expected = np.frombuffer(file.read(4 * tensors[name].size), np.uint32)
        assert np.array_equal(tensors[name].reshape(-1).view(np.uint32), expected), name
    assert not file.read(1)
";
    let folder = tempfile::tempdir().unwrap();
    for values in [Values::F32, Values::F16, Values::Int(8), Values::Palette] {
        let mut file = example();
        file.sparse.retain(|name, _| values == Values::F32 || name != "extremes");
        let (path, dense) = (folder.path().join("m.srz"), folder.path().join("dense"));
        write(&path, &file, values).unwrap();
        let back = read(&path).unwrap();
        let mut tensors = back.dense.clone();
        tensors.extend(back.sparse.iter().map(|(name, p)| (name.clone(), p.to_dense())));
        let bytes: Vec<u8> = tensors.values().flat_map(|t| t.data()).flat_map(|v| v.to_le_bytes()).collect();
        fs::write(&dense, bytes).unwrap();
        let arguments = [script.parent().unwrap(), &path, &dense];
        let run = Command::new("python3").args(["-B", "-c", compare]).args(arguments).output().unwrap();
        assert!(run.status.success(), "{values}: {}", String::from_utf8_lossy(&run.stderr));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_weights_round_trip(rows in 1usize..20, cols in 1usize..40, density in 0.0f64..1.0, seed: u64) {
        let mut file = CsrFile::default();
        file.sparse.insert("w".into(), layer(&[rows, cols], density, seed));
        for values in [Values::F32, Values::F16, Values::Int(8), Values::Int(2), Values::Palette] {
            let back = decode(path(), &encode(path(), &file, values).unwrap()).unwrap();
            if values == Values::F32 {
                prop_assert_eq!(&back, &file);
            }
            let again = decode(path(), &encode(path(), &back, Values::F32).unwrap()).unwrap();
            prop_assert_eq!(again, back);
        }
    }
}
