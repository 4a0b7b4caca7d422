//! clone: a second container with the first one's spec and files, and GPUs and ports of its own.
//!
//! Steps of the journal, which stands under the new name: `ports` (where there are any), `create`, `carry`
//! (it is made and recorded, and may not start yet; the files are copied), all undone: the new one goes,
//! and the first one goes on if it was paused for the copy; `start` (its files are whole): finished where
//! it is not to start or has started, else undone.

mod spec;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use gpuctl_ledger::ledger::Batch;
use gpuctl_ledger::model::{
    Binding, ContainerId, ContainerName, DockerName, GpuRequest, How, OperationKind, Version,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::api::{Answer, CloneRequest, Event, Failure, Front, MoreAnswer};
use super::context::Context;
use super::create::{Data as Created, OPERATION_LABEL, keep_copy};
use super::in_place::words;
use super::journal::{self, Journal};
use super::layers;
use super::version::{self, First};
use super::{
    creation, ending, images, kept, lifecycle, names, ports, snapshot, supply, undo_create,
};
use crate::docker::{Changes, Inspect};
use crate::layer::Fit;
use crate::tree::Size;

/// What finishing and undoing need.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Data {
    /// As of a run: what undoing removes.
    #[serde(flatten)]
    made: Created,
    /// The first one.
    source: ContainerId,
    /// It is paused for the copy.
    pauses: bool,
    /// The new one is to run.
    starts: bool,
    /// Volumes that it gets copies of, and what those are called.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    copies: BTreeMap<String, String>,
}

/// What is cloned.
struct Source {
    name: ContainerName,
    docker_name: DockerName,
    shown: Inspect,
    gpus: GpuRequest,
    /// Its files, and how much that is.
    files: Option<(PathBuf, Fit)>,
    /// What it was created with.
    spec: Value,
    /// Whether what is in its volumes is copied.
    volumes: bool,
}

/// Clones a container.
///
/// # Errors
/// [`Failure`]; then there is no second one, and nothing became of the first.
pub(super) fn clone(
    ctx: &Context,
    request: &CloneRequest,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    let new = &request.new;
    drop(journal::lock_named(ctx, &request.name, front)?);
    let from = names::record(ctx, &request.name)?.record.name;
    if from == *new {
        return Err(Failure::new(format!("{from} is the name of what is to be cloned"))
            .hint("give the clone another name"));
    }
    let (first, second) = if from < *new { (&from, new) } else { (new, &from) };
    let _locks = (journal::lock(ctx, first, front)?, journal::lock(ctx, second, front)?);
    let source = source(ctx, request, &from, front)?;
    if let Some(there) = ctx.ledger.container(new)? {
        let how = if there.record.container.is_some() { "is in use" } else { "has a history" };
        return Err(Failure::new(format!("the name {new} {how}")).hint("take another name"));
    }
    names::check_new(ctx, new, "take another name")?;
    let docker_name = DockerName::of(new, Version(0));
    names::check_docker_name(ctx, &docker_name, "take another name")?;
    let starts = source.shown.running();
    let refusal = match starts {
        true => supply::now(ctx, None, &source.gpus, &[])?,
        false => supply::ever(ctx, &source.gpus)?,
    };
    if let Some(refusal) = refusal {
        supply::tell_refused(ctx, None, docker_name.as_str(), front.user(), &refusal);
        return Err(refusal.into());
    }
    let made =
        Created { docker_name: docker_name.clone(), id: None, before: None, ports: Vec::new() };
    let id = source.shown.id().ok_or_else(|| Failure::new("the Engine shows no id"))?;
    let pauses = starts && !source.shown.paused() && source.files.is_some();
    let copies = match source.volumes {
        true => volumes::copies(ctx, &source.spec, new)?,
        false => BTreeMap::new(),
    };
    volumes::tell(&source.spec, &copies, source.volumes, front);
    let data = Data { made, source: id, pauses, starts, copies };
    let wanted = ports::spec::wanted(&source.shown.0, spec::every, false);
    let step = if wanted.is_empty() { "create" } else { "ports" };
    let kind = OperationKind::Clone;
    let mut journal = Journal::begin(ctx, new, kind, front.user(), step, &data)?;
    match make(ctx, &mut journal, &source, &data, &wanted, front) {
        Ok(id) => {
            journal.finish(ctx, Batch::new())?;
            ending::settle(ctx, &id);
            let gpus = words(&source.gpus);
            front.event(Event::Note { text: format!("{new} is a clone of {from}, with {gpus}") });
            let docker_name = Some(docker_name);
            Ok(Answer::More(MoreAnswer::Renamed { name: new.clone(), docker_name }))
        }
        Err(failure) => match undo(ctx, journal) {
            Ok(()) => {
                let message =
                    format!("{}; there is no {new}, and {from} is as it was", failure.message);
                Err(Failure { message, ..failure })
            }
            Err(also) => Err(failure.undoing_failed(&also)),
        },
    }
}

