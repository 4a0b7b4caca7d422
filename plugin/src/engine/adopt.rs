//! adopt: a container that docker made is managed from now on, in place, as version 0.
//!
//! Steps of the journal: `name` (it is renamed in Docker) and `alias` (its old name becomes an alias
//! on its networks), both undone; `records` (record, version, binding and the new holder of its
//! leases are in the ledger, in the same commit as that step), finished.

mod alias;
mod gpus;

use gpuctl_ledger::audit::{Decision, Entry};
use gpuctl_ledger::ledger::{At, Batch};
use gpuctl_ledger::model::{
    Binding, ContainerId, ContainerName, ContainerRecord, DockerName, GpuRequest, Holder, How,
    Lease, OperationKind, Unit, Version, VersionRecord,
};
use serde::{Deserialize, Serialize};

use super::api::{AdoptRequest, Answer, Event, Failure, Front, MoreAnswer};
use super::context::Context;
use super::create::keep_copy;
use super::in_place::words;
use super::journal::{self, Journal};
use super::version::{self, First};
use super::{creation, ending, leases, names, ports};
use crate::docker::Inspect;
use crate::setup;
use alias::Endpoint;

/// How often leases that change meanwhile are looked at again.
const TRIES: u32 = 16;

/// What finishing and undoing need.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Data {
    id: ContainerId,
    /// Its name in Docker before.
    before: DockerName,
    /// The endpoints that get an alias.
    endpoints: Vec<Endpoint>,
    /// What its spec asks for.
    asked: GpuRequest,
}

/// Takes a container in.
///
/// # Errors
/// [`Failure`]; then it is what it was.
pub(super) fn adopt(
    ctx: &Context,
    request: &AdoptRequest,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    // One that was broken off may have left it under its new name.
    let wanted = request.name.clone().or_else(|| ContainerName::new(&request.container).ok());
    if let Some(name) = &wanted
        && ctx.ledger.operation(name)?.is_some()
    {
        drop(journal::lock(ctx, name, front)?);
    }
    let shown = there(ctx, &request.container)?;
    let name = match &request.name {
        Some(name) => name.clone(),
        None => ContainerName::new(shown.name()).map_err(|e| {
            Failure::new(e.to_string()).hint("docker gpuctl adopt CONTAINER --name NAME")
        })?,
    };
    let _lock = journal::lock(ctx, &name, front)?;
    // What was broken off has its old name again, or is ours by now.
    let shown = there(ctx, &request.container)?;
    let id =
        shown.id().ok_or_else(|| Failure::new("the Engine shows a container without an id"))?;
    if let Some(bound) = ctx.ledger.binding(&id)? {
        let at = bound.record;
        let text = format!("{} is managed already, as {}", shown.name(), at.name);
        return Err(Failure::new(text).hint(format!("docker gpuctl inspect {} shows it", at.name)));
    }
    check(ctx, &shown)?;
    if let Some(taken) = ctx.ledger.container(&name)? {
        let how = if taken.record.container.is_some() { "is in use" } else { "has a history" };
        return Err(Failure::new(format!("the name {name} {how}"))
            .hint("docker gpuctl adopt CONTAINER --name ANOTHER"));
    }
    names::check_new(ctx, &name, "docker gpuctl adopt CONTAINER --name ANOTHER")?;
    let asked = gpus::asked(&shown.0, &ctx.config.gpu.cdi_kind).map_err(|why| {
        Failure::new(format!("which GPUs {} is to get is not clear: {why}", shown.name()))
            .hint("docker gpuctl run makes a container with the GPUs that it needs")
    })?;
    if shown.running() && !asked.is_none() && leases::held(ctx, &id)?.is_empty() {
        return Err(Failure::new(format!(
            "{} asks for GPUs, runs, and holds no lease on any: it was started past gpuctl",
            shown.name()
        ))
        .hint(format!("docker restart {} first", shown.name())));
    }
    ports::check_named(ctx, &name, &shown.0)?;
    let docker_name = DockerName::of(&name, Version(0));
    if shown.name() != docker_name.as_str() {
        let hint = "docker gpuctl adopt CONTAINER --name ANOTHER";
        names::check_docker_name(ctx, &docker_name, hint)?;
    }
    let before = DockerName::new(shown.name()).map_err(|e| Failure::new(e.to_string()))?;
    // One that is called as a version of ours is, is so by its name in Docker as long as it is.
    let of_ours = DockerName::split(before.as_str()).is_some_and(|(base, _)| base == name);
    let old = (!of_ours && before.as_str() != name.as_str()).then_some(before.as_str());
    let aliases: Vec<&str> = old.into_iter().chain([name.as_str()]).collect();
    // Connected anew, an Engine that has these would give another: it takes one at create alone.
    let fixed = creation::asked_macs(ctx, &shown);
    let (kept, endpoints): (Vec<Endpoint>, Vec<Endpoint>) =
        alias::lacking(&shown, &aliases).into_iter().partition(|e| fixed.contains_key(&e.network));
    for endpoint in &kept {
        let network = &endpoint.network;
        let text = format!(
            "{before} keeps its MAC address on {network}, and so is not known by that name there any more"
        );
        front.event(Event::Warning { text });
    }
    let networks: Vec<&str> = endpoints.iter().map(|e| e.network.as_str()).collect();
    let networks = networks.join(", ");
    if !endpoints.is_empty() && request.no_alias {
        let text = format!("{before} is not known by that name on {networks} any more");
        front.event(Event::Warning { text });
    } else if !endpoints.is_empty() && shown.running() {
        let text =
            format!("connections of {before} over {networks} break off: it is connected anew");
        front.event(Event::Warning { text });
    }
    let endpoints = if request.no_alias { Vec::new() } else { endpoints };
    let data = Data { id: id.clone(), before, endpoints, asked };
    version::check(&record(ctx, &name, &data, &shown, front.user())?.version, true)?;

    let kind = OperationKind::Adopt;
    let mut journal = Journal::begin(ctx, &name, kind, front.user(), "name", &data)?;
    match execute(ctx, &mut journal, &data) {
        Ok(gpus) => {
            finish(ctx, journal)?;
            let gpus = words(&gpus);
            front
                .event(Event::Note { text: format!("{name} is managed from now on, with {gpus}") });
            Ok(Answer::More(MoreAnswer::Renamed { name, docker_name: Some(docker_name) }))
        }
        Err(failure) => match undo(ctx, journal) {
            Ok(()) => Err(failure),
            Err(also) => Err(failure.undoing_failed(&also)),
        },
    }
}

