//! Paths in JSON.

use std::path::Path;

use serde::Serializer;

/// A path as text, where JSON takes no other; what is not UTF-8 in it is replaced. For `serialize_with`.
///
/// # Errors
/// Those of the serializer.
pub fn lossy_path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}
