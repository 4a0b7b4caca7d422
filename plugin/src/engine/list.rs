//! ps, gpus, inspect, history: nothing here changes anything.

use std::collections::BTreeMap;

use gpuctl_ledger::grant::observe;
use gpuctl_ledger::ledger::At;
use gpuctl_ledger::model::{
    Binding, ContainerId, ContainerRecord, DockerName, Gpu, Health, Holder, Inventory, Lease,
    LeaseState, Part, Piece, Place, Timestamp, Unit,
};
use gpuctl_ledger::node::refused::{self, RefusedStart};
use gpuctl_ledger::rules::allocate::Judged;
use gpuctl_ledger::rules::liveness::Life;
use gpuctl_ledger::rules::retry::due;
use serde_json::{Value, json};

use super::api::{Answer, Failure, GpuRow, PsRow, RefusedRow};
use super::context::Context;
use super::look::{On, Seen, strangers_words};
use super::{lifecycle, names, retry, watch};
use crate::docker::Summary;
use crate::gpu::Usage;

/// ps.
///
/// # Errors
/// The ledger's and the Engine's.
pub(super) fn ps(ctx: &Context, all: bool) -> Result<Answer, Failure> {
    let keys = ctx.ledger.keys();
    let records: Vec<At<ContainerRecord>> = ctx.ledger.list(&keys.containers())?;
    let mut refused: BTreeMap<ContainerId, RefusedStart> =
        refused::all(&ctx.config.paths).into_iter().map(|n| (n.container.clone(), n)).collect();
    if refused.is_empty() && records.iter().all(|at| at.record.container.is_none()) {
        return Ok(Answer::Ps(Vec::new()));
    }
    let bindings: Vec<At<Binding>> = ctx.ledger.list(&keys.bindings())?;
    let bindings: BTreeMap<ContainerId, Binding> =
        bindings.into_iter().map(|at| (at.record.container.clone(), at.record)).collect();
    let mut held: BTreeMap<ContainerId, Vec<Unit>> = BTreeMap::new();
    for at in ctx.ledger.leases()?.into_values() {
        held.entry(at.record.holder.container).or_default().push(at.record.unit);
    }
    let inventory = ctx.view().inventory().ok();
    let shown: BTreeMap<String, Summary> =
        ctx.docker()?.list(true)?.into_iter().map(|s| (s.id.clone(), s)).collect();
    let mut rows = Vec::new();
    for record in records.into_iter().map(|at| at.record) {
        let Some(id) = record.container else { continue };
        let summary = shown.get(id.as_str());
        let running = summary.is_some_and(|s| s.running);
        let note = refused.remove(&id).filter(|_| !running && summary.is_some());
        // One that Docker no longer has is shown with -a, unless --rm took it; one whose start is
        // tried again is shown as docker ps shows one that restarts.
        let hidden = !all || (summary.is_none() && record.auto_remove);
        if !running && hidden && note.is_none() {
            continue;
        }
        let held = if running { places(inventory.as_ref(), held.get(&id)) } else { Vec::new() };
        let status = summary.map_or("Removed outside gpuctl", |s| s.status.as_str());
        rows.push(PsRow {
            gpus: bindings.get(&id).map(|b| b.gpus.clone()).unwrap_or_default(),
            held,
            image: summary.map(|s| s.image.clone()).unwrap_or_default(),
            status: with_refusal(status, note.as_ref()),
            ports: summary.map(|s| s.ports.clone()).unwrap_or_default(),
            owner: record.owner,
            since: Some(record.at),
            id: Some(id),
            name: DockerName::new(record.name.as_str()).map_err(|e| Failure::new(e.to_string()))?,
            version: Some(record.version),
            running,
            refused: note.as_ref().map(refused_row),
        });
    }
    // Of what docker run made, only these: docker ps -a shows them as ended, and not that they wait.
    for note in refused.into_values() {
        let Some(summary) = shown.get(note.container.as_str()).filter(|s| !s.running) else {
            continue;
        };
        let name = summary.names.first().unwrap_or(&note.docker_name);
        let Ok(name) = DockerName::new(name.as_str()) else { continue };
        rows.push(PsRow {
            name,
            version: None,
            image: summary.image.clone(),
            gpus: note.request.clone().unwrap_or_default(),
            held: Vec::new(),
            owner: None,
            since: None,
            status: with_refusal(&summary.status, Some(&note)),
            ports: summary.ports.clone(),
            running: false,
            refused: Some(refused_row(&note)),
            id: Some(note.container),
        });
    }
    Ok(Answer::Ps(rows))
}

