//! A folder that appears whole: filled under another name, then moved into place.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use sr2_formats::{Error, is_temporary};
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

/// What the names of the folders begin with in which exports are made.
const PREFIX: &str = ".exporting-";

/// An export that is being written. Dropped before [`Staging::publish`], it leaves nothing behind.
pub struct Staging {
    folder: TempDir,
    /// Locked while this export is written, so that another one does not take the folder for left behind.
    _held: Option<File>,
    parent: PathBuf,
    target: PathBuf,
}

impl Staging {
    /// A fresh folder beside `target`, which must not exist, be empty or hold an older export. What exports that were
    /// killed have left beside it goes; an older export that one of them had moved away comes back.
    pub fn new(target: &Path) -> Result<Self, ExportError> {
        let target = match fs::symlink_metadata(target) {
            Ok(_) => fs::canonicalize(target).map_err(|e| Error::io(target, "resolve", e))?,
            Err(_) => target.to_path_buf(),
        };
        if target.exists() {
            let foreign = locate::entries(&target)?.into_iter().map(|path| name(&path)).find(|name| !is_ours(name));
            if let Some(found) = foreign {
                return Err(ExportError::ForeignFolder { folder: target, found });
            }
        }
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        fs::create_dir_all(&parent).map_err(|e| Error::io(&parent, "create", e))?;
        let _turn = locked(&parent);
        recover(&parent);
        let folder = temporary(&parent).map_err(|e| Error::io(&parent, "create a folder", e))?;
        let _held = locked(folder.path());
        Ok(Self { folder, _held, parent, target })
    }

    /// Where a file of the export is to be written.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Moves the folder to its place, and the older export, if any, out of it; on failure the older one stays.
    pub fn publish(self) -> Result<(), ExportError> {
        let Self { folder, parent, target, .. } = self;
        let _turn = locked(&parent);
        publish(folder, &parent, &target).map_err(|e| Error::io(&target, "replace", e).into())
    }
}

fn publish(folder: TempDir, parent: &Path, target: &Path) -> io::Result<()> {
    let sync = || if cfg!(unix) { File::open(parent)?.sync_all() } else { Ok(()) };
    if target.exists() && exchange(folder.path(), target).is_ok() {
        // What is removed now is the older export.
        return sync();
    }
    let aside = temporary(parent)?;
    let older = aside.path().join(target.file_name().unwrap_or_default());
    let had_older = target.exists();
    if had_older {
        fs::rename(target, &older)?;
    }
    if let Err(error) = fs::rename(folder.path(), target) {
        return Err(if had_older { put_back(aside, &older, target, error) } else { error });
    }
    // It is no longer there to be removed.
    let _ = folder.keep();
    sync()
}

/// Puts the new export into the place of the older one, and that into its own, in one step.
#[cfg(target_os = "linux")]
fn exchange(new: &Path, older: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, new, CWD, older, RenameFlags::EXCHANGE)?)
}

/// No such step here.
#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Moves an older export back after `error`; where that fails too, it stays where it is, and the error names the place.
fn put_back(aside: TempDir, older: &Path, target: &Path, error: io::Error) -> io::Error {
    if fs::rename(older, target).is_ok() {
        return error;
    }
    let _ = aside.keep();
    io::Error::new(error.kind(), format!("{error}; the older export is in {}", older.display()))
}

/// Removes the folders of exports that were killed, and puts back the older exports in them whose place is free. What
/// cannot be moved or removed stays.
fn recover(parent: &Path) {
    let left = locate::entries(parent).unwrap_or_default();
    for folder in left.into_iter().filter(|path| name(path).starts_with(PREFIX) && is_free_folder(path)) {
        let inside = locate::entries(&folder).unwrap_or_default();
        for older in inside.iter().filter(|path| path.is_dir() && is_export(path)) {
            let place = parent.join(older.file_name().unwrap_or_default());
            if !place.exists() {
                let _ = fs::rename(older, place);
            }
        }
        let inside = locate::entries(&folder).unwrap_or_default();
        if inside.iter().all(|path| if path.is_dir() { is_export(path) } else { is_part(path) }) {
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

/// Whether a folder holds nothing but what an export writes.
fn is_export(folder: &Path) -> bool {
    locate::entries(folder).is_ok_and(|inside| inside.iter().all(|path| !path.is_dir() && is_part(path)))
}

/// Whether an export writes a file of this name, or such a one before it has its name.
fn is_part(path: &Path) -> bool {
    is_ours(&name(path)) || path.file_name().is_some_and(is_temporary)
}

/// Whether this is a folder, no link to one, that no export holds.
fn is_free_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
        && File::open(path).is_ok_and(|folder| folder.try_lock().is_ok())
}

/// Locks a folder until the file is dropped; `None` where the system cannot.
fn locked(folder: &Path) -> Option<File> {
    let folder = File::open(folder).ok()?;
    folder.lock().ok().map(|()| folder)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A folder with the mode that the umask asks for, where tempfile's own is private.
fn temporary(parent: &Path) -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX);
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

    #[cfg(target_os = "linux")]
    #[test]
    fn two_folders_are_exchanged() {
        let parent = tempfile::tempdir().unwrap();
        let [new, older] = ["new", "older"].map(|name| {
            let folder = parent.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join(README), name).unwrap();
            folder
        });
        exchange(&new, &older).unwrap();
        let texts = [&new, &older].map(|folder| fs::read_to_string(folder.join(README)).unwrap());
        assert_eq!(texts, ["older", "new"]);
    }

    #[test]
    fn an_older_export_that_cannot_be_put_back_is_kept_and_named() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("export");
        staged(&target, "in the way").publish().unwrap();
        let aside = temporary(parent.path()).unwrap();
        let older = aside.path().join("export");
        fs::create_dir(&older).unwrap();
        fs::write(older.join(README), "older").unwrap();
        let error = put_back(aside, &older, &target, io::ErrorKind::StorageFull.into());
        assert!(error.to_string().contains(older.to_str().unwrap()), "{error}");
        assert_eq!(fs::read_to_string(older.join(README)).unwrap(), "older");
    }

    #[test]
    fn what_killed_exports_left_goes_or_comes_back() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        let write = |name: &str| {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), name).unwrap();
        };
        write(".exporting-killed/.writing-aB3xY9");
        write(".exporting-killed/model.srz");
        write(".exporting-moved/export/README.md");
        write(".exporting-foreign/thesis.tex");
        fs::create_dir(at(".exporting-held")).unwrap();
        let held = File::open(at(".exporting-held")).unwrap();
        held.lock().unwrap();
        let staging = Staging::new(&at("other")).unwrap();
        assert_eq!(fs::read_to_string(at("export/README.md")).unwrap(), ".exporting-moved/export/README.md");
        let second = Staging::new(&at("export")).unwrap();
        assert!(staging.file("").is_dir() && second.file("").is_dir(), "two exports at once");
        drop((staging, second));
        assert_eq!(names(parent.path()), [".exporting-foreign", ".exporting-held", "export"]);
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
