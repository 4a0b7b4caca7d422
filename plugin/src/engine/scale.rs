//! scale, in place: claim, set the binding, restart, rename. The runtime injects the new set;
//! nothing is copied.
//!
//! Steps of the journal: `claim` (undone: the binding and the leases are put back), `restart` (of a
//! running container: stopped, renamed, started) and `rename` (name and records), both finished;
//! `undo` instead of these, once undoing has begun.

use std::time::{Duration, Instant};

use gpuctl_ledger::grant::{self, Claim};
use gpuctl_ledger::ledger::{At, Batch, Ledger, LedgerError};
use gpuctl_ledger::model::{
    Binding, ContainerId, ContainerName, ContainerRecord, DockerName, GpuRequest, Holder, Lease,
    OperationKind, SCHEMA, Timestamp, Token, Unit, Version, VersionRecord,
};
use gpuctl_ledger::node::notes;
use gpuctl_ledger::store::Outcome;
use serde::{Deserialize, Serialize};

use super::api::{Answer, Event, Failure, Front};
use super::context::Context;
use super::create::keep_copy;
use super::journal::{self, Journal};
use super::names::{self, Found};
use super::{ending, lifecycle, supply, version};
use crate::docker::Inspect;

/// What finishing and undoing need.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Data {
    id: ContainerId,
    from: Version,
    to: Version,
    /// The binding before.
    before: Binding,
    /// What it is to get.
    gpus: GpuRequest,
    /// The leases before, by unit and token: what undoing puts back.
    held: Vec<(Unit, Token)>,
    was_running: bool,
    /// When Docker last started it before the change.
    started_at: String,
    timeout: Option<i32>,
    by: Option<String>,
}

/// Scales a container.
///
/// # Errors
/// [`Failure`]; then it has the GPUs that it had.
pub(super) fn scale(
    ctx: &Context,
    name: &str,
    gpus: &GpuRequest,
    timeout: Option<i32>,
    dry_run: bool,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    let _lock = journal::lock_named(ctx, name, front)?;
    let found = names::existing(ctx, name)?;
    let shown = lifecycle::shown(ctx, &found)?;
    let binding = ctx.ledger.binding(&found.id)?.ok_or_else(|| {
        Failure::new(format!("{} has no binding in the ledger", found.docker_name))
            .hint("docker gpuctl doctor --fix mends what can be mended")
    })?;
    if shown.auto_remove() {
        return Err(Failure::new(format!(
            "{} was run with --rm: Docker removes it when it stops, and scaling restarts it",
            found.docker_name
        ))
        .hint("run it anew with the GPUs that it needs"));
    }
    if binding.record.gpus == *gpus {
        let summary =
            format!("{} has {} already: nothing to do", found.record.record.name, words(gpus));
        return Ok(scaled(&found, found.docker_name.clone(), summary));
    }
    let running = shown.running();
    if running {
        check_patience(&found, &shown, timeout)?;
        check_claim(ctx, &found, &binding.record, gpus)?;
    } else {
        supply::ever(ctx, gpus)?.map_or(Ok(()), |refusal| Err(Failure::from(refusal)))?;
    }
    let to = found.record.record.version.next();
    let new_name = DockerName::of(&found.record.record.name, to);
    if ctx.docker()?.inspect(new_name.as_str())?.is_some() {
        return Err(Failure::new(format!("Docker has a container {new_name} already"))
            .hint(format!("docker rename {new_name} to something else, or remove it")));
    }
    let steps = plan(&found, &binding.record.gpus, gpus, running, &new_name, timeout);
    if dry_run {
        return Ok(Answer::Plan { steps });
    }
    if running {
        let text = format!("processes in {} restart", found.docker_name);
        front.event(Event::Warning { text });
    }
    let held = held(&ctx.ledger, &found.id)?;
    let data = Data {
        id: found.id.clone(),
        from: found.record.record.version,
        to,
        before: binding.record.clone(),
        gpus: gpus.clone(),
        held: held.iter().map(|l| (l.unit.clone(), l.token.clone())).collect(),
        was_running: running,
        started_at: shown.started_at().unwrap_or_default().to_owned(),
        timeout,
        by: front.user(),
    };
    version::check(&version_record(&found.record.record.name, &data, &shown), false)?;
    let journal = Journal::begin(
        ctx,
        &found.record.record.name,
        OperationKind::Scale,
        front.user(),
        "claim",
        &data,
    )?;
    execute(ctx, journal, &data, &found, binding)?;
    let summary = format!(
        "{}: {} -> {}, now {new_name}",
        found.record.record.name,
        words(&data.before.gpus),
        words(gpus)
    );
    Ok(scaled(&found, new_name, summary))
}

