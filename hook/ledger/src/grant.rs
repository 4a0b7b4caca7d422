//! Granting GPUs to a container on this node, and giving them back: observe, decide, note, commit.
//! The wrapper does it at every start of a container, the engine before a change that needs more.
//!
//! Order matters, and is the same everywhere: the node's note is written before the commit, so that
//! what the ledger may have promised the node knows of; it is removed after the holder was seen gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::audit::{Decision, Entry};
use crate::config::AllPolicy;
use crate::ledger::{Batch, Change, Leases, Ledger, LedgerError, Sight};
use crate::model::{
    Binding, Cgroup, ContainerId, ContainerName, Gpu, GpuRequest, Holder, Inventory, Lease,
    LeaseState, Process, SCHEMA, Timestamp, Token, Unit,
};
use crate::node::{busy, lock, notes, process};
use crate::rules::allocate::{Judged, Shortage, Supply, Want, allocate};
use crate::rules::liveness::Life;
use crate::rules::retry::may_pass;
use crate::rules::words::{Refusal, refusal};
use crate::store::{Outcome, StoreError};
use crate::view::NodeView;

/// How old a look at open files may be that was begun ahead of its grant.
const OLDEST_LOOK: Duration = Duration::from_millis(200);

/// The lock under which notes of grants are looked at and written: a file beside them.
pub const LOCK: &str = ".lock";

/// Why a grant was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// The ledger's word.
    #[error("{0}")]
    Ledger(#[from] LedgerError),
    /// There are not the GPUs that were asked for.
    #[error("{}", .0.headline)]
    Refused(Refusal),
    /// The same, and waiting changes nothing: the node has no such GPUs.
    #[error("{}", .0.headline)]
    Impossible(Refusal),
    /// The node's own files: which, and what is the matter.
    #[error("{what} cannot be used: {why}")]
    Node {
        /// Which.
        what: &'static str,
        /// What is the matter, in plain words.
        why: &'static str,
    },
    /// The ledger answers, but too slowly for the whole claim.
    #[error("the ledger is too slow: the time for this claim is up")]
    Slow,
    /// Others were quicker, again and again, until the time was up.
    #[error("GPUs are being claimed by others, and the time for this claim is up")]
    Contended,
}

/// A fault of one of the node's own files, in words.
pub(crate) fn node_error(what: &'static str) -> impl Fn(std::io::Error) -> GrantError {
    move |e| GrantError::Node { what, why: crate::config::plain_io_error(&e) }
}

/// What is claimed, by whom.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    /// For whom.
    pub holder: &'a Holder,
    /// What.
    pub request: &'a GpuRequest,
    /// Taken first.
    pub prefer: &'a [Unit],
    /// The claim's token.
    pub token: &'a Token,
    /// The binding to write in the same commit, and the revision at which it was seen. Its `last`
    /// and `token` are set to what is granted.
    pub binding: Option<(Binding, Option<crate::store::Revision>)>,
    /// What `all` means.
    pub all: AllPolicy,
    /// Whether units that this container holds and that are not granted again are freed in the
    /// same commit, where its old process is seen gone.
    pub free_rest: bool,
    /// The change of which this claim is a part, if any: it may act on its own container.
    pub operation: Option<&'a Token>,
}

/// What was granted.
#[derive(Debug, Clone, PartialEq)]
pub struct Granted {
    /// The units, in nvidia-smi order, or in the order named.
    pub units: Vec<Unit>,
    /// The inventory from which they were granted.
    pub inventory: Inventory,
    /// The binding as committed.
    pub binding: Option<Binding>,
    /// Whether a change to the container is open: then only the change gives anything back.
    pub changing: bool,
    /// What the container held before, or had held last.
    pub before: Vec<Unit>,
}

/// The state of the node, seen at once.
#[derive(Debug)]
pub struct Observed {
    /// The GPUs.
    pub inventory: Inventory,
    /// The leases with their revisions.
    pub leases: Leases,
    /// The leases judged.
    pub judged: BTreeMap<Unit, Judged>,
    /// Names of the containers to which a change is open.
    pub changing: Vec<ContainerName>,
    /// In use without the ledger's knowledge.
    pub busy: BTreeMap<Unit, String>,
    /// Processes of which neither their open files nor the service's watch tell whether they use a GPU.
    pub unseen: Vec<i32>,
}

