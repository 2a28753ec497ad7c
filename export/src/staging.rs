//! A folder that appears whole: filled under another name, then moved into place.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use sr2_formats::Error;
use tempfile::TempDir;

use crate::{ExportError, OnnxForm, locate};

/// The model card.
pub const README: &str = "README.md";
/// The description for programs.
pub const CONFIG: &str = "config.json";
/// Dense safetensors, batch norm unfolded.
pub const DENSE: &str = "model.safetensors";
/// CSR safetensors, batch norm folded.
pub const CSR: &str = "model.csr.safetensors";
/// The small container, batch norm folded.
pub const SRZ: &str = "model.srz";

/// Name of the first ONNX file, and of a further one by its form.
pub fn onnx_name(further: Option<OnnxForm>) -> String {
    further.map_or("model.onnx".into(), |form| format!("model.{form}.onnx"))
}

/// Whether an export may hold a file of this name.
fn is_ours(name: &str) -> bool {
    let onnx = std::iter::once(None).chain(OnnxForm::ALL.map(Some)).map(onnx_name);
    [README, CONFIG, DENSE, CSR, SRZ].contains(&name) || onnx.into_iter().any(|onnx| onnx == name)
}

/// An export that is being written. Dropped before [`Staging::publish`], it leaves nothing behind.
pub struct Staging {
    folder: TempDir,
    parent: PathBuf,
    target: PathBuf,
}

impl Staging {
    /// A fresh folder beside `target`, which must not exist, be empty or hold an older export.
    pub fn new(target: &Path) -> Result<Self, ExportError> {
        let target = match fs::symlink_metadata(target) {
            Ok(_) => fs::canonicalize(target).map_err(|e| Error::io(target, "resolve", e))?,
            Err(_) => target.to_path_buf(),
        };
        if target.exists() {
            let name = |path: PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(found) = locate::entries(&target)?.into_iter().map(name).find(|name| !is_ours(name)) {
                return Err(ExportError::ForeignFolder { folder: target, found });
            }
        }
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        fs::create_dir_all(&parent).map_err(|e| Error::io(&parent, "create", e))?;
        let folder = temporary(&parent).map_err(|e| Error::io(&parent, "create a folder", e))?;
        Ok(Self { folder, parent, target })
    }

    /// Where a file of the export is to be written.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Moves the folder to its place, and the older export, if any, out of it; on failure the older one stays.
    pub fn publish(self) -> Result<(), ExportError> {
        let Self { folder, parent, target } = self;
        publish(folder, &parent, &target).map_err(|e| Error::io(&target, "replace", e).into())
    }
}

fn publish(folder: TempDir, parent: &Path, target: &Path) -> io::Result<()> {
    let replaced = temporary(parent)?;
    let older = replaced.path().join("older");
    let had_older = target.exists();
    if had_older {
        fs::rename(target, &older)?;
    }
    if let Err(error) = fs::rename(folder.path(), target) {
        if had_older {
            fs::rename(&older, target)?;
        }
        return Err(error);
    }
    // It is no longer there to be removed.
    let _ = folder.keep();
    if cfg!(unix) { File::open(parent)?.sync_all() } else { Ok(()) }
}

/// A folder with the mode that the umask asks for, where tempfile's own is private.
fn temporary(parent: &Path) -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".exporting-");
    #[cfg(unix)]
    let builder = {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o777))
    };
    builder.tempdir_in(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged(target: &Path, text: &str) -> Staging {
        let staging = Staging::new(target).unwrap();
        fs::write(staging.file(README), text).unwrap();
        staging
    }

    fn names(folder: &Path) -> Vec<String> {
        locate::entries(folder).unwrap().iter().map(|p| p.file_name().unwrap().to_str().unwrap().into()).collect()
    }

    #[test]
    fn appears_whole_and_replaces_an_older_export() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("a/export");
        for text in ["first", "second"] {
            staged(&target, text).publish().unwrap();
            assert_eq!(fs::read_to_string(target.join(README)).unwrap(), text);
            assert_eq!(names(target.parent().unwrap()), ["export"]);
        }
        drop(staged(&target, "never published"));
        assert_eq!(fs::read_to_string(target.join(README)).unwrap(), "second");
        assert_eq!(names(target.parent().unwrap()), ["export"]);
    }

    #[test]
    fn leaves_a_folder_alone_that_holds_anything_else() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("thesis.tex"), "").unwrap();
        let error = Staging::new(parent.path()).err().unwrap();
        assert!(matches!(&error, ExportError::ForeignFolder { found, .. } if found == "thesis.tex"), "{error}");
        let error = Staging::new(&parent.path().join("thesis.tex")).err().unwrap();
        assert!(matches!(&error, ExportError::File(e) if e.kind() == sr2_formats::ErrorKind::Io), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn has_the_mode_of_any_new_folder() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let (target, plain) = (parent.path().join("export"), parent.path().join("plain"));
        staged(&target, "").publish().unwrap();
        fs::create_dir(&plain).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&target), mode(&plain));
    }
}
