//! Bringing ledger, node and Docker back together after whatever happened: by doctor --fix and by
//! the service. Nothing of a living container is ever freed, and no GPU of one is left unleased.

use std::collections::BTreeSet;
use std::time::Duration;

use gpuctl_ledger::audit::{Decision, Entry};
use gpuctl_ledger::grant;
use gpuctl_ledger::ledger::{At, Batch, Leases, Sight};
use gpuctl_ledger::model::{
    Binding, ContainerId, ContainerRecord, DockerName, Inventory, Lease, LeaseState, Operation,
    Timestamp, Unit,
};
use gpuctl_ledger::node::{lock, notes};
use gpuctl_ledger::rules::liveness::Life;
use gpuctl_ledger::store::Outcome;
use gpuctl_ledger::view::NodeView;

use super::api::Failure;
use super::context::Context;
use super::create::OPERATION_LABEL;
use super::{ending, journal, leftovers, ports, recover, remove, under_way, volume};
use crate::docker::Inspect;

/// What was found amiss, and whether it was mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// In one line.
    pub(super) text: String,
    /// Whether it was mended just now; else it can be, unless [`Self::by_hand`].
    pub(super) mended: bool,
    /// Only a person can mend it: what to type.
    pub(super) by_hand: Option<String>,
}

/// Looks for what is amiss, and mends it where `fix` says so.
///
/// # Errors
/// When ledger or node cannot be read at all.
pub(super) fn reconcile(ctx: &Context, fix: bool) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    if !leftovers::our_engine(ctx)? {
        return Ok(findings);
    }
    torn_notes(ctx, fix, &mut findings)?;
    long_changes(ctx, &mut findings)?;
    journals(ctx, fix, &mut findings)?;
    lost_leases(ctx, fix, &mut findings)?;
    dead_leases(ctx, fix, &mut findings)?;
    gone_containers(ctx, fix, &mut findings)?;
    strays(ctx, fix, &mut findings)?;
    stray_ports(ctx, fix, &mut findings)?;
    volume::findings(ctx, fix, &mut findings)?;
    if fix {
        leftovers::idle_locks(ctx)?;
    }
    Ok(findings)
}

/// How long a dead change waits for the next command to end it, before the service does: milliseconds.
const PATIENCE_MS: u64 = 30_000;

/// What the service does by itself every few seconds: frees what the dead hold, forgets runs with
/// --rm that have ended, and ends changes that died a while ago. What it did.
///
/// # Errors
/// When ledger or node cannot be read at all.
pub fn tend(ctx: &Context) -> Result<Vec<String>, Failure> {
    let mut findings = Vec::new();
    lost_leases(ctx, true, &mut findings)?;
    dead_leases(ctx, true, &mut findings)?;
    let open: Vec<At<Operation>> = ctx.ledger.list(&ctx.ledger.keys().operations())?;
    let now = Timestamp::now();
    if open.iter().any(|o| now.millis_since(o.record.since) > PATIENCE_MS) {
        journals(ctx, true, &mut findings)?;
    }
    // What of these cannot be done now is done the next time.
    let _ = leftovers::ended_runs(ctx);
    let _ = ports::strays(ctx, true);
    let _ = leftovers::idle_locks(ctx);
    let mut said: Vec<String> = findings.into_iter().map(|f| f.text).collect();
    said.extend(volume::tend(ctx).unwrap_or_default());
    Ok(said)
}

fn found(findings: &mut Vec<Finding>, fix: bool, text: String) {
    findings.push(Finding { text, mended: fix, by_hand: None });
}

/// Changes whose author is dead.
fn journals(ctx: &Context, fix: bool, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let open: Vec<At<Operation>> = ctx.ledger.list(&ctx.ledger.keys().operations())?;
    for operation in open {
        let name = operation.record.name.clone();
        // Whoever has the lock is at work on it.
        let Some(_lock) = journal::try_lock(ctx, &name)? else { continue };
        let Some(operation) = ctx.ledger.operation(&name)? else { continue };
        if !fix {
            found(findings, false, format!("a change to {name} was broken off"));
            continue;
        }
        match recover::recover(ctx, &operation) {
            Ok(said) => found(findings, true, said),
            Err(why) => findings.push(Finding {
                text: why.message,
                mended: false,
                by_hand: why.hint.or_else(|| Some("docker gpuctl doctor --fix, later".into())),
            }),
        }
    }
    Ok(())
}

