//! A change in place: claim, set the binding, Docker's update, restart, rename. The runtime injects
//! the new set of GPUs; nothing is copied. Without other GPUs nothing is restarted.
//!
//! Steps of the journal: `claim` (undone: the binding and the leases are put back), `restart` (Docker's
//! update, and a running container is stopped, renamed, started) and `rename` (name and records), both
//! finished, unless somebody else has the new name; `undo` instead of these, once undoing has begun.
//! Docker takes no limit away: an update that sets one for the first time comes after the restart, and is
//! not to be taken back.

use gpuctl_ledger::ledger::{At, Batch, Ledger, LedgerError};
use gpuctl_ledger::model::{
    Binding, ContainerId, ContainerName, DockerName, GpuRequest, Holder, How, Kind, OperationKind,
    SCHEMA, Timestamp, Token, Unit, Version, VersionRecord,
};
use gpuctl_ledger::node::notes;
use gpuctl_ledger::store::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::api::Failure;
use super::context::Context;
use super::create::keep_copy;
use super::journal::Journal;
use super::names::Found;
use super::undo_in_place::{Started, has, removed, undo, was_removed};
use super::{creation, ending, leases, version};
use crate::change;
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
    /// Whether it ran, and so is restarted with other GPUs.
    pub(super) was_running: bool,
    /// When Docker last started it before the change.
    pub(super) started_at: String,
    pub(super) timeout: Option<i32>,
    pub(super) by: Option<String>,
    /// The bodies of Docker's update, and of the one that takes it back.
    #[serde(default)]
    pub(super) update: Option<(Value, Value)>,
    /// In words: `scale 3 -> 5 GPUs`.
    #[serde(default)]
    pub(super) why: String,
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

/// Changes the container; then it is at the new version, and where that fails as it was.
///
/// # Errors
/// As said.
pub(super) fn execute(
    ctx: &Context,
    data: &Data,
    found: &Found,
    binding: At<Binding>,
) -> Result<(), Failure> {
    let kind =
        if binding.record.gpus == data.gpus { OperationKind::Update } else { OperationKind::Scale };
    let name = &found.record.record.name;
    let mut journal = Journal::begin(ctx, name, kind, data.by.clone(), "claim", data)?;
    let claimed = claim(ctx, &journal.operation.token, data, found, binding);
    let restarted = claimed.and_then(|()| {
        journal.step(ctx, "restart", data, Batch::new())?;
        let first = data.update.as_ref().is_some_and(change::is_reversible);
        if first {
            limit(ctx, data)?;
        }
        if data.was_running {
            let name = &found.record.record.name;
            again(ctx, data, name, found.docker_name.as_str())?;
        }
        if first { Ok(()) } else { limit(ctx, data) }
    });
    if let Err(failure) = restarted {
        return match undo(ctx, journal, Started::OrLater) {
            Ok(how) => Err(Failure { message: format!("{}; {how}", failure.message), ..failure }),
            Err(also) => Err(failure.undoing_failed(&also)),
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

/// Docker's update; it may be made already.
///
/// # Errors
/// What Docker says against it: then nothing of it is so, or it is not known.
pub(super) fn limit(ctx: &Context, data: &Data) -> Result<(), Failure> {
    let Some((update, _)) = &data.update else { return Ok(()) };
    let docker = ctx.docker()?;
    match docker.update(data.id.as_str(), update) {
        // It may be that only the answer was lost.
        Err(_) if docker.inspect(data.id.as_str())?.is_some_and(|shown| has(&shown, update)) => {
            Ok(())
        }
        updated => Ok(updated?),
    }
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
        let with = Some((new, Some(binding.revision)));
        leases::claim(ctx, token, &holder, &data.gpus, &data.held, with)?.binding
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
    leases::named(ctx, &data.id, &new_name)?;
    let mut batch = Batch::new();
    version::becomes_current(ctx, &name, data.to, &data.id, &mut batch)?;
    journal.finish_with(ctx, &batch, &version_record(ctx, &name, &data, &shown))?;
    let units =
        binding.map(|at| at.record.last).filter(|_| shown.running() && !data.gpus.is_none());
    let by = data.by.clone().or(data.before.owner.clone());
    leases::tell_rebound(ctx, (&data.id, &new_name), by, units, &data.why);
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
pub(super) fn version_record(
    ctx: &Context,
    name: &ContainerName,
    data: &Data,
    shown: &Inspect,
) -> VersionRecord {
    VersionRecord {
        schema: SCHEMA,
        name: name.clone(),
        version: data.to,
        container: data.id.clone(),
        gpus: data.gpus.clone(),
        at: Timestamp::now(),
        by: data.by.clone(),
        why: data.why.clone(),
        how: Some(How::InPlace),
        layer: None,
        spec: creation::of(ctx, shown),
    }
}