fn there(ctx: &Context, container: &str) -> Result<Inspect, Failure> {
    ctx.docker()?.inspect(container)?.ok_or_else(|| {
        let shown: String = container.chars().filter(|c| !c.is_control()).take(80).collect();
        Failure::new(format!("Docker has no container {shown}"))
            .hint("docker ps -a lists those that there are")
    })
}

/// Whether it can be taken in as it is.
fn check(ctx: &Context, shown: &Inspect) -> Result<(), Failure> {
    let name = shown.name();
    if shown.auto_remove() {
        return Err(Failure::new(format!(
            "{name} was run with --rm: Docker removes it when it stops, and there is no changing it"
        ))
        .hint("docker gpuctl run runs it anew, with the GPUs that it needs"));
    }
    if shown.restarting() || matches!(shown.status(), "removing" | "dead") {
        return Err(Failure::new(format!("{name} is {}", shown.status()))
            .hint("once it runs, or is stopped, it can be taken in"));
    }
    let runtime = shown.runtime();
    let ours = runtime == ctx.config.runtime.managed_name || runtime.starts_with("gpuctl");
    if ours || setup::leads_through_us(&ctx.config, &ctx.config_path, ctx.docker()?, runtime) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{name} has the runtime {runtime}, which gpuctl does not see: it could not keep {name} from \
         other GPUs, and Docker changes the runtime of no container"
    ))
    .hint(
        "docker gpuctl setup --strict leads it through gpuctl; or keep its files by docker commit, and \
         docker gpuctl run that image",
    ))
}

/// What stands in the ledger from now on, and the leases that are to have a new holder.
struct Taken {
    container: ContainerRecord,
    version: VersionRecord,
    binding: Binding,
    leases: Vec<At<Lease>>,
}

/// See [`Taken`].
fn record(
    ctx: &Context,
    name: &ContainerName,
    data: &Data,
    shown: &Inspect,
    by: Option<String>,
) -> Result<Taken, Failure> {
    let leases = leases::held(ctx, &data.id)?;
    let units: Vec<Unit> = leases.iter().map(|at| at.record.unit.clone()).collect();
    let gpus = match shown.running() {
        true => gpus::bound(&data.asked, &units, ctx.view().inventory().ok().as_ref()),
        false => data.asked.clone(),
    };
    // The claim under which it holds them: its hooks know that one.
    let token = match leases.first() {
        Some(lease) => lease.record.token.clone(),
        None => gpuctl_ledger::model::Token::random()
            .map_err(|_| Failure::new("the kernel gives no random numbers"))?,
    };
    let first = First {
        name,
        version: Version(0),
        container: &data.id,
        gpus,
        by,
        why: format!("adopt {}", data.before),
        how: How::Adopted,
        token,
        last: units,
        unfinished: false,
    };
    let (container, version, binding) = first.records(ctx, shown);
    Ok(Taken { container, version, binding, leases })
}