/// After how long a change under way is worth a word.
const LONG: Duration = Duration::from_secs(60);

/// Changes that somebody has been at work on for long: they keep their containers from every other.
fn long_changes(ctx: &Context, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    for change in under_way::all(ctx)? {
        if change.age.is_some_and(|age| age >= LONG) {
            let name = under_way::docker_name(ctx, &change.name);
            let by_hand = Some(change.hint(name.as_ref()));
            findings.push(Finding { text: change.told(), mended: false, by_hand });
        }
    }
    Ok(())
}

/// What the ledger says of a GPU that a living container was granted.
enum Standing<'a> {
    /// The lease of this very start.
    Right,
    /// Nothing, an older state of it, or a lease of the dead.
    Lost,
    /// Somebody else's, who lives too.
    Taken(&'a Lease),
}

fn standing<'a>(
    view: &NodeView<'_>,
    grant: &notes::Grant,
    lease: Option<&'a Lease>,
) -> Standing<'a> {
    let Some(lease) = lease else { return Standing::Lost };
    if lease.holder.container == grant.holder.container {
        let same = lease.token == grant.token && lease.evidence.init == grant.evidence.init;
        // Its gate is just about to write the rest.
        let starting = lease.token == grant.token && lease.state == LeaseState::Claimed;
        return if same || starting { Standing::Right } else { Standing::Lost };
    }
    if is_held(view, lease) { Standing::Taken(lease) } else { Standing::Lost }
}

/// Whether the holder of a lease lives, or may.
fn is_held(view: &NodeView<'_>, lease: &Lease) -> bool {
    match view.judge(lease, &[], Timestamp::now()) {
        Life::Gone | Life::Reserved => false,
        Life::Alive | Life::Changing | Life::Unknown => true,
    }
}

/// Who else lives and has the GPU of which this is a part, or a part of it.
fn overlapping<'a>(
    view: &NodeView<'_>,
    grant: &notes::Grant,
    unit: &Unit,
    inventory: &Inventory,
    leases: &'a Leases,
) -> Option<&'a Lease> {
    let piece = inventory.piece(unit)?;
    let others = leases.values().map(|at| &at.record).filter(|lease| {
        lease.unit != *unit
            && lease.holder.container != grant.holder.container
            && inventory.piece(&lease.unit).is_some_and(|other| other.overlaps(&piece))
    });
    others.into_iter().find(|lease| is_held(view, lease))
}

/// Grants of living containers that the ledger does not show: it was restored from a backup.
fn lost_leases(ctx: &Context, fix: bool, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let view = ctx.view();
    // One that is still being started is its wrapper's affair.
    let changing = ctx.ledger.changing()?;
    let inventory = view.inventory().ok();
    let settled = |grant: &notes::Grant| {
        grant.active && !grant.holder.name.as_ref().is_some_and(|name| changing.contains(name))
    };
    for grant in view.living_grants()?.into_iter().filter(settled) {
        let shown = grant.holder.shown();
        let leases = ctx.ledger.leases()?;
        let (mut batch, mut lost) = (Batch::new(), Vec::new());
        for unit in &grant.units {
            let old = leases.get(unit);
            let own = standing(&view, &grant, old.map(|at| &at.record));
            let other =
                inventory.as_ref().and_then(|i| overlapping(&view, &grant, unit, i, &leases));
            match other.map_or(own, Standing::Taken) {
                Standing::Right => {}
                Standing::Lost => {
                    let key = ctx.ledger.keys().lease(unit);
                    let seen = old.map(|at| at.revision);
                    batch.unchanged(key.clone(), seen).put(key, &grant.lease(unit));
                    lost.push(unit.clone());
                }
                Standing::Taken(lease) => findings.push(Finding {
                    text: format!(
                        "{shown} runs on {unit}, and the ledger shows {} leased to {}",
                        if lease.unit == *unit { "it" } else { lease.unit.as_str() },
                        lease.holder.shown()
                    ),
                    mended: false,
                    by_hand: Some(format!("docker stop one of the two: {shown}")),
                }),
            }
        }
        if !batch.is_empty() {
            let dead = inventory.as_ref().map_or_else(Vec::new, |inventory| {
                let (id, seen) = (&grant.holder.container, (inventory, &leases));
                grant::guard_overlaps(&ctx.ledger, id, seen, &lost, &mut batch)
            });
            let done = fix && matches!(ctx.ledger.commit(&batch)?, Outcome::Done(_));
            if done {
                let entry = Entry::of(Decision::Granted, &grant.holder).gpus(&lost);
                entry.why("it runs, and the ledger had lost its lease").write(&ctx.config);
                for lease in dead.iter().filter_map(|unit| leases.get(unit)).map(|at| &at.record) {
                    let unit = std::slice::from_ref(&lease.unit);
                    let entry = Entry::of(Decision::Released, &lease.holder).gpus(unit);
                    entry
                        .why(format!("its process is gone, and {shown} runs there"))
                        .write(&ctx.config);
                }
            }
            found(findings, done, format!("the ledger had lost leases of {shown}, which runs"));
        }
    }
    Ok(())
}

