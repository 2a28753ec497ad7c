//! Which file of a model each engine reads.

use std::path::{Path, PathBuf};

use sr2_formats::Error;

/// The files of one network: what the engine reads, and what ONNX Runtime reads, if there is such a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelFiles {
    native: PathBuf,
    onnx: Option<PathBuf>,
}

const CSR: &str = "csr.safetensors";
const SRZ: &str = "srz";
const ONNX: &str = "onnx";

impl ModelFiles {
    /// The files of an export folder, or of one of its files and the file beside it.
    pub(crate) fn find(model: &Path) -> Result<Self, Error> {
        let metadata = std::fs::metadata(model).map_err(|e| Error::io(model, "read", e))?;
        let ends_with = |path: &Path, ending: &str| path.extension().is_some_and(|extension| extension == ending);
        let stem = model.with_extension("");
        let stem = if metadata.is_dir() {
            model.join("model")
        } else if ends_with(model, ONNX) {
            return Ok(Self { native: model.to_path_buf(), onnx: Some(model.to_path_buf()) });
        } else if ends_with(model, SRZ) {
            stem
        } else if ends_with(model, "safetensors") && ends_with(&stem, "csr") {
            stem.with_extension("")
        } else {
            let problem = format!("expected an export folder, a .{ONNX}, a .{SRZ} or a .{CSR} file");
            return Err(Error::unsupported(model, problem));
        };
        let existing = |ending| Some(stem.with_added_extension(ending)).filter(|path| path.exists());
        let onnx = existing(ONNX);
        let named = metadata.is_file().then(|| model.to_path_buf());
        match named.or(existing(CSR)).or(existing(SRZ)).or(onnx.clone()) {
            Some(native) => Ok(Self { native, onnx }),
            None => Err(Error::unsupported(model, format!("holds none of model.{CSR}, model.{SRZ}, model.{ONNX}"))),
        }
    }

    /// The file that the engine reads, sparse or dense.
    pub(crate) fn native(&self) -> &Path {
        &self.native
    }

    /// The file that ONNX Runtime reads.
    pub(crate) fn onnx(&self) -> Option<&Path> {
        self.onnx.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engine_gets_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let find = |name: &str| ModelFiles::find(&at(name));
        let message = |name: &str| find(name).unwrap_err().to_string();
        assert!(message("").ends_with("holds none of model.csr.safetensors, model.srz, model.onnx"), "{}", message(""));
        std::fs::write(at("model.onnx"), "").unwrap();
        let onnx = ModelFiles { native: at("model.onnx"), onnx: Some(at("model.onnx")) };
        assert_eq!((find("").unwrap(), find("model.onnx").unwrap()), (onnx.clone(), onnx.clone()));

        std::fs::write(at("model.csr.safetensors"), "").unwrap();
        let both = ModelFiles { native: at("model.csr.safetensors"), onnx: Some(at("model.onnx")) };
        assert_eq!((find("").unwrap(), find("model.csr.safetensors").unwrap()), (both.clone(), both));
        assert_eq!(find("model.onnx").unwrap(), onnx);

        std::fs::write(at("model.srz"), "").unwrap();
        let named = ModelFiles { native: at("model.srz"), onnx: Some(at("model.onnx")) };
        assert_eq!(find("model.srz").unwrap(), named);

        std::fs::write(at("v1.2.onnx"), "").unwrap();
        std::fs::write(at("v1.2.srz"), "").unwrap();
        assert_eq!(find("v1.2.srz").unwrap().onnx(), Some(&*at("v1.2.onnx")));

        std::fs::write(at("model.pt"), "").unwrap();
        assert!(message("model.pt").contains("expected an export folder"), "{}", message("model.pt"));
        assert!(message("missing").contains("cannot read"), "{}", message("missing"));
    }

    #[cfg(unix)]
    #[test]
    fn names_need_not_be_utf8() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;

        let folder = tempfile::tempdir().unwrap();
        let at = |name: &[u8]| folder.path().join(OsStr::from_bytes(name));
        for name in [&b"a\xff.csr.safetensors"[..], b"a\xff.onnx"] {
            std::fs::write(at(name), "").unwrap();
        }
        let expected = ModelFiles { native: at(b"a\xff.csr.safetensors"), onnx: Some(at(b"a\xff.onnx")) };
        assert_eq!(ModelFiles::find(&at(b"a\xff.csr.safetensors")).unwrap(), expected);
    }
}
