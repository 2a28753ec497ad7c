//! NumPy, SciPy and safetensors (and PyTorch, where it is installed) load the files that are for them.

use std::fs;
use std::path::Path;
use std::process::Command;

use sr2_formats::csr_file::{self, CsrFile, CsrParameter, ValueType};
use sr2_formats::{Tensor, bitmask, npz};

#[test]
fn python_loads_every_format() {
    let packages = "import numpy, scipy, safetensors";
    if !Command::new("python3").args(["-c", packages]).output().is_ok_and(|run| run.status.success()) {
        assert!(std::env::var_os("SR2_REQUIRE_PYTHON").is_none(), "python3 lacks a package of .ci/requirements.txt");
        eprintln!("SKIP: python3 with numpy, scipy and safetensors is not here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (rows, cols) = (9, 35);
    let value = |k: usize| if k.is_multiple_of(7) || k / cols == 4 { (k as f32).sin() } else { 0.0 };
    let tensor = Tensor::new([rows, cols], (0..rows * cols).map(value).collect());
    let parameter = CsrParameter::from_dense(&tensor).unwrap();
    npz::write(at("matrix.npz"), parameter.matrix()).unwrap();
    let file = CsrFile { sparse: [("w".into(), parameter)].into(), ..Default::default() };
    let types =
        [("f32", ValueType::F32), ("f16", ValueType::F16), ("bf16", ValueType::Bf16), ("int8", ValueType::Int8)];
    for (name, values) in types {
        csr_file::write_as(at(&format!("{name}.csr.safetensors")), &file, values).unwrap();
    }
    bitmask::write(at("mask.bitmask.safetensors"), &file).unwrap();
    fs::write(at("dense"), tensor.data().iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    let save = format!(
        "import numpy, sys; numpy.save(sys.argv[1] + '/dense.npy', \
         numpy.fromfile(sys.argv[1] + '/dense', numpy.float32).reshape({rows}, {cols}))"
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/load_formats.py");
    for arguments in [vec!["-c".into(), save.into()], vec![script.into_os_string()]] {
        let run = Command::new("python3").args(arguments).arg(folder.path()).output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success(), "{stdout}{stderr}");
        eprint!("{stdout}");
    }
}
