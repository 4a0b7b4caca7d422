//! run and create: a new managed container.
//!
//! Steps of the journal: `ports` (only where some are to be chosen; nothing was done yet), `create` (the client's `docker create` may be under way; undone by removing
//! what carries the operation's token) and `start` (created and recorded; undone likewise, unless
//! the container has started, which finishes it).

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use gpuctl_ledger::ledger::{At, Batch};
use gpuctl_ledger::model::{
    Binding, ContainerId, ContainerName, ContainerRecord, DockerName, GpuRequest, How,
    OperationKind, Token, Version, VersionRecord,
};
use gpuctl_ledger::node::notes;
use serde::{Deserialize, Serialize};

use super::api::{Answer, AskError, CreateAsk, CreateRequest, Event, Failure, Front, StartMode};
use super::attach::{self, asked};
use super::context::Context;
use super::journal::{self, Journal};
use super::ports::{self, Claimed};
use super::undo_create::{left_over, undo};
use super::version::{self, First};
use super::{ending, names, remove, supply};
use crate::docker::{Changes, Inspect, start_exit_code};

/// The label that carries the operation's token.
pub(super) const OPERATION_LABEL: &str = "gpuctl.operation";

/// What undoing needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Data {
    /// Its name in Docker.
    pub(super) docker_name: DockerName,
    /// Its id, once it was created and seen to be what this change had asked for.
    pub(super) id: Option<ContainerId>,
    /// The record before; `None` where there was none.
    pub(super) before: Option<ContainerRecord>,
    /// The ports that it claimed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ports: Vec<u16>,
}

/// Runs or creates a container.
///
/// # Errors
/// [`Failure`]; then nothing is left of it.
pub(super) fn create(
    ctx: &Context,
    request: &CreateRequest,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    let name = match &request.name {
        Some(name) => name.clone(),
        None => match &request.from {
            Some((from, _)) => from.clone(),
            None => free_name(ctx)?,
        },
    };
    let _lock = journal::lock(ctx, &name, front)?;
    let mut before = ctx.ledger.container(&name)?;
    if let Some(at) = &before
        && at.record.auto_remove
        && let Some(id) = &at.record.container
        && ctx.docker()?.inspect(id.as_str())?.is_none()
    {
        // Gone as it was to go: the name is as it was before it.
        remove::forget_run(ctx, at)?;
        before = ctx.ledger.container(&name)?;
    }
    let version = next_version(ctx, &name, before.as_ref())?;
    let docker_name = DockerName::of(&name, version);
    let docker = ctx.docker()?;
    if let Some(there) = docker.inspect(docker_name.as_str())? {
        if !left_over(ctx, &there)? {
            return Err(Failure::new(format!("Docker has a container {docker_name} already"))
                .hint(format!("docker rm {docker_name}, or take another --name")));
        }
        let id = there.id().map(|id| id.to_string()).unwrap_or_default();
        docker.remove(&id, false, true)?;
        let text = format!("{docker_name} was left by a run that was broken off: it is removed");
        front.event(Event::Note { text });
    }
    check_runtime(ctx)?;
    let recorded = match &request.from {
        Some((from, wanted)) => Some(recorded(ctx, from, *wanted)?),
        None => None,
    };
    let gpus = match (&request.gpus, &recorded) {
        // run --from takes the number of the record, unless told another.
        (GpuRequest::None, Some(record)) => record.gpus.clone(),
        (gpus, _) => gpus.clone(),
    };
    let refusal = match request.start {
        StartMode::No => supply::ever(ctx, &gpus)?,
        StartMode::Detached | StartMode::Attached => supply::now(ctx, None, &gpus, &[])?,
    };
    if let Some(refusal) = refusal {
        supply::tell_refused(ctx, None, docker_name.as_str(), front.user(), &refusal);
        return Err(refusal.into());
    }

    let data = Data {
        docker_name: docker_name.clone(),
        id: None,
        before: before.as_ref().map(|at| at.record.clone()),
        ports: Vec::new(),
    };
    let within = ctx.config.ports.range;
    let ours = |port: u16| (within.first..=within.last).contains(&port);
    let wanted = match &recorded {
        Some(record) => ports::spec::wanted(&record.spec, ours, true),
        None => request.ports.clone(),
    };
    let first = if wanted.is_empty() { "create" } else { "ports" };
    let mut journal = Journal::begin(ctx, &name, OperationKind::Run, front.user(), first, &data)?;
    let claimed = match wanted.as_slice() {
        [] => Ok(Vec::new()),
        wanted => ports::claim(ctx, &mut journal, wanted, "create", |claimed| Data {
            ports: claimed.iter().map(|c| c.port).collect(),
            ..data.clone()
        }),
    };
    let made = claimed.and_then(|claimed| {
        for port in &claimed {
            front.event(Event::Note { text: port.told() });
        }
        let numbers: Vec<u16> = claimed.iter().map(|c| c.port).collect();
        let recorded = recorded.map(|record| VersionRecord {
            spec: ports::spec::renumbered(&record.spec, ours, &numbers),
            ..record
        });
        let publish = claimed.iter().map(Claimed::published).collect();
        let made = Made { request, name: &name, version, gpus, recorded, before, publish };
        make(ctx, &mut journal, front, &made)
    });
    match made {
        Ok(id) => {
            journal.finish(ctx, Batch::new())?;
            ending::settle(ctx, &id);
            Ok(Answer::Created { id, name, docker_name })
        }
        Err(failure) => {
            undo(ctx, journal).map_err(|also| failure.undoing_failed(&also))?;
            Err(failure)
        }
    }
}

