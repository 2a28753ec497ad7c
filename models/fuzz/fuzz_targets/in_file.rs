//! The bytes of one input as a file, for readers that take a path.

use std::cell::OnceCell;
use std::path::Path;

use tempfile::TempDir;

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// Writes `bytes` to a file called `name` and gives its path to `read`.
pub fn in_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    FOLDER.with(|folder| {
        let path = folder.get_or_init(|| tempfile::tempdir().expect("a temporary folder")).path().join(name);
        std::fs::write(&path, bytes).expect("a temporary file");
        read(&path);
    });
}
