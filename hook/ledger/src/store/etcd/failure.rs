//! What etcd's errors mean: for the request (was it carried out?) and for the user.

use std::error::Error as _;
use std::io::ErrorKind;

use etcd_client::Error;

use crate::store::StoreError;

/// How a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It was certainly not carried out, and another member or another try may do it.
    Again,
    /// It may have been carried out.
    Broken,
    /// It was not carried out, and never will be.
    Final(StoreError),
}

/// Judges an error. `shown` is the store's name.
pub(super) fn judge(shown: &str, error: &Error) -> Fault {
    match error {
        Error::GRpcStatus(status) if was_refused(status.source()) => Fault::Again,
        Error::GRpcStatus(status) => by_status(shown, status.code() as i32, status.message()),
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::TransportError(_) => {
            Fault::Final(StoreError::Settings("the members or certificates cannot be used"))
        }
        _ => Fault::Broken,
    }
}

/// Whether a connection was refused, so that nothing was sent. The kind comes from connect alone.
fn was_refused(mut source: Option<&(dyn std::error::Error + 'static)>) -> bool {
    while let Some(error) = source {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|e| e.kind() == ErrorKind::ConnectionRefused) {
            return true;
        }
        source = error.source();
    }
    false
}

/// By gRPC's codes, and by etcd's texts where a code has several meanings. Everything else may be
/// etcd's own timeout on a request that is carried out yet.
fn by_status(shown: &str, code: i32, message: &str) -> Fault {
    let name = || shown.to_owned();
    let has = |text: &str| message.contains(text);
    match code {
        // InvalidArgument
        3 if has("authentication failed") || has("user name") => {
            Fault::Final(StoreError::Denied(name()))
        }
        3 if has("revision of auth store is old") => Fault::Again,
        3 => Fault::Final(StoreError::BadRecord),
        // PermissionDenied, Unauthenticated
        7 | 16 => Fault::Final(StoreError::Denied(name())),
        // ResourceExhausted
        8 if has("space exceeded") => {
            Fault::Final(StoreError::NotWritable(name(), "its space quota is used up"))
        }
        8 if has("too many requests") => Fault::Again,
        // FailedPrecondition: a user is configured, and etcd knows of none.
        9 if has("authentication is not enabled") => Fault::Final(StoreError::Denied(name())),
        // OutOfRange
        11 if has("compacted") => Fault::Final(StoreError::Compacted),
        11 if has("message length too large") => {
            let why = "it holds more than can be read at once";
            Fault::Final(StoreError::Damaged(name(), why))
        }
        // DataLoss
        15 => Fault::Final(StoreError::Damaged(name(), "its members do not agree")),
        _ => Fault::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_happened_is_never_called_final_or_repeatable() {
        for (code, message) in [
            (14, "etcdserver: request timed out"),
            (14, "etcdserver: leader changed"),
            (14, "etcdserver: request timed out, possibly due to previous leader failure"),
            (2, "transport error"),
            (1, "operation was canceled"),
            (4, "context deadline exceeded"),
            (13, "stream error"),
        ] {
            assert_eq!(by_status("e", code, message), Fault::Broken, "{message}");
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let of = |code, message| match by_status("e", code, message) {
            Fault::Final(error) => error,
            other => panic!("{other:?}"),
        };
        let wrong = "etcdserver: authentication failed, invalid user ID or password";
        assert_eq!(of(3, wrong), StoreError::Denied("e".into()));
        assert_eq!(of(7, "etcdserver: permission denied"), StoreError::Denied("e".into()));
        assert_eq!(of(16, "etcdserver: invalid auth token"), StoreError::Denied("e".into()));
        let full = of(8, "etcdserver: mvcc: database space exceeded");
        assert!(matches!(full, StoreError::NotWritable(..)));
        let old = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(of(11, old), StoreError::Compacted);
        assert_eq!(of(3, "etcdserver: request is too large"), StoreError::BadRecord);
    }
}
