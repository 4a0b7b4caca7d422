//! The store in one SQLite file on a local disk, for a single host, or in memory for tests.
//!
//! Write-ahead log with full sync; every write is one BEGIN IMMEDIATE. The limit bounds the waits
//! for locks; a disk that hangs is beyond it.

mod failure;
mod file;
mod pool;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use self::failure::{at_commit, before_commit};
use self::pool::Pool;
use self::watch::SqliteWatch;
use super::limits::{check_commit, check_prefix, check_ranges, end_of_prefix};
use super::{Condition, Entry, Outcome, Range, Reading, Revision, Store, StoreError, Watch, Write};

/// So many of the newest revisions are kept for watches.
const KEPT_REVISIONS: i64 = 10_000;
/// Older ones are removed every so many revisions.
const TRIM_EVERY: i64 = 256;

/// See the module. Clones are the same store.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    pool: Arc<Pool>,
}

impl SqliteStore {
    /// Opens the ledger at an absolute path, and creates it, and its folder, if there is none.
    /// `limit` is the longest wait for the locks of others.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Damaged`] when the file is no ledger, broken, or newer.
    pub fn open(path: &Path, limit: Duration) -> Result<Self, StoreError> {
        let shown = format!("sqlite://{}", path.display());
        file::provide(path, &shown)?;
        let pool = Pool::of_file(PathBuf::from(path), shown, limit);
        pool.try_out()?;
        Ok(Self { pool: Arc::new(pool) })
    }

    /// A ledger of its own in memory, gone with its last clone.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when there is no memory for it.
    pub fn in_memory(limit: Duration) -> Result<Self, StoreError> {
        let shown = "sqlite::memory:";
        let db = Connection::open_in_memory()
            .and_then(|db| file::set_up_tables(&db).map(|()| db))
            .map_err(|e| before_commit(shown, &e))?;
        Ok(Self { pool: Arc::new(Pool::of_memory(db, shown.into(), limit)) })
    }
}

impl Store for SqliteStore {
    fn read(&self, ranges: &[Range]) -> Result<Reading, StoreError> {
        check_ranges(ranges)?;
        self.pool.read(|db| {
            let view = db.unchecked_transaction()?;
            let (revision, _) = counters(&view)?;
            let mut parts = Vec::with_capacity(ranges.len());
            for range in ranges {
                let (from, to) = match range {
                    Range::Key(key) => (key, Some(format!("{key}\0"))),
                    Range::Prefix(prefix) => (prefix, end_of_prefix(prefix)),
                };
                let mut query = view.prepare_cached(
                    "SELECT key, value, revision FROM kv
                     WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) ORDER BY key",
                )?;
                let rows = query.query_map(params![from, to], |row| {
                    let revision = Revision(row.get(2)?);
                    Ok(Entry { key: row.get(0)?, value: row.get(1)?, revision })
                })?;
                parts.push(rows.collect::<Result<_, _>>()?);
            }
            Ok(Reading { parts, revision: Revision(revision) })
        })
    }

    fn commit(&self, conditions: &[Condition], writes: &[Write]) -> Result<Outcome, StoreError> {
        check_commit(conditions, writes)?;
        let shown = &self.pool.shown;
        let lent = self.pool.for_write()?;
        let change = Transaction::new_unchecked(lent.db()?, TransactionBehavior::Immediate)
            .map_err(|e| self.pool.explain(&e))?;
        // Dropped without a commit, a transaction is rolled back.
        match carry_out(&change, conditions, writes).map_err(|e| self.pool.explain(&e))? {
            Outcome::Conflict => Ok(Outcome::Conflict),
            Outcome::Done(revision) => {
                change.commit().map_err(|e| at_commit(shown, &e))?;
                Ok(Outcome::Done(revision))
            }
        }
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        check_prefix(prefix)?;
        Ok(Box::new(SqliteWatch::new(Arc::clone(&self.pool), prefix, after)?))
    }

    fn shown(&self) -> &str {
        &self.pool.shown
    }
}

/// The store's revision, and the last one whose changes are no longer kept.
fn counters(db: &Connection) -> rusqlite::Result<(i64, i64)> {
    let mut query = db.prepare_cached(
        "SELECT (SELECT number FROM meta WHERE name = 'revision'),
                (SELECT number FROM meta WHERE name = 'compacted')",
    )?;
    query.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Checks and writes within an open transaction. A commit that changes nothing, by deleting what is
/// not there, makes no revision: so does etcd.
fn carry_out(
    db: &Connection,
    conditions: &[Condition],
    writes: &[Write],
) -> rusqlite::Result<Outcome> {
    for condition in conditions {
        let (Condition::Absent(key) | Condition::At(key, _)) = condition;
        let mut query = db.prepare_cached("SELECT revision FROM kv WHERE key = ?1")?;
        let found: Option<i64> = query.query_row([key], |row| row.get(0)).optional()?;
        let holds = match condition {
            Condition::Absent(_) => found.is_none(),
            Condition::At(_, Revision(wanted)) => found == Some(*wanted),
        };
        if !holds {
            return Ok(Outcome::Conflict);
        }
    }
    let (current, _) = counters(db)?;
    let revision = current + 1;
    let mut position = 0;
    for write in writes {
        let (key, value) = match write {
            Write::Put(key, value) => {
                let mut put = db.prepare_cached("INSERT OR REPLACE INTO kv VALUES (?1, ?2, ?3)")?;
                put.execute(params![key, value, revision])?;
                (key, Some(value))
            }
            Write::Delete(key) => {
                if db.prepare_cached("DELETE FROM kv WHERE key = ?1")?.execute([key])? == 0 {
                    continue;
                }
                (key, None)
            }
        };
        db.prepare_cached("INSERT INTO changes VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![revision, position, key, value])?;
        position += 1;
    }
    if position == 0 {
        return Ok(Outcome::Done(Revision(current)));
    }
    set_counter(db, "revision", revision)?;
    if revision % TRIM_EVERY == 0 && revision > KEPT_REVISIONS {
        let gone = revision - KEPT_REVISIONS;
        db.execute("DELETE FROM changes WHERE revision <= ?1", [gone])?;
        set_counter(db, "compacted", gone)?;
    }
    Ok(Outcome::Done(Revision(revision)))
}

fn set_counter(db: &Connection, name: &str, number: i64) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE meta SET number = ?2 WHERE name = ?1")?
        .execute(params![name, number])?;
    Ok(())
}
