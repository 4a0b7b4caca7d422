//! What a key, a value and a commit may be. The same for both stores, so that what one takes the
//! other takes too; etcd's defaults (128 operations, 1.5 MiB a request) are the narrower ones.

use std::collections::BTreeSet;

use super::{Condition, Range, StoreError, Write};

/// Longest key, in bytes.
pub const LONGEST_KEY: usize = 1024;
/// Largest value, in bytes.
pub const LARGEST_VALUE: usize = 1024 * 1024;
/// Most conditions, and most writes, of one commit.
pub const MOST_OPERATIONS: usize = 128;
/// All keys and values of one commit together, in bytes.
pub const LARGEST_COMMIT: usize = 5 * 256 * 1024;

/// Whether this may be a key: not empty, printable ASCII, not too long.
///
/// # Errors
/// [`StoreError::BadRecord`].
pub(super) fn check_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() { Err(StoreError::BadRecord) } else { check_prefix(key) }
}

/// Whether this may be a prefix of keys; unlike a key it may be empty.
///
/// # Errors
/// [`StoreError::BadRecord`].
pub(super) fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    let printable = prefix.bytes().all(|b| (0x20..0x7f).contains(&b));
    if printable && prefix.len() <= LONGEST_KEY { Ok(()) } else { Err(StoreError::BadRecord) }
}

/// Whether both stores can read this.
///
/// # Errors
/// [`StoreError::BadRecord`].
pub(super) fn check_ranges(ranges: &[Range]) -> Result<(), StoreError> {
    if ranges.len() > MOST_OPERATIONS {
        return Err(StoreError::BadRecord);
    }
    ranges.iter().try_for_each(|range| match range {
        Range::Key(key) => check_key(key),
        Range::Prefix(prefix) => check_prefix(prefix),
    })
}

/// Whether both stores can carry out this commit.
///
/// # Errors
/// [`StoreError::BadRecord`], also when two writes name the same key.
pub(super) fn check_commit(conditions: &[Condition], writes: &[Write]) -> Result<(), StoreError> {
    if conditions.len() > MOST_OPERATIONS || writes.len() > MOST_OPERATIONS {
        return Err(StoreError::BadRecord);
    }
    let mut bytes = 0;
    for condition in conditions {
        let (Condition::Absent(key) | Condition::At(key, _)) = condition;
        check_key(key)?;
        bytes += key.len();
    }
    let mut written = BTreeSet::new();
    for write in writes {
        let (key, size) = match write {
            Write::Put(key, value) => (key, value.len()),
            Write::Delete(key) => (key, 0),
        };
        check_key(key)?;
        if size > LARGEST_VALUE || !written.insert(key) {
            return Err(StoreError::BadRecord);
        }
        bytes += key.len() + size;
    }
    if bytes > LARGEST_COMMIT { Err(StoreError::BadRecord) } else { Ok(()) }
}

/// The first key behind all keys that begin with `prefix`. Keys are ASCII below 0x7f, so adding one
/// to the last byte stays a character; nothing lies behind the empty prefix.
pub(super) fn end_of_prefix(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    let last = end.pop()?;
    end.push(char::from(u8::try_from(last).ok()?.checked_add(1)?));
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_printable_ascii_of_sane_length() {
        for good in ["a", "/gpuctl/v1/nodes/gpu1/leases/GPU-1", "~", " "] {
            assert_eq!(check_key(good), Ok(()), "{good}");
        }
        let long = "k".repeat(LONGEST_KEY + 1);
        for bad in ["", "a\n", "a\0b", "gr\u{fc}n", "\u{7f}", long.as_str()] {
            assert_eq!(check_key(bad), Err(StoreError::BadRecord), "{bad:?}");
        }
        assert_eq!(check_prefix(""), Ok(()));
    }

    #[test]
    fn a_commit_names_each_key_once_and_is_of_sane_size() {
        let put = |k: &str, n: usize| Write::Put(k.into(), vec![0; n]);
        assert_eq!(check_commit(&[], &[put("a", LARGEST_VALUE)]), Ok(()));
        assert!(check_commit(&[], &[put("a", LARGEST_VALUE + 1)]).is_err());
        assert!(check_commit(&[], &[put("a", 1), Write::Delete("a".into())]).is_err());
        assert!(check_commit(&[], &[put("a", LARGEST_VALUE), put("b", LARGEST_VALUE)]).is_err());
        let many: Vec<_> = (0..=MOST_OPERATIONS).map(|i| put(&format!("k{i}"), 1)).collect();
        assert!(check_commit(&[], &many).is_err());
        assert!(check_commit(&[], &many[1..]).is_ok());
    }

    #[test]
    fn the_end_of_a_prefix_is_behind_all_its_keys() {
        assert_eq!(end_of_prefix("/a/"), Some("/a0".into()));
        assert_eq!(end_of_prefix("~"), Some("\u{7f}".into()));
        assert_eq!(end_of_prefix(""), None);
    }
}