fn execute(ctx: &Context, journal: &mut Journal, data: &Data) -> Result<GpuRequest, Failure> {
    let name = journal.operation.name.clone();
    let by = journal.operation.by.clone();
    let docker_name = DockerName::of(&name, Version(0));
    let docker = ctx.docker()?;
    if data.before != docker_name {
        docker.rename(data.id.as_str(), &docker_name)?;
    }
    journal.step(ctx, "alias", data, Batch::new())?;
    alias::set(ctx, &data.id, &data.endpoints, false)?;
    let keys = ctx.ledger.keys();
    for _ in 0..TRIES {
        let shown = there(ctx, data.id.as_str())?;
        let taken = record(ctx, &name, data, &shown, by.clone())?;
        let Taken { container, version, binding, leases } = taken;
        let mut batch = Batch::new();
        let key = keys.container(&name);
        batch.absent(key.clone()).put(key, &container);
        batch.put(keys.version(&name, version.version), &version);
        let key = keys.binding(&data.id);
        batch.absent(key.clone()).put(key, &binding);
        for At { record, revision } in leases {
            let key = keys.lease(&record.unit);
            let lease = Lease { holder: holder(&record.holder, &binding), ..record };
            batch.at(key.clone(), revision).put(key, &lease);
        }
        // Between two looks it may have been started anew.
        if journal.try_step(ctx, "records", data, batch)? {
            return Ok(binding.gpus);
        }
    }
    Err(Failure::new(format!("{docker_name} is started again and again meanwhile"))
        .hint("docker stop it first"))
}

fn holder(before: &Holder, binding: &Binding) -> Holder {
    Holder {
        docker_name: DockerName::of(&binding.name, binding.version),
        name: Some(binding.name.clone()),
        owner: binding.owner.clone(),
        container: before.container.clone(),
    }
}

/// From `records` to the end: also what recovery does. The node's copy of the binding marks it as
/// managed for the runtime.
fn finish(ctx: &Context, journal: Journal) -> Result<(), Failure> {
    let data: Data = journal.data()?;
    if let Some(At { record: binding, .. }) = ctx.ledger.binding(&data.id)? {
        keep_copy(ctx, &binding);
        let limit = ctx.config.ledger.timeout();
        leases::note_holder(ctx, &data.id, limit, |noted| Some(holder(noted, &binding)));
    }
    let by = journal.operation.by.clone();
    let bound = ctx.ledger.binding(&data.id)?.map(|at| at.record);
    journal.finish(ctx, Batch::new())?;
    if let Some(binding) = bound {
        let name = DockerName::of(&binding.name, binding.version);
        let entry = Entry::new(Decision::Rebound, data.id.as_str(), name.as_str());
        let why = format!("adopted as {}, with {}", binding.name, words(&binding.gpus));
        entry.user(by).gpus(&binding.last).why(why).write(&ctx.config);
    }
    ending::settle(ctx, &data.id);
    Ok(())
}

/// Everything as it was.
fn undo(ctx: &Context, journal: Journal) -> Result<(), Failure> {
    let data: Data = journal.data()?;
    if journal.operation.step == "alias" {
        alias::set(ctx, &data.id, &data.endpoints, true)?;
    }
    let ours = DockerName::of(&journal.operation.name, Version(0));
    if let Some(shown) = ctx.docker()?.inspect(data.id.as_str())?
        && shown.name() == ours.as_str()
        && data.before != ours
    {
        ctx.docker()?.rename(data.id.as_str(), &data.before)?;
    }
    journal.finish(ctx, Batch::new())?;
    ending::settle(ctx, &data.id);
    Ok(())
}

/// Ends an adopt that was broken off.
///
/// # Errors
/// When it cannot be brought to an end now.
pub(super) fn recover(ctx: &Context, journal: Journal) -> Result<String, Failure> {
    let data: Data = journal.data()?;
    let what = format!("an earlier adopt of {} was broken off", data.before);
    if journal.operation.step == "records" {
        finish(ctx, journal)?;
        return Ok(format!("{what}: it is done"));
    }
    undo(ctx, journal)?;
    Ok(format!("{what}: it is undone"))
}