struct Made<'a> {
    request: &'a CreateRequest,
    name: &'a ContainerName,
    version: Version,
    gpus: GpuRequest,
    recorded: Option<VersionRecord>,
    before: Option<At<ContainerRecord>>,
    publish: Vec<String>,
}

fn make(
    ctx: &Context,
    journal: &mut Journal,
    front: &mut dyn Front,
    made: &Made<'_>,
) -> Result<ContainerId, Failure> {
    let docker = ctx.docker()?;
    let docker_name = DockerName::of(made.name, made.version);
    let token = journal.operation.token.clone();
    let id = match &made.recorded {
        None => {
            let ask = CreateAsk {
                docker_name: docker_name.clone(),
                runtime: ctx.config.runtime.managed_name.clone(),
                name: made.name.clone(),
                labels: vec![(OPERATION_LABEL.into(), token.to_string())],
                publish: made.publish.clone(),
            };
            front.create(&ask).map_err(|error| not_created(error, &docker_name))?
        }
        Some(record) => {
            let changes = Changes {
                labels: vec![(OPERATION_LABEL.into(), token.to_string())],
                ..Changes::default()
            };
            docker.create_from(&docker_name, &record.spec, &changes)?
        }
    };
    let inspect = docker
        .inspect(id.as_str())?
        .ok_or_else(|| Failure::new("the container was removed while it was being made"))?;
    // A client may name any container: only the one that this change asked for is taken.
    let asked_for = inspect.name() == docker_name.as_str()
        && inspect.label(OPERATION_LABEL) == Some(token.as_str());
    if !asked_for {
        return Err(Failure::new(format!("{} was not made for {}", inspect.name(), made.name)));
    }
    ports::check_named(ctx, made.name, &inspect.0)?;
    record(ctx, journal, made, &id, &inspect, front.user())?;
    match made.request.start {
        StartMode::No => {}
        StartMode::Detached => docker.start(id.as_str()).map_err(|error| {
            let code = start_exit_code(&error.to_string());
            Failure::from(error).code(code)
        })?,
        StartMode::Attached => attach::start(ctx, front, &id, &docker_name, &inspect)?,
    }
    Ok(id)
}

/// Container record, version and binding in one commit with the journal's next step.
fn record(
    ctx: &Context,
    journal: &mut Journal,
    made: &Made<'_>,
    id: &ContainerId,
    inspect: &Inspect,
    by: Option<String>,
) -> Result<(), Failure> {
    let keys = ctx.ledger.keys();
    let why = match (&made.request.from, made.request.start) {
        (Some((from, _)), _) => format!("run --from {from}"),
        (None, StartMode::No) => "create".to_owned(),
        (None, _) => "run".to_owned(),
    };
    let first = First {
        name: made.name,
        version: made.version,
        container: id,
        gpus: made.gpus.clone(),
        by,
        why,
        how: How::Created,
        token: journal.operation.token.clone(),
        last: Vec::new(),
        unfinished: false,
    };
    let (container, version, binding) = first.records(ctx, inspect);
    version::check(&version, true)?;
    let mut batch = Batch::new();
    let key = keys.container(made.name);
    batch.unchanged(key.clone(), made.before.as_ref().map(|at| at.revision)).put(key, &container);
    let key = keys.version(made.name, made.version);
    batch.put(key, &version);
    batch.put(keys.binding(id), &binding);
    let mut data: Data = journal.data()?;
    data.id = Some(id.clone());
    journal.step(ctx, "start", &data, batch)?;
    keep_copy(ctx, &binding);
    Ok(())
}