fn source(
    ctx: &Context,
    request: &CloneRequest,
    from: &ContainerName,
    front: &mut dyn Front,
) -> Result<Source, Failure> {
    let found = names::existing(ctx, &request.name)?;
    if found.record.record.name != *from {
        return Err(Failure::new(format!("{} is another by now", request.name)).hint("try again"));
    }
    let shown = lifecycle::shown(ctx, &found)?;
    let docker_name = found.docker_name.clone();
    if shown.auto_remove() || shown.restarting() {
        let how = if shown.auto_remove() { "was run with --rm" } else { "is being restarted" };
        return Err(Failure::new(format!("{docker_name} {how}, and is not cloned")).hint(
            "docker gpuctl commit makes an image of it, docker gpuctl run one more of that",
        ));
    }
    images::check(ctx, &shown, "")?;
    let bound = ctx.ledger.binding(&found.id)?.map(|at| at.record.gpus).unwrap_or_default();
    let gpus = match (&request.gpus, bound) {
        (Some(gpus), _) => gpus.clone(),
        // Those are the first one's own.
        (None, GpuRequest::Named(list)) => {
            GpuRequest::count(u32::try_from(list.len()).unwrap_or(u32::MAX))
        }
        (None, gpus) => gpus,
    };
    let files = match layers::of_source(ctx, &found.id, &shown, &docker_name)? {
        Some(upper) => {
            let words = docker_name.to_string();
            let source = layers::Source { upper, kept: false, words };
            let fit = layers::check(ctx, &source, Some(&source.upper), front)?;
            Some((source.upper, fit))
        }
        None => None,
    };
    let ours: BTreeSet<String> =
        kept::versions(ctx, from)?.into_iter().map(|v| v.container.to_string()).collect();
    let spec = volumes::with_own(&creation::of(ctx, &shown), &ours);
    let volumes = request.volumes;
    Ok(Source { name: from.clone(), docker_name, shown, gpus, files, spec, volumes })
}

fn make(
    ctx: &Context,
    journal: &mut Journal,
    source: &Source,
    data: &Data,
    wanted: &[super::api::AutoPort],
    front: &mut dyn Front,
) -> Result<ContainerId, Failure> {
    let docker = ctx.docker()?;
    let mut data = data.clone();
    if !wanted.is_empty() {
        let claimed = ports::claim(ctx, journal, wanted, "create", |claimed| {
            let ports = claimed.iter().map(|c| c.port).collect();
            Data { made: Created { ports, ..data.made.clone() }, ..data.clone() }
        })?;
        data.made.ports = claimed.iter().map(|c| c.port).collect();
        for port in &claimed {
            front.event(Event::Note { text: port.told() });
        }
    }
    let new = journal.operation.name.clone();
    volumes::make(ctx, &data.copies, &journal.operation.token)?;
    let recorded = volumes::swapped(&source.spec, &data.copies);
    let recorded = spec::of(&recorded, source.name.as_str(), new.as_str(), &data.made.ports);
    // Its name may mean another image by now.
    let (image, id) = (source.shown.image(), source.shown.image_id());
    let same = docker.image_id(image)?.as_deref() == Some(id);
    let changes = Changes {
        image: (!same).then(|| id.to_owned()),
        runtime: Some(ctx.config.runtime.managed_name.clone()),
        labels: vec![(OPERATION_LABEL.into(), journal.operation.token.to_string())],
        ..Changes::default()
    };
    let id = docker.create_from(&data.made.docker_name, &recorded, &changes)?;
    let shown = docker
        .inspect(id.as_str())?
        .ok_or_else(|| Failure::new("the container was removed while it was being made"))?;
    data.made.id = Some(id.clone());
    let binding = record(ctx, journal, source, &data, &shown)?;
    let mut files = None;
    let mut volumes = Vec::new();
    if let Some((from, fit)) = &source.files {
        let to = layers::target(ctx, &id, &shown, &data.made.docker_name)?;
        let (docker_name, new) = (&source.docker_name, &data.made.docker_name);
        let announced = layers::announced(fit);
        let text = format!("copying the files of {docker_name} to {new}: {announced}");
        front.event(Event::Note { text });
        files = Some((from.clone(), to, fit.size));
    }
    if source.volumes {
        volumes = volumes::pairs(&source.shown.0, &shown.0);
    }
    carry(ctx, source, &data, (files, &volumes), front)?;
    let binding = Binding { unfinished: false, ..binding };
    let mut batch = Batch::new();
    batch.put(ctx.ledger.keys().binding(&id), &binding);
    journal.step(ctx, "start", &data, batch)?;
    keep_copy(ctx, &binding);
    if data.starts {
        docker.start(id.as_str())?;
    }
    Ok(id)
}

