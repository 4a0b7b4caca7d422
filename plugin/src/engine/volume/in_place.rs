//! volume resize --in-place: the same volume gets another limit. Steps: `grow`, which is finished when
//! it was broken off, and undone where that fails; or `offline`, which is undone, and then `swap`, which is finished.

use gpuctl_ledger::config::ImageFilesystem;
use gpuctl_ledger::ledger::Batch;
use gpuctl_ledger::model::{
    ByteSize, Version, VolumeName, VolumeOperationKind, VolumeVersionRecord,
};
use serde::{Deserialize, Serialize};

use super::super::api::{Failure, Front, VolumeAnswer};
use super::super::context::Context;
use super::find::Found;
use super::journal::Journal;
use super::room::{self, Need};
use super::{copy, find, observe};
use crate::docker::User;
use crate::layer;
use crate::volume::Spec;
use crate::volume::image::{Detail, Images};
use crate::volume::rules::{self, Resize};

/// What finishing or undoing needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Data {
    /// The version, with the size that it is to have.
    pub(super) spec: Spec,
    /// The version's number.
    pub(super) version: Version,
    /// The size that it had.
    pub(super) from: ByteSize,
}

/// What is to be done.
pub(super) struct Change<'a> {
    /// To which volume.
    pub(super) found: &'a Found,
    /// The size that it is to have.
    pub(super) size: ByteSize,
    /// While it is mounted or not.
    pub(super) plan: Resize,
    /// Who mounts it.
    pub(super) users: &'a [User],
}

/// Does it.
///
/// # Errors
/// [`Failure`]; then all is as it was, or the failure says that it goes on.
pub(super) fn change(
    ctx: &Context,
    change: &Change<'_>,
    dry_run: bool,
    name: &VolumeName,
    front: &mut dyn Front,
) -> Result<VolumeAnswer, Failure> {
    let now = &change.found.version.record;
    let docker_name = now.docker_name.clone();
    let (Some(from), Some(spec)) = (now.size, Spec::of(now)) else {
        return Err(Failure::new(format!("nothing keeps {docker_name} to a size")));
    };
    let spec = Spec { size: change.size, ..spec };
    let offline = change.plan == Resize::Offline;
    let running: Vec<User> = change.users.iter().filter(|u| u.running).cloned().collect();
    if offline && !running.is_empty() {
        return Err(Failure::new(format!(
            "{docker_name} is in use by {}: it {} only while it is not mounted",
            observe::names(&running).join(", "),
            if change.size < from { "shrinks" } else { "grows here" },
        ))
        .details(observe::lines(&running))
        .hint("stop them first"));
    }
    let size = change.size;
    if dry_run {
        return Ok(VolumeAnswer::Plan(if offline {
            vec![
                format!("unmount {docker_name}"),
                format!("check a copy of its image, and resize that to {size}"),
                "the copy takes the image's place, and is mounted".to_owned(),
            ]
        } else {
            vec![format!("grow {docker_name} from {from} to {size}, while it is mounted")]
        }));
    }
    check_room(ctx, now, &spec, offline, front)?;
    let data = Data { spec, version: now.version, from };
    let step = if offline { "offline" } else { "grow" };
    let kind = VolumeOperationKind::InPlace;
    let mut journal = Journal::begin(ctx, name, kind, front.user(), step, &data)?;
    let images = Images { docker: ctx.docker()? };
    if offline {
        let resized = copy::watched(front, |given_up| images.resize_copy(&data.spec, given_up));
        if let Err(why) = resized {
            undo(ctx, journal).map_err(|also| why.undoing_failed(&also))?;
            return Err(why);
        }
        journal.step(ctx, "swap", &data, Batch::new())?;
    }
    if let Some(why) = finish(ctx, journal)? {
        let message = format!("{}; {docker_name} has room for {from} as before", why.message);
        return Err(Failure { message, ..why });
    }
    let summary = format!("{docker_name} has room for {size}, it had for {from}");
    Ok(VolumeAnswer::Made { docker_name, summary })
}

