//! Connections to one ledger: lent out one to a call, so that a writer that waits for its lock
//! keeps no reader waiting.

use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::statvfs::{FsFlags, statvfs};
use rusqlite::Connection;

use super::failure::{before_commit, is_setup_failure};
use super::file::{self, Mode};
use crate::store::StoreError;

/// So many connections wait for the next call; more are closed after use.
const KEPT_OPEN: usize = 4;
/// How often a read of a file that changes under it is tried again.
const FROZEN_TRIES: u32 = 3;

/// Where the ledger is.
#[derive(Debug)]
pub(super) enum Place {
    /// In a file, by any number of connections.
    File(PathBuf),
    /// In the memory of the one connection that there is.
    Memory,
}

/// An idle connection, and the device and inode that it has open.
type Idle = (Connection, (u64, u64));

/// See the module.
#[derive(Debug)]
pub(super) struct Pool {
    place: Place,
    pub(super) shown: String,
    limit: Duration,
    idle: Mutex<Vec<Idle>>,
    returned: Condvar,
}

/// A connection on loan; it goes back when dropped.
pub(super) struct Lent<'a> {
    pool: &'a Pool,
    held: Option<Idle>,
}

impl Pool {
    /// The pool of a file. Opens nothing yet.
    pub(super) fn of_file(path: PathBuf, shown: String, limit: Duration) -> Self {
        Self {
            place: Place::File(path),
            shown,
            limit,
            idle: Mutex::default(),
            returned: Condvar::new(),
        }
    }

    /// A pool of the one connection whose memory is the ledger.
    pub(super) fn of_memory(db: Connection, shown: String, limit: Duration) -> Self {
        Self {
            place: Place::Memory,
            shown,
            limit,
            idle: Mutex::new(vec![(db, (0, 0))]),
            returned: Condvar::new(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unreachable(&self) -> StoreError {
        StoreError::Unreachable(self.shown.clone())
    }

    /// A connection that waits for locks no longer than the pool's limit.
    ///
    /// # Errors
    /// Outside: [`StoreError`]. Inside: SQLite could not set up its files beside the ledger.
    fn lend(&self) -> Result<Result<Lent<'_>, rusqlite::Error>, StoreError> {
        let deadline = Instant::now() + self.limit;
        match &self.place {
            Place::Memory => {
                let (mut idle, _) = self
                    .returned
                    .wait_timeout_while(self.idle(), self.limit, |idle| idle.is_empty())
                    .unwrap_or_else(PoisonError::into_inner);
                let held = idle.pop().ok_or_else(|| self.unreachable())?;
                Ok(Ok(Lent { pool: self, held: Some(held) }))
            }
            Place::File(path) => {
                // A file that was there and is gone is not made anew: that would be an empty
                // ledger, by which every GPU is free.
                let id = file::stamp(path).map_err(|_| self.unreachable())?.id;
                let kept = {
                    let mut idle = self.idle();
                    // Another file has taken its place: what is open is the old one.
                    idle.retain(|(_, open)| *open == id);
                    idle.pop()
                };
                let db = match kept {
                    Some((db, _)) => db,
                    None => match file::connect(path, &self.shown, Mode::Usual, self.limit) {
                        Ok(db) => db?,
                        Err(e) if is_setup_failure(&e) => return Ok(Err(e)),
                        Err(e) => return Err(before_commit(&self.shown, &e)),
                    },
                };
                db.busy_timeout(deadline.saturating_duration_since(Instant::now()))
                    .map_err(|e| before_commit(&self.shown, &e))?;
                Ok(Ok(Lent { pool: self, held: Some((db, id)) }))
            }
        }
    }

    /// Lends a connection for a write.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn for_write(&self) -> Result<Lent<'_>, StoreError> {
        self.lend()?.map_err(|e| self.explain(&e))
    }

    /// Does one read, on a ledger that cannot be written too.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn read<T>(
        &self,
        work: impl Fn(&Connection) -> Result<T, ReadError>,
    ) -> Result<T, StoreError> {
        match self.lend()? {
            Ok(lent) => lent.with(&work),
            Err(why) => self.read_frozen(&work, &why),
        }
    }

    /// Reads a ledger on a read-only or full disk, where SQLite cannot set up the shared index of
    /// its log. Only while there is no log: without the index its content would not be seen. That
    /// nobody wrote meanwhile is seen by the file's stamp.
    fn read_frozen<T>(
        &self,
        work: &impl Fn(&Connection) -> Result<T, ReadError>,
        why: &rusqlite::Error,
    ) -> Result<T, StoreError> {
        let Place::File(path) = &self.place else { return Err(self.unreachable()) };
        for _ in 0..FROZEN_TRIES {
            let before = file::stamp(path).map_err(|_| self.unreachable())?;
            if !before.is_self_contained() {
                break;
            }
            let read = file::connect_or_say(path, &self.shown, Mode::Frozen, self.limit)
                .and_then(|db| work(&db).map_err(|e| e.into_store(&self.shown)));
            if file::stamp(path).is_ok_and(|after| after == before) {
                return read;
            }
        }
        Err(match self.explain(why) {
            // The caller only wanted to read.
            StoreError::NotWritable(..) => self.unreachable(),
            other => other,
        })
    }

    /// Why SQLite could not set up its files, as far as the disk tells.
    pub(super) fn explain(&self, error: &rusqlite::Error) -> StoreError {
        let Place::File(path) = &self.place else { return before_commit(&self.shown, error) };
        if is_setup_failure(error)
            && let Some(facts) = path.parent().and_then(|folder| statvfs(folder).ok())
        {
            let no_inodes = facts.files() > 0 && facts.files_available() == 0;
            if facts.flags().contains(FsFlags::ST_RDONLY) {
                return StoreError::NotWritable(self.shown.clone(), "its disk is read-only");
            }
            if facts.blocks_available() == 0 || no_inodes {
                return StoreError::NotWritable(self.shown.clone(), "its disk is full");
            }
        }
        before_commit(&self.shown, error)
    }

    /// Opens a first connection and keeps it, so that a file that is no ledger is refused at once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn try_out(&self) -> Result<(), StoreError> {
        self.read(|_| Ok(()))
    }
}

impl Lent<'_> {
    /// The connection. There is none only while it is being given back.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`].
    pub(super) fn db(&self) -> Result<&Connection, StoreError> {
        self.held.as_ref().map(|(db, _)| db).ok_or_else(|| self.pool.unreachable())
    }

    fn with<T>(self, work: &impl Fn(&Connection) -> Result<T, ReadError>) -> Result<T, StoreError> {
        work(self.db()?).map_err(|e| e.into_store(&self.pool.shown))
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        let mut idle = self.pool.idle();
        // One in the middle of a transaction has had a fault on which it could not roll back.
        let fit = held.0.is_autocommit() || matches!(self.pool.place, Place::Memory);
        if fit && idle.len() < KEPT_OPEN {
            idle.push(held);
            self.pool.returned.notify_one();
        }
    }
}

/// Why a read went wrong.
#[derive(Debug)]
pub(super) enum ReadError {
    /// SQLite says so.
    Sqlite(rusqlite::Error),
    /// The store does.
    Store(StoreError),
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl ReadError {
    fn into_store(self, shown: &str) -> StoreError {
        match self {
            Self::Sqlite(error) => before_commit(shown, &error),
            Self::Store(error) => error,
        }
    }
}