/// Looks at ledger and node. `container` is for whom: its own grants are no obstacle.
///
/// # Errors
/// The ledger's or the node's.
pub fn observe(
    ledger: &Ledger,
    view: &NodeView<'_>,
    container: Option<&ContainerId>,
) -> Result<Observed, GrantError> {
    let inventory = view.inventory()?;
    let Sight { leases, changing } = ledger.sight()?;
    let now = Timestamp::now();
    let judged = leases
        .iter()
        .map(|(unit, at)| {
            let life = view.judge(&at.record, &changing, now);
            (unit.clone(), Judged { lease: at.record.clone(), life })
        })
        .collect();
    let (busy, unseen) = node_busy(view, &inventory, &judged, container)?;
    Ok(Observed { inventory, leases, judged, changing, busy, unseen })
}

/// GPUs that are not free whatever the ledger says, and processes that could not be looked at. Only
/// those GPUs are looked at that it calls free.
fn node_busy(
    view: &NodeView<'_>,
    inventory: &Inventory,
    judged: &BTreeMap<Unit, Judged>,
    container: Option<&ContainerId>,
) -> Result<(BTreeMap<Unit, String>, Vec<i32>), GrantError> {
    let held = |unit: &Unit| judged.get(unit).is_some_and(|j| j.life != Life::Gone);
    let mut found = BTreeMap::new();
    for grant in view.living_grants()? {
        if container == Some(&grant.holder.container) {
            continue;
        }
        for unit in &grant.units {
            if judged.get(unit).is_none_or(|j| j.lease.holder.container != grant.holder.container) {
                found.insert(
                    unit.clone(),
                    format!("granted to {} in this boot", grant.holder.shown()),
                );
            }
        }
    }
    let free: Vec<(&Gpu, Vec<Unit>)> = inventory
        .gpus
        .iter()
        .map(|gpu| (gpu, free_units(gpu, held)))
        .filter(|(_, units)| !units.is_empty())
        .collect();
    let minors: Vec<u32> = free.iter().map(|(gpu, _)| gpu.minor).collect();
    let busy::Found { open, mut unseen } = openers(view, &minors)?;
    for (gpu, units) in &free {
        // Who has a part of it opens the GPU's own node too, and is at none of the other parts.
        let stranger =
            open.get(&gpu.minor).into_iter().flatten().find(|(pid, _)| {
                !holders(inventory, judged, gpu).any(|id| process::is_of(*pid, id))
            });
        if let Some((pid, name)) = stranger {
            for unit in units {
                found.entry(unit.clone()).or_insert_with(|| format!("process {pid} ({name})"));
            }
        }
    }
    if let Some(watch) = busy::fresh_watch(&view.config.paths.watch(), Timestamp::now()) {
        let asked = |gpu: &Gpu| {
            let parts = || gpu.mig.iter().all(|mig| watch.asked.contains(&mig.unit));
            watch.asked.contains(&gpu.unit) || (!gpu.mig.is_empty() && parts())
        };
        // The driver itself has said who uses these.
        if free.iter().all(|(gpu, _)| asked(gpu)) {
            unseen.clear();
        }
        for (unit, strangers) in &watch.strangers {
            let alive = strangers.iter().find(|(pid, _)| {
                i32::try_from(*pid).is_ok_and(|pid| !matches!(process::find(pid), Ok(None)))
            });
            let Some((pid, name)) = alive else { continue };
            let units =
                free.iter().find(|(gpu, _)| gpu.unit == *unit).map(|(_, units)| units.clone());
            for unit in units.unwrap_or_else(|| vec![unit.clone()]) {
                if !held(&unit) {
                    found.entry(unit).or_insert_with(|| format!("process {pid} ({name})"));
                }
            }
        }
        for (unit, why) in &watch.unhealthy {
            found.entry(unit.clone()).or_insert_with(|| why.clone());
        }
    }
    Ok((found, unseen))
}

/// What of a GPU nobody holds: the GPU itself where no part of it is held, else the other parts.
fn free_units(gpu: &Gpu, held: impl Fn(&Unit) -> bool) -> Vec<Unit> {
    if held(&gpu.unit) {
        return Vec::new();
    }
    let parts = || gpu.pieces().skip(1).map(|piece| piece.unit());
    if parts().any(|unit| held(&unit)) {
        parts().filter(|unit| !held(unit)).collect()
    } else {
        vec![gpu.unit.clone()]
    }
}

