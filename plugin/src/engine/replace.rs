//! A change by a new container, which takes the place of the one before with its files.
//!
//! Steps of the journal: `ports` (where some are to be chosen), `claim`, `stop`, `create`, `carry`, all
//! undone; `start`: finished where the new one has started or is not to run, else undone; `record`:
//! finished; `undo` instead of the rest, once undoing has begun. docs/adr/0014 tells what each does.

mod ahead;
mod image;
mod part;
mod steps;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use gpuctl_ledger::ledger::Batch;
use gpuctl_ledger::model::{
    Binding, ContainerId, ContainerName, DockerName, Evidence, GpuRequest, Holder, How as Came,
    Lease, LeaseState, OperationKind, SCHEMA, Timestamp, Token, Unit, Version, VersionRecord,
    VolumeName,
};
use gpuctl_ledger::node::notes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::{AutoPort, Event, Failure, Front, How};
use super::change::{Subject, Target};
use super::context::Context;
use super::create::{OPERATION_LABEL, keep_copy};
use super::journal::Journal;
use super::layers::{self, Source};
use super::names::Found;
use super::{creation, ending, kept, leases, ports, undo_replace, version};
use crate::change::{self, Change, HostPort, Kept, Publish};
use crate::docker::{Changes, Inspect};
use crate::layer::Fit;
use crate::tree::Size;

use image::Image;
pub(super) use part::Part;

/// How often leases that others change are read anew.
const TRIES: u32 = 8;
/// The longest wait for a container to be healthy.
const HEALTHY: Duration = Duration::from_secs(600);

/// The larger change of which a replace is a part: that one decides how it ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PartOf {
    /// The volume whose new version the containers get.
    pub(super) volume: VolumeName,
    /// That change.
    pub(super) token: Token,
}

/// What finishing and undoing need.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Data {
    pub(super) from: Version,
    pub(super) to: Version,
    pub(super) old: ContainerId,
    /// Once it was made.
    pub(super) new: Option<ContainerId>,
    /// The old one's binding.
    pub(super) before: Binding,
    pub(super) gpus: GpuRequest,
    /// The leases before, by unit and token.
    pub(super) held: Vec<(Unit, Token)>,
    /// What was claimed for the new one.
    pub(super) units: Vec<Unit>,
    pub(super) was_running: bool,
    /// The old one's restart policy, for its update.
    pub(super) restart: Value,
    pub(super) timeout: Option<i32>,
    pub(super) by: Option<String>,
    pub(super) why: String,
    /// What the new one is made from.
    pub(super) spec: Value,
    /// Its image, where that is not the spec's.
    pub(super) image: Option<String>,
    /// Whose files it gets; none where there are none.
    pub(super) upper: Option<PathBuf>,
    /// Ports that were chosen for it.
    pub(super) ports: Vec<u16>,
    /// Of one that does not stand for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) part_of: Option<PartOf>,
}

/// A change that has been looked at and can be made.
pub(super) struct Prepared {
    data: Data,
    kept: Kept,
    /// Whose files are carried, in words, and how much that is; in words why there are none.
    files: Result<(String, Fit), String>,
    /// The image that is to be pulled first.
    pulled: Option<String>,
}

/// Looks whether it can be done, before anything is touched.
///
/// # Errors
/// [`Failure`].
pub(super) fn prepare(
    ctx: &Context,
    subject: &Subject,
    target: &Target,
    how: &How,
    why: String,
    front: &mut dyn Front,
) -> Result<Prepared, Failure> {
    let Subject { found, shown, is, binding, .. } = subject;
    let name = &found.record.record.name;
    let Image { spec, id: image, pulled } = image::of(ctx, subject, target, how.dry_run, front)?;
    let ours: BTreeSet<String> =
        kept::versions(ctx, name)?.into_iter().map(|v| v.container.to_string()).collect();
    let (spec, anonymous) = change::inherited(is, &spec, found.id.as_str(), &ours);
    let spec = ahead::possible(ctx, subject, &spec)?;
    let own = layers::of_source(ctx, &found.id, shown, &found.docker_name)?;
    let source = target.files.clone().or_else(|| {
        let words = format!("the files of {}", found.docker_name);
        own.clone().map(|upper| Source { upper, kept: false, words })
    });
    let (upper, files) = match source {
        Some(source) => {
            let fit = layers::check(ctx, &source, own.as_deref(), front)?;
            (Some(source.upper), Ok((source.words, fit)))
        }
        None => (None, Err("no files to carry: it has never run".to_owned())),
    };
    let restart = is.pointer("/HostConfig/RestartPolicy").cloned().unwrap_or(Value::Null);
    let data = Data {
        from: found.record.record.version,
        to: found.record.record.version.next(),
        old: found.id.clone(),
        new: None,
        before: binding.record.clone(),
        gpus: target.gpus.clone(),
        held: leases::as_held(&leases::held(ctx, &found.id)?),
        units: Vec::new(),
        was_running: shown.running(),
        restart,
        timeout: how.timeout,
        by: front.user(),
        why,
        spec,
        image,
        upper,
        ports: Vec::new(),
        part_of: None,
    };
    // As large as the record will be, and the journal.
    version::check(&version_record(name, &data, &found.id, data.spec.clone()), false)?;
    Ok(Prepared { data, kept: anonymous, files, pulled })
}

