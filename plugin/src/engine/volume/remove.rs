//! volume rm and prune: the volumes go, then their records. One step, `remove`, which is finished when
//! it was broken off.

use std::collections::{BTreeMap, BTreeSet};

use gpuctl_ledger::ledger::{At, Batch};
use gpuctl_ledger::model::{
    Backend, Version, VolumeName, VolumeOperationKind, VolumeRecord, VolumeVersionRecord,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::api::PrunedRow;
use super::super::api::{Answer, Event, Failure, Front, VolumeAnswer};
use super::super::context::Context;
use super::super::lifecycle::{each, or_dockers_own};
use super::journal::{self, Journal};
use super::{find, observe};
use crate::docker::User;
use crate::volume::Spec;

/// What is forgotten with the volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Forget {
    /// Nothing: prune.
    Nothing,
    /// That there is a current version.
    Current,
    /// The name.
    All,
}

/// A volume in Docker that goes.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Target {
    docker_name: String,
    /// `None` of one that nothing keeps to a size.
    spec: Option<Spec>,
}

/// What finishing needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Data {
    targets: Vec<Target>,
    forget: Forget,
}

fn target(version: &VolumeVersionRecord) -> Target {
    let spec = Spec::of(version).filter(|spec| spec.backend != Backend::Plain);
    Target { docker_name: version.docker_name.clone(), spec }
}

/// Removes volumes.
pub(super) fn remove(
    ctx: &Context,
    names: &[String],
    history: bool,
    front: &mut dyn Front,
) -> Answer {
    each(names, front, |text, front| {
        remove_one(ctx, text, history, front).map_err(|why| {
            or_dockers_own(why, "docker volume rm", text, || {
                let may_be = VolumeName::new(text).is_ok();
                Some(may_be && ctx.docker().ok()?.volume(text).ok()?.is_some())
            })
        })
    })
}

fn remove_one(
    ctx: &Context,
    text: &str,
    history: bool,
    front: &mut dyn Front,
) -> Result<(), Failure> {
    let lock = journal::lock_named(ctx, text, front)?;
    let removed = lock.ended == Some(VolumeOperationKind::Remove);
    let record = match find::record(ctx, text) {
        // With its history, just now.
        Err(_) if removed => return Ok(()),
        found => found?.record,
    };
    let name = lock.name.clone();
    if record.docker_name.is_none() && !history {
        return if removed { Ok(()) } else { find::existing(ctx, text).map(drop) };
    }
    let versions = find::versions(ctx, &name)?;
    let is_current = |v: &Version| record.docker_name.is_some() && *v == record.version;
    let going: Vec<&VolumeVersionRecord> = versions
        .iter()
        .map(|at| &at.record)
        .filter(|v| history || is_current(&v.version))
        .collect();
    check_unused(ctx, &going)?;
    for version in &going {
        if let Some(shown) = ctx.docker()?.volume(&version.docker_name)? {
            observe::check_same(version, &shown)?;
        }
    }
    let data = Data {
        targets: going.into_iter().map(target).collect(),
        forget: if history { Forget::All } else { Forget::Current },
    };
    let kind = VolumeOperationKind::Remove;
    let journal = Journal::begin(ctx, &name, kind, front.user(), "remove", &data)?;
    finish(ctx, journal)?;
    if history {
        lock.forget();
        return Ok(());
    }
    let mut left = Vec::new();
    for version in versions.iter().map(|at| &at.record).filter(|v| !is_current(&v.version)) {
        let there = ctx.docker()?.volume(&version.docker_name)?.is_some();
        match observe::on_disk(ctx, version) {
            Some(cost) => left.push(format!("{} ({cost})", version.docker_name)),
            None if there => left.push(version.docker_name.clone()),
            None => {}
        }
    }
    if !left.is_empty() {
        let text = format!(
            "older versions stay: {}; docker gpuctl volume rm --history {name} removes them too",
            left.join(", ")
        );
        front.event(Event::Note { text });
    }
    Ok(())
}

/// Refuses what a container mounts, running or not.
fn check_unused(ctx: &Context, going: &[&VolumeVersionRecord]) -> Result<(), Failure> {
    let is_going = |u: &User| going.iter().any(|v| v.docker_name == u.volume);
    let users: Vec<User> = ctx.docker()?.volume_users()?.into_iter().filter(is_going).collect();
    let Some(first) = users.first() else { return Ok(()) };
    let names = observe::names(&users);
    Err(Failure::new(format!("{} is in use by {}", first.volume, names.join(", ")))
        .details(observe::lines(&users))
        .hint("remove these containers first, or give them another volume"))
}