/// `Exited (137) 3 minutes ago, refused 3 times: ...`.
fn with_refusal(status: &str, note: Option<&RefusedStart>) -> String {
    match note {
        Some(note) => format!("{status}, {}", retry::words(note, Timestamp::now())),
        None => status.to_owned(),
    }
}

fn refused_row(note: &RefusedStart) -> RefusedRow {
    RefusedRow {
        tries: note.tries,
        reason: note.reason.clone(),
        waits_for: note.waits_for,
        since: note.first,
        next: due(note.last, note.tries),
    }
}

fn places(inventory: Option<&Inventory>, units: Option<&Vec<Unit>>) -> Vec<Place> {
    let mut list: Vec<Place> = units
        .into_iter()
        .flatten()
        .filter_map(|unit| inventory?.piece(unit).map(|piece| piece.place()))
        .collect();
    list.sort_unstable_by_key(|place| (place.gpu(), *place));
    list
}

/// gpus.
///
/// # Errors
/// The ledger's; a driver that does not answer leaves its columns empty.
pub(super) fn gpus(ctx: &Context) -> Result<Answer, Failure> {
    let Looked { rows, .. } = looked(ctx)?;
    Ok(Answer::Gpus(rows.into_iter().map(|(row, _)| row).collect()))
}

/// The GPUs, with who holds each, and what else was seen on the way.
pub(super) struct Looked {
    /// In nvidia-smi order, each with its holder.
    pub(super) rows: Vec<(GpuRow, Option<Holder>)>,
    /// What the driver told.
    pub(super) seen: Seen,
    /// Why it told nothing.
    pub(super) silent: Option<Failure>,
}

/// As [`gpus`], for those who want to know more.
///
/// # Errors
/// As there.
pub(super) fn looked(ctx: &Context) -> Result<Looked, Failure> {
    // Asking the driver also brings the inventory and the quarantine up to date.
    let asked = watch::seen(ctx);
    let (now, silent) = match asked {
        Ok(now) => (now, None),
        Err(error) if ctx.view().inventory().is_err() => return Err(error),
        Err(error) => (Seen::default(), Some(error)),
    };
    let seen = observe(&ctx.ledger, &ctx.view(), None)?;
    let pieces: Vec<Piece<'_>> = seen.inventory.gpus.iter().flat_map(Gpu::pieces).collect();
    // A slot that somebody has though the config has no such slot any more.
    let known: Vec<Unit> = pieces.iter().map(Piece::unit).collect();
    let more = seen.judged.keys().filter(|unit| !known.contains(unit));
    let mut pieces: Vec<Piece<'_>> =
        pieces.into_iter().chain(more.filter_map(|unit| seen.inventory.piece(unit))).collect();
    pieces.sort_by_key(|piece| (piece.gpu.index, piece.place()));
    let rows = pieces.iter().map(|piece| {
        let unit = piece.unit();
        // Nothing tells slots apart: what goes on on their GPU stands in its own row.
        let usage = now.usage.iter().find(|u| u.unit.as_ref() == Some(&unit));
        let judged = seen.judged.get(&unit);
        let holder = living(judged).map(|lease| lease.holder.clone());
        (row(piece, judged, usage, seen.busy.get(&unit), now.on.get(&unit)), holder)
    });
    Ok(Looked { rows: rows.collect(), seen: now, silent })
}

