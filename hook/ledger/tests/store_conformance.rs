//! One suite that SQLite and etcd both pass, and the faults of each.

// All of this is tests; clippy only knows the functions that are marked so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "store/etcd_faults.rs"]
mod etcd_faults;
#[path = "store/etcd_server.rs"]
mod etcd_server;
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

#[test]
fn etcd_one_member() {
    let Some(cluster) = etcd_server::Cluster::start(1, &[]) else { return };
    let store: Arc<dyn Store> = Arc::new(cluster.store(LIMIT));
    suite::all(&store);
}

/// One of three members is killed in the middle; the suite goes on with the other two.
#[test]
fn etcd_three_members_one_killed() {
    let Some(mut cluster) = etcd_server::Cluster::start(3, &[]) else { return };
    let store: Arc<dyn Store> = Arc::new(cluster.store(LIMIT));
    let (before, after) = suite::CASES.split_at(suite::CASES.len() / 2);
    suite::cases(&store, before);
    // The one that the store talks to, as it is the first.
    cluster.members[0].kill();
    // Were it the leader, the others would elect another first.
    store.list("/").unwrap();
    suite::cases(&store, after);
}