fn scaled(found: &Found, docker_name: DockerName, summary: String) -> Answer {
    Answer::Scaled { name: found.record.record.name.clone(), docker_name, summary }
}

fn words(gpus: &GpuRequest) -> String {
    match gpus {
        GpuRequest::None => "no GPU".into(),
        GpuRequest::Count(1) => "1 GPU".into(),
        GpuRequest::Count(n) => format!("{n} GPUs"),
        GpuRequest::All => "all GPUs".into(),
        named @ GpuRequest::Named(_) => format!("GPUs {named}"),
    }
}

/// What will be done, in order: what `--dry-run` prints.
fn plan(
    found: &Found,
    before: &GpuRequest,
    after: &GpuRequest,
    running: bool,
    new_name: &DockerName,
    timeout: Option<i32>,
) -> Vec<String> {
    let name = &found.docker_name;
    let mut steps = vec![format!("change {name} in place: {} -> {}", words(before), words(after))];
    if running {
        if !after.is_none() {
            steps.push(
                "claim what it needs beyond what it holds; it keeps running meanwhile".into(),
            );
        }
        let grace = timeout.map_or_else(|| "its own".to_owned(), |s| format!("{s} s"));
        steps.push(format!(
            "restart {name} (stop grace: {grace}): its processes restart, its files stay"
        ));
        steps.push("give back what it no longer holds".into());
    } else {
        steps.push("set the number for its next start: it is stopped, and claims then".into());
    }
    steps.push(format!("rename {name} to {new_name} and record the version"));
    steps
}

fn held(ledger: &Ledger, id: &ContainerId) -> Result<Vec<Lease>, LedgerError> {
    let leases = ledger.leases()?;
    Ok(leases.into_values().map(|at| at.record).filter(|l| l.holder.container == *id).collect())
}

/// Refuses to wait for processes without an end: nobody else could change the container meanwhile.
fn check_patience(found: &Found, shown: &Inspect, timeout: Option<i32>) -> Result<(), Failure> {
    let name = &found.docker_name;
    let message = match timeout {
        Some(seconds) if seconds < 0 => format!(
            "--timeout {seconds} is to wait for the processes in {name} without an end, and scale does not"
        ),
        None if shown.stop_timeout() < 0 => {
            format!(
                "{name} was run with a --stop-timeout that has no end, and scale waits for none"
            )
        }
        _ => return Ok(()),
    };
    Err(Failure::new(message)
        .hint("--timeout 600 waits ten minutes before it kills; --timeout 0 does not wait")
        .code(2))
}

/// The longest that whoever ends a broken-off change waits for processes before it kills them,
/// in seconds, whatever its author had wanted: he is gone, and others wait.
const LONGEST_GRACE: i32 = 10;

/// The grace of a stop by one who ends the change of another.
fn grace_of_another(asked: Option<i32>, own: i64) -> i32 {
    let wanted = asked.map_or(own, i64::from);
    i32::try_from(wanted).ok().filter(|s| (0..=LONGEST_GRACE).contains(s)).unwrap_or(LONGEST_GRACE)
}

fn check_claim(
    ctx: &Context,
    found: &Found,
    binding: &Binding,
    gpus: &GpuRequest,
) -> Result<(), Failure> {
    let Some(refusal) = supply::now(ctx, Some(&found.id), gpus, &binding.last)? else {
        return Ok(());
    };
    let kept = format!("{} keeps running with {}", found.docker_name, words(&binding.gpus));
    Err(Failure::new(refusal.headline)
        .details(refusal.rows)
        .hint(format!("{kept}; {}", refusal.hint)))
}

