//! The commit that makes a grant, from what was seen and what was chosen.

use std::collections::{BTreeMap, BTreeSet};

use super::{Claim, GrantError, Observed};
use crate::audit::{Decision, Entry};
use crate::ledger::{At, Batch, Leases, Ledger};
use crate::model::{
    Binding, ContainerId, Gpu, Holder, Inventory, Lease, LeaseState, SCHEMA, Timestamp, Unit,
};
use crate::rules::liveness::Life;
use crate::view::NodeView;

/// Whether a change to this holder's container is open.
pub(super) fn is_changing(seen: &Observed, holder: &Holder) -> bool {
    holder.name.as_ref().is_some_and(|name| seen.changing.contains(name))
}

/// What a claim takes first: what it says, then what the container holds already. A container that
/// Docker starts again gets the GPUs that were kept for it.
pub(super) fn preferred(claim: &Claim<'_>, seen: &Observed) -> Vec<Unit> {
    let own = |l: &&At<Lease>| l.record.holder.container == claim.holder.container;
    let held = seen.leases.values().filter(own).map(|l| &l.record.unit);
    let more = held.filter(|unit| !claim.prefer.contains(unit));
    claim.prefer.iter().chain(more).cloned().collect()
}

/// What this container holds by the leases, else what its binding says that it held last.
pub(super) fn held_before(claim: &Claim<'_>, seen: &Observed) -> Vec<Unit> {
    let own = |l: &&At<Lease>| l.record.holder.container == claim.holder.container;
    let held: Vec<Unit> = seen.leases.values().filter(own).map(|l| l.record.unit.clone()).collect();
    match &claim.binding {
        Some((binding, _)) if held.is_empty() => binding.last.clone(),
        _ => held,
    }
}

/// Writes down what a claim freed: leases of the dead on `units`, what it took and what overlaps that;
/// and what the container itself held and did not get again.
pub(super) fn tell_freed(
    view: &NodeView<'_>,
    claim: &Claim<'_>,
    seen: &Observed,
    units: &[Unit],
    freed: &[Unit],
) {
    let mut by_holder: BTreeMap<&ContainerId, (&Holder, Vec<Unit>)> = BTreeMap::new();
    for unit in units {
        let Some(old) = seen.leases.get(unit).map(|l| &l.record.holder) else { continue };
        if old.container != claim.holder.container {
            by_holder.entry(&old.container).or_insert((old, Vec::new())).1.push(unit.clone());
        }
    }
    for (holder, units) in by_holder.into_values() {
        let why =
            format!("its process is gone; the next claim found it, for {}", claim.holder.shown());
        Entry::of(Decision::Released, holder).gpus(&units).why(why).write(view.config);
    }
    if !freed.is_empty() {
        let entry = Entry::of(Decision::Released, claim.holder).gpus(freed);
        entry.why("its next start did not need them").write(view.config);
    }
}

/// The commit that makes the grant, and what it comes to.
pub(super) struct Planned {
    pub(super) batch: Batch,
    pub(super) binding: Option<Binding>,
    pub(super) leases: Vec<Lease>,
    /// What the container held and does not get again, and whose old process is gone.
    pub(super) freed: Vec<Unit>,
    /// What the dead held of GPUs of which these are parts, or of their parts.
    pub(super) overlapped: Vec<Unit>,
}

/// The commit that makes the grant.
pub(super) fn plan_commit(
    ledger: &Ledger,
    view: &NodeView<'_>,
    claim: &Claim<'_>,
    seen: &Observed,
    units: &[Unit],
) -> Result<Planned, GrantError> {
    let keys = ledger.keys();
    let mut batch = Batch::new();
    let mut leases = Vec::new();
    let mut freed = Vec::new();
    let evidence = view.claimer()?;
    let now = Timestamp::now();
    for unit in units {
        let old = seen.leases.get(unit);
        let own = old.filter(|l| l.record.holder.container == claim.holder.container);
        // A change claims while the old process runs: what that one holds stays under its evidence.
        let running = own.filter(|l| {
            claim.operation.is_some() && view.judge(&l.record, &[], now) == Life::Alive
        });
        let lease = Lease {
            schema: SCHEMA,
            unit: unit.clone(),
            holder: claim.holder.clone(),
            since: own.map_or(now, |l| l.record.since),
            token: claim.token.clone(),
            state: running.map_or(LeaseState::Claimed, |l| l.record.state),
            evidence: running.map_or_else(|| evidence.clone(), |l| l.record.evidence.clone()),
        };
        let key = keys.lease(unit);
        batch.unchanged(key.clone(), old.map(|l| l.revision)).put(key, &lease);
        leases.push(lease);
    }
    let container = &claim.holder.container;
    let overlapped =
        guard_overlaps(ledger, container, (&seen.inventory, &seen.leases), units, &mut batch);
    // While a change is open its undoing needs what the old process had: the change frees it.
    if claim.free_rest && !is_changing(seen, claim.holder) {
        for (unit, lease) in &seen.leases {
            let mine = lease.record.holder.container == claim.holder.container;
            if !mine || units.contains(unit) {
                continue;
            }
            // Its change is open; what counts here is whether the old process is gone.
            let life = view.judge(&lease.record, &[], now);
            if matches!(life, Life::Gone | Life::Reserved) {
                let key = keys.lease(unit);
                batch.at(key.clone(), lease.revision).delete(key);
                freed.push(unit.clone());
            }
        }
    }
    let binding = claim.binding.as_ref().map(|(binding, revision)| {
        let mut binding = binding.clone();
        binding.token = claim.token.clone();
        if !units.is_empty() {
            binding.last = units.to_vec();
        }
        let key = keys.binding(&binding.container);
        batch.unchanged(key.clone(), *revision).put(key, &binding);
        binding
    });
    Ok(Planned { batch, binding, leases, freed, overlapped })
}

/// Makes sure that what overlaps the units claimed - a GPU and its parts - is still as it was seen: two
/// claims of one thing under two keys would not meet otherwise. What others have there goes: the caller
/// has seen that they are dead. Which these are.
pub fn guard_overlaps(
    ledger: &Ledger,
    container: &ContainerId,
    (inventory, leases): (&Inventory, &Leases),
    units: &[Unit],
    batch: &mut Batch,
) -> Vec<Unit> {
    let pieces: Vec<_> = units.iter().filter_map(|unit| inventory.piece(unit)).collect();
    let known = inventory.gpus.iter().flat_map(Gpu::pieces);
    // Also those that the config or the driver no longer has.
    let leased = leases.keys().filter_map(|unit| inventory.piece(unit));
    let overlapping: BTreeSet<Unit> = known
        .chain(leased)
        .filter(|other| pieces.iter().any(|piece| piece.overlaps(other)))
        .map(|other| other.unit())
        .filter(|unit| !units.contains(unit))
        .collect();
    let mut gone = Vec::new();
    for unit in overlapping {
        let (key, lease) = (ledger.keys().lease(&unit), leases.get(&unit));
        batch.unchanged(key.clone(), lease.map(|l| l.revision));
        if lease.is_some_and(|l| l.record.holder.container != *container) {
            batch.delete(key);
            gone.push(unit);
        }
    }
    gone
}
