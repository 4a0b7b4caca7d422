//! scale, in place: claim, set the binding, restart, rename. The runtime injects the new set;
//! nothing is copied.
//!
//! Steps of the journal: `claim` (undone: the binding and the leases are put back), `restart` (of a
//! running container: stopped, renamed, started) and `rename` (name and records), both finished,
//! unless somebody else has the new name; `undo` instead of these, once undoing has begun.

use gpuctl_ledger::audit::{Decision, Entry};
use gpuctl_ledger::grant::{self, Claim};
use gpuctl_ledger::ledger::{At, Batch, Ledger, LedgerError};
use gpuctl_ledger::model::{
    Binding, ContainerId, ContainerName, ContainerRecord, DockerName, GpuRequest, Holder, How,
    Kind, Lease, OperationKind, SCHEMA, Timestamp, Token, Unit, Version, VersionRecord,
};
use gpuctl_ledger::node::notes;
use gpuctl_ledger::store::Outcome;
use serde::{Deserialize, Serialize};

use super::api::{Answer, Event, Failure, Front};
use super::context::Context;
use super::create::keep_copy;
use super::journal::{self, Journal};
use super::names::{self, Found};
use super::undo_scale::{Started, removed, undo, was_removed};
use super::{ending, lifecycle, supply, version};
use crate::docker::Inspect;

/// What finishing and undoing need.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Data {
    pub(super) id: ContainerId,
    pub(super) from: Version,
    pub(super) to: Version,
    /// The binding before.
    pub(super) before: Binding,
    /// What it is to get.
    pub(super) gpus: GpuRequest,
    /// The leases before, by unit and token: what undoing puts back.
    pub(super) held: Vec<(Unit, Token)>,
    pub(super) was_running: bool,
    /// When Docker last started it before the change.
    pub(super) started_at: String,
    pub(super) timeout: Option<i32>,
    pub(super) by: Option<String>,
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
    let lock = journal::lock_named(ctx, name, front)?;
    let found = names::existing(ctx, name)?;
    lock.is_of(&found.record.record.name)?;
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
    // A dry run decides nothing.
    let told = (!dry_run).then(|| front.user());
    let running = shown.running();
    if running {
        check_patience(&found, &shown, timeout)?;
        check_claim(ctx, &found, &binding.record, gpus, told)?;
    } else if let Some(refusal) = supply::ever(ctx, gpus)? {
        if let Some(user) = told {
            supply::tell_refused(ctx, Some(&found.id), found.docker_name.as_str(), user, &refusal);
        }
        return Err(refusal.into());
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

pub(super) fn words(gpus: &GpuRequest) -> String {
    match gpus {
        GpuRequest::None => "no GPU".into(),
        GpuRequest::Count(1) => "1 GPU".into(),
        GpuRequest::Count(n) => format!("{n} GPUs"),
        GpuRequest::All => "all GPUs".into(),
        named @ GpuRequest::Named(_) => format!("GPUs {named}"),
        GpuRequest::Matching(wanted) => match (wanted.kind, wanted.attributes()) {
            (Kind::Shared, text) if text.is_empty() => "a slot of a shared GPU".into(),
            (Kind::Mig, text) if text.is_empty() && wanted.count == 1 => "1 MIG device".into(),
            (Kind::Mig, text) if text.is_empty() => format!("{} MIG devices", wanted.count),
            _ => format!("GPUs {wanted}"),
        },
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

/// `told`: whether a refusal is written down, and as whose.
fn check_claim(
    ctx: &Context,
    found: &Found,
    binding: &Binding,
    gpus: &GpuRequest,
    told: Option<Option<String>>,
) -> Result<(), Failure> {
    let Some(refusal) = supply::now(ctx, Some(&found.id), gpus, &binding.last)? else {
        return Ok(());
    };
    if let Some(user) = told {
        supply::tell_refused(ctx, Some(&found.id), found.docker_name.as_str(), user, &refusal);
    }
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
pub(super) fn again(
    ctx: &Context,
    data: &Data,
    name: &ContainerName,
    shown: &str,
) -> Result<(), Failure> {
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
pub(super) fn finish(ctx: &Context, journal: Journal) -> Result<bool, Failure> {
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
    let units =
        binding.map(|at| at.record.last).filter(|_| shown.running() && !data.gpus.is_none());
    Entry::new(Decision::Rebound, data.id.as_str(), new_name.as_str())
        .user(data.by.clone().or(data.before.owner.clone()))
        .gpus(&units.unwrap_or_default())
        .why(format!("scale {} -> {}", words(&data.before.gpus), words(&data.gpus)))
        .write(&ctx.config);
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
        how: Some(How::InPlace),
        layer: None,
        spec: shown.creation(),
    }
}
