//! rename: a container and all that is kept of it get another name.
//!
//! Steps of the journal: `copy` (versions are written under the new name as well) and `names` (its
//! containers in Docker are renamed), both undone; `records` (the container's record is the new
//! name's, and what stands in the old name follows) and `forget` (versions go from under the old
//! name), both finished. The journal stands under both names, so that whoever means either finds it,
//! and both locks are held.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gpuctl_ledger::ledger::{At, Batch, Change};
use gpuctl_ledger::model::{
    Binding, ContainerId, ContainerName, ContainerRecord, DockerName, Holder, Lease, Operation,
    OperationKind, PortRecord, VersionRecord,
};
use serde::{Deserialize, Serialize};

use super::api::{Answer, Event, Failure, Front, MoreAnswer};
use super::context::Context;
use super::create::keep_copy;
use super::journal::{self, Journal, Locked};
use super::{ending, kept, leases, names, ports, remove};

/// What one commit of many writes, at most: records, and their bytes, well below the ledger's limits.
const AT_ONCE: usize = 32;
const BYTES_AT_ONCE: usize = 1 << 20;
/// How long whoever ends a broken-off rename waits for the other name's lock.
const OTHER: Duration = Duration::from_secs(2);
/// How often a record that somebody else writes too is looked at again.
const TRIES: u32 = 16;

/// What finishing and undoing need.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Data {
    from: ContainerName,
    to: ContainerName,
    /// Containers with their names in Docker, before and after: the current one and those kept of
    /// older versions.
    renamed: Vec<(ContainerId, DockerName, DockerName)>,
}

/// Renames a container.
///
/// # Errors
/// [`Failure`]; then it is called what it was.
pub(super) fn rename(
    ctx: &Context,
    text: &str,
    new: &ContainerName,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    let from = named(ctx, text, front)?;
    if from == *new {
        return Err(Failure::new(format!("{from} is its name already")).hint("give it another"));
    }
    let (first, second) = if from < *new { (&from, new) } else { (new, &from) };
    let locks = (journal::lock(ctx, first, front)?, journal::lock(ctx, second, front)?);
    let record = names::record(ctx, text)?;
    if record.record.name != from {
        return Err(Failure::new(format!("{text} is another container by now")).hint("try again"));
    }
    if let Some(there) = ctx.ledger.container(new)? {
        let (what, hint) = match there.record.container {
            Some(_) => {
                ("is in use", format!("docker gpuctl rm {new} removes it; or take another name"))
            }
            None => (
                "has a history",
                format!("docker gpuctl rm --history {new} forgets it; or take another name"),
            ),
        };
        return Err(Failure::new(format!("the name {new} {what}")).hint(hint));
    }
    names::check_new(ctx, new, "take another name")?;
    let data = Data {
        renamed: containers(ctx, &record.record, new)?,
        from: from.clone(),
        to: new.clone(),
    };
    for (_, _, after) in &data.renamed {
        let hint = format!("docker rename {after} to something else, or take another name");
        names::check_docker_name(ctx, after, hint)?;
    }
    let journal = begin(ctx, &data, front.user())?;
    let outcome = execute(ctx, journal, &data);
    let old = if first == &from { locks.0 } else { locks.1 };
    outcome?;
    old.forget();
    let docker_name =
        record.record.container.as_ref().map(|_| DockerName::of(new, record.record.version));
    if let Some(docker_name) = &docker_name {
        let text = format!(
            "its hostname and its alias on networks stay {from} until it gets a new container; \
             Docker's DNS knows it as {docker_name} from now on"
        );
        front.event(Event::Note { text });
    }
    Ok(Answer::More(MoreAnswer::Renamed { name: new.clone(), docker_name }))
}

/// The name that is meant, with what was broken off of it ended.
fn named(ctx: &Context, text: &str, front: &mut dyn Front) -> Result<ContainerName, Failure> {
    if let Ok(found) = names::record(ctx, text) {
        return Ok(found.record.name);
    }
    drop(journal::lock_named(ctx, text, front)?);
    Ok(names::record(ctx, text)?.record.name)
}

