//! The records of a version, and how large they may be.

use gpuctl_ledger::ledger::{At, Batch};
use gpuctl_ledger::model::{
    Binding, ContainerId, ContainerName, ContainerRecord, DockerName, GpuRequest, How, SCHEMA,
    Timestamp, Token, Unit, Version, VersionRecord,
};
use gpuctl_ledger::store::LARGEST_VALUE;
use serde_json::Value;

use super::api::Failure;
use super::context::Context;
use super::creation;
use crate::docker::Inspect;

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

/// The first version that a container is at.
pub(super) struct First<'a> {
    pub(super) name: &'a ContainerName,
    pub(super) version: Version,
    pub(super) container: &'a ContainerId,
    pub(super) gpus: GpuRequest,
    /// Who asked for it, and owns it.
    pub(super) by: Option<String>,
    pub(super) why: String,
    pub(super) how: How,
    /// The claim that goes with its binding.
    pub(super) token: Token,
    /// The GPUs that it holds.
    pub(super) last: Vec<Unit>,
    /// Its files are not all there.
    pub(super) unfinished: bool,
}

impl First<'_> {
    /// Its records, as Docker shows it.
    pub(super) fn records(
        self,
        ctx: &Context,
        shown: &Inspect,
    ) -> (ContainerRecord, VersionRecord, Binding) {
        let now = Timestamp::now();
        let container = ContainerRecord {
            schema: SCHEMA,
            name: self.name.clone(),
            version: self.version,
            container: Some(self.container.clone()),
            owner: self.by.clone(),
            at: now,
            auto_remove: shown.auto_remove(),
        };
        let version = VersionRecord {
            schema: SCHEMA,
            name: self.name.clone(),
            version: self.version,
            container: self.container.clone(),
            gpus: self.gpus.clone(),
            at: now,
            by: self.by.clone(),
            why: self.why,
            how: Some(self.how),
            layer: None,
            spec: creation::of(ctx, shown),
        };
        let binding = Binding {
            schema: SCHEMA,
            container: self.container.clone(),
            name: self.name.clone(),
            version: self.version,
            gpus: self.gpus,
            last: self.last,
            owner: self.by,
            token: self.token,
            retired: false,
            unfinished: self.unfinished,
            upper_dir: None,
        };
        (container, version, binding)
    }
}

/// Adds to a commit that a container is at this version from now on.
///
/// # Errors
/// The ledger's.
pub(super) fn becomes_current(
    ctx: &Context,
    name: &ContainerName,
    version: Version,
    id: &ContainerId,
    batch: &mut Batch,
) -> Result<(), Failure> {
    if let Some(At { record, revision }) = ctx.ledger.container(name)? {
        let key = ctx.ledger.keys().container(name);
        let container = Some(id.clone());
        let record = ContainerRecord { version, container, at: Timestamp::now(), ..record };
        batch.at(key.clone(), revision).put(key, &record);
    }
    Ok(())
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
