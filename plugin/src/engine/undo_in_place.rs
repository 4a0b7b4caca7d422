//! The end of a change in place that failed or was broken off: undone, or done.

use std::time::{Duration, Instant};

use gpuctl_ledger::ledger::Batch;
use gpuctl_ledger::model::{ContainerId, ContainerName, DockerName};
use gpuctl_ledger::node::notes;
use serde_json::Value;

use super::api::Failure;
use super::context::Context;
use super::ending;
use super::in_place::{Data, again, finish, limit, words};
use super::journal::Journal;
use super::leases::{self, Before};
use crate::docker::Inspect;

/// The longest that whoever ends a broken-off change waits for processes before it kills them,
/// in seconds, whatever its author had wanted: he is gone, and others wait.
const LONGEST_GRACE: i32 = 10;

/// The grace of a stop by one who ends the change of another.
fn grace_of_another(asked: Option<i32>, own: i64) -> i32 {
    let wanted = asked.map_or(own, i64::from);
    i32::try_from(wanted).ok().filter(|s| (0..=LONGEST_GRACE).contains(s)).unwrap_or(LONGEST_GRACE)
}

/// What becomes of a change that is undone where the container does not start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Started {
    /// The journal stays, and its GPUs with it: the next command tries again.
    OrLater,
    /// That is said, and is its user's affair: nobody could even remove it otherwise.
    OrNot,
}

/// Puts binding and leases back, and the container where it was: says what it is now.
///
/// # Errors
/// When it cannot be undone now.
pub(super) fn undo(
    ctx: &Context,
    mut journal: Journal,
    started: Started,
) -> Result<String, Failure> {
    let data: Data = journal.data()?;
    // Until the step `restart` it is not stopped: one that does not run ended by itself.
    let ours = journal.operation.step != "claim";
    // While the Engine cannot be asked, it stays open whether it is done or undone.
    let docker = ctx.docker()?;
    let shown = docker.inspect(data.id.as_str())?;
    if ours && journal.operation.step != "undo" {
        // Begun, it can only be undone: the binding no longer tells what the new version is to have.
        journal.step(ctx, "undo", &data, Batch::new())?;
    }
    let _ = notes::remove_binding(&ctx.config.paths, &data.id);
    let restarted = shown.as_ref().is_some_and(|s| has_restarted(s, &data));
    let runs = shown.as_ref().is_some_and(Inspect::running);
    // What was not set, or cannot be taken back, is left.
    let back = data.update.as_ref().map(|(_, back)| back);
    if let Some(back) = back.zip(shown.as_ref()).filter(|(back, s)| !has(s, back)).map(|(b, _)| b) {
        match docker.update(data.id.as_str(), back) {
            Err(_) if was_removed(ctx, &data.id)? => {}
            updated => updated?,
        }
    }
    let old_runs = runs && !restarted;
    if runs && restarted {
        // It may have GPUs that it is to give back: first it goes, then they are free.
        let grace = match started {
            Started::OrLater => data.timeout,
            Started::OrNot => {
                let own = shown.as_ref().map_or(0, Inspect::stop_timeout);
                Some(grace_of_another(data.timeout, own))
            }
        };
        docker.stop(data.id.as_str(), grace)?;
    }
    let before = Before {
        name: &journal.operation.name,
        version: data.from,
        binding: &data.before,
        held: &data.held,
        by: data.by.as_ref(),
        runs: old_runs,
    };
    leases::put_back(ctx, before, None, |lease| lease)?;
    let old_name = DockerName::of(&journal.operation.name, data.from);
    let mut there = !was_removed(ctx, &data.id)?;
    if there
        && shown.as_ref().is_some_and(|s| s.name() != old_name.as_str())
        && let Err(why) = docker.rename(data.id.as_str(), &old_name)
    {
        there = !was_removed(ctx, &data.id)?;
        if there {
            return Err(why.into());
        }
    }
    let how = if !there {
        removed(&journal.operation.name)
    } else if ours && data.was_running && !old_runs {
        // It was stopped, by the change or just now: it starts as it was.
        let (name, has) = (&journal.operation.name, words(&data.before.gpus));
        match (docker.start(data.id.as_str()), started) {
            (Ok(()), _) => format!("{name} runs again with {has}"),
            (Err(why), _) if why.is_unreachable() => return Err(why.into()),
            (Err(_), _) if was_removed(ctx, &data.id)? => removed(name),
            (Err(why), Started::OrLater) => return Err(why.into()),
            (Err(why), Started::OrNot) => {
                let why = Failure::from(why).message;
                format!("{name} is to have {has} as before, and does not start: {why}")
            }
        }
    } else {
        format!("{} is as it was", journal.operation.name)
    };
    if how == removed(&journal.operation.name) {
        ending::release_dead(ctx, &data.id, &[])?;
    }
    journal.finish(ctx, Batch::new())?;
    ending::settle(ctx, &data.id);
    Ok(how)
}