/// The containers that have a GPU or a part of it.
fn holders<'a>(
    inventory: &'a Inventory,
    judged: &'a BTreeMap<Unit, Judged>,
    gpu: &'a Gpu,
) -> impl Iterator<Item = &'a ContainerId> {
    judged
        .iter()
        .filter(|(unit, j)| {
            j.life != Life::Gone && inventory.piece(unit).is_some_and(|p| p.gpu.unit == gpu.unit)
        })
        .map(|(_, j)| &j.lease.holder.container)
}

/// Why no GPU is granted while somebody may use it.
fn unseen_refusal(unseen: &[i32]) -> Refusal {
    let first = unseen.first().copied().unwrap_or_default();
    let more = match unseen.len().saturating_sub(1) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    Refusal::plain(
        format!(
            "it cannot be told whether the GPUs are in use: the open files of process {first} ({}){more} \
             could not be looked at in time",
            busy::program(first)
        ),
        "while the service runs (docker gpuctl serve) the driver is asked instead",
    )
}

/// Who has one of these open. None of them has a holder by the ledger: whoever an early look found may
/// have been the holder before, and has ended since, so that he is looked at again.
fn openers(view: &NodeView<'_>, minors: &[u32]) -> Result<busy::Found, GrantError> {
    let ignore = &view.config.gpu.watchers;
    if minors.is_empty() {
        return Ok(busy::Found::default());
    }
    if let Some(early) = view.begun_look().filter(|look| look.age() < OLDEST_LOOK) {
        let mut found = early.end(minors, ignore).map_err(node_error("/proc"))?;
        let pids: Vec<i32> = found.open.values().flatten().map(|(pid, _)| *pid).collect();
        if !pids.is_empty() {
            let again = busy::Look::at(pids).and_then(|look| look.end(minors, ignore));
            let again = again.map_err(node_error("/proc"))?;
            found.open = again.open;
            found.unseen.extend(again.unseen);
        }
        return Ok(found);
    }
    busy::Look::begin().and_then(|look| look.end(minors, ignore)).map_err(node_error("/proc"))
}

/// A shortage as this node says it.
pub fn shortage_refusal(shortage: &Shortage, request: &GpuRequest, ledger: &Ledger) -> Refusal {
    refusal(shortage, request, ledger.node(), &shown_time)
}

/// A time as people here read it: the hour where it is of the last day, else the date too.
pub fn shown_time(at: Timestamp) -> String {
    let zone = jiff::tz::TimeZone::system();
    let Ok(time) = jiff::Timestamp::from_millisecond(at.millis()) else { return at.to_string() };
    let time = time.to_zoned(zone);
    let recent = Timestamp::now().millis_since(at) < 20 * 3600 * 1000;
    time.strftime(if recent { "%H:%M" } else { "%a %Y-%m-%d %H:%M" }).to_string()
}

