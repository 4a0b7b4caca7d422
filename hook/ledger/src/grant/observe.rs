//! The state of the node, seen at once: what the ledger says, what the node has noted, and who has
//! GPUs open without either's knowledge.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{GrantError, node_error};
use crate::ledger::{Leases, Ledger, Sight};
use crate::model::{ContainerId, ContainerName, Gpu, Inventory, Timestamp, Unit};
use crate::node::{busy, process};
use crate::rules::allocate::Judged;
use crate::rules::liveness::Life;
use crate::rules::words::Refusal;
use crate::view::NodeView;

/// How old a look at open files may be that was begun ahead of its grant.
const OLDEST_LOOK: Duration = Duration::from_millis(200);

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
pub(super) fn unseen_refusal(unseen: &[i32]) -> Refusal {
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
