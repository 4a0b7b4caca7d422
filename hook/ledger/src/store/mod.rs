//! A small key-value store with revisions: get, list, one atomic commit of conditions and writes,
//! watch. SQLite and etcd stand behind it and behave the same: `tests/store_conformance.rs` holds both to it.
//!
//! Calls block, each no longer than the limit the store was opened with.

mod etcd;
mod limits;
mod settings;
mod sqlite;

use std::time::Duration;

pub use etcd::{EtcdOptions, EtcdStore, Pem};
pub use limits::{LARGEST_COMMIT, LARGEST_VALUE, LONGEST_KEY, MOST_OPERATIONS};
pub use settings::open;
pub use sqlite::SqliteStore;

/// A store-wide counter that grows with every commit. Never 0 for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key: printable ASCII.
    pub key: String,
    /// The value: at most 1 MiB.
    pub value: Vec<u8>,
    /// The commit that last wrote it.
    pub revision: Revision,
}

/// What a prefix held at one revision, in key order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The entries, by key.
    pub entries: Vec<Entry>,
    /// The store's revision at that moment.
    pub revision: Revision,
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Range {
    /// The entry under this key, if there is one.
    Key(String),
    /// All entries whose key begins with this.
    Prefix(String),
}

/// What several ranges held at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// By range, as asked: its entries, in key order.
    pub parts: Vec<Vec<Entry>>,
    /// The store's revision at that moment.
    pub revision: Revision,
}

/// What must be so for a commit to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key has no value.
    Absent(String),
    /// The key was last written by this revision.
    At(String, Revision),
}

/// One write of a commit. A commit names each key at most once among its writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Set the key.
    Put(String, Vec<u8>),
    /// Remove the key; not there is no fault.
    Delete(String),
}

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// All writes are durable; the new revision.
    Done(Revision),
    /// A condition did not hold; nothing was written.
    Conflict,
}

/// A change seen by a watch: the key's new value, or its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Written.
    Put(Entry),
    /// Removed by this revision.
    Deleted(String, Revision),
}

/// Why a store did not do it. The texts are made here: no raw text of etcd, SQLite or the OS, some
/// of whose words Docker takes for exit codes, ever passes through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It could not be reached, or did not answer in time. Nothing was sent, or only a read.
    #[error("the ledger {0} cannot be reached")]
    Unreachable(String),
    /// A commit was sent and its answer did not come: it may or may not have happened. Read it back
    /// by its token, never repeat it blindly.
    #[error("the ledger {0} did not answer in time; the change may or may not be written")]
    Unknown(String),
    /// Reads work, writes do not: read-only file, full disk, no quorum alarm.
    #[error("the ledger {0} cannot be written: {1}")]
    NotWritable(String, &'static str),
    /// Credentials were refused.
    #[error("the ledger {0} refuses our credentials")]
    Denied(String),
    /// It is not a ledger, or is damaged.
    #[error("the ledger {0} is damaged: {1}")]
    Damaged(String, &'static str),
    /// A watch asked for revisions that are no longer kept: list again, and watch from there.
    #[error("the ledger no longer keeps that revision")]
    Compacted,
    /// What the config says of the ledger cannot be.
    #[error("the ledger's settings are wrong: {0}")]
    Settings(&'static str),
    /// A key or value breaks the store's limits.
    #[error("the record is too large or its key malformed")]
    BadRecord,
}

/// See the module.
pub trait Store: Send + Sync {
    /// Several ranges in one consistent view: one round trip.
    ///
    /// # Errors
    /// [`StoreError`], never [`StoreError::Unknown`].
    fn read(&self, ranges: &[Range]) -> Result<Reading, StoreError>;

    /// The entry under a key.
    ///
    /// # Errors
    /// As [`Store::read`].
    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let read = self.read(&[Range::Key(key.to_owned())])?;
        Ok(read.parts.into_iter().flatten().next())
    }

    /// All entries whose key begins with `prefix`, in one consistent view.
    ///
    /// # Errors
    /// As [`Store::read`].
    fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let Reading { parts, revision } = self.read(&[Range::Prefix(prefix.to_owned())])?;
        Ok(Listing { entries: parts.into_iter().flatten().collect(), revision })
    }

    /// All writes if all conditions hold, else none. Durable when it returns.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unknown`] it may have happened.
    fn commit(&self, conditions: &[Condition], writes: &[Write]) -> Result<Outcome, StoreError>;

    /// Changes under `prefix` by revisions greater than `after`, in order of revision, each once.
    ///
    /// # Errors
    /// As [`Store::read`], and [`StoreError::Compacted`].
    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError>;

    /// What people call it: `sqlite:///var/lib/gpuctl/ledger.db`, `etcd://host:2379`. No secrets.
    fn shown(&self) -> &str;
}

/// A stream of changes.
pub trait Watch: Send {
    /// The next changes, at least one, or an empty list when `limit` has passed without any.
    ///
    /// # Errors
    /// As [`Store::watch`]. After an error, watch anew from the last revision seen.
    fn next(&mut self, limit: Duration) -> Result<Vec<Change>, StoreError>;
}