/// Claims what is asked for, or nothing: one commit over every unit of the request and the binding.
/// Tried again while others are quicker, until `limit` has passed.
///
/// # Errors
/// [`GrantError`]; then nothing is claimed, unless the ledger's answer was lost: then the note
/// stays, and the claim ends with this process.
pub fn claim(
    ledger: &Ledger,
    view: &NodeView<'_>,
    claim: &Claim<'_>,
    limit: Duration,
) -> Result<Granted, GrantError> {
    let deadline = Instant::now() + limit;
    let id = &claim.holder.container;
    loop {
        let locked = lock::take(&view.config.paths.grants(), LOCK, limit)
            .map_err(node_error("the lock for grants"))?
            .ok_or(GrantError::Contended)?;
        let seen = observe(ledger, view, Some(id))?;
        let supply = Supply { inventory: &seen.inventory, leases: &seen.judged, busy: &seen.busy };
        let want = Want {
            request: claim.request,
            container: Some(id),
            prefer: claim.prefer,
            all: claim.all,
        };
        let units = allocate(&supply, &want).map_err(|s| {
            note_ends(ledger, view, &seen);
            let refusal = shortage_refusal(&s, claim.request, ledger);
            if may_pass(&s) {
                GrantError::Refused(refusal)
            } else {
                GrantError::Impossible(refusal)
            }
        })?;
        // What the container has held all along nobody else has been given meanwhile.
        let anew = |unit: &Unit| seen.judged.get(unit).is_none_or(|j| j.life == Life::Gone);
        if !seen.unseen.is_empty() && units.iter().any(anew) {
            return Err(GrantError::Refused(unseen_refusal(&seen.unseen)));
        }
        let Planned { batch, binding, leases, freed } =
            plan_commit(ledger, view, claim, &seen, &units)?;
        let before = notes::read_grant(&view.config.paths, id).ok().flatten();
        if let Some(first) = leases.first() {
            let grant = notes::Grant {
                holder: claim.holder.clone(),
                units: units.clone(),
                minors: units
                    .iter()
                    .filter_map(|u| seen.inventory.piece(u).map(|piece| piece.gpu.minor))
                    .collect(),
                token: claim.token.clone(),
                since: first.since,
                evidence: first.evidence.clone(),
                active: false,
            };
            // A change claims while the old process still runs, whose note stays; the start that the
            // change makes writes its own.
            if claim.operation.is_none() {
                notes::write_grant(&view.config.paths, &grant)
                    .map_err(node_error("the note of a grant"))?;
            }
        }
        drop(locked);
        if Instant::now() >= deadline {
            restore_note(view, id, before);
            return Err(GrantError::Slow);
        }
        let token = claim.token;
        let proof = |ledger: &Ledger| -> Result<bool, LedgerError> {
            if units.is_empty() {
                let binding = ledger.binding(id)?;
                return Ok(binding.is_some_and(|b| b.record.token == *token));
            }
            let now = ledger.leases()?;
            Ok(units.iter().all(|u| now.get(u).is_some_and(|l| l.record.token == *token)))
        };
        match ledger.commit_proved(&batch, proof) {
            Ok(Outcome::Done(_)) => {
                let changing = is_changing(&seen, claim.holder);
                tell_freed(view, claim, &seen, &units, &freed);
                let before = held_before(claim, &seen);
                return Ok(Granted { units, inventory: seen.inventory, binding, changing, before });
            }
            Ok(Outcome::Conflict) => {
                restore_note(view, id, before);
                if Instant::now() >= deadline {
                    return Err(GrantError::Contended);
                }
            }
            // It may be written: the note must stay as long as this process lives.
            Err(e @ LedgerError::Store(StoreError::Unknown(_))) => return Err(e.into()),
            Err(e) => {
                restore_note(view, id, before);
                return Err(e.into());
            }
        }
    }
}

fn restore_note(view: &NodeView<'_>, id: &ContainerId, before: Option<notes::Grant>) {
    let _ = match before {
        Some(grant) => notes::write_grant(&view.config.paths, &grant),
        None => notes::remove_grant(&view.config.paths, id),
    };
}

/// Writes down the end of holders that are dead and of which nobody has: their time of waiting for a
/// restart by hand begins. What fails here is done by the next who is short.
pub fn note_ends(ledger: &Ledger, view: &NodeView<'_>, seen: &Observed) {
    for judged in seen.judged.values() {
        let evidence = &judged.lease.evidence;
        if judged.life == Life::Reserved && evidence.ended.is_none() {
            let _ = end(ledger, view, &judged.lease.holder.container, None);
        }
    }
}

/// Whether a change to this holder's container is open.
fn is_changing(seen: &Observed, holder: &Holder) -> bool {
    holder.name.as_ref().is_some_and(|name| seen.changing.contains(name))
}

/// What this container holds by the leases, else what its binding says that it held last.
fn held_before(claim: &Claim<'_>, seen: &Observed) -> Vec<Unit> {
    let own = |l: &&crate::ledger::At<Lease>| l.record.holder.container == claim.holder.container;
    let held: Vec<Unit> = seen.leases.values().filter(own).map(|l| l.record.unit.clone()).collect();
    match &claim.binding {
        Some((binding, _)) if held.is_empty() => binding.last.clone(),
        _ => held,
    }
}

