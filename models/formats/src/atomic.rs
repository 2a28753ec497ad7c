//! The one way files are written: whole and durable, or not at all.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// What the names of temporary files begin with, and how many letters and digits follow.
const PREFIX: &str = ".writing-";
const RANDOM: usize = 6;

/// Writes `path` so that a reader, or a crash at any moment, sees the old file or the complete new one.
///
/// `content` writes into a temporary file in the same folder, which is synced, given the mode the umask asks for and
/// renamed over `path`; then the folder is synced. On any failure the temporary file is removed and `path` is as it
/// was. A symbolic link is followed; anything but a regular file is refused.
pub fn write_atomic(path: impl AsRef<Path>, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    let target = regular_file(path)?;
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    replace(&target, folder, content).map_err(|e| Error::io(path, "write", e))
}

/// Removes the temporary files of writers that were killed. For a folder in which nobody else writes.
///
/// # Errors
/// The operating system's.
pub fn remove_unfinished(folder: impl AsRef<Path>) -> Result<()> {
    let folder = folder.as_ref();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, "list", e))? {
        let entry = entry.map_err(|e| Error::io(folder, "list", e))?;
        if is_temporary(&entry.file_name()) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            fs::remove_file(entry.path()).map_err(|e| Error::io(entry.path(), "remove", e))?;
        }
    }
    Ok(())
}

/// Whether [`write_atomic`] gives its temporary files such names.
pub fn is_temporary(name: &OsStr) -> bool {
    let random = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
    random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Where the file is or will be; refuses to replace folders and devices.
fn regular_file(path: &Path) -> Result<PathBuf> {
    match fs::metadata(path) {
        Err(_) => Ok(path.to_path_buf()),
        Ok(found) if found.is_file() => fs::canonicalize(path).map_err(|e| Error::io(path, "resolve", e)),
        Ok(_) => {
            let problem = io::Error::new(io::ErrorKind::InvalidInput, "exists and is not a regular file");
            Err(Error::io(path, "write", problem))
        }
    }
}

fn replace(target: &Path, folder: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).rand_bytes(RANDOM);
    // Created here, because tempfile's own files are private and its errors name the temporary file.
    let create = |path: &Path| File::options().read(true).write(true).create_new(true).open(path);
    let temporary = builder.make_in(folder, create)?;
    let mut writer = BufWriter::with_capacity(1 << 18, temporary.as_file());
    content(&mut writer)?;
    writer.flush()?;
    drop(writer);
    temporary.as_file().sync_all()?;
    temporary.persist(target).map_err(|e| e.error)?;
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for text in ["first, and longer", "second"] {
            write_atomic(&path, |w| w.write_all(text.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn a_failing_writer_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "old").unwrap();
        let error = write_atomic(&path, |w| {
            w.write_all(&[0; 1 << 20])?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        })
        .unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Io);
        assert!(error.to_string().starts_with(path.to_str().unwrap()), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(folder.path()), ["a"]);
    }

    const CHILD_PATH: &str = "SR2_TEST_ATOMIC_PATH";

    /// Runs itself again under a file size limit of 16 blocks, with the signal ignored, so that write(2) fails.
    #[cfg(unix)]
    #[test]
    fn a_refused_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "old").unwrap();
        let limited = "trap '' XFSZ; ulimit -f 16; exec \"$0\" --exact --ignored atomic::tests::write_one_mebibyte";
        let status = std::process::Command::new("sh")
            .args(["-c", limited])
            .arg(std::env::current_exe().unwrap())
            .env(CHILD_PATH, &path)
            .output()
            .unwrap();
        assert!(status.status.success(), "{status:?}");
        assert!(String::from_utf8_lossy(&status.stdout).contains("1 passed"), "{status:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    #[ignore = "the limited child of a_refused_write_leaves_the_old_file"]
    fn write_one_mebibyte() {
        let path = std::env::var(CHILD_PATH).expect("run by a_refused_write_leaves_the_old_file");
        let error = write_atomic(&path, |w| w.write_all(&[0; 1 << 20])).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Io);
    }

    #[cfg(unix)]
    #[test]
    fn the_mode_is_that_of_any_new_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (path, plain) = (folder.path().join("a"), folder.path().join("plain"));
        write_atomic(&path, |w| w.write_all(b"x")).unwrap();
        fs::write(&plain, "x").unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
    }

    #[cfg(unix)]
    #[test]
    fn follows_a_link_and_refuses_a_device_or_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a"), folder.path().join("link"));
        fs::write(&path, "old").unwrap();
        std::os::unix::fs::symlink("a", &link).unwrap();
        write_atomic(&link, |w| w.write_all(b"new")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        for other in [Path::new("/dev/null"), folder.path()] {
            let error = write_atomic(other, |_| Ok(())).unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
    }

    #[test]
    fn a_missing_folder_is_an_error_that_names_the_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no/a");
        let error = write_atomic(&path, |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Io);
        assert_eq!(
            error.to_string(),
            format!("{}: cannot write: No such file or directory (os error 2)", path.display())
        );
    }

    #[test]
    fn what_killed_writers_left_can_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".writing-aB3xY9", "a", ".writing-notes.txt", "writing-aB3xY9"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        fs::create_dir(folder.path().join(".writing-folder")).unwrap();
        remove_unfinished(folder.path()).unwrap();
        assert_eq!(names(folder.path()), [".writing-folder", ".writing-notes.txt", "a", "writing-aB3xY9"]);
        let absent = folder.path().join("absent");
        assert!(remove_unfinished(&absent).unwrap_err().to_string().starts_with(absent.to_str().unwrap()));
    }
}