fn execute(
    ctx: &Context,
    mut journal: Journal,
    data: &Data,
    found: &Found,
    binding: At<Binding>,
) -> Result<(), Failure> {
    let claimed = claim(ctx, &journal.operation.token, data, found, binding);
    let restarted = claimed.and_then(|()| {
        journal.step(ctx, "restart", data, Batch::new())?;
        if data.was_running {
            let name = &found.record.record.name;
            again(ctx, data, name, found.docker_name.as_str())?;
        }
        Ok(())
    });
    if let Err(failure) = restarted {
        return match undo(ctx, journal, Started::OrLater) {
            Ok(how) => Err(Failure { message: format!("{}; {how}", failure.message), ..failure }),
            Err(also) => Err(Failure::new(format!("{failure}; and undoing it failed: {also}"))
                .hint("docker gpuctl doctor --fix ends what was left")),
        };
    }
    journal.step(ctx, "rename", data, Batch::new())?;
    if finish(ctx, journal)? {
        return Ok(());
    }
    let name = &found.record.record.name;
    Err(Failure::new(removed(name)).hint(format!(
        "docker gpuctl rm {name} forgets it; docker gpuctl run --from {name} builds it again"
    )))
}

/// Stops it and starts it anew, renamed meanwhile: some Engines cannot rename a container that was
/// restarted, and so it starts under its new name. What of it is done already is not done again.
fn again(ctx: &Context, data: &Data, name: &ContainerName, shown: &str) -> Result<(), Failure> {
    let docker = ctx.docker()?;
    docker.stop(data.id.as_str(), data.timeout)?;
    let new_name = DockerName::of(name, data.to);
    if shown != new_name.as_str() {
        docker.rename(data.id.as_str(), &new_name)?;
    }
    Ok(docker.start(data.id.as_str())?)
}

/// Sets the binding, and for a running container claims under the operation's token, in one commit.
fn claim(
    ctx: &Context,
    token: &Token,
    data: &Data,
    found: &Found,
    binding: At<Binding>,
) -> Result<(), Failure> {
    // From here on until the copy is written again, a start asks the ledger.
    let _ = notes::remove_binding(&ctx.config.paths, &data.id);
    let new = Binding { gpus: data.gpus.clone(), version: data.to, ..binding.record.clone() };
    let written = if data.was_running && !data.gpus.is_none() {
        let holder = Holder {
            container: data.id.clone(),
            docker_name: DockerName::of(&found.record.record.name, data.to),
            name: Some(found.record.record.name.clone()),
            owner: binding.record.owner.clone(),
        };
        let prefer: Vec<Unit> = data.held.iter().map(|(unit, _)| unit.clone()).collect();
        let claim = Claim {
            holder: &holder,
            request: &data.gpus,
            prefer: &prefer,
            token,
            binding: Some((new, Some(binding.revision))),
            all: ctx.config.policy.all,
            free_rest: false,
            operation: Some(token),
        };
        grant::claim(&ctx.ledger, &ctx.view(), &claim, ctx.config.ledger.timeout())?.binding
    } else {
        let new = Binding { token: token.clone(), ..new };
        let key = ctx.ledger.keys().binding(&data.id);
        let mut batch = Batch::new();
        batch.at(key.clone(), binding.revision).put(key, &new);
        let proof = |ledger: &Ledger| -> Result<bool, LedgerError> {
            Ok(ledger.binding(&data.id)?.is_some_and(|b| b.record.token == *token))
        };
        match ctx.ledger.commit_proved(&batch, proof)? {
            Outcome::Done(_) => Some(new),
            Outcome::Conflict => {
                return Err(
                    Failure::new("the binding was changed by a start meanwhile").hint("try again")
                );
            }
        }
    };
    if let Some(binding) = written {
        keep_copy(ctx, &binding);
    }
    Ok(())
}

/// From `rename` to the end: also what recovery does. Whether the container is still there: where it
/// was removed meanwhile, the change ends with nothing.
fn finish(ctx: &Context, journal: Journal) -> Result<bool, Failure> {
    let data: Data = journal.data()?;
    let name = journal.operation.name.clone();
    let docker = ctx.docker()?;
    let new_name = DockerName::of(&name, data.to);
    let Some(mut shown) = docker.inspect(data.id.as_str())? else {
        return gone(ctx, journal, &data);
    };
    if shown.name() != new_name.as_str() {
        match docker.rename(data.id.as_str(), &new_name) {
            Err(_) if was_removed(ctx, &data.id)? => return gone(ctx, journal, &data),
            renamed => renamed?,
        }
        shown = docker.inspect(data.id.as_str())?.unwrap_or(shown);
    }
    // What the old process held beyond the new set; nothing, where a start has claimed already.
    let binding = ctx.ledger.binding(&data.id)?;
    let keep = match (&binding, data.gpus.is_none()) {
        (Some(binding), false) if shown.running() => binding.record.last.clone(),
        _ => Vec::new(),
    };
    ending::release_dead(ctx, &data.id, &keep)?;
    let keys = ctx.ledger.keys();
    let now = Timestamp::now();
    let mut batch = Batch::new();
    if let Some(At { record, revision }) = ctx.ledger.container(&name)? {
        let key = keys.container(&name);
        let record = ContainerRecord { version: data.to, at: now, ..record };
        batch.at(key.clone(), revision).put(key, &record);
    }
    journal.finish_with(ctx, &batch, &version_record(&name, &data, &shown))?;
    ending::settle(ctx, &data.id);
    Ok(true)
}

