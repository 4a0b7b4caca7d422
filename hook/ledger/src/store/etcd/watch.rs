//! Changes as etcd streams them. Nothing runs between two calls of `next`: what has come meanwhile
//! waits in the connection, no more than its window.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::entry;
use super::failure::Fault;
use super::members::{LARGEST_ANSWER, Members};
use super::worker::Worker;
use crate::store::{Change, Revision, StoreError, Watch};

/// See the module.
pub(super) struct EtcdWatch {
    pub(super) members: Arc<Members>,
    pub(super) worker: Arc<Worker>,
    pub(super) stream: Arc<Mutex<WatchStream>>,
}

/// Begins a stream of what comes after a revision.
///
/// # Errors
/// [`StoreError`].
pub(super) async fn begin(
    members: &Members,
    deadline: Instant,
    prefix: &str,
    after: Revision,
) -> Result<WatchStream, StoreError> {
    members
        .ask(deadline, |client| async move {
            // Not in fragments: a revision must not be handed out in two parts.
            let options =
                WatchOptions::new().with_prefix().with_start_revision(after.0.saturating_add(1));
            let mut client = client.watch_client().max_decoding_message_size(LARGEST_ANSWER);
            let stream = client.watch(prefix, Some(options)).await;
            let mut stream = stream.map_err(|e| members.judge(&e))?;
            let first = stream.message().await.map_err(|e| members.judge(&e))?;
            let first = first.ok_or(Fault::Again)?;
            if first.canceled() {
                return Err(Fault::Final(why_canceled(members, &first)));
            }
            Ok(stream)
        })
        .await
}

fn why_canceled(members: &Members, answer: &WatchResponse) -> StoreError {
    if answer.compact_revision() > 0 {
        StoreError::Compacted
    } else if answer.cancel_reason().contains("denied") {
        StoreError::Denied(members.shown.clone())
    } else {
        members.unreachable()
    }
}

impl Watch for EtcdWatch {
    fn next(&mut self, limit: Duration) -> Result<Vec<Change>, StoreError> {
        let (members, stream) = (Arc::clone(&self.members), Arc::clone(&self.stream));
        self.worker
            .run(limit, async move {
                let deadline = Instant::now() + limit;
                let mut stream = stream.lock().await;
                loop {
                    // Cut short, this loses nothing: what has half arrived stays in the stream.
                    match timeout_at(deadline, stream.message()).await {
                        Err(_) => return Ok(Vec::new()),
                        Ok(Err(error)) => {
                            return Err(match members.judge(&error) {
                                Fault::Final(error) => error,
                                Fault::Again | Fault::Broken => members.unreachable(),
                            });
                        }
                        Ok(Ok(None)) => return Err(members.unreachable()),
                        Ok(Ok(Some(answer))) if answer.canceled() => {
                            return Err(why_canceled(&members, &answer));
                        }
                        Ok(Ok(Some(answer))) if answer.events().is_empty() => {}
                        Ok(Ok(Some(answer))) => return changes(&members, &answer),
                    }
                }
            })
            .unwrap_or_else(|| Err(self.members.unreachable()))
    }
}

fn changes(members: &Members, answer: &WatchResponse) -> Result<Vec<Change>, StoreError> {
    let change = |event: &etcd_client::Event| {
        let entry = entry(&members.shown, event.kv()?);
        Some(entry.map(|entry| match event.event_type() {
            EventType::Put => Change::Put(entry),
            EventType::Delete => Change::Deleted(entry.key, entry.revision),
        }))
    };
    answer.events().iter().filter_map(change).collect()
}