/// The node's copy of a binding; what cannot be written is asked of the ledger at the next start.
pub(super) fn keep_copy(ctx: &Context, binding: &Binding) {
    let upper_dir = binding.upper_dir.clone().or_else(|| {
        notes::read_binding(&ctx.config.paths, &binding.container).ok().flatten()?.upper_dir
    });
    let copy = Binding { upper_dir, ..binding.clone() };
    if notes::write_binding(&ctx.config.paths, &copy).is_err() {
        let _ = notes::remove_binding(&ctx.config.paths, &binding.container);
    }
}

/// As [`asked`], of a creation: Docker says why, but not that nothing is left of it.
fn not_created(error: AskError, docker_name: &DockerName) -> Failure {
    match error {
        AskError::Refused { code } => {
            Failure::new(format!("Docker did not create {docker_name}, for the reason above"))
                .hint("docker images lists the images that are here; docker run --help the options")
                .code(code)
        }
        AskError::Gone => asked(error),
    }
}

fn free_name(ctx: &Context) -> Result<ContainerName, Failure> {
    for _ in 0..16 {
        let token =
            Token::random().map_err(|_| Failure::new("the kernel gives no random numbers"))?;
        let random = token.as_str().get(..15).and_then(|t| u64::from_str_radix(t, 16).ok());
        let name = ContainerName::new(names::made_up(random.unwrap_or_default()))
            .map_err(|e| Failure::new(e.to_string()))?;
        if ctx.ledger.container(&name)?.is_none() {
            return Ok(name);
        }
    }
    Err(Failure::new("no free name was found").hint("give one with --name"))
}

/// The version that a new container of this name gets.
fn next_version(
    ctx: &Context,
    name: &ContainerName,
    before: Option<&At<ContainerRecord>>,
) -> Result<Version, Failure> {
    let Some(before) = before else {
        names::check_new(ctx, name, "take another name")?;
        return Ok(Version(0));
    };
    let record = &before.record;
    if let Some(id) = &record.container {
        if let Some(shown) = ctx.docker()?.inspect(id.as_str())? {
            let shown = shown.name().to_owned();
            return Err(Failure::new(format!("the name {name} is in use by container {shown}"))
                .hint(format!("docker gpuctl rm {name} removes it; or take another --name")));
        }
        // Removed behind our back: its GPUs are free once its end is seen.
        ending::release_dead(ctx, id, &[])?;
    }
    ports::release_all(ctx, name)?;
    Ok(record.version.next())
}

fn check_runtime(ctx: &Context) -> Result<(), Failure> {
    let name = &ctx.config.runtime.managed_name;
    let info = ctx.docker()?.info()?;
    if let Some(program) = info.runtimes.get(name) {
        return match is_ours(&ctx.config.runtime.hook, Path::new(program)) {
            Some(false) => Err(Failure::new(format!(
                "the Engine's runtime {name} is {program}, which is no program of gpuctl's: the container would have no lease"
            ))
            .hint("docker gpuctl setup leads it to gpuctl again")),
            _ => Ok(()),
        };
    }
    Err(Failure::new(format!("the Engine at {} has no runtime {name}", ctx.docker()?.host()))
        .hint(format!(
            "add it to daemon.json: \"runtimes\": {{\"{name}\": {{\"path\": \"{}\"}}}}, and reload dockerd",
            ctx.config.runtime.hook.with_file_name("gpuctl-runtime").display()
        )))
}

/// Whether a program is our hook, by whatever name; `None` where that cannot be seen.
pub(super) fn is_ours(hook: &Path, program: &Path) -> Option<bool> {
    let file = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    Some(file(hook)? == file(program)?)
}

fn recorded(
    ctx: &Context,
    from: &ContainerName,
    version: Option<Version>,
) -> Result<VersionRecord, Failure> {
    let none = || {
        let what = version.map_or_else(|| from.to_string(), |v| format!("{from}@{v}"));
        Failure::new(format!("no record of {what} in the ledger of this node"))
            .hint(format!("docker gpuctl history {from} shows what there is"))
    };
    let version = match version {
        Some(version) => version,
        None => ctx.ledger.container(from)?.ok_or_else(none)?.record.version,
    };
    Ok(ctx.ledger.version(from, version)?.ok_or_else(none)?.record)
}