/// Replaces the container; where that fails, it is as it was.
///
/// # Errors
/// As said.
pub(super) fn execute(
    ctx: &Context,
    prepared: Prepared,
    target: &Target,
    found: &Found,
    front: &mut dyn Front,
) -> Result<(), Failure> {
    let size = prepared.size();
    let data = prepared.data;
    let name = &found.record.record.name;
    let step = if target.ports.is_empty() { "claim" } else { "ports" };
    let kind = OperationKind::Replace;
    let mut journal = Journal::begin(ctx, name, kind, data.by.clone(), step, &data)?;
    if let Kept::Named(volumes) = &prepared.kept {
        let text = format!("its anonymous volumes are named from now on: {}", volumes.join(", "));
        front.event(Event::Note { text });
    }
    match advance(ctx, &mut journal, data, (&target.ports, size), front) {
        Ok(()) => finish(ctx, journal),
        Err(failure) => match undo_replace::undo(ctx, journal) {
            Ok(how) => Err(Failure { message: format!("{}; {how}", failure.message), ..failure }),
            Err(also) => Err(failure.undoing_failed(&also)),
        },
    }
}

/// All steps up to the start of the new container.
fn advance(
    ctx: &Context,
    journal: &mut Journal,
    mut data: Data,
    (wanted, size): (&[(AutoPort, Vec<Publish>)], Option<Size>),
    front: &mut dyn Front,
) -> Result<(), Failure> {
    if !wanted.is_empty() {
        data = choose_ports(ctx, journal, &data, wanted, front)?;
    }
    halt(ctx, journal, &mut data, front)?;
    let id = build(ctx, journal, &mut data, size, front)?;
    launch(ctx, journal, &data, &id, front)
}

/// Claims what the new one is to have, and stops the old one.
fn halt(
    ctx: &Context,
    journal: &mut Journal,
    data: &mut Data,
    front: &mut dyn Front,
) -> Result<(), Failure> {
    let name = journal.operation.name.clone();
    if data.was_running && !data.gpus.is_none() {
        data.units = claim(ctx, &journal.operation.token, data, &name)?;
    }
    journal.step(ctx, "stop", data, Batch::new())?;
    let docker = ctx.docker()?;
    docker.update(data.old.as_str(), &json!({"RestartPolicy": {"Name": "no"}}))?;
    docker.stop(data.old.as_str(), data.timeout)?;
    check_listens(front)
}

/// Makes the new one, with the files.
fn build(
    ctx: &Context,
    journal: &mut Journal,
    data: &mut Data,
    size: Option<Size>,
    front: &mut dyn Front,
) -> Result<ContainerId, Failure> {
    let mut batch = Batch::new();
    let key = ctx.ledger.keys().binding(&data.old);
    let retired = ctx.ledger.binding(&data.old)?.map(|at| {
        let retired = Binding { retired: true, ..at.record };
        batch.at(key.clone(), at.revision).put(key, &retired);
        retired
    });
    journal.step(ctx, "create", data, batch)?;
    if let Some(retired) = retired {
        keep_copy(ctx, &retired);
    }
    let new_name = DockerName::of(&journal.operation.name, data.to);
    let (id, shown) = make(ctx, journal, data, &new_name)?;
    if let Some(from) = data.upper.clone() {
        let to = layers::target(ctx, &id, &shown, &new_name)?;
        layers::carry(&from, &to, (new_name.as_str(), size), front)?;
    }
    check_listens(front)?;
    Ok(id)
}