/// What is said of one that Docker no longer has.
pub(super) fn removed(name: &ContainerName) -> String {
    format!("{name} was removed meanwhile")
}

/// How long a removal under way is waited for: Docker refuses everything else meanwhile.
const REMOVAL: Duration = Duration::from_secs(5);

/// Whether Docker no longer has it; a removal under way is waited for.
///
/// # Errors
/// The Engine's.
pub(super) fn was_removed(ctx: &Context, id: &ContainerId) -> Result<bool, Failure> {
    let until = Instant::now() + REMOVAL;
    loop {
        match ctx.docker()?.inspect(id.as_str())? {
            None => return Ok(true),
            Some(shown) if shown.status() != "removing" => return Ok(false),
            Some(_) if Instant::now() > until => return Ok(false),
            Some(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Whether a container's settings are those of a body of Docker's update.
pub(super) fn has(shown: &Inspect, update: &Value) -> bool {
    let fields = update.as_object().into_iter().flatten();
    fields
        .into_iter()
        .all(|(key, value)| shown.0.pointer(&format!("/HostConfig/{key}")) == Some(value))
}

fn has_restarted(shown: &Inspect, data: &Data) -> bool {
    shown.started_at().unwrap_or_default() != data.started_at
}

/// Ends a scale that was broken off.
///
/// # Errors
/// When it cannot be brought to an end now.
pub(super) fn recover(ctx: &Context, mut journal: Journal) -> Result<String, Failure> {
    let mut data: Data = journal.data()?;
    let name = journal.operation.name.clone();
    let what = match &data.update {
        Some(_) => format!("an earlier change of {name} ({})", data.why),
        None => format!(
            "an earlier scale of {name} from {} to {}",
            words(&data.before.gpus),
            words(&data.gpus)
        ),
    };
    let Some(shown) = ctx.docker()?.inspect(data.id.as_str())? else {
        // Removed meanwhile: nothing is left to be scaled.
        ending::release_dead(ctx, &data.id, &[])?;
        journal.finish(ctx, Batch::new())?;
        return Ok(format!("{what} was broken off, and the container was removed since"));
    };
    if matches!(journal.operation.step.as_str(), "claim" | "undo") {
        let how = undo(ctx, journal, Started::OrNot)?;
        return Ok(format!("{what} was broken off: it is undone, {how}"));
    }
    data.timeout = Some(grace_of_another(data.timeout, shown.stop_timeout()));
    // From the step `restart` on it may be that the Engine is just about to stop it, which can be
    // neither seen nor taken back: so it is done. One that was started anew and has ended since is
    // left so: that is its own affair.
    let restarted = match data.was_running && !has_restarted(&shown, &data) {
        true => again(ctx, &data, &name, shown.name()),
        false => Ok(()),
    };
    let step = journal.operation.step.clone();
    let limited =
        restarted.and_then(|()| if step == "restart" { limit(ctx, &data) } else { Ok(()) });
    if let Err(why) = limited {
        let how = undo(ctx, journal, Started::OrNot)?;
        return Ok(format!(
            "{what} was broken off and cannot be finished ({why}): it is undone, {how}"
        ));
    }
    let new_name = DockerName::of(&name, data.to);
    if let Some(other) = ctx.docker()?.inspect(new_name.as_str())?
        && other.id().is_none_or(|id| id != data.id)
    {
        // Somebody has taken its name meanwhile, and may keep it for ever.
        let how = undo(ctx, journal, Started::OrNot)?;
        return Ok(format!(
            "{what} was broken off, and {new_name} is another container by now: it is undone, {how}"
        ));
    }
    if journal.operation.step != "rename" {
        journal.step(ctx, "rename", &data, Batch::new())?;
    }
    if finish(ctx, journal)? {
        return Ok(format!("{what} was broken off: it is done"));
    }
    Ok(format!("{what} was broken off, and the container was removed since"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ends_the_change_of_another_waits_at_most_ten_seconds() {
        for (asked, own, grace) in [
            (None, 10, 10),
            (None, 3, 3),
            (Some(0), 86_400, 0),
            (Some(4), 10, 4),
            (None, 86_400, 10),
            (None, -1, 10),
            (None, i64::MAX, 10),
            (Some(-5), 2, 10),
            (Some(i32::MAX), 2, 10),
        ] {
            assert_eq!(grace_of_another(asked, own), grace, "{asked:?} {own}");
        }
    }
}