/// A lease whose holder is gone for good is as good as none: the next claim takes it.
fn living(judged: Option<&Judged>) -> Option<&Lease> {
    judged.filter(|j| j.life != Life::Gone).map(|j| &j.lease)
}

fn row(
    piece: &Piece<'_>,
    judged: Option<&Judged>,
    usage: Option<&Usage>,
    busy: Option<&String>,
    on: Option<&On>,
) -> GpuRow {
    let gpu = piece.gpu;
    let whole = matches!(piece.part, Part::Whole);
    let lease = living(judged);
    let fault = usage.and_then(|u| u.fault.clone());
    let health = match (piece.health(), fault, busy) {
        (Health::Bad(why), _, _) => why.clone(),
        (Health::Ok, Some(fault), _) => fault,
        (Health::Ok, None, busy) => match (on.filter(|on| !on.strangers.is_empty()), busy, lease) {
            (Some(on), _, None) => format!("busy: {}", strangers_words(&on.strangers)),
            (Some(on), _, Some(_)) => {
                format!("ok; without a lease: {}", strangers_words(&on.strangers))
            }
            (None, Some(busy), None) => format!("busy: {busy}"),
            _ if whole && !gpu.mig.is_empty() => format!("cut into {} MIG devices", gpu.mig.len()),
            (None, ..) => "ok".into(),
        },
    };
    let profile = piece.mig().map(|mig| mig.profile.as_str()).filter(|profile| !profile.is_empty());
    GpuRow {
        index: gpu.index,
        mig: piece.mig().map(|mig| mig.index),
        slot: if let Part::Slot(slot) = piece.part { Some(slot) } else { None },
        uuid: piece.unit(),
        model: match profile {
            Some(profile) => format!("{} MIG {profile}", gpu.model),
            None => gpu.model.clone(),
        },
        memory_total: piece.memory(),
        memory_used: usage.and_then(|u| u.memory_used),
        utilisation: usage.and_then(|u| u.utilization),
        holder: lease.map(|l| l.holder.shown().to_owned()),
        owner: lease.and_then(|l| l.holder.owner.clone()),
        since: lease.map(|l| l.since),
        state: lease.map(|l| {
            match l.state {
                LeaseState::Claimed => "claimed",
                LeaseState::Active => "active",
                LeaseState::Reserved => "reserved",
            }
            .to_owned()
        }),
        processes: usage
            .and_then(|u| u.processes.as_ref())
            .map(|list| list.iter().map(|p| p.pid).collect())
            .unwrap_or_default(),
        health,
        links: if whole { gpu.peers.clone() } else { Vec::new() },
    }
}

/// inspect.
///
/// # Errors
/// The ledger's. What is not there keeps nothing of the others back: it is in the answer.
pub(super) fn inspect(ctx: &Context, names: &[String]) -> Result<Answer, Failure> {
    let (mut objects, mut failed) = (Vec::new(), Vec::new());
    let leases = ctx.ledger.leases()?;
    for name in names {
        let (found, shown) = match names::existing(ctx, name)
            .and_then(|found| Ok((lifecycle::shown(ctx, &found)?.0, found)))
        {
            Ok((shown, found)) => (found, shown),
            Err(failure) => {
                failed.push(failure);
                continue;
            }
        };
        let held: Vec<Value> = leases
            .values()
            .filter(|at| at.record.holder.container == found.id)
            .map(|at| serde_json::to_value(&at.record).unwrap_or_default())
            .collect();
        let binding = ctx.ledger.binding(&found.id)?.map(|at| at.record);
        objects.push(json!({
            "Name": found.record.record.name,
            "Version": found.record.record.version,
            "DockerName": found.docker_name,
            "Owner": found.record.record.owner,
            "Since": found.record.record.at,
            "GPUs": binding.as_ref().map(|b| b.gpus.to_string()),
            "Binding": binding,
            "Leases": held,
            "Docker": shown,
        }));
    }
    Ok(Answer::Inspect { objects, failed })
}