/// The containers that Docker has of a name's versions, under names of ours.
fn containers(
    ctx: &Context,
    record: &ContainerRecord,
    new: &ContainerName,
) -> Result<Vec<(ContainerId, DockerName, DockerName)>, Failure> {
    let versions = kept::versions(ctx, &record.name)?;
    let of_versions = versions.into_iter().map(|v| (v.container, v.version));
    let current = record.container.clone().map(|id| (id, record.version));
    // Of a container with several versions its name tells which it is at.
    let ids: BTreeMap<ContainerId, _> = of_versions.chain(current).collect();
    let mut found = Vec::new();
    for (id, version) in ids {
        let Some(shown) = ctx.docker()?.inspect(id.as_str())? else { continue };
        let Ok(before) = DockerName::new(shown.name()) else { continue };
        let ours = DockerName::split(before.as_str()).filter(|(base, _)| *base == record.name);
        let is_current = record.container.as_ref() == Some(&id);
        let version = match ours {
            Some((_, version)) if !is_current => version,
            // An older one that was renamed outside gpuctl is left as it is.
            None if !is_current => continue,
            _ => version,
        };
        found.push((id, before, DockerName::of(new, version)));
    }
    Ok(found)
}

/// Opens the journal under both names.
fn begin(ctx: &Context, data: &Data, by: Option<String>) -> Result<Journal, Failure> {
    let key = ctx.ledger.keys().operation(&data.to);
    let kind = OperationKind::Rename;
    Journal::begin_with(ctx, &data.from, kind, by, "copy", data, |main, batch| {
        let other = Operation { name: data.to.clone(), ..main.clone() };
        batch.absent(key.clone()).put(key, &other);
    })
}

fn execute(ctx: &Context, mut journal: Journal, data: &Data) -> Result<(), Failure> {
    let done = copy(ctx, data).and_then(|()| {
        journal.step(ctx, "names", data, Batch::new())?;
        in_docker(ctx, data, true)
    });
    let Err(failure) = done else { return finish(ctx, journal, data) };
    match undo(ctx, journal, data) {
        Ok(()) => Err(failure),
        Err(also) => Err(failure.undoing_failed(&also)),
    }
}

/// Writes the versions under the new name too.
fn copy(ctx: &Context, data: &Data) -> Result<(), Failure> {
    let keys = ctx.ledger.keys();
    let mut batch = Batch::new();
    let (mut count, mut bytes) = (0, 0);
    for record in kept::versions(ctx, &data.from)? {
        let record = VersionRecord { name: data.to.clone(), ..record };
        let size = serde_json::to_vec(&record).map_or(BYTES_AT_ONCE, |bytes| bytes.len());
        if count == AT_ONCE || (count > 0 && bytes + size > BYTES_AT_ONCE) {
            let _ = ctx.ledger.commit(&std::mem::take(&mut batch))?;
            (count, bytes) = (0, 0);
        }
        batch.put(keys.version(&data.to, record.version), &record);
        (count, bytes) = (count + 1, bytes + size);
    }
    if !batch.is_empty() {
        let _ = ctx.ledger.commit(&batch)?;
    }
    Ok(())
}

/// Renames the containers in Docker; or back.
fn in_docker(ctx: &Context, data: &Data, forth: bool) -> Result<(), Failure> {
    for (id, before, after) in &data.renamed {
        let (is, to) = if forth { (before, after) } else { (after, before) };
        match ctx.docker()?.inspect(id.as_str())? {
            // Back: only what was renamed.
            Some(shown) if shown.name() == is.as_str() => ctx.docker()?.rename(id.as_str(), to)?,
            _ => {}
        }
    }
    Ok(())
}

/// From `records` to the end: also what recovery does.
fn finish(ctx: &Context, mut journal: Journal, data: &Data) -> Result<(), Failure> {
    let keys = ctx.ledger.keys();
    if !matches!(journal.operation.step.as_str(), "records" | "forget") {
        let mut batch = Batch::new();
        let (old, new) = (keys.container(&data.from), keys.container(&data.to));
        if let Some(At { record, revision }) = ctx.ledger.container(&data.from)? {
            let record = ContainerRecord { name: data.to.clone(), ..record };
            batch.at(old.clone(), revision).delete(old);
            batch.absent(new.clone()).put(new, &record);
        }
        journal.step(ctx, "records", data, batch)?;
    }
    if journal.operation.step == "records" {
        let bound = bindings(ctx, data)?;
        holders(ctx, data, &bound)?;
        for port in ports::of(ctx, &data.from)? {
            let record = PortRecord { name: data.to.clone(), ..port.record };
            let key = keys.port(record.port);
            let mut batch = Batch::new();
            batch.at(key.clone(), port.revision).put(key, &record);
            let _ = ctx.ledger.commit(&batch)?;
        }
        journal.step(ctx, "forget", data, Batch::new())?;
    }
    remove::forget_versions(ctx, &data.from)?;
    end(ctx, journal, data)
}