/// A folder, and the one that gets what is in it.
type FromTo = (PathBuf, PathBuf);

/// Copies the layer and what is in volumes while the first one stands still.
fn carry(
    ctx: &Context,
    source: &Source,
    data: &Data,
    (files, volumes): (Option<(PathBuf, PathBuf, Size)>, &[FromTo]),
    front: &mut dyn Front,
) -> Result<(), Failure> {
    if data.pauses {
        ctx.docker()?.pause(data.source.as_str())?;
    }
    let name = source.docker_name.as_str();
    let mut copied = files.map_or(Ok(()), |(from, to, size)| {
        layers::carry(&from, &to, (name, Some(size)), front).map(drop)
    });
    if copied.is_ok() {
        copied = volumes.iter().try_for_each(|(from, to)| volumes::copy(from, to, front));
    }
    // Before anything else: its processes wait.
    let goes_on = snapshot::unpause(ctx, &data.source, data.pauses);
    copied.and(goes_on)
}

/// Record, version and a binding that lets it start not yet, with the journal's next step.
fn record(
    ctx: &Context,
    journal: &mut Journal,
    source: &Source,
    data: &Data,
    shown: &Inspect,
) -> Result<Binding, Failure> {
    let id = data.made.id.clone().ok_or_else(|| Failure::new("the Engine gave no id"))?;
    let (name, by) = (journal.operation.name.clone(), journal.operation.by.clone());
    let first = First {
        name: &name,
        version: Version(0),
        container: &id,
        gpus: source.gpus.clone(),
        by,
        why: format!("clone {}", source.docker_name),
        how: How::Cloned,
        token: journal.operation.token.clone(),
        last: Vec::new(),
        unfinished: true,
    };
    let (container, version, binding) = first.records(ctx, shown);
    version::check(&version, true)?;
    let keys = ctx.ledger.keys();
    let mut batch = Batch::new();
    let key = keys.container(&name);
    batch.absent(key.clone()).put(key, &container);
    batch.put(keys.version(&name, Version(0)), &version);
    batch.put(keys.binding(&id), &binding);
    journal.step(ctx, "carry", data, batch)?;
    keep_copy(ctx, &binding);
    Ok(binding)
}

/// The new one goes, and the first one goes on.
fn undo(ctx: &Context, journal: Journal) -> Result<(), Failure> {
    let data: Data = journal.data()?;
    snapshot::unpause(ctx, &data.source, data.pauses && journal.operation.step == "carry")?;
    if !data.copies.is_empty() {
        undo_create::remove_made(ctx, &data.made, &journal.operation.token)?;
        volumes::remove(ctx, &data.copies, &journal.operation.token)?;
    }
    undo_create::undo(ctx, journal)
}

/// Ends a clone that was broken off.
///
/// # Errors
/// When it cannot be brought to an end now.
pub(super) fn recover(ctx: &Context, journal: Journal) -> Result<String, Failure> {
    let data: Data = journal.data()?;
    let what = format!("an earlier clone to {} was broken off", journal.operation.name);
    if journal.operation.step == "start" {
        let shown = match &data.made.id {
            Some(id) => ctx.docker()?.inspect(id.as_str())?,
            None => None,
        };
        if let Some(shown) = shown.filter(|shown| !data.starts || !shown.never_started()) {
            if let Some(id) = shown.id()
                && let Some(bound) = ctx.ledger.binding(&id)?
            {
                keep_copy(ctx, &bound.record);
            }
            journal.finish(ctx, Batch::new())?;
            return Ok(format!("{what}: it is done"));
        }
    }
    undo(ctx, journal)?;
    Ok(format!("{what}: it is undone"))
}
