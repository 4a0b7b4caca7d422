//! The end of a replace that failed or was broken off: undone, or done.

use gpuctl_ledger::ledger::Batch;
use gpuctl_ledger::model::DockerName;
use gpuctl_ledger::node::notes;
use serde_json::json;

use super::api::Failure;
use super::context::Context;
use super::create::Data as Made;
use super::journal::Journal;
use super::leases::{self, Before};
use super::replace::{Data, claimed_by_us, finish};
use super::undo_in_place::was_removed;
use super::{ending, ports, undo_create, volume};
use crate::docker::Inspect;

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
                Err(why) if why.is_unreachable() => return Err(why.into()),
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

/// Removes what this change has made. Volumes that the old one has too are in use, and stay.
fn remove_new(ctx: &Context, journal: &Journal, data: &Data) -> Result<(), Failure> {
    let made = Made {
        docker_name: DockerName::of(&journal.operation.name, data.to),
        id: data.new.clone(),
        before: None,
        ports: Vec::new(),
    };
    undo_create::remove_made(ctx, &made, &journal.operation.token)?;
    if let Some(id) = &data.new {
        let _ = notes::remove_grant(&ctx.config.paths, id);
        let _ = notes::remove_binding(&ctx.config.paths, id);
    }
    Ok(())
}

/// Puts leases and binding back.
fn put_back(ctx: &Context, journal: &Journal, data: &Data) -> Result<(), Failure> {
    let runs = ctx.docker()?.inspect(data.old.as_str())?.as_ref().is_some_and(Inspect::running);
    let _ = notes::remove_binding(&ctx.config.paths, &data.old);
    let before = Before {
        name: &journal.operation.name,
        version: data.from,
        binding: &data.before,
        held: &data.held,
        by: data.by.as_ref(),
        runs,
    };
    leases::put_back(ctx, before, data.new.as_ref(), |lease| {
        // Of a process that runs its evidence counts; else it is kept for the start to come.
        let living = runs && lease.holder.container == data.old;
        if living { lease } else { claimed_by_us(ctx, &lease) }
    })?;
    if !runs {
        let _ = notes::remove_grant(&ctx.config.paths, &data.old);
    }
    Ok(())
}

/// Ends a replace that was broken off.
///
/// # Errors
/// When it cannot be brought to an end now.
pub(super) fn recover(ctx: &Context, journal: Journal) -> Result<String, Failure> {
    let data: Data = journal.data()?;
    if let Some(whole) = &data.part_of
        && let Some(said) = volume::recover_part(ctx, whole, &journal.operation.name)?
    {
        return Ok(said);
    }
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