/// The last commit: the journal goes from under both names.
fn end(ctx: &Context, journal: Journal, data: &Data) -> Result<(), Failure> {
    let mut batch = Batch::new();
    batch.delete(ctx.ledger.keys().operation(&data.to));
    journal.finish(ctx, batch)?;
    for (id, ..) in &data.renamed {
        ending::settle(ctx, id);
    }
    Ok(())
}

/// The bindings follow, and the node's copies of them. All that are the new name's by now.
fn bindings(ctx: &Context, data: &Data) -> Result<Vec<Binding>, Failure> {
    let keys = ctx.ledger.keys();
    for _ in 0..TRIES {
        let all: Vec<At<Binding>> = ctx.ledger.list(&keys.bindings())?;
        let old: Vec<&At<Binding>> = all.iter().filter(|at| at.record.name == data.from).collect();
        if old.is_empty() {
            let ours = all.into_iter().map(|at| at.record).filter(|b| b.name == data.to);
            let ours: Vec<Binding> = ours.collect();
            for binding in &ours {
                keep_copy(ctx, binding);
            }
            return Ok(ours);
        }
        for some in old.chunks(AT_ONCE) {
            let mut batch = Batch::new();
            for At { record, revision } in some {
                let key = keys.binding(&record.container);
                let record = Binding { name: data.to.clone(), ..record.clone() };
                batch.at(key.clone(), *revision).put(key, &record);
            }
            // A start was quicker: looked at again.
            let _ = ctx.ledger.commit(&batch)?;
        }
    }
    Err(Failure::new(format!(
        "the bindings of {} are changed by others again and again",
        data.from
    ))
    .hint("docker gpuctl doctor --fix ends what was left"))
}

/// Leases and the node's notes say the new name.
fn holders(ctx: &Context, data: &Data, bound: &[Binding]) -> Result<(), Failure> {
    for binding in bound {
        let id = &binding.container;
        let holder = |holder: &Holder| Holder {
            name: Some(data.to.clone()),
            docker_name: DockerName::of(&data.to, binding.version),
            ..holder.clone()
        };
        let _ = ctx.ledger.change_leases(id, None, |lease| match &lease.holder.name {
            Some(name) if *name == data.from => {
                Change::Put(Box::new(Lease { holder: holder(&lease.holder), ..lease.clone() }))
            }
            _ => Change::Keep,
        })?;
        leases::note_holder(ctx, id, OTHER, |noted| {
            (noted.name.as_ref() == Some(&data.from)).then(|| holder(noted))
        });
    }
    Ok(())
}

/// Everything as it was.
fn undo(ctx: &Context, journal: Journal, data: &Data) -> Result<(), Failure> {
    in_docker(ctx, data, false)?;
    remove::forget_versions(ctx, &data.to)?;
    end(ctx, journal, data)
}

/// Ends a rename that was broken off, found under either name.
///
/// # Errors
/// When it cannot be brought to an end now.
pub(super) fn recover(ctx: &Context, found: Journal) -> Result<String, Failure> {
    let data: Data = found.data()?;
    let held = found.operation.name.clone();
    let other = if held == data.from { &data.to } else { &data.from };
    let Some(lock) = other_lock(ctx, &held, other)? else {
        return Err(Failure::new(format!("another change to {other} is under way"))
            .hint("wait for it, then try again"));
    };
    // Who had that lock may have ended it.
    let Some(main) = ctx.ledger.operation(&data.from)? else {
        return Ok(format!("an earlier rename of {} was broken off: it has been ended", data.from));
    };
    let journal = Journal::found(&main);
    let (from, to) = (&data.from, &data.to);
    let what = format!("an earlier rename of {from} to {to} was broken off");
    let done = matches!(journal.operation.step.as_str(), "records" | "forget");
    let said = if done {
        finish(ctx, journal, &data)?;
        format!("{what}: it is done")
    } else {
        undo(ctx, journal, &data)?;
        format!("{what}: it is undone")
    };
    drop(lock);
    Ok(said)
}

/// The lock of the other name. Locks are taken in the order of names: out of it, without waiting.
fn other_lock(
    ctx: &Context,
    held: &ContainerName,
    other: &ContainerName,
) -> Result<Option<Locked>, Failure> {
    let until = Instant::now() + if held < other { OTHER } else { Duration::ZERO };
    loop {
        let lock = journal::try_lock(ctx, other)?;
        if lock.is_some() || Instant::now() >= until {
            return Ok(lock);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
