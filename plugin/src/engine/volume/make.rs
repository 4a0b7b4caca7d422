//! One new version of a volume: made, filled where it is to be, and recorded by the commit that ends
//! its journal. Steps: `make`, and for one that gets the content of another, `copy`; where containers
//! move to it, `stop` before that, and `move` and `record` after it. Broken off, it is undone; from
//! `record` on it is finished.

use gpuctl_ledger::config::ImageFilesystem;
use gpuctl_ledger::ledger::{At, Batch};
use gpuctl_ledger::model::{
    Backend, ByteSize, ContainerName, SCHEMA, Timestamp, Version, VolumeName, VolumeOperationKind,
    VolumeRecord, VolumeVersionRecord,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::api::{Failure, Front};
use super::super::context::Context;
use super::journal::Journal;
use super::roll::{self, Roll};
use super::room::{self, Need};
use super::{copy, find, observe};
use crate::volume::image::Detail;
use crate::volume::{MakeError, Sizing, Spec, rules};

/// How many names are tried for which Docker would not keep to the size: each that was undone or removed
/// since the Engine was started is one.
const TRIES: u32 = 64;

/// What undoing needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Data {
    /// What is being made.
    pub(super) spec: Spec,
    /// Its version.
    pub(super) version: Version,
    /// The containers that move to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) roll: Vec<ContainerName>,
    /// What is recorded at the end, once it is certain that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) records: Option<(VolumeRecord, VolumeVersionRecord)>,
}

/// What is to be made.
pub(super) struct New<'a> {
    /// The volume's name.
    pub(super) name: &'a VolumeName,
    /// Its record as it is.
    pub(super) before: Option<&'a At<VolumeRecord>>,
    /// The first version that is free.
    pub(super) version: Version,
    /// What keeps it to its size.
    pub(super) backend: Backend,
    /// That size.
    pub(super) size: ByteSize,
    /// The user's labels.
    pub(super) labels: Vec<(String, String)>,
    /// The host's disk gives the room at once.
    pub(super) allocate: bool,
    /// Whose content it gets.
    pub(super) from: Option<&'a VolumeVersionRecord>,
    /// Without reading the content once more.
    pub(super) no_verify: bool,
    /// Why, for the record.
    pub(super) why: String,
    /// The containers that move to it.
    pub(super) roll: Option<&'a Roll>,
}

/// Makes it; its name in Docker.
///
/// # Errors
/// [`Failure`]; then nothing is left of it.
pub(super) fn make(ctx: &Context, new: &New<'_>, front: &mut dyn Front) -> Result<String, Failure> {
    check_room(ctx, new, front)?;
    let kind = match new.from {
        Some(_) => VolumeOperationKind::Resize,
        None => VolumeOperationKind::Create,
    };
    let backend = observe::sizing(ctx, new.backend)?;
    let mut version = new.version;
    for _ in 0..TRIES {
        let (roll, records) = (Vec::new(), None);
        let data = Data { spec: spec(ctx, new, version), version, roll, records };
        backend.check_free(&data.spec)?;
        let mut journal = Journal::begin(ctx, new.name, kind, front.user(), "make", &data)?;
        match fill(ctx, &mut journal, (new, backend.as_ref()), data, front) {
            Ok(data) => {
                let docker_name = data.spec.docker_name.clone();
                finish(ctx, journal, &data)?;
                return Ok(docker_name);
            }
            Err(why) => {
                let why = match why {
                    MakeError::Failed(why) => Some(why),
                    MakeError::Unlimited => None,
                };
                let how = undo(ctx, journal).map_err(|also| match &why {
                    Some(why) => why.undoing_failed(&also),
                    None => {
                        Failure::new("Docker does not keep it to its size").undoing_failed(&also)
                    }
                })?;
                match why {
                    Some(mut why) => {
                        for text in how {
                            why.message.push_str("; ");
                            why.message.push_str(&text);
                        }
                        return Err(why);
                    }
                    None => version = version.next(),
                }
            }
        }
    }
    Err(Failure::new(format!(
        "Docker does not keep volumes named {} to their size: it remembers volumes of these names that were removed",
        new.name
    ))
    .hint("take another name, or restart dockerd"))
}

fn spec(ctx: &Context, new: &New<'_>, version: Version) -> Spec {
    let docker_name = new.name.at(version);
    let volumes = &ctx.config.volumes;
    let detail = match new.backend {
        Backend::Image => {
            let detail =
                Detail::new(&volumes.images, &docker_name, volumes.filesystem, new.allocate);
            serde_json::to_value(detail).unwrap_or_default()
        }
        Backend::Size | Backend::Plain => Value::Null,
    };
    Spec { docker_name, backend: new.backend, size: new.size, labels: new.labels.clone(), detail }
}

