//! volume resize and rollback.

use gpuctl_ledger::model::{Backend, ByteSize, Version, VolumeVersionRecord};

use super::super::api::ResizeHow;
use super::super::api::{Event, Failure, Front, VolumeAnswer};
use super::super::context::Context;
use super::find::{self, Found};
use super::make::{self, New};
use super::{in_place, journal, observe};
use crate::docker::User;
use crate::volume::image::may_grow_mounted;
use crate::volume::rules::{self, Before, Resize};

/// Gives a volume another size.
///
/// # Errors
/// [`Failure`]; then all is as it was.
pub(super) fn resize(
    ctx: &Context,
    text: &str,
    size: ByteSize,
    how: ResizeHow,
    front: &mut dyn Front,
) -> Result<VolumeAnswer, Failure> {
    check_how(how)?;
    let lock = journal::lock_named(ctx, text, front)?;
    let found = find::existing(ctx, text)?;
    let now = &found.version.record;
    let name = &lock.name;
    let filesystem = observe::filesystem(ctx, now);
    let before = Before {
        docker_name: &now.docker_name,
        size: now.size,
        backend: now.backend,
        filesystem,
        grows_mounted: may_grow_mounted(filesystem),
        used: observe::used(ctx, now)?,
    };
    let plan = rules::resize(before, size, how.in_place)?;
    let users = observe::users(ctx, &now.docker_name)?;
    match plan {
        Resize::Nothing => {
            let docker_name = now.docker_name.clone();
            let summary = format!("{docker_name} has room for {size} already: nothing was changed");
            Ok(VolumeAnswer::Made { docker_name, summary })
        }
        Resize::Copy => {
            check_writers(now, &users, rules::can_in_place(now.backend))?;
            let was = now.size.map_or_else(|| "no limit".to_owned(), |s| s.to_string());
            let why = format!("resize {was} -> {size}");
            let from = Source { version: now, size, why };
            copy(ctx, &found, &from, how, &users, front)
        }
        Resize::Grow | Resize::Offline => {
            rules::check_size(size, now.backend, before.filesystem)?;
            let change = in_place::Change { found: &found, size, plan, users: &users };
            in_place::change(ctx, &change, how.dry_run, name, front)
        }
    }
}

/// Gives a volume the content and the size of an older version, as a new one.
///
/// # Errors
/// [`Failure`]; then all is as it was.
pub(super) fn rollback(
    ctx: &Context,
    text: &str,
    version: Option<Version>,
    how: ResizeHow,
    front: &mut dyn Front,
) -> Result<VolumeAnswer, Failure> {
    check_how(how)?;
    let lock = journal::lock_named(ctx, text, front)?;
    let record = find::record(ctx, text)?;
    let name = &lock.name;
    let current = record.record.version;
    let wanted = match version {
        Some(version) => version,
        None if record.record.docker_name.is_none() => current,
        None => before(ctx, name, current)?,
    };
    if wanted == current && record.record.docker_name.is_some() {
        return Err(Failure::new(format!("{name} is at version {wanted} already"))
            .hint(format!("docker gpuctl volume history {name} shows its versions")));
    }
    let old = find::version(ctx, name, wanted)?;
    let here = find::version(ctx, name, current)?;
    let found = Found { record, version: here };
    let users = observe::users(ctx, &old.record.docker_name)?;
    check_writers(&old.record, &users, false)?;
    // What was taken in without a limit gets one that has room for it.
    let size = match old.record.size {
        Some(size) => size,
        None => ByteSize(rules::whole_blocks(observe::used(ctx, &old.record)?).max(1 << 30)),
    };
    let why = format!("rollback {current} -> {wanted}");
    let from = Source { version: &old.record, size, why };
    let users = observe::users(ctx, &found.version.record.docker_name)?;
    copy(ctx, &found, &from, how, &users, front)
}

/// The last version before the current one that is still there.
fn before(
    ctx: &Context,
    name: &gpuctl_ledger::model::VolumeName,
    current: Version,
) -> Result<Version, Failure> {
    for at in find::versions(ctx, name)?.into_iter().rev() {
        let version = at.record.version;
        if version < current && ctx.docker()?.volume(&at.record.docker_name)?.is_some() {
            return Ok(version);
        }
    }
    Err(Failure::new(format!("{name} has no version before {current} that is still there"))
        .hint(format!("docker gpuctl volume history {name} shows its versions")))
}

fn check_how(how: ResizeHow) -> Result<(), Failure> {
    if how.roll {
        return Err(Failure::new("--roll is not there yet: it needs containers to be replaced")
            .hint("stop the containers, resize, and give them the new volume"));
    }
    Ok(())
}

/// Refuses to copy what is being written to.
fn check_writers(
    version: &VolumeVersionRecord,
    users: &[User],
    can_in_place: bool,
) -> Result<(), Failure> {
    let writers = observe::writers(users);
    if writers.is_empty() {
        return Ok(());
    }
    let list = writers.join(", ");
    let stop = format!("stop {list} first");
    let hint = if can_in_place {
        format!("--in-place changes the size while it is in use; or {stop}")
    } else {
        stop
    };
    Err(Failure::new(format!("{} may be written to by {list}, which runs", version.docker_name))
        .hint(hint))
}

/// Whose content, and how large.
struct Source<'a> {
    version: &'a VolumeVersionRecord,
    size: ByteSize,
    why: String,
}

fn copy(
    ctx: &Context,
    found: &Found,
    from: &Source<'_>,
    how: ResizeHow,
    users: &[User],
    front: &mut dyn Front,
) -> Result<VolumeAnswer, Failure> {
    let record = &found.record.record;
    let name = &record.name;
    let volumes = &ctx.config.volumes;
    let can = observe::abilities(ctx);
    let kept = from.version.backend;
    // It stays with its backend, if the host still has that.
    let wanted = (kept != Backend::Plain && can.why_not(kept).is_none()).then_some(kept);
    let backend = rules::choose(wanted, volumes.backend, &can)?;
    rules::check_size(from.size, backend, volumes.filesystem)?;
    let version = record.version.next();
    let (old, size) = (&from.version.docker_name, from.size);
    if how.dry_run {
        let used = observe::used(ctx, from.version)?;
        return Ok(VolumeAnswer::Plan(vec![
            format!("make {} with room for {size} (backend {backend})", name.at(version)),
            format!("copy {used} from {old}, and compare"),
            format!("{name} is at version {version}; {old} stays"),
        ]));
    }
    let new = New {
        name,
        before: Some(&found.record),
        version,
        backend,
        size,
        labels: labels(from.version),
        allocate: how.allocate,
        from: Some(from.version),
        no_verify: how.no_verify,
        why: from.why.clone(),
    };
    let docker_name = make::make(ctx, &new, front)?;
    let names = observe::names(users);
    if !names.is_empty() {
        let text = format!(
            "{} still mounts {}: it sees {docker_name} once it is made anew with it",
            names.join(", "),
            found.version.record.docker_name
        );
        front.event(Event::Note { text });
    }
    let summary =
        format!("{docker_name} has room for {size} and the content of {old}, which stays");
    Ok(VolumeAnswer::Made { docker_name, summary })
}

/// The user's labels of a version, as Docker showed them when it was made.
fn labels(version: &VolumeVersionRecord) -> Vec<(String, String)> {
    let labels = version.spec.get("Labels").and_then(|labels| labels.as_object());
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    let all = labels.into_iter().flatten().map(|(k, v)| (k.clone(), text(v)));
    all.filter(|(key, _)| key != crate::volume::OPERATION_LABEL).collect()
}
