//! The store in etcd v3, for several hosts. One Txn a commit; reads are linearizable, so that a
//! member that is cut off from the others answers nothing rather than something old.

mod failure;
mod members;
mod watch;
mod worker;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse};
use tokio::time::Instant;

use self::members::{Members, kv};
use self::watch::EtcdWatch;
use self::worker::Worker;
use super::limits::{check_commit, check_prefix, check_ranges};
use super::{Condition, Entry, Outcome, Range, Reading, Revision, Store, StoreError, Watch, Write};

/// How to reach etcd. Its `Debug` shows no secrets.
#[derive(Clone)]
pub struct EtcdOptions {
    /// Host and port of each member.
    pub members: Vec<String>,
    /// With TLS: the authority's certificate, and our own certificate and key. All PEM.
    pub tls: Option<(Pem, Option<(Pem, Pem)>)>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// Longest wait for one answer, connecting and trying other members included.
    pub timeout: Duration,
}

/// The content of a PEM file.
pub type Pem = Vec<u8>;

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("members", &self.members)
            .field("tls", &self.tls.is_some())
            .field("user", &self.user.as_ref().map(|(user, _)| user))
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// See the module.
pub struct EtcdStore {
    /// Started by the first call.
    worker: Mutex<Option<Arc<Worker>>>,
    members: Arc<Members>,
}

impl EtcdStore {
    /// A store that connects when it is first asked. It may be called from within an asynchronous
    /// runtime, which it blocks for no longer than its limit.
    pub fn open(options: EtcdOptions) -> Self {
        Self { worker: Mutex::new(None), members: Arc::new(Members::new(options)) }
    }

    fn worker(&self) -> Result<Arc<Worker>, StoreError> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = &*worker {
            return Ok(Arc::clone(worker));
        }
        let started = Arc::new(Worker::start().ok_or_else(|| self.members.unreachable())?);
        *worker = Some(Arc::clone(&started));
        Ok(started)
    }

    /// Runs one call, within the limit.
    fn call<T, F>(
        &self,
        late: impl FnOnce(String) -> StoreError,
        call: impl FnOnce(Arc<Members>, Instant) -> F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let worker = self.worker()?;
        let limit = self.members.limit();
        let future = call(Arc::clone(&self.members), Instant::now() + limit);
        worker.run(limit, future).unwrap_or_else(|| Err(late(self.members.shown.clone())))
    }
}

impl Store for EtcdStore {
    fn read(&self, ranges: &[Range]) -> Result<Reading, StoreError> {
        check_ranges(ranges)?;
        let gets = ranges.iter().map(|range| match range {
            Range::Key(key) => TxnOp::get(key.as_str(), None),
            Range::Prefix(prefix) => {
                TxnOp::get(prefix.as_str(), Some(GetOptions::new().with_prefix()))
            }
        });
        let txn = Txn::new().and_then(gets.collect::<Vec<_>>());
        let answer = self.call(StoreError::Unreachable, |members, deadline| async move {
            let ask = |client| {
                let (txn, members) = (txn.clone(), &members);
                async move { kv(&client).txn(txn).await.map_err(|e| members.judge(&e)) }
            };
            members.ask(deadline, ask).await
        })?;
        let revision = answer.header().ok_or_else(|| self.members.unreachable())?.revision();
        let mut parts = Vec::with_capacity(ranges.len());
        for response in answer.op_responses() {
            if let TxnOpResponse::Get(found) = response {
                let found = found.kvs().iter().map(|e| entry(self.shown(), e));
                parts.push(found.collect::<Result<Vec<_>, _>>()?);
            }
        }
        if parts.len() != ranges.len() {
            return Err(self.members.unreachable());
        }
        Ok(Reading { parts, revision: Revision(revision) })
    }

    fn commit(&self, conditions: &[Condition], writes: &[Write]) -> Result<Outcome, StoreError> {
        check_commit(conditions, writes)?;
        let Some(key) = first_key(conditions, writes) else {
            // Nothing to check, nothing to write.
            return Ok(Outcome::Done(self.list("")?.revision));
        };
        let key = key.to_owned();
        let txn = txn(conditions, writes);
        let answer = self.call(StoreError::Unknown, |members, deadline| async move {
            members.commit(deadline, &key, &txn).await
        })?;
        if !answer.succeeded() {
            return Ok(Outcome::Conflict);
        }
        // It is done, but by which revision is not known.
        let header = answer.header().ok_or_else(|| StoreError::Unknown(self.shown().into()))?;
        Ok(Outcome::Done(Revision(header.revision())))
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        check_prefix(prefix)?;
        if after.0 < 0 {
            // etcd would take it for "from now on".
            return Err(StoreError::Compacted);
        }
        let prefix = prefix.to_owned();
        let stream = self.call(StoreError::Unreachable, |members, deadline| async move {
            watch::begin(&members, deadline, &prefix, after).await
        })?;
        Ok(Box::new(EtcdWatch {
            members: Arc::clone(&self.members),
            worker: self.worker()?,
            stream: Arc::new(tokio::sync::Mutex::new(stream)),
        }))
    }

    fn shown(&self) -> &str {
        &self.members.shown
    }
}

fn first_key<'a>(conditions: &'a [Condition], writes: &'a [Write]) -> Option<&'a str> {
    let mut conditions = conditions.iter().map(|c| match c {
        Condition::Absent(key) | Condition::At(key, _) => key.as_str(),
    });
    let mut writes = writes.iter().map(|w| match w {
        Write::Put(key, _) | Write::Delete(key) => key.as_str(),
    });
    conditions.next().or_else(|| writes.next())
}

fn txn(conditions: &[Condition], writes: &[Write]) -> Txn {
    let compares: Vec<_> = conditions
        .iter()
        .map(|condition| match condition {
            Condition::Absent(key) => Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
            // No key is at a revision below 1, but to etcd one that is absent is at 0.
            Condition::At(key, revision) if revision.0 < 1 => {
                Compare::create_revision(key.as_str(), CompareOp::Less, 0)
            }
            Condition::At(key, revision) => {
                Compare::mod_revision(key.as_str(), CompareOp::Equal, revision.0)
            }
        })
        .collect();
    let operations: Vec<_> = writes
        .iter()
        .map(|write| match write {
            Write::Put(key, value) => TxnOp::put(key.as_str(), value.as_slice(), None),
            Write::Delete(key) => TxnOp::delete(key.as_str(), None),
        })
        .collect();
    Txn::new().when(compares).and_then(operations)
}

fn entry(shown: &str, found: &KeyValue) -> Result<Entry, StoreError> {
    let key = found
        .key_str()
        .map_err(|_| StoreError::Damaged(shown.to_owned(), "a key in it is not text"))?;
    Ok(Entry {
        key: key.to_owned(),
        value: found.value().to_vec(),
        revision: Revision(found.mod_revision()),
    })
}
