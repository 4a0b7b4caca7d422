//! One suite that SQLite and etcd both pass, and the faults of each.

#[path = "store/sqlite_faults.rs"]
mod sqlite_faults;
#[path = "store/suite.rs"]
mod suite;

use std::sync::Arc;
use std::time::Duration;

use gpuctl_ledger::store::{SqliteStore, Store};

/// As in the default config.
const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn sqlite_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&path, LIMIT).unwrap());
    suite::all(&store);
}

#[test]
fn sqlite_memory() {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory(LIMIT).unwrap());
    suite::all(&store);
}