/// Leases whose holder is gone for good, and notes of the dead.
fn dead_leases(ctx: &Context, fix: bool, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let view = ctx.view();
    let Sight { leases, changing } = ctx.ledger.sight()?;
    let gone: BTreeSet<(ContainerId, String)> = leases
        .into_values()
        .filter(|at| view.judge(&at.record, &changing, Timestamp::now()) == Life::Gone)
        .map(|at| (at.record.holder.container.clone(), at.record.holder.shown().to_owned()))
        .collect();
    for (id, shown) in gone {
        if fix {
            grant::end(&ctx.ledger, &view, &id, None)?;
        }
        found(findings, fix, format!("{shown} is gone and still had GPUs"));
    }
    if fix {
        // Without an inventory there is nothing to be short of.
        if let Ok(seen) = grant::observe(&ctx.ledger, &view, None) {
            grant::note_ends(&ctx.ledger, &view, &seen);
        }
        dead_notes(ctx)?;
    }
    Ok(())
}

/// How long the removal of notes waits for starts under way.
const NOTES_LIMIT: Duration = Duration::from_secs(2);

/// Removes the notes of the dead that have no lease. No start writes one meanwhile.
fn dead_notes(ctx: &Context) -> Result<(), Failure> {
    let paths = &ctx.config.paths;
    let Ok(Some(_lock)) = lock::take(&paths.grants(), grant::LOCK, NOTES_LIMIT) else {
        return Ok(());
    };
    let leases = ctx.ledger.leases()?;
    let view = ctx.view();
    for grant in notes::grants(paths).unwrap_or_default() {
        let id = &grant.holder.container;
        let leased = leases.values().any(|at| at.record.holder.container == *id);
        if !leased && !view.lives(&grant) {
            let _ = notes::remove_grant(paths, id);
        }
    }
    Ok(())
}

/// Notes that cannot be read, as a power cut may leave where /run is no tmpfs: until they are gone
/// it is not known what is granted, and no GPU is.
fn torn_notes(ctx: &Context, fix: bool, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    for id in notes::torn(&ctx.config.paths) {
        let runs = ctx.docker()?.inspect(id.as_str())?.is_some_and(|shown| shown.running());
        let text = format!("the note of what {} was granted cannot be read", id.short());
        if runs {
            let by_hand = Some(format!("docker restart {}", id.short()));
            findings.push(Finding { text, mended: false, by_hand });
        } else {
            let done = fix && notes::remove_grant(&ctx.config.paths, &id).is_ok();
            found(findings, done, text);
        }
    }
    Ok(())
}

/// Records of containers that Docker no longer has, or has under another name.
fn gone_containers(ctx: &Context, fix: bool, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let keys = ctx.ledger.keys();
    let records: Vec<At<ContainerRecord>> = ctx.ledger.list(&keys.containers())?;
    let engine = ctx.docker()?;
    for at in records {
        let name = at.record.name.clone();
        let Some(id) = at.record.container.clone() else { continue };
        let Some(_lock) = journal::try_lock(ctx, &name)? else { continue };
        let Some(At { record, revision }) = ctx.ledger.container(&name)? else { continue };
        if record.container.as_ref() != Some(&id) || ctx.ledger.operation(&name)?.is_some() {
            continue;
        }
        let expected = DockerName::of(&name, record.version);
        match engine.inspect(id.as_str())? {
            Some(shown) if shown.name() == expected.as_str() => {}
            Some(shown) => {
                let text = format!("{expected} was renamed to {} outside gpuctl", shown.name());
                let done = fix && engine.rename(id.as_str(), &expected).is_ok();
                found(findings, done, text);
            }
            None if fix && record.auto_remove => {
                remove::forget_run(ctx, &At { record, revision })?;
            }
            None => {
                if fix {
                    ending::release_dead(ctx, &id, &[])?;
                    let _ = notes::remove_binding(&ctx.config.paths, &id);
                    let mut batch = Batch::new();
                    let key = keys.container(&name);
                    batch.at(key.clone(), revision).delete(keys.binding(&id));
                    batch.put(key, &ContainerRecord { container: None, ..record.clone() });
                    let _ = ctx.ledger.commit(&batch)?;
                }
                // One run with --rm goes by itself: that is as it should be.
                if !record.auto_remove {
                    found(
                        findings,
                        fix,
                        format!("{expected} was removed outside gpuctl; its history stays"),
                    );
                }
            }
        }
    }
    Ok(())
}

