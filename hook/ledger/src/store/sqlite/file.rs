//! The ledger's file: made whole or not at all, known by its header, opened without needless work.
//!
//! It is never opened here by any other means than SQLite: closing a file of one's own drops all
//! POSIX locks that the process holds on it, SQLite's too.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::failure::{before_commit, damaged};
use crate::store::StoreError;

/// Marks a file as a ledger: "gpuL".
const APPLICATION_ID: i32 = 0x6770_754c;
/// The form of the tables below. A file of a later form is refused, never guessed at.
const SCHEMA_VERSION: i32 = 1;

/// SQLite's pages have at least so many bytes, and are multiples of it.
const SMALLEST_PAGE: u64 = 512;

/// `value` is NULL in `changes` for a removal. The counter starts at 1, as etcd's does.
const SCHEMA: &str = "
    CREATE TABLE kv (
        key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE changes (
        revision INTEGER NOT NULL, position INTEGER NOT NULL, key TEXT NOT NULL, value BLOB,
        PRIMARY KEY (revision, position)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, number INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;
    INSERT INTO meta VALUES ('revision', 1), ('compacted', 0);
";

/// How a connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// As ever; SQLite itself falls back to reading where the file cannot be written.
    Usual,
    /// Without locks and without files beside it, for one read. Only while nobody writes.
    Frozen,
}

/// What tells one state of a file from another: device, inode, size, and times of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Which file it is.
    pub(super) id: (u64, u64),
    state: (u64, i64, i64),
    log: u64,
}

/// The stamp of the ledger at `path`; its `log` is the size of the write-ahead log beside it.
pub(super) fn stamp(path: &Path) -> io::Result<Stamp> {
    let meta = fs::metadata(path)?;
    let log = match fs::metadata(beside(path, "-wal")) {
        Ok(m) => m.len(),
        Err(e) if e.kind() == ErrorKind::NotFound => 0,
        Err(e) => return Err(e),
    };
    Ok(Stamp {
        id: (meta.dev(), meta.ino()),
        state: (meta.len(), meta.mtime(), meta.mtime_nsec()),
        log,
    })
}

impl Stamp {
    /// Whether all of the ledger is in the file itself, nothing in a log beside it.
    pub(super) fn is_self_contained(&self) -> bool {
        self.log == 0
    }
}

/// Makes sure that there is a file at `path` that root may trust, creating the ledger if nothing is
/// there.
///
/// # Errors
/// [`StoreError`].
pub(super) fn provide(path: &Path, shown: &str) -> Result<(), StoreError> {
    let meta = match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            create(path).map_err(|e| cannot_create(shown, &e))?;
            fs::metadata(path)
        }
        other => other,
    }
    .map_err(|_| StoreError::Unreachable(shown.to_owned()))?;
    if !meta.is_file() {
        return Err(damaged(shown, "it is no regular file"));
    }
    if nix::unistd::geteuid().is_root() && !is_roots_alone(&meta) {
        return Err(damaged(shown, "others may write it: chown root and chmod 600 it"));
    }
    // SQLite reads zeros where the last page is cut short. With a log, that may just be a crash
    // that the log makes good.
    let cut = meta.len() % SMALLEST_PAGE != 0;
    if cut && stamp(path).is_ok_and(|stamp| stamp.is_self_contained()) {
        return Err(damaged(shown, "it is cut short"));
    }
    Ok(())
}

fn is_roots_alone(meta: &Metadata) -> bool {
    meta.uid() == 0 && meta.mode() & 0o022 == 0
}

fn cannot_create(shown: &str, error: &io::Error) -> StoreError {
    let why = match error.kind() {
        ErrorKind::ReadOnlyFilesystem => "its disk is read-only",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "its disk is full",
        ErrorKind::PermissionDenied => "we may not create it there",
        _ => "it cannot be created there",
    };
    StoreError::NotWritable(shown.to_owned(), why)
}

/// Creates the ledger under another name and links it into place: whoever finds it finds it whole,
/// and of two who create it at once one wins and the other uses what is there.
fn create(path: &Path) -> io::Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = path.parent().ok_or(ErrorKind::InvalidInput)?;
    if !folder.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let suffix = format!(".new-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let draft = Draft(beside(path, &suffix));
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft.0)?;
    fill(&draft.0).map_err(|e| match e.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => ErrorKind::StorageFull,
        Some(rusqlite::ErrorCode::ReadOnly) => ErrorKind::ReadOnlyFilesystem,
        _ => ErrorKind::Other,
    })?;
    match fs::hard_link(&draft.0, path) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    File::open(folder)?.sync_all()
}

/// A file under its first name, removed whether or not it got its final one.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        // Left over, it would only waste some pages; there is nobody to tell.
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(beside(&self.0, suffix));
        }
    }
}

fn fill(path: &Path) -> rusqlite::Result<()> {
    let db = Connection::open_with_flags(path, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))?;
    set_up_tables(&db)?;
    // Closing the only connection brings the log into the file and removes it.
    db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    db.close().map_err(|(_, e)| e)
}

/// Writes the tables of a new ledger.
pub(super) fn set_up_tables(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(&format!(
        "BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID};
         PRAGMA user_version = {SCHEMA_VERSION}; {SCHEMA} COMMIT;"
    ))
}

fn flags(access: OpenFlags) -> OpenFlags {
    // Each connection is used by one thread at a time: SQLite's own mutexes are not needed.
    access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE
}

/// Opens the ledger and sees by its header that it is one. `limit` is the longest wait for locks.
///
/// # Errors
/// Outside: what SQLite says. Inside: [`StoreError::Damaged`], when it is no ledger of ours.
pub(super) fn connect(
    path: &Path,
    shown: &str,
    mode: Mode,
    limit: Duration,
) -> rusqlite::Result<Result<Connection, StoreError>> {
    let db = match mode {
        Mode::Usual => Connection::open_with_flags(path, flags(OpenFlags::SQLITE_OPEN_READ_WRITE)),
        Mode::Frozen => {
            let access = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(frozen_uri(path), flags(access))
        }
    }?;
    db.busy_timeout(limit)?;
    db.execute_batch("PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;")?;
    let (id, version): (i32, i32) = db.query_row(
        "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(if id != APPLICATION_ID {
        Err(damaged(shown, "it is empty or another program's file"))
    } else if version > SCHEMA_VERSION {
        Err(damaged(shown, "a newer docker-gpuctl wrote it: update this one"))
    } else if version < SCHEMA_VERSION {
        Err(damaged(shown, "its form is unknown"))
    } else {
        Ok(db)
    })
}

/// As [`connect`], with SQLite's failures in the store's words.
///
/// # Errors
/// [`StoreError`].
pub(super) fn connect_or_say(
    path: &Path,
    shown: &str,
    mode: Mode,
    limit: Duration,
) -> Result<Connection, StoreError> {
    connect(path, shown, mode, limit).map_err(|e| before_commit(shown, &e))?
}

/// A path as a URI that tells SQLite that nobody writes the file.
fn frozen_uri(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let mut uri = b"file:".to_vec();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte) {
            uri.push(byte);
        } else {
            uri.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    uri.extend_from_slice(b"?immutable=1");
    OsString::from_vec(uri)
}

/// The path with something appended to its last part.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