/// Makes it and gives it its content, and to the containers that move; what is known of it then. With
/// containers, the journal stands at `record`.
fn fill(
    ctx: &Context,
    journal: &mut Journal,
    (new, backend): (&New<'_>, &dyn Sizing),
    mut data: Data,
    front: &mut dyn Front,
) -> Result<Data, MakeError> {
    let token = journal.operation.token.clone();
    data.spec.detail = copy::watched(front, |given_up| backend.make(&data.spec, &token, given_up))?;
    let mut parts = Vec::new();
    if let (Some(roll), Some(from)) = (new.roll, new.from) {
        data.roll = roll.names();
        journal.step(ctx, "stop", &data, Batch::new())?;
        let names = (from.docker_name.as_str(), data.spec.docker_name.as_str());
        parts = roll.stop_writers(ctx, &token, names, front)?;
    }
    if let Some(from) = new.from {
        journal.step(ctx, "copy", &data, Batch::new())?;
        let (source, target) = (observe::content(ctx, from)?, backend.content(&data.spec)?);
        copy::copy(&source, &target, (&from.docker_name, new.no_verify), front)?;
        backend.sync(&data.spec)?;
        let writers = observe::writers(&observe::users(ctx, &from.docker_name)?);
        if !writers.is_empty() {
            let text = format!("{} began to write to {}", writers.join(", "), from.docker_name);
            return Err(Failure::new(format!("{text} while it was copied: nothing was changed"))
                .hint("stop it, then try again")
                .into());
        }
    }
    let shown = ctx.docker()?.volume(&data.spec.docker_name)?.unwrap_or_default();
    data.records = Some(records(new, &data, shown, front.user()));
    if !parts.is_empty() {
        journal.step(ctx, "move", &data, Batch::new())?;
        roll::advance(ctx, parts, front)?;
        journal.step(ctx, "record", &data, Batch::new())?;
    }
    Ok(data)
}

/// The records of the new version.
fn records(
    new: &New<'_>,
    data: &Data,
    shown: Value,
    by: Option<String>,
) -> (VolumeRecord, VolumeVersionRecord) {
    let now = Timestamp::now();
    let owner = new.before.and_then(|at| at.record.owner.clone()).or_else(|| by.clone());
    let record = VolumeRecord {
        schema: SCHEMA,
        name: new.name.clone(),
        version: data.version,
        docker_name: Some(data.spec.docker_name.clone()),
        owner,
        at: now,
    };
    let version = VolumeVersionRecord {
        schema: SCHEMA,
        name: new.name.clone(),
        version: data.version,
        docker_name: data.spec.docker_name.clone(),
        size: Some(data.spec.size),
        backend: data.spec.backend,
        detail: data.spec.detail.clone(),
        at: now,
        by,
        why: new.why.clone(),
        spec: shown,
    };
    (record, version)
}

/// Records the new version; the containers that moved first.
///
/// # Errors
/// The ledger's, and the Engine's. The journal stays then, and the next command tries again.
fn finish(ctx: &Context, journal: Journal, data: &Data) -> Result<(), Failure> {
    roll::finish(ctx, &data.roll, &journal.operation.token)?;
    let Some((record, version)) = &data.records else {
        return Err(Failure::new("there is no record of the new version"));
    };
    let keys = ctx.ledger.keys();
    let mut batch = Batch::new();
    let key = keys.volume(&record.name);
    let before = find::by_name(ctx, &record.name)?.map(|at| at.revision);
    batch.unchanged(key.clone(), before).put(key, record);
    let key = keys.volume_version(&record.name, version.version);
    batch.absent(key.clone()).put(key, version);
    journal.finish(ctx, batch)
}

/// Removes all of a version that was not made to the end; what became of the containers that were to move.
///
/// # Errors
/// When it cannot be removed now; the journal stays.
fn undo(ctx: &Context, journal: Journal) -> Result<Vec<String>, Failure> {
    let data: Data = journal.data()?;
    let how = roll::undo(ctx, &data.roll, &journal.operation.token)?;
    observe::sizing(ctx, data.spec.backend)?.remove(&data.spec, Some(&journal.operation.token))?;
    journal.finish(ctx, Batch::new())?;
    Ok(how)
}

/// Ends one that was broken off: `undone`, or `done`, and what became of its containers. The lock of
/// one of these may be `held`.
///
/// # Errors
/// When it cannot be brought to an end now: the journal stays.
pub(super) fn recover(
    ctx: &Context,
    journal: Journal,
    held: Option<&ContainerName>,
) -> Result<String, Failure> {
    let data: Data = journal.data()?;
    let _locks = roll::lock(ctx, &data.roll, &journal.operation.token, held)?;
    if journal.operation.step == "record" {
        finish(ctx, journal, &data)?;
        return Ok("done".to_owned());
    }
    let how = undo(ctx, journal)?;
    Ok(std::iter::once("undone".to_owned()).chain(how).collect::<Vec<_>>().join("; "))
}

/// Sees whether the host's disk can hold it.
fn check_room(ctx: &Context, new: &New<'_>, front: &mut dyn Front) -> Result<(), Failure> {
    let copied = match new.from {
        Some(from) if !shares(ctx, new.backend, from)? => observe::used(ctx, from)?,
        _ => ByteSize(0),
    };
    let full = match new.backend {
        Backend::Image => {
            let xfs = ctx.config.volumes.filesystem == ImageFilesystem::Xfs;
            ByteSize(rules::image_bytes(new.size, xfs))
        }
        Backend::Size | Backend::Plain => new.size,
    };
    let need = Need {
        now: copied,
        why: "have to be copied",
        full,
        asked: format!("{} asked for", new.size),
        allocate: new.allocate && new.backend == Backend::Image,
        else_do: match new.from {
            Some(from) if observe::allocated(from) => room::PRUNE,
            _ => "without --allocate the room is taken as files are written",
        },
    };
    room::check(ctx, new.backend, &need, front)
}

/// Whether the copy shares its blocks with what it is a copy of. With an image it never does: that is
/// another filesystem.
fn shares(ctx: &Context, backend: Backend, from: &VolumeVersionRecord) -> Result<bool, Failure> {
    if backend == Backend::Image {
        return Ok(false);
    }
    let there = ctx.config.docker.root.join("volumes");
    Ok(crate::layer::shares(&observe::content(ctx, from)?, &there))
}
