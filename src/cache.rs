//! The folder for what is fetched once.

use std::path::PathBuf;

use etcetera::BaseStrategy;

/// `sr2-prune` in the user's cache folder; `None` where there is no home folder.
pub fn folder() -> Option<PathBuf> {
    Some(etcetera::choose_base_strategy().ok()?.cache_dir().join("sr2-prune"))
}
