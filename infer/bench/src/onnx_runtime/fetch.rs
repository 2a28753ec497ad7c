//! Fetching the ONNX Runtime library: one pinned wheel by pip, checked by its hash, and only the library kept.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{OnnxRuntime, OnnxRuntimeError, Place, library_in};

/// The version that [`fetch_onnx_runtime`] brings.
pub const FETCHED_VERSION: &str = "1.32.0";

pub(super) const PYTHON: &str = if cfg!(windows) { "python" } else { "python3" };

/// The wheel of one platform. The library in it does not depend on the version of Python.
struct Wheel {
    platform: &'static str,
    sha256: &'static str,
}

#[rustfmt::skip]
fn wheel() -> Option<Wheel> {
    let (platform, sha256) = match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => ("manylinux_2_28_x86_64", "99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8"),
        ("linux", "aarch64") => ("manylinux_2_28_aarch64", "e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054"),
        ("macos", "aarch64") => ("macosx_14_0_arm64", "d52510bbbcc880c13b826f7d75cdf33ac5cf0bb864d960000fc29ce73f0cb83e"),
        ("windows", "x86_64") => ("win_amd64", "efe7456952c243a05a53d5b8732953625144642c2f3989094277f6217f0c0c40"),
        _ => return None,
    };
    Some(Wheel { platform, sha256 })
}

/// The folder under the cache that holds the fetched library.
pub(super) fn folder(cache: &Path) -> PathBuf {
    cache.join(format!("onnxruntime-{FETCHED_VERSION}"))
}

/// Brings the pinned ONNX Runtime library into `cache`, unless it is there already.
///
/// `python3 -m pip` downloads one wheel and refuses it unless its SHA-256 is the pinned one; of the wheel only the
/// library is kept. The folder appears whole or not at all.
pub fn fetch_onnx_runtime(cache: &Path) -> Result<OnnxRuntime, OnnxRuntimeError> {
    let target = folder(cache);
    if library_in(&target).is_none() {
        fetch(cache, &target).map_err(|problem| OnnxRuntimeError::Fetch { problem })?;
    }
    OnnxRuntime::at(&target, Place::Cache)
}

fn fetch(cache: &Path, target: &Path) -> Result<(), String> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let wheel = wheel().ok_or_else(|| format!("no wheel is pinned for {arch} {os}; install it and use --ort FILE"))?;
    fs::create_dir_all(cache).map_err(|e| format!("{}: cannot create: {e}", cache.display()))?;
    let partial = tempfile::tempdir_in(cache).map_err(|e| format!("{}: cannot write: {e}", cache.display()))?;
    let downloads = partial.path().join("download");
    let requirements = partial.path().join("requirements.txt");
    let line = format!("onnxruntime=={FETCHED_VERSION} --hash=sha256:{}\n", wheel.sha256);
    fs::write(&requirements, line).map_err(|e| format!("{}: cannot write: {e}", requirements.display()))?;
    let pip = "-m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
               --implementation cp --python-version 3.12 --abi cp312 --platform";
    let arguments = pip.split_whitespace().chain([wheel.platform]).map(OsStr::new);
    let files = ["-r".as_ref(), requirements.as_os_str(), "-d".as_ref(), downloads.as_os_str()];
    python(arguments.chain(files))?;

    let library = partial.path().join("library");
    python(["-c".as_ref(), UNPACK.as_ref(), downloads.as_os_str(), library.as_os_str()])?;
    match fs::rename(&library, target) {
        // Another process may have been first; what it brought is the same.
        Err(_) if library_in(target).is_some() => Ok(()),
        result => result.map_err(|e| format!("{}: cannot create: {e}", target.display())),
    }
}

/// Copies the library, and nothing else, out of the one wheel of a folder.
const UNPACK: &str = "
import pathlib, re, sys, zipfile
downloads, library = map(pathlib.Path, sys.argv[1:])
library.mkdir()
[wheel] = downloads.glob('*.whl')
with zipfile.ZipFile(wheel) as archive:
    pattern = r'onnxruntime/capi/((lib)?onnxruntime\\.(so|dll|dylib|[0-9])[0-9a-z.]*)'
    found = [match for match in map(re.compile(pattern).fullmatch, archive.namelist()) if match]
    for match in found:
        (library / match[1]).write_bytes(archive.read(match[0]))
    if not found:
        sys.exit(f'{wheel.name} holds no onnxruntime library')
";

fn python<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<(), String> {
    let output = Command::new(PYTHON).args(arguments).output().map_err(|e| format!("cannot start {PYTHON}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
    Err(format!("{PYTHON}: {last}"))
}
