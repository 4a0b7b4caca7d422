//! How long a start of a container waits for its ledger: open, one read, one commit; medians of 50.
//!
//!     cargo bench -p gpuctl-ledger --bench store_times

// Measuring is no product: what does not work ends it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/store/etcd_server.rs"]
#[allow(dead_code)]
mod etcd_server;

use std::time::{Duration, Instant};

use gpuctl_ledger::store::{Outcome, SqliteStore, Store, Write};

/// As in the default config.
const LIMIT: Duration = Duration::from_secs(5);

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    measure("sqlite", || Box::new(SqliteStore::open(&path, LIMIT).unwrap()));
    let Some(cluster) = etcd_server::Cluster::start(1, &[]) else { return };
    measure("etcd", || Box::new(cluster.store(LIMIT)));
}

fn measure(name: &str, open: impl Fn() -> Box<dyn Store>) {
    put(&*open(), b"1");
    let mut rounds: Vec<_> = (0..50)
        .map(|_| {
            let begun = Instant::now();
            let store = open();
            let opened = begun.elapsed();
            store.get("/a").unwrap();
            let read = begun.elapsed();
            put(&*store, b"2");
            let written = begun.elapsed();
            drop(store);
            [opened, read - opened, written - read, begun.elapsed() - written]
        })
        .collect();
    rounds.sort_by_key(|round| round.iter().sum::<Duration>());
    let [open, get, commit, drop] = rounds[rounds.len() / 2];
    println!("{name}: open {open:?}, get {get:?}, commit {commit:?}, drop {drop:?}");
}

fn put(store: &dyn Store, value: &[u8]) {
    let outcome = store.commit(&[], &[Write::Put("/a".into(), value.to_vec())]).unwrap();
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
}