/// Starts the new one, where the old one ran.
fn launch(
    ctx: &Context,
    journal: &mut Journal,
    data: &Data,
    id: &ContainerId,
    front: &mut dyn Front,
) -> Result<(), Failure> {
    start_step(ctx, journal, data, id)?;
    if data.was_running {
        ctx.docker()?.start(id.as_str())?;
        wait_healthy(ctx, id, front)?;
    }
    Ok(())
}

fn check_listens(front: &mut dyn Front) -> Result<(), Failure> {
    if front.listens() {
        return Ok(());
    }
    Err(Failure::new("interrupted").code(crate::client::signals::INTERRUPTED_CODE))
}

fn choose_ports(
    ctx: &Context,
    journal: &mut Journal,
    data: &Data,
    wanted: &[(AutoPort, Vec<Publish>)],
    front: &mut dyn Front,
) -> Result<Data, Failure> {
    let autos: Vec<AutoPort> = wanted.iter().map(|(auto, _)| auto.clone()).collect();
    let with = |claimed: &[ports::Claimed]| {
        let publish = wanted
            .iter()
            .zip(claimed)
            .flat_map(|((_, publish), c)| {
                let at = HostPort::Number(c.port);
                publish.iter().map(move |p| Publish { host: at, ..p.clone() })
            })
            .collect();
        let change = Change { publish, ..Change::default() };
        Data {
            spec: change::apply(&data.spec, &change).unwrap_or_else(|_| data.spec.clone()),
            ports: claimed.iter().map(|c| c.port).collect(),
            ..data.clone()
        }
    };
    let claimed = ports::claim(ctx, journal, &autos, "claim", with)?;
    for port in &claimed {
        front.event(Event::Note { text: port.told() });
    }
    Ok(with(&claimed))
}

/// Claims for the old one, while it runs, what the new one is to have.
fn claim(
    ctx: &Context,
    token: &Token,
    data: &Data,
    name: &ContainerName,
) -> Result<Vec<Unit>, Failure> {
    let holder = Holder {
        container: data.old.clone(),
        docker_name: DockerName::of(name, data.from),
        name: Some(name.clone()),
        owner: data.before.owner.clone(),
    };
    Ok(leases::claim(ctx, token, &holder, &data.gpus, &data.held, None)?.units)
}

/// Makes the new container, with a binding that lets it start not yet.
fn make(
    ctx: &Context,
    journal: &mut Journal,
    data: &mut Data,
    new_name: &DockerName,
) -> Result<(ContainerId, Inspect), Failure> {
    let docker = ctx.docker()?;
    let token = journal.operation.token.clone();
    let changes = Changes {
        image: data.image.clone(),
        runtime: Some(ctx.config.runtime.managed_name.clone()),
        labels: vec![(OPERATION_LABEL.into(), token.to_string())],
        ..Changes::default()
    };
    let id = docker.create_from(new_name, &data.spec, &changes)?;
    let shown = docker
        .inspect(id.as_str())?
        .ok_or_else(|| Failure::new("the new container was removed while it was being made"))?;
    data.new = Some(id.clone());
    let binding = Binding {
        container: id.clone(),
        version: data.to,
        gpus: data.gpus.clone(),
        last: if data.units.is_empty() { data.before.last.clone() } else { data.units.clone() },
        token,
        retired: false,
        unfinished: true,
        upper_dir: None,
        ..data.before.clone()
    };
    let mut batch = Batch::new();
    batch.put(ctx.ledger.keys().binding(&id), &binding);
    journal.step(ctx, "carry", data, batch)?;
    keep_copy(ctx, &binding);
    Ok((id, shown))
}

/// Passes the leases on and lets the new one start, in one commit with the journal's next step.
fn start_step(
    ctx: &Context,
    journal: &mut Journal,
    data: &Data,
    id: &ContainerId,
) -> Result<(), Failure> {
    let keys = ctx.ledger.keys();
    let name = journal.operation.name.clone();
    for _ in 0..TRIES {
        let Some(binding) = ctx.ledger.binding(id)? else {
            return Err(Failure::new("the binding of the new container is gone"));
        };
        let mut batch = Batch::new();
        let finished = Binding { unfinished: false, ..binding.record };
        let key = keys.binding(id);
        batch.at(key.clone(), binding.revision).put(key, &finished);
        for (unit, lease) in ctx.ledger.leases()? {
            if lease.record.holder.container != data.old || !data.units.contains(&unit) {
                continue;
            }
            let holder = Holder {
                container: id.clone(),
                docker_name: DockerName::of(&name, data.to),
                ..lease.record.holder.clone()
            };
            let passed = Lease { holder, ..claimed_by_us(ctx, &lease.record) };
            let key = keys.lease(&unit);
            batch.at(key.clone(), lease.revision).put(key, &passed);
        }
        if journal.try_step(ctx, "start", data, batch)? {
            // What the node noted of the old one is over: it was stopped.
            let _ = notes::remove_grant(&ctx.config.paths, &data.old);
            keep_copy(ctx, &finished);
            return Ok(());
        }
    }
    Err(Failure::new("its leases are changed by others again and again").hint("try again"))
}