/// The end of a change whose container was removed meanwhile.
fn gone(ctx: &Context, journal: Journal, data: &Data) -> Result<bool, Failure> {
    ending::release_dead(ctx, &data.id, &[])?;
    journal.finish(ctx, Batch::new())?;
    Ok(false)
}

/// The record of the version that a scale makes.
fn version_record(name: &ContainerName, data: &Data, shown: &Inspect) -> VersionRecord {
    VersionRecord {
        schema: SCHEMA,
        name: name.clone(),
        version: data.to,
        container: data.id.clone(),
        gpus: data.gpus.clone(),
        at: Timestamp::now(),
        by: data.by.clone(),
        why: format!("scale {} -> {} GPUs", data.before.gpus, data.gpus),
        spec: shown.creation(),
    }
}

/// What becomes of a change that is undone where the container does not start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Started {
    /// The journal stays, and its GPUs with it: the next command tries again.
    OrLater,
    /// That is said, and is its user's affair: nobody could even remove it otherwise.
    OrNot,
}

/// Puts binding and leases back, and the container where it was: says what it is now.
fn undo(ctx: &Context, mut journal: Journal, started: Started) -> Result<String, Failure> {
    let data: Data = journal.data()?;
    // Until the step `restart` it is not stopped: one that does not run ended by itself.
    let ours = journal.operation.step != "claim";
    if ours && journal.operation.step != "undo" {
        // Begun, it can only be undone: the binding no longer tells what the new version is to have.
        journal.step(ctx, "undo", &data, Batch::new())?;
    }
    let keys = ctx.ledger.keys();
    let _ = notes::remove_binding(&ctx.config.paths, &data.id);
    let docker = ctx.docker()?;
    let shown = docker.inspect(data.id.as_str())?;
    let restarted = shown.as_ref().is_some_and(|s| has_restarted(s, &data));
    let runs = shown.as_ref().is_some_and(Inspect::running);
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
    for _ in 0..8 {
        let mut batch = Batch::new();
        if let Some(now) = ctx.ledger.binding(&data.id)? {
            let key = keys.binding(&data.id);
            batch.at(key.clone(), now.revision).put(key, &data.before);
        }
        for (unit, lease) in ctx.ledger.leases()? {
            if lease.record.holder.container != data.id {
                continue;
            }
            let key = keys.lease(&unit);
            let old = data.held.iter().find(|(held, _)| *held == unit);
            match old {
                // The old process still runs under its own token: its poststop must find it.
                Some((_, token)) => {
                    let holder = Holder {
                        docker_name: DockerName::of(&journal.operation.name, data.from),
                        ..lease.record.holder.clone()
                    };
                    let back = Lease { token: token.clone(), holder, ..lease.record.clone() };
                    batch.at(key.clone(), lease.revision).put(key, &back);
                }
                None => {
                    batch.at(key.clone(), lease.revision).delete(key);
                }
            }
        }
        if batch.is_empty() || matches!(ctx.ledger.commit(&batch)?, Outcome::Done(_)) {
            keep_copy(ctx, &data.before);
            break;
        }
    }
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

fn removed(name: &ContainerName) -> String {
    format!("{name} was removed meanwhile")
}

/// How long a removal under way is waited for: Docker refuses everything else meanwhile.
const REMOVAL: Duration = Duration::from_secs(5);

/// Whether Docker no longer has it, or is just removing it.
fn was_removed(ctx: &Context, id: &ContainerId) -> Result<bool, Failure> {
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
    let what = format!(
        "an earlier scale of {name} from {} to {}",
        words(&data.before.gpus),
        words(&data.gpus)
    );
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
    if data.was_running
        && !has_restarted(&shown, &data)
        && let Err(why) = again(ctx, &data, &name, shown.name())
    {
        let how = undo(ctx, journal, Started::OrNot)?;
        return Ok(format!("{what} was broken off and cannot be finished ({why}): {how}"));
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
