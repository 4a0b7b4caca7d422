//! Changes as they come, by asking for the ledger's revision now and then. SQLite tells nobody of
//! another process's commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::counters;
use super::pool::{Pool, ReadError};
use crate::store::limits::end_of_prefix;
use crate::store::{Change, Entry, Revision, StoreError, Watch};

/// How long to wait before the next look.
const PAUSE: Duration = Duration::from_millis(50);
/// One batch ends with the revision that takes it beyond so many changes.
const MOST_CHANGES: usize = 1000;
/// One batch ends with the revision that takes it beyond so many bytes.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// See the module.
pub(super) struct SqliteWatch {
    pool: Arc<Pool>,
    prefix: String,
    after: Revision,
}

impl SqliteWatch {
    /// A watch of all that comes after a revision.
    ///
    /// # Errors
    /// [`StoreError`], [`StoreError::Compacted`] among them.
    pub(super) fn new(pool: Arc<Pool>, prefix: &str, after: Revision) -> Result<Self, StoreError> {
        pool.read(|db| {
            let (_, compacted) = counters(db)?;
            if after.0 < compacted { Err(ReadError::Store(StoreError::Compacted)) } else { Ok(()) }
        })?;
        Ok(Self { pool, prefix: prefix.to_owned(), after })
    }
}

impl Watch for SqliteWatch {
    fn next(&mut self, limit: Duration) -> Result<Vec<Change>, StoreError> {
        let deadline = Instant::now() + limit;
        loop {
            let (changes, seen) = self.pool.read(|db| batch(db, &self.prefix, self.after))?;
            self.after = seen;
            let left = deadline.saturating_duration_since(Instant::now());
            if !changes.is_empty() || left.is_zero() {
                return Ok(changes);
            }
            // What did not fit into the batch but did not match either is looked at without haste.
            std::thread::sleep(left.min(PAUSE));
        }
    }
}

/// The changes of whole revisions after `after`, and the revision up to which they are complete.
fn batch(
    db: &Connection,
    prefix: &str,
    after: Revision,
) -> Result<(Vec<Change>, Revision), ReadError> {
    let view = db.unchecked_transaction()?;
    let (revision, compacted) = counters(&view)?;
    if after.0 < compacted {
        return Err(ReadError::Store(StoreError::Compacted));
    }
    if revision <= after.0 {
        return Ok((Vec::new(), after));
    }
    let mut query = view.prepare_cached(
        "SELECT revision, key, value FROM changes
         WHERE revision > ?1 AND key >= ?2 AND (?3 IS NULL OR key < ?3)
         ORDER BY revision, position",
    )?;
    let mut rows = query.query(params![after.0, prefix, end_of_prefix(prefix)])?;
    let mut changes = Vec::new();
    let mut bytes = 0;
    let mut last = after.0;
    while let Some(row) = rows.next()? {
        let at: i64 = row.get(0)?;
        if at != last && (changes.len() >= MOST_CHANGES || bytes >= MOST_BYTES) {
            return Ok((changes, Revision(last)));
        }
        last = at;
        let key: String = row.get(1)?;
        let value: Option<Vec<u8>> = row.get(2)?;
        bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        changes.push(match value {
            Some(value) => Change::Put(Entry { key, value, revision: Revision(at) }),
            None => Change::Deleted(key, Revision(at)),
        });
    }
    Ok((changes, Revision(revision)))
}