/// A lease whose process is gone, held by this change for the next start.
pub(super) fn claimed_by_us(ctx: &Context, lease: &Lease) -> Lease {
    Lease {
        state: LeaseState::Claimed,
        evidence: Evidence {
            boot_id: ctx.boot_id.clone(),
            claimer: ctx.me,
            init: None,
            cgroup: None,
            ended: None,
        },
        ..lease.clone()
    }
}

/// Where the image says how it is known to be healthy, waits until it is.
fn wait_healthy(ctx: &Context, id: &ContainerId, front: &mut dyn Front) -> Result<(), Failure> {
    let until = Instant::now() + HEALTHY;
    let mut told = false;
    loop {
        let Some(shown) = ctx.docker()?.inspect(id.as_str())? else {
            return Err(Failure::new("the new container was removed while it started"));
        };
        let health = shown.0.pointer("/State/Health/Status").and_then(Value::as_str);
        match health.unwrap_or_default() {
            "" | "none" | "healthy" => return Ok(()),
            "unhealthy" => return Err(Failure::new(format!("{} is not healthy", shown.name()))),
            _ if !shown.running() => {
                return Err(Failure::new(format!("{} has ended at once", shown.name())));
            }
            _ if Instant::now() > until => {
                return Err(Failure::new(format!(
                    "{} is not healthy after ten minutes",
                    shown.name()
                )));
            }
            _ => {}
        }
        check_listens(front)?;
        if !told {
            front
                .event(Event::Note { text: format!("waiting for {} to be healthy", shown.name()) });
            told = true;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Records the version and gives back what the new one has not: also what recovery does.
///
/// # Errors
/// The ledger's and the Engine's; the journal stays then.
pub(super) fn finish(ctx: &Context, mut journal: Journal) -> Result<(), Failure> {
    let data: Data = journal.data()?;
    let name = journal.operation.name.clone();
    let Some(id) = data.new.clone() else { return Err(Failure::new("there is no new container")) };
    let shown = ctx.docker()?.inspect(id.as_str())?;
    if journal.operation.step != "record" {
        journal.step(ctx, "record", &data, Batch::new())?;
    }
    let spec = shown.as_ref().map_or_else(|| data.spec.clone(), |shown| creation::of(ctx, shown));
    let mut batch = Batch::new();
    version::becomes_current(ctx, &name, data.to, &id, &mut batch)?;
    let published: BTreeSet<u16> =
        ports::spec::wanted(&spec, |_| true, true).into_iter().filter_map(|p| p.wish).collect();
    let kept = ports::of(ctx, &name)?.into_iter().map(|at| at.record.port);
    let unused: Vec<u16> = kept.filter(|port| !published.contains(port)).collect();
    ports::release(ctx, &name, &unused, &mut batch)?;
    journal.finish_with(ctx, &batch, &version_record(&name, &data, &id, spec))?;
    ending::release_dead(ctx, &data.old, &[])?;
    let binding = ctx.ledger.binding(&id)?;
    if let Some(binding) = &binding {
        keep_copy(ctx, &binding.record);
    }
    let running = shown.as_ref().is_some_and(Inspect::running);
    let units = binding.map(|at| at.record.last).filter(|_| running && !data.gpus.is_none());
    let by = data.by.clone().or(data.before.owner.clone());
    let new_name = DockerName::of(&name, data.to);
    leases::tell_rebound(ctx, (&id, &new_name), by, units, &data.why);
    ending::settle(ctx, &data.old);
    ending::settle(ctx, &id);
    Ok(())
}

fn version_record(
    name: &ContainerName,
    data: &Data,
    id: &ContainerId,
    spec: Value,
) -> VersionRecord {
    VersionRecord {
        schema: SCHEMA,
        name: name.clone(),
        version: data.to,
        container: id.clone(),
        gpus: data.gpus.clone(),
        at: Timestamp::now(),
        by: data.by.clone(),
        why: data.why.clone(),
        how: Some(Came::Replaced),
        layer: None,
        spec,
    }
}