/// Writes down what a claim freed: leases of the dead that it took, and what the container itself
/// held and did not get again.
fn tell_freed(
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
struct Planned {
    batch: Batch,
    binding: Option<Binding>,
    leases: Vec<Lease>,
    /// What the container held and does not get again, and whose old process is gone.
    freed: Vec<Unit>,
}

/// The commit that makes the grant.
fn plan_commit(
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
    guard_overlaps(ledger, claim, seen, units, &mut batch);
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
    Ok(Planned { batch, binding, leases, freed })
}

/// Makes sure that what overlaps the units claimed - a GPU and its parts - is still as it was seen: two
/// claims of one thing under two keys would not meet otherwise. What the dead have there goes.
fn guard_overlaps(
    ledger: &Ledger,
    claim: &Claim<'_>,
    seen: &Observed,
    units: &[Unit],
    batch: &mut Batch,
) {
    let pieces: Vec<_> = units.iter().filter_map(|unit| seen.inventory.piece(unit)).collect();
    let known = seen.inventory.gpus.iter().flat_map(Gpu::pieces);
    // Also those that the config or the driver no longer has.
    let leased = seen.leases.keys().filter_map(|unit| seen.inventory.piece(unit));
    let overlapping: BTreeSet<Unit> = known
        .chain(leased)
        .filter(|other| pieces.iter().any(|piece| piece.overlaps(other)))
        .map(|other| other.unit())
        .filter(|unit| !units.contains(unit))
        .collect();
    for unit in overlapping {
        let (key, lease) = (ledger.keys().lease(&unit), seen.leases.get(&unit));
        batch.unchanged(key.clone(), lease.map(|l| l.revision));
        if lease.is_some_and(|l| l.record.holder.container != claim.holder.container) {
            batch.delete(key);
        }
    }
}

/// Activates the leases of a container under a token: one commit that writes down its init. `seen` are
/// the leases as they were just read. The units so activated.
///
/// # Errors
/// The ledger's.
pub fn activate(
    ledger: &Ledger,
    seen: Leases,
    id: &ContainerId,
    token: &Token,
    init: Process,
    cgroup: Option<Cgroup>,
) -> Result<Vec<Unit>, LedgerError> {
    // Active already, when an answer was lost and the commit had happened.
    let already = std::cell::RefCell::new(Vec::new());
    let mut active = ledger.change_leases_seen(seen, id, Some(token), |lease| {
        let mut new = lease.clone();
        new.state = LeaseState::Active;
        new.evidence.init = Some(init);
        new.evidence.cgroup.clone_from(&cgroup);
        new.evidence.ended = None;
        if new == *lease {
            already.borrow_mut().push(lease.unit.clone());
            Change::Keep
        } else {
            Change::Put(Box::new(new))
        }
    })?;
    active.extend(already.into_inner());
    Ok(active)
}

/// What became of the leases of a container that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It had none under that token.
    Nothing,
    /// They are free.
    Released,
    /// They wait for it.
    Reserved,
    /// Left as they were: a change is open, or the holder was not seen gone.
    Left,
}

/// Ends the claim of a container that stands under `token` (any for `None`): frees its leases, or
/// keeps them reserved where Docker will start it again. Poststop, the wrapper after `delete`, and
/// reconciliation call it; calling it twice does nothing the second time.
///
/// # Errors
/// The ledger's.
pub fn end(
    ledger: &Ledger,
    view: &NodeView<'_>,
    id: &ContainerId,
    token: Option<&Token>,
) -> Result<Ended, GrantError> {
    let Sight { leases, changing } = ledger.sight()?;
    let now = Timestamp::now();
    let outcome = std::cell::Cell::new(Ended::Nothing);
    let holder = std::cell::RefCell::new(None);
    let changed = ledger.change_leases_seen(leases, id, token, |lease| {
        *holder.borrow_mut() = Some(lease.holder.clone());
        let mut ended = lease.clone();
        ended.evidence.ended = Some(lease.evidence.ended.unwrap_or(now));
        match view.judge(&ended, &changing, now) {
            Life::Gone => {
                outcome.set(Ended::Released);
                Change::Delete
            }
            Life::Reserved => {
                outcome.set(Ended::Reserved);
                ended.state = LeaseState::Reserved;
                if ended == *lease { Change::Keep } else { Change::Put(Box::new(ended)) }
            }
            Life::Alive | Life::Changing | Life::Unknown => {
                outcome.set(Ended::Left);
                Change::Keep
            }
        }
    })?;
    if let Some(holder) = holder.into_inner().filter(|_| !changed.is_empty()) {
        let told = match outcome.get() {
            Ended::Released => Some((Decision::Released, "its process is gone")),
            Ended::Reserved => Some((Decision::Reserved, "kept for its next start")),
            Ended::Nothing | Ended::Left => None,
        };
        if let Some((decision, why)) = told {
            Entry::of(decision, &holder).gpus(&changed).why(why).write(view.config);
        }
    }
    if outcome.get() != Ended::Left {
        // Only the note of this very claim, and only of the dead: a later start writes its own.
        let noted = notes::read_grant(&view.config.paths, id).ok().flatten();
        let ours = |grant: &notes::Grant| token.is_none_or(|token| grant.token == *token);
        if noted.is_some_and(|grant| ours(&grant) && !view.lives(&grant)) {
            let _ = notes::remove_grant(&view.config.paths, id);
        }
    }
    Ok(outcome.get())
}
