//! volume resize and rollback.

use gpuctl_ledger::model::{Backend, ByteSize, Version, VolumeVersionRecord};

use super::super::api::ResizeHow;
use super::super::api::{Failure, Front, VolumeAnswer};
use super::super::context::Context;
use super::find::{self, Found};
use super::make::{self, New};
use super::{in_place, journal, observe, roll};
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
            let was = now.size.map_or_else(|| "no limit".to_owned(), |s| s.to_string());
            let why = format!("resize {was} -> {size}");
            let in_place = rules::resize(before, size, true) == Ok(Resize::Grow);
            let from = Source { version: now, size, why, in_place };
            copy(ctx, &found, &from, how, front)
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
        // Of one that was removed, the last that is left.
        None if record.record.docker_name.is_none() => before(ctx, name, current.next())?,
        None => before(ctx, name, current)?,
    };
    if wanted == current && record.record.docker_name.is_some() {
        return Err(Failure::new(format!("{name} is at version {wanted} already"))
            .hint(format!("docker gpuctl volume history {name} shows its versions")));
    }
    let old = find::version(ctx, name, wanted)?;
    if ctx.docker()?.volume(&old.record.docker_name)?.is_none()
        && (how.dry_run || !observe::restore(ctx, &old.record)?)
    {
        return Err(Failure::new(format!(
            "{}, version {wanted} of {name}, is no longer there",
            old.record.docker_name
        ))
        .hint(format!("docker gpuctl volume history {name} shows which are")));
    }
    let here = find::version(ctx, name, current)?;
    let found = Found { record, version: here };
    // What was taken in without a limit gets one that has room for it.
    let size = match old.record.size {
        Some(size) => size,
        None => ByteSize(rules::whole_blocks(observe::used(ctx, &old.record)?).max(1 << 30)),
    };
    let why = format!("rollback {current} -> {wanted}");
    let from = Source { version: &old.record, size, why, in_place: false };
    copy(ctx, &found, &from, how, front)
}

/// The last version before the current one that is still there.
fn before(
    ctx: &Context,
    name: &gpuctl_ledger::model::VolumeName,
    current: Version,
) -> Result<Version, Failure> {
    for at in find::versions(ctx, name)?.into_iter().rev() {
        let version = at.record.version;
        let there = || -> Result<bool, Failure> {
            // An image outlives its volume in Docker.
            Ok(ctx.docker()?.volume(&at.record.docker_name)?.is_some()
                || observe::on_disk(ctx, &at.record).is_some())
        };
        if version < current && there()? {
            return Ok(version);
        }
    }
    Err(Failure::new(format!("{name} has no older version that is still there"))
        .hint(format!("docker gpuctl volume history {name} shows its versions")))
}

fn check_how(how: ResizeHow) -> Result<(), Failure> {
    if how.roll && how.in_place {
        return Err(Failure::new("--in-place makes no new version that --roll could move to")
            .hint("leave --roll out: with --in-place the containers go on as they are"));
    }
    Ok(())
}

/// Refuses to copy what is being written to by whom nothing stops.
fn check_writers(from: &Source<'_>, users: &[User], all_managed: bool) -> Result<(), Failure> {
    let writers = observe::writers(users);
    if writers.is_empty() {
        return Ok(());
    }
    let list = writers.join(", ");
    let mut ways = Vec::new();
    if from.in_place {
        ways.push("--in-place changes the size while it is in use".to_owned());
    }
    if all_managed {
        ways.push("--roll stops them for the copy, and gives them the new version".to_owned());
    }
    ways.push(format!("stop {list} first"));
    let docker_name = &from.version.docker_name;
    let (verb, ways) = (if writers.len() == 1 { "runs" } else { "run" }, ways.join("; or "));
    Err(Failure::new(format!("{docker_name} may be written to by {list}, which {verb}")).hint(ways))
}

/// Whose content, and how large.
struct Source<'a> {
    version: &'a VolumeVersionRecord,
    size: ByteSize,
    why: String,
    /// What is asked for could be had in place instead.
    in_place: bool,
}

fn copy(
    ctx: &Context,
    found: &Found,
    from: &Source<'_>,
    how: ResizeHow,
    front: &mut dyn Front,
) -> Result<VolumeAnswer, Failure> {
    let record = &found.record.record;
    let (name, current) = (&record.name, &found.version.record);
    let volumes = &ctx.config.volumes;
    let can = observe::abilities(ctx);
    let kept = from.version.backend;
    // It stays with its backend, if the host still has that.
    let wanted = (kept != Backend::Plain && can.why_not(kept).is_none()).then_some(kept);
    let backend = rules::choose(wanted, volumes.backend, &can)?;
    rules::check_size(from.size, backend, volumes.filesystem)?;
    let version = record.version.next();
    // Of a volume that was removed no container mounts the current version.
    let users = match &record.docker_name {
        Some(docker_name) => observe::users(ctx, docker_name)?,
        None => Vec::new(),
    };
    let roll = match how.roll {
        true => Some(roll::look(ctx, current, &name.at(version), &users, front)?),
        false => None,
    };
    let moves = |user: &User| roll.as_ref().is_some_and(|roll| roll.has(user));
    let (old, size) = (&from.version.docker_name, from.size);
    let sources = observe::users(ctx, old)?;
    let managed = roll::managed(ctx, &sources)?;
    let stay: Vec<User> = sources.iter().filter(|user| !moves(user)).cloned().collect();
    let is_managed = |user: &&User| managed.iter().any(|(_, id)| *id == user.id);
    let writing = stay.iter().filter(|user| user.running && user.writes);
    let all_managed =
        roll.is_none() && *old == current.docker_name && writing.clone().all(|u| is_managed(&u));
    check_writers(from, &stay, all_managed)?;
    if how.dry_run {
        let used = observe::used(ctx, from.version)?;
        let new = name.at(version);
        let (stop, moved) = roll.map(|roll| roll.steps(&sources, &new)).unwrap_or_default();
        let mut steps = vec![format!("make {new} with room for {size} (backend {backend})")];
        steps.extend(stop);
        steps.push(format!("copy {used} from {old}, and compare"));
        steps.extend(moved);
        steps.push(format!("{name} is at version {version}; {old} stays"));
        return Ok(VolumeAnswer::Plan(steps));
    }
    let new = New {
        name,
        before: Some(&found.record),
        version,
        backend,
        size,
        labels: labels(from.version),
        allocate: how.allocate || observe::allocated(from.version),
        from: Some(from.version),
        no_verify: how.no_verify,
        why: from.why.clone(),
        roll: roll.as_ref().filter(|roll| !roll.is_empty()),
    };
    let docker_name = make::make(ctx, &new, front)?;
    let left: Vec<User> = users.iter().filter(|user| !moves(user)).cloned().collect();
    roll::tell_left(&left, &docker_name, &roll::managed(ctx, &left)?, front);
    let moved = roll.map(|roll| format!("; {}", roll.summary())).unwrap_or_default();
    let summary =
        format!("{docker_name} has room for {size} and the content of {old}, which stays{moved}");
    Ok(VolumeAnswer::Made { docker_name, summary })
}

/// The user's labels of a version, as Docker showed them when it was made.
fn labels(version: &VolumeVersionRecord) -> Vec<(String, String)> {
    let labels = version.spec.get("Labels").and_then(|labels| labels.as_object());
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    let all = labels.into_iter().flatten().map(|(k, v)| (k.clone(), text(v)));
    all.filter(|(key, _)| key != crate::volume::OPERATION_LABEL).collect()
}