/// Ports that are kept for nobody.
fn stray_ports(ctx: &Context, fix: bool, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    for (name, count) in ports::strays(ctx, fix)? {
        let (ports, are) = if count == 1 { ("port", "is") } else { ("ports", "are") };
        let text = format!("{count} {ports} of this host {are} kept for {name}, which is no more");
        found(findings, fix, text);
    }
    Ok(())
}

/// Bindings of containers that Docker no longer has, and managed containers that the ledger does
/// not know.
fn strays(ctx: &Context, fix: bool, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let keys = ctx.ledger.keys();
    let bindings: Vec<At<Binding>> = ctx.ledger.list(&keys.bindings())?;
    let records: Vec<At<ContainerRecord>> = ctx.ledger.list(&keys.containers())?;
    let operations: Vec<At<Operation>> = ctx.ledger.list(&keys.operations())?;
    let known: BTreeSet<String> = records
        .iter()
        .filter_map(|at| at.record.container.as_ref())
        .map(|id| id.to_string())
        .chain(bindings.iter().map(|at| at.record.container.to_string()))
        .collect();
    for At { record, revision } in &bindings {
        let gone = leftovers::absent(ctx, &record.container);
        let busy = operations.iter().any(|o| o.record.name == record.name);
        if !gone || busy {
            continue;
        }
        if fix {
            let key = keys.binding(&record.container);
            let mut batch = Batch::new();
            batch.at(key.clone(), *revision).delete(key);
            let _ = ctx.ledger.commit(&batch)?;
            let _ = notes::remove_binding(&ctx.config.paths, &record.container);
        }
    }
    for summary in ctx.docker()?.list(true)? {
        let Some(token) = summary.labels.get(OPERATION_LABEL) else { continue };
        let open = operations.iter().any(|o| o.record.token.as_str() == token);
        if open || known.contains(&summary.id) {
            continue;
        }
        let Some(shown) = ctx.docker()?.inspect(&summary.id)? else { continue };
        if shown.runtime() != ctx.config.runtime.managed_name {
            continue;
        }
        let name = shown.name().to_owned();
        if shown.never_started() {
            // docker create outlived the run that had asked for it; or it is one that has just begun.
            let Some((base, _)) = DockerName::split(shown.name()) else { continue };
            let Some(_lock) = journal::try_lock(ctx, &base)? else { continue };
            let id = shown.id();
            let bound = match &id {
                Some(id) => ctx.ledger.binding(id)?.is_some(),
                None => true,
            };
            if bound || ctx.ledger.operation(&base)?.is_some() {
                continue;
            }
            if !is_kept(ctx, &shown)? {
                let done = fix && ctx.docker()?.remove(&summary.id, false, true).is_ok();
                let removed = if done { ", and is removed" } else { "" };
                let text =
                    format!("{name} never ran, and was left by a run that was broken off{removed}");
                found(findings, done, text);
                continue;
            }
        }
        findings.push(Finding {
            text: format!("{name} is marked as managed and the ledger does not know it"),
            mended: false,
            by_hand: Some(format!(
                "restore the ledger that knew it; or docker gpuctl adopt {name} takes it in with all its files"
            )),
        });
    }
    Ok(())
}

/// Whether a container that never ran was whole once: this node wrote down that it is managed, or it has files.
/// Then it is the ledger that has lost it, or another one that is asked.
fn is_kept(ctx: &Context, shown: &Inspect) -> Result<bool, Failure> {
    let Some(id) = shown.id() else { return Ok(true) };
    let noted = notes::read_binding(&ctx.config.paths, &id).map_or(true, |noted| noted.is_some());
    Ok(noted || ctx.docker()?.has_files(id.as_str())?)
}
