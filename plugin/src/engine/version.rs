//! The record of a version, and how large it may be.

use gpuctl_ledger::model::{DockerName, VersionRecord};
use gpuctl_ledger::store::LARGEST_VALUE;
use serde_json::Value;

use super::api::Failure;

/// What is kept free at a creation, so that the records of the versions after it fit too: their
/// reasons and owners are of other lengths, and so may be what a later Engine shows.
const ROOM: usize = 16 * 1024;

fn size(record: &VersionRecord) -> usize {
    serde_json::to_vec(record).map_or(usize::MAX, |bytes| bytes.len())
}

/// Refuses a record that the ledger does not take, before anything stands on it.
///
/// # Errors
/// When it is too large; with what to do.
pub(super) fn check(record: &VersionRecord, new: bool) -> Result<(), Failure> {
    let room = if new { ROOM } else { ROOM / 4 };
    let (size, most) = (size(record), LARGEST_VALUE - room);
    if size <= most {
        return Ok(());
    }
    let name = DockerName::of(&record.name, record.version);
    Err(Failure::new(format!(
        "environment, labels and command of {name} are {} KiB, and its record in the ledger takes {}",
        size.div_ceil(1024),
        most / 1024
    ))
    .hint("put what is long into a file that the container mounts: -v /path/settings.env:/settings.env:ro"))
}

/// The record without what the container was created with: of that none can be built again, but the
/// change that it stands for comes to its end.
pub(super) fn without_spec(record: &VersionRecord) -> VersionRecord {
    VersionRecord { spec: Value::Null, ..record.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(bytes: usize) -> VersionRecord {
        let record = json!({
            "schema": 1, "name": "big", "version": 3, "container": "a".repeat(64),
            "gpus": {"count": 5}, "at": "2026-11-22T00:52:04.854Z", "why": "run", "spec": "",
        });
        let record: VersionRecord = serde_json::from_value(record).unwrap();
        let rest = size(&record);
        VersionRecord { spec: Value::String("x".repeat(bytes - rest)), ..record }
    }

    #[test]
    fn what_fits_at_the_creation_fits_at_every_scale_after_it() {
        let most = LARGEST_VALUE - ROOM;
        assert_eq!(check(&of(most), true), Ok(()));
        assert_eq!(check(&of(most + ROOM / 2), false), Ok(()));
        for (bytes, new) in [(most + 1, true), (LARGEST_VALUE, false), (LARGEST_VALUE * 2, false)] {
            let refused = check(&of(bytes), new).unwrap_err();
            assert!(refused.message.contains("big-3"), "{refused:?}");
            assert!(refused.hint.unwrap().contains("mounts"));
        }
    }

    #[test]
    fn without_its_spec_any_record_fits() {
        assert_eq!(check(&without_spec(&of(LARGEST_VALUE * 2)), true), Ok(()));
    }
}