/// The least that the host's disk must have free for a filesystem to grow there while it is used: with
/// less, what it writes for itself may fail, and then it can only be read.
const GROWS_WITH: u64 = 32 << 20;

/// What a copy that shares its blocks may take beyond those that are moved: its filesystem's own.
const MOVES_WITH: u64 = 16 << 20;

/// What is done with what is needed to resize a copy.
const COPIED: &str = "are copied for it";

/// Sees whether the host's disk can hold it.
fn check_room(
    ctx: &Context,
    now: &VolumeVersionRecord,
    spec: &Spec,
    offline: bool,
    front: &mut dyn Front,
) -> Result<(), Failure> {
    let allocate = Detail::of(spec)?.allocated;
    let taken = observe::on_disk(ctx, now).unwrap_or(ByteSize(0));
    let xfs = observe::filesystem(ctx, now) == ImageFilesystem::Xfs;
    let whole = rules::image_bytes(spec.size, xfs);
    let images = &ctx.config.volumes.images;
    // Blocks that are shared take room once they are moved: those beyond the new end.
    let moved = observe::length(now).saturating_sub(whole).min(taken.0);
    let (now_needed, why) = match offline {
        true if !layer::shares(images, images) => (taken, COPIED),
        true => (ByteSize(moved + MOVES_WITH), COPIED),
        false => (ByteSize(GROWS_WITH), "are needed to grow"),
    };
    let full = if offline && allocate { whole } else { whole.saturating_sub(taken.0) };
    let need = Need {
        now: now_needed,
        why,
        full: ByteSize(full),
        asked: format!("{} asked for, {} more than now", spec.size, ByteSize(full)),
        allocate,
        else_do: room::PRUNE,
    };
    room::check(ctx, now.backend, &need, front)
}

/// Carries a growth or a swap to its end. A growth that fails is undone: then why it failed.
fn finish(ctx: &Context, journal: Journal) -> Result<Option<Failure>, Failure> {
    let data: Data = journal.data()?;
    let images = Images { docker: ctx.docker()? };
    if journal.operation.step == "swap" {
        images.swap(&data.spec)?;
    } else if let Err(why) = images.grow(&data.spec, &|| false) {
        let spec = Spec { size: data.from, ..data.spec };
        images.keep(&spec).map_err(|also| why.undoing_failed(&also))?;
        journal.finish(ctx, Batch::new())?;
        return Ok(Some(why));
    }
    let name = &journal.operation.name;
    let version = find::version(ctx, name, data.version)?;
    let size = data.spec.size;
    let record = VolumeVersionRecord {
        size: Some(size),
        why: format!("{}, then in place {} -> {size}", version.record.why, data.from),
        ..version.record
    };
    let mut batch = Batch::new();
    let key = ctx.ledger.keys().volume_version(name, data.version);
    batch.at(key.clone(), version.revision).put(key, &record);
    journal.finish(ctx, batch)?;
    Ok(None)
}

/// Forgets a resized copy: the image itself was only read.
fn undo(ctx: &Context, journal: Journal) -> Result<(), Failure> {
    let data: Data = journal.data()?;
    let spec = Spec { size: data.from, ..data.spec };
    Images { docker: ctx.docker()? }.forget_copy(&spec)?;
    journal.finish(ctx, Batch::new())
}

/// Ends one that was broken off; says how.
///
/// # Errors
/// When it cannot be brought to an end now.
pub(super) fn recover(ctx: &Context, journal: Journal) -> Result<String, Failure> {
    let name = journal.operation.name.clone();
    if journal.operation.step == "offline" {
        undo(ctx, journal)?;
        return Ok(format!(
            "an earlier resize in place of volume {name} was broken off: it is undone"
        ));
    }
    Ok(match finish(ctx, journal)? {
        None => format!("an earlier resize in place of volume {name} was broken off: it is done"),
        Some(why) => format!(
            "an earlier resize in place of volume {name} was broken off: it is undone, since {why}"
        ),
    })
}
