//! rm: what is kept of older versions goes, then the container, then what it held is free, then its records. Steps of the journal:
//! `remove` (Docker removes) and `forget` (records). Both are finished, never undone.

use gpuctl_ledger::ledger::{At, Batch};
use gpuctl_ledger::model::{
    ContainerId, ContainerName, ContainerRecord, DockerName, OperationKind,
};
use gpuctl_ledger::node::notes;
use gpuctl_ledger::store::Outcome;
use serde::{Deserialize, Serialize};

use super::api::{Answer, Event, Failure, Front};
use super::context::Context;
use super::journal::{self, Journal};
use super::kept::Stays;
use super::lifecycle::{each, or_dockers_own};
use super::{ending, kept, names, ports};

/// At most so many records go in one commit: etcd's default limit of a transaction is 128.
const RECORDS_AT_ONCE: usize = 64;

/// How to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct How {
    /// Also a running one.
    pub(super) force: bool,
    /// Its anonymous volumes too.
    pub(super) volumes: bool,
    /// Its history too.
    pub(super) history: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Data {
    id: Option<ContainerId>,
    how: How,
}

/// Removes containers.
///
/// # Errors
/// None as a whole: failures are in the answer.
pub(super) fn remove(
    ctx: &Context,
    names: &[String],
    how: How,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    Ok(each(names, front, |name, front| {
        remove_one(ctx, name, how, front).map_err(|why| {
            or_dockers_own(why, "docker rm", name, || {
                let may_be = ContainerName::new(name).is_ok();
                Some(may_be && ctx.docker().ok()?.inspect(name).ok()?.is_some())
            })
        })
    }))
}

fn remove_one(ctx: &Context, name: &str, how: How, front: &mut dyn Front) -> Result<(), Failure> {
    let lock = journal::lock_named(ctx, name, front)?;
    let removed = lock.ended == Some(OperationKind::Remove);
    let record = match names::record(ctx, name) {
        // With its history, just now.
        Err(_) if removed => return Ok(()),
        found => found?.record,
    };
    lock.is_of(&record.name)?;
    let id = record.container.clone();
    if id.is_none() && !how.history && removed {
        return Ok(());
    }
    if id.is_none() && !how.history {
        return names::existing(ctx, name).map(drop);
    }
    if let Some(id) = &id
        && let Some(shown) = ctx.docker()?.inspect(id.as_str())?
        && shown.running()
        && !how.force
    {
        return Err(Failure::new(format!("{} is running", shown.name()))
            .hint(format!("docker gpuctl stop {name} first, or docker gpuctl rm -f {name}")));
    }
    let data = Data { id, how };
    let journal =
        Journal::begin(ctx, &record.name, OperationKind::Remove, front.user(), "remove", &data)?;
    if let Some(text) = finish(ctx, journal)? {
        front.event(Event::Warning { text });
    }
    Ok(())
}

/// Carries a removal to its end, from wherever it stands; what keeps its GPUs all the same.
fn finish(ctx: &Context, mut journal: Journal) -> Result<Option<String>, Failure> {
    let data: Data = journal.data()?;
    let name = journal.operation.name.clone();
    let record = ctx.ledger.container(&name)?;
    let shown = record.as_ref().map(|at| DockerName::of(&name, at.record.version).to_string());
    let mut stays = None;
    // First what is kept of older versions: it uses the same anonymous volumes.
    if journal.operation.step == "remove"
        && let Err(why) = kept::remove_all(ctx, &name, data.id.as_ref())
    {
        let why = why.kept()?;
        // What cannot be removed is said, and the container stays, as any other can be used.
        journal.finish(ctx, Batch::new())?;
        return Err(why);
    }
    if let Some(id) = &data.id {
        if journal.operation.step == "remove" {
            match ctx.docker()?.remove(id.as_str(), data.how.force, data.how.volumes) {
                Err(e) if !e.is_not_found() => {
                    let why = Stays::from(e).kept()?;
                    // Docker keeps it: so do we.
                    journal.finish(ctx, Batch::new())?;
                    return Err(why);
                }
                _ => journal.step(ctx, "forget", &data, Batch::new())?,
            }
        }
        stays = ending::release_all(ctx, id, shown.as_deref().unwrap_or(name.as_str()))?;
        let _ = notes::remove_binding(&ctx.config.paths, id);
    }
    ports::release_all(ctx, &name)?;
    let keys = ctx.ledger.keys();
    let mut batch = Batch::new();
    if let Some(id) = &data.id {
        batch.delete(keys.binding(id));
    }
    if data.how.history {
        forget_versions(ctx, &name)?;
        batch.delete(keys.container(&name));
    } else if let Some(At { record, revision }) = record {
        let key = keys.container(&name);
        let left = ContainerRecord { container: None, ..record };
        batch.at(key.clone(), revision).put(key, &left);
    }
    journal.finish(ctx, batch)?;
    Ok(stays)
}

