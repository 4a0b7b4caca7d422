//! SQLite's error codes in the store's words.

use rusqlite::{Error, ErrorCode};

use crate::store::StoreError;

/// What the failure of a step that has changed nothing yet means. `shown` is the store's name.
pub(super) fn before_commit(shown: &str, error: &Error) -> StoreError {
    let name = || shown.to_owned();
    let Some(code) = error.sqlite_error_code() else {
        return match error {
            Error::QueryReturnedNoRows => damaged(shown, "its counters are missing"),
            _ => damaged(shown, "a record in it has the wrong form"),
        };
    };
    match code {
        ErrorCode::DatabaseCorrupt => damaged(shown, "its pages do not fit together"),
        ErrorCode::NotADatabase => damaged(shown, "it is no ledger file"),
        // A table or column that is not there.
        ErrorCode::Unknown | ErrorCode::SchemaChanged => {
            damaged(shown, "its tables are not those of a ledger")
        }
        ErrorCode::ReadOnly => StoreError::NotWritable(name(), "its file or disk is read-only"),
        ErrorCode::DiskFull => StoreError::NotWritable(name(), "its disk is full"),
        ErrorCode::TooBig => StoreError::BadRecord,
        _ => StoreError::Unreachable(name()),
    }
}

/// What the failure of the final COMMIT means. An input or output error there leaves it open
/// whether the last frame reached the disk, where a recovery would find it.
pub(super) fn at_commit(shown: &str, error: &Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::SystemIoFailure) => StoreError::Unknown(shown.to_owned()),
        _ => before_commit(shown, error),
    }
}

/// Whether SQLite could not set up the files beside the ledger (-wal and -shm), as on a read-only
/// or full disk, while the ledger itself may well be readable.
pub(super) fn is_setup_failure(error: &Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::CannotOpen
                | ErrorCode::SystemIoFailure
                | ErrorCode::DiskFull
                | ErrorCode::ReadOnly
        )
    )
}

/// [`StoreError::Damaged`] in short.
pub(super) fn damaged(shown: &str, why: &'static str) -> StoreError {
    StoreError::Damaged(shown.to_owned(), why)
}