/// Carries a removal to its end, from wherever it stands.
fn finish(ctx: &Context, journal: Journal) -> Result<(), Failure> {
    let data: Data = journal.data()?;
    for (number, target) in data.targets.iter().enumerate() {
        let removed = match remove_target(ctx, target) {
            // Some are gone, so the others are to go: a connection that broke is made anew.
            Err(_) if number > 0 => remove_target(ctx, target),
            removed => removed,
        };
        match removed {
            Ok(()) => {}
            Err(why) => {
                // Nothing is lost: what is gone is no longer shown, the rest is as it was.
                if ctx.docker()?.volume(&target.docker_name)?.is_some() {
                    journal.finish(ctx, Batch::new())?;
                }
                return Err(why);
            }
        }
    }
    let keys = ctx.ledger.keys();
    let name = journal.operation.name.clone();
    let key = keys.volume(&name);
    let mut batch = Batch::new();
    match data.forget {
        Forget::Nothing => {}
        Forget::Current => {
            if let Some(At { record, revision }) = find::by_name(ctx, &name)? {
                let left = VolumeRecord { docker_name: None, ..record };
                batch.at(key.clone(), revision).put(key, &left);
            }
        }
        Forget::All => {
            let versions = find::versions(ctx, &name)?.into_iter().map(|at| at.record.version);
            let of: Vec<String> = versions.map(|v| keys.volume_version(&name, v)).collect();
            super::super::remove::forget(ctx, &of)?;
            batch.delete(key);
        }
    }
    journal.finish(ctx, batch)
}

fn remove_target(ctx: &Context, target: &Target) -> Result<(), Failure> {
    if let Some(spec) = &target.spec {
        return observe::sizing(ctx, spec.backend)?.remove(spec, None);
    }
    match ctx.docker()?.remove_volume(&target.docker_name) {
        Err(e) if !e.is_not_found() => Err(e.into()),
        _ => Ok(()),
    }
}

/// Ends a removal that was broken off.
///
/// # Errors
/// When it cannot be brought to an end now.
pub(super) fn recover(ctx: &Context, journal: Journal) -> Result<String, Failure> {
    let name = journal.operation.name.clone();
    finish(ctx, journal)?;
    Ok(format!("an earlier rm of volume {name} was broken off: it is done"))
}

/// Removes old versions that no container mounts; which they were. With `dry_run`, which they are.
///
/// # Errors
/// When ledger or Engine cannot be asked.
pub(super) fn prune(
    ctx: &Context,
    dry_run: bool,
    front: &mut dyn Front,
) -> Result<VolumeAnswer, Failure> {
    let mut rows = Vec::new();
    // One look at Docker for any number of volumes; a version that is mounted since, Docker keeps.
    let (volumes, users) = (ctx.docker()?.volumes()?, ctx.docker()?.volume_users()?);
    let free = Free {
        there: volumes.iter().filter_map(|v| Some((v["Name"].as_str()?, v))).collect(),
        used: users.iter().map(|user| user.volume.as_str()).collect(),
    };
    for at in find::all(ctx)? {
        let name = at.record.name;
        if dry_run {
            rows.extend(old(ctx, &name, &free)?.into_iter().map(|(row, _)| row));
            continue;
        }
        // Who has the lock is at work on it: its old versions are for the next time.
        let Some(lock) = journal::try_lock(ctx, &name)? else { continue };
        if journal::open(ctx, &name)?.is_some() {
            continue;
        }
        for (mut row, target) in old(ctx, &name, &free)? {
            let data = Data { targets: vec![target], forget: Forget::Nothing };
            let kind = VolumeOperationKind::Remove;
            let journal = Journal::begin(ctx, &name, kind, front.user(), "remove", &data)?;
            row.failed = finish(ctx, journal).err().map(|why| why.message);
            rows.push(row);
        }
        drop(lock);
    }
    Ok(VolumeAnswer::Pruned(rows))
}

/// What Docker has, by name.
struct Free<'a> {
    there: BTreeMap<&'a str, &'a Value>,
    used: BTreeSet<&'a str>,
}

/// The versions of a volume that are not current, that no container mounts, and that are there: in Docker,
/// or only an image of which somebody removed the volume there.
fn old(
    ctx: &Context,
    name: &VolumeName,
    free: &Free<'_>,
) -> Result<Vec<(PrunedRow, Target)>, Failure> {
    let Some(record) = find::by_name(ctx, name)? else { return Ok(Vec::new()) };
    let record = record.record;
    let mut found = Vec::new();
    for at in find::versions(ctx, name)? {
        let version = at.record;
        let docker_name = version.docker_name.clone();
        let current = record.docker_name.is_some() && version.version == record.version;
        if current || free.used.contains(docker_name.as_str()) {
            continue;
        }
        let on_disk = observe::on_disk(ctx, &version);
        match free.there.get(docker_name.as_str()) {
            Some(shown) if !observe::is_same(&version, shown) => continue,
            None if on_disk.is_none() => continue,
            _ => {}
        }
        found.push((PrunedRow { docker_name, on_disk, failed: None }, target(&version)));
    }
    Ok(found)
}