/// Forgets all versions of a container.
///
/// # Errors
/// The ledger's.
pub(super) fn forget_versions(ctx: &Context, name: &ContainerName) -> Result<(), Failure> {
    let keys = ctx.ledger.keys();
    let versions = kept::versions(ctx, name)?;
    let of: Vec<String> = versions.iter().map(|v| keys.version(name, v.version)).collect();
    forget(ctx, &of)
}

/// Deletes records, whatever stands there, so many in a commit as the ledger takes.
///
/// # Errors
/// The ledger's.
pub(super) fn forget(ctx: &Context, keys: &[String]) -> Result<(), Failure> {
    for some in keys.chunks(RECORDS_AT_ONCE) {
        let mut batch = Batch::new();
        for key in some {
            batch.delete(key.clone());
        }
        let _ = ctx.ledger.commit(&batch)?;
    }
    Ok(())
}

/// Forgets what a container left that was run with --rm, once Docker has it no more: its version, its
/// binding and the node's copy of that. What a name has of older history stays.
///
/// # Errors
/// The ledger's.
pub(super) fn forget_run(ctx: &Context, found: &At<ContainerRecord>) -> Result<bool, Failure> {
    let At { record, revision } = found.clone();
    let keys = ctx.ledger.keys();
    let key = keys.container(&record.name);
    ports::release_all(ctx, &record.name)?;
    let mut batch = Batch::new();
    batch.at(key.clone(), revision).delete(keys.version(&record.name, record.version));
    if let Some(id) = &record.container {
        ending::release_dead(ctx, id, &[])?;
        batch.delete(keys.binding(id));
    }
    let versions = kept::versions(ctx, &record.name)?;
    let older = versions.iter().map(|v| v.version).filter(|v| *v < record.version).max();
    match older {
        None => batch.delete(key),
        Some(version) => {
            let left =
                ContainerRecord { version, container: None, auto_remove: false, ..record.clone() };
            batch.put(key, &left)
        }
    };
    if ctx.ledger.commit(&batch)? == Outcome::Conflict {
        return Ok(false);
    }
    if let Some(id) = &record.container {
        let _ = notes::remove_binding(&ctx.config.paths, id);
    }
    Ok(true)
}

/// As [`forget_run`], where that run has indeed ended and nobody is at work on its name; whether it
/// has, and was.
///
/// # Errors
/// The ledger's and the Engine's.
pub(super) fn forget_ended(
    ctx: &Context,
    name: &ContainerName,
    id: &ContainerId,
) -> Result<bool, Failure> {
    let Some(lock) = journal::try_lock(ctx, name)? else { return Ok(false) };
    let Some(found) = ctx.ledger.container(name)? else { return Ok(false) };
    let this = found.record.auto_remove && found.record.container.as_ref() == Some(id);
    if !this
        || ctx.ledger.operation(name)?.is_some()
        || ctx.docker()?.inspect(id.as_str())?.is_some()
    {
        return Ok(false);
    }
    if !forget_run(ctx, &found)? {
        return Ok(false);
    }
    lock.forget();
    Ok(true)
}

/// Ends a removal that was broken off.
///
/// # Errors
/// When it cannot be brought to an end now.
pub(super) fn recover(ctx: &Context, journal: Journal) -> Result<String, Failure> {
    let name = journal.operation.name.clone();
    let kept = finish(ctx, journal)?.map(|text| format!("; {text}")).unwrap_or_default();
    Ok(format!("an earlier rm of {name} was broken off: it is done{kept}"))
}
