//! The end of a replace that failed or was broken off: undone, or done.

use gpuctl_ledger::audit::{Decision, Entry};
use gpuctl_ledger::ledger::Batch;
use gpuctl_ledger::model::{DockerName, Holder, Lease};
use gpuctl_ledger::node::notes;
use serde_json::json;

use super::api::Failure;
use super::context::Context;
use super::create::{OPERATION_LABEL, keep_copy};
use super::journal::Journal;
use super::replace::{Data, claimed_by_us, committed, finish};
use super::undo_in_place::was_removed;
use super::{ending, ports};
use crate::docker::Inspect;

/// How often leases that others change are read anew.
const TRIES: u32 = 8;

/// The new container goes, leases, binding and restart policy are put back, the old one runs again:
/// says what it is now.
///
/// # Errors
/// When it cannot be undone now: the journal stays, and the next command tries again.
pub(super) fn undo(ctx: &Context, mut journal: Journal) -> Result<String, Failure> {
    let data: Data = journal.data()?;
    let name = journal.operation.name.clone();
    // Until the step `stop` it is not stopped: one that does not run ended by itself.
    let ours = !matches!(journal.operation.step.as_str(), "ports" | "claim");
    if ours && journal.operation.step != "undo" {
        // Begun, it can only be undone.
        journal.step(ctx, "undo", &data, Batch::new())?;
    }
    remove_new(ctx, &journal, &data)?;
    put_back(ctx, &journal, &data)?;
    let docker = ctx.docker()?;
    let there = !was_removed(ctx, &data.old)?;
    let mut how = format!("{name} is as it was");
    if !there {
        how = format!("{name} was removed meanwhile");
        ending::release_dead(ctx, &data.old, &[])?;
    } else if ours {
        if data.restart.get("Name").is_some() {
            docker.update(data.old.as_str(), &json!({ "RestartPolicy": data.restart }))?;
        }
        let runs = docker.inspect(data.old.as_str())?.is_some_and(|shown| shown.running());
        if data.was_running && !runs {
            how = match docker.start(data.old.as_str()) {
                Ok(()) => format!("{name} runs again as it was"),
                Err(why) => {
                    let why = Failure::from(why).message;
                    ending::release_dead(ctx, &data.old, &[])?;
                    format!("{name} is as it was, and does not start: {why}")
                }
            };
        }
    }
    let mut batch = Batch::new();
    ports::release(ctx, &name, &data.ports, &mut batch)?;
    if let Some(new) = &data.new {
        batch.delete(ctx.ledger.keys().binding(new));
    }
    journal.finish(ctx, batch)?;
    ending::settle(ctx, &data.old);
    Ok(how)
}

/// Removes what this change has made: by its id, or by its token where that was not known yet.
fn remove_new(ctx: &Context, journal: &Journal, data: &Data) -> Result<(), Failure> {
    let docker = ctx.docker()?;
    let token = &journal.operation.token;
    let ids: Vec<String> = match &data.new {
        Some(id) => vec![id.to_string()],
        None => {
            let carries = |labels: &std::collections::HashMap<String, String>| {
                labels.get(OPERATION_LABEL).is_some_and(|label| label == token.as_str())
            };
            let all = docker.list(true)?.into_iter();
            all.filter(|row| carries(&row.labels)).map(|row| row.id).collect()
        }
    };
    for id in ids {
        let Some(shown) = docker.inspect(&id)? else { continue };
        let made = shown.label(OPERATION_LABEL) == Some(token.as_str())
            && shown.runtime() == ctx.config.runtime.managed_name
            && id != data.old.as_str();
        if !made {
            continue;
        }
        // Volumes that the old one has too are in use, and stay.
        match docker.remove(&id, true, true) {
            Err(e) if !e.is_not_found() => return Err(e.into()),
            _ => {}
        }
    }
    if let Some(id) = &data.new {
        let _ = notes::remove_grant(&ctx.config.paths, id);
        let _ = notes::remove_binding(&ctx.config.paths, id);
    }
    Ok(())
}

/// Puts leases and binding back.
fn put_back(ctx: &Context, journal: &Journal, data: &Data) -> Result<(), Failure> {
    let keys = ctx.ledger.keys();
    let name = &journal.operation.name;
    let old_name = DockerName::of(name, data.from);
    let runs = ctx.docker()?.inspect(data.old.as_str())?.as_ref().is_some_and(Inspect::running);
    let _ = notes::remove_binding(&ctx.config.paths, &data.old);
    for _ in 0..TRIES {
        let mut batch = Batch::new();
        let mut freed = Vec::new();
        if let Some(now) = ctx.ledger.binding(&data.old)? {
            let key = keys.binding(&data.old);
            batch.at(key.clone(), now.revision).put(key, &data.before);
        }
        for (unit, lease) in ctx.ledger.leases()? {
            let holder = &lease.record.holder;
            let new = data.new.as_ref() == Some(&holder.container);
            if holder.container != data.old && !new {
                continue;
            }
            let key = keys.lease(&unit);
            let Some((_, token)) = data.held.iter().find(|(held, _)| *held == unit) else {
                batch.at(key.clone(), lease.revision).delete(key);
                freed.push(unit);
                continue;
            };
            let holder = Holder {
                container: data.old.clone(),
                docker_name: old_name.clone(),
                ..holder.clone()
            };
            let back = Lease { token: token.clone(), holder, ..lease.record.clone() };
            // Of a process that runs its evidence counts; else it is kept for the start to come.
            let back = if runs && !new { back } else { claimed_by_us(ctx, &back) };
            batch.at(key.clone(), lease.revision).put(key, &back);
        }
        if committed(ctx, &batch)? {
            if !runs {
                let _ = notes::remove_grant(&ctx.config.paths, &data.old);
            }
            keep_copy(ctx, &data.before);
            if !freed.is_empty() {
                Entry::new(Decision::Released, data.old.as_str(), old_name.as_str())
                    .user(data.by.clone().or(data.before.owner.clone()))
                    .gpus(&freed)
                    .why("its change was undone")
                    .write(&ctx.config);
            }
            return Ok(());
        }
    }
    Err(Failure::new("its leases are changed by others again and again")
        .hint("docker gpuctl doctor --fix ends what was left"))
}

/// Ends a replace that was broken off.
///
/// # Errors
/// When it cannot be brought to an end now.
pub(super) fn recover(ctx: &Context, journal: Journal) -> Result<String, Failure> {
    let data: Data = journal.data()?;
    let what =
        format!("an earlier change of {} ({}) was broken off", journal.operation.name, data.why);
    let docker = ctx.docker()?;
    let new = match &data.new {
        Some(id) => docker.inspect(id.as_str())?,
        None => None,
    };
    let done = match (journal.operation.step.as_str(), &new) {
        ("record", _) => true,
        ("start", Some(shown)) if !data.was_running || !shown.never_started() => true,
        ("start", Some(shown)) => {
            let id = shown.id().map(|id| id.to_string()).unwrap_or_default();
            docker.start(&id).is_ok()
        }
        _ => false,
    };
    if done {
        finish(ctx, journal)?;
        return Ok(format!("{what}: it is done"));
    }
    let how = undo(ctx, journal)?;
    Ok(format!("{what}: it is undone, {how}"))
}
