//! What the driver shows of the processes on the GPUs, and whose they are: of the container that has
//! the lease, of nobody who has one, or left over from one that has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gpuctl_ledger::ledger::Sight;
use gpuctl_ledger::model::{Health, Holder, Inventory, Timestamp, Unit};
use gpuctl_ledger::node::busy::{self, Inside, Watch};
use gpuctl_ledger::node::process;
use gpuctl_ledger::rules::liveness::Life;
use gpuctl_ledger::rules::quarantine::{self, Leftover};

use super::api::Failure;
use super::context::Context;
use super::node::{self, NVML_LIMIT};
use crate::gpu::{self, GpuError, Usage};

/// How long what looks left over is given to be gone at the second look.
const SETTLING: Duration = Duration::from_millis(250);

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The GPUs, as the driver tells them.
    pub(super) inventory: Option<Inventory>,
    /// What goes on on them.
    pub(super) usage: Vec<Usage>,
    /// Processes, by GPU: of those only of which the driver has told.
    pub(super) on: BTreeMap<Unit, On>,
}

/// The processes on one GPU.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct On {
    /// Of the container that has the lease: its name, and their pids.
    pub(super) inside: Option<Inside>,
    /// Living ones of nobody who has a lease on it: pid and program.
    pub(super) strangers: Vec<(u32, String)>,
    /// Left over from a container that has ended.
    pub(super) leftovers: Vec<Leftover>,
}

impl Seen {
    /// As the rule of quarantine takes it.
    pub(super) fn looks(&self) -> Vec<quarantine::Look> {
        let gpus = self.inventory.iter().flat_map(|inventory| &inventory.gpus);
        gpus.flat_map(|gpu| {
            let whole = quarantine::Look {
                unit: gpu.unit.clone(),
                bad: match &gpu.health {
                    Health::Bad(why) => Some(why.clone()),
                    Health::Ok => None,
                },
                leftovers: self.leftovers(&gpu.unit),
            };
            // What is the matter with the card is the matter with all of it.
            let parts = gpu.mig.iter().map(|mig| quarantine::Look {
                unit: mig.unit.clone(),
                bad: None,
                leftovers: self.leftovers(&mig.unit),
            });
            std::iter::once(whole).chain(parts)
        })
        .collect()
    }

    fn leftovers(&self, unit: &Unit) -> Option<Vec<Leftover>> {
        self.on.get(unit).map(|on| on.leftovers.clone())
    }

    /// As the hook takes it.
    pub(super) fn watch(&self) -> Watch {
        let strangers = |on: &On| (!on.strangers.is_empty()).then(|| on.strangers.clone());
        Watch {
            at: Timestamp::now(),
            strangers: self
                .on
                .iter()
                .filter_map(|(unit, on)| Some((unit.clone(), strangers(on)?)))
                .collect(),
            unhealthy: BTreeMap::new(),
            asked: self.on.keys().cloned().collect(),
            inside: self
                .on
                .iter()
                .filter_map(|(unit, on)| Some((unit.clone(), on.inside.clone()?)))
                .collect(),
        }
    }
}

fn refused(error: GpuError) -> Failure {
    Failure::new(error.to_string()).hint(error.hint())
}

fn usage(ctx: &Context, inventory: &Inventory) -> Result<Vec<Usage>, Failure> {
    let (config, known) = (ctx.config.clone(), inventory.clone());
    gpu::within(NVML_LIMIT, move || gpu::Driver::open(&config)?.usage(Some(&known)))
        .map_err(refused)
}

/// Who has a lease on each GPU, and is not gone. Where the ledger is out of reach, what the node itself
/// has granted.
fn holders(ctx: &Context) -> Result<BTreeMap<Unit, Holder>, Failure> {
    let view = ctx.view();
    let mut holders = BTreeMap::new();
    for grant in view.living_grants()? {
        for unit in grant.units {
            holders.insert(unit, grant.holder.clone());
        }
    }
    if let Ok(Sight { leases, changing }) = ctx.ledger.sight() {
        let now = Timestamp::now();
        for (unit, at) in leases {
            if view.judge(&at.record, &changing, now) != Life::Gone {
                holders.insert(unit, at.record.holder);
            }
        }
    }
    Ok(holders)
}

/// Looks, and writes the inventory where it is another than before. `before` is what was seen the last
/// time.
///
/// # Errors
/// When the driver does not answer, or the node's notes cannot be read.
pub(super) fn look(ctx: &Context, before: Option<&Watch>) -> Result<Seen, Failure> {
    let inventory = node::refresh(ctx).map_err(refused)?;
    let holders = holders(ctx)?;
    let first = usage(ctx, &inventory)?;
    let mut on = sort(ctx, &inventory, &first, &holders, before);
    let mut usage_now = first;
    if on.values().any(|on| !on.leftovers.is_empty()) {
        // A process may have ended between the driver's answer and our look at it.
        std::thread::sleep(SETTLING);
        usage_now = usage(ctx, &inventory)?;
        let again = sort(ctx, &inventory, &usage_now, &holders, before);
        for (unit, on) in &mut on {
            let still = again.get(unit).map(|on| on.leftovers.as_slice()).unwrap_or_default();
            on.leftovers.retain(|one| still.iter().any(|now| now.pid == one.pid));
        }
    }
    Ok(Seen { inventory: Some(inventory), usage: usage_now, on })
}

/// Sorts the processes that the driver shows by whose they are.
fn sort(
    ctx: &Context,
    inventory: &Inventory,
    usage: &[Usage],
    holders: &BTreeMap<Unit, Holder>,
    before: Option<&Watch>,
) -> BTreeMap<Unit, On> {
    let mut all = BTreeMap::new();
    for one in usage {
        let (Some(unit), Some(processes)) = (&one.unit, &one.processes) else { continue };
        let mut on = On::default();
        // Who has the GPU or a part of it may use it: the driver tells no slots apart.
        let piece = inventory.piece(unit);
        let may_use = |other: &Unit| {
            piece.zip(inventory.piece(other)).is_some_and(|(piece, other)| piece.overlaps(&other))
        };
        let may: Vec<&Holder> =
            holders.iter().filter(|(other, _)| may_use(other)).map(|(_, holder)| holder).collect();
        let was = before.and_then(|watch| watch.inside.get(unit));
        let (mut inside, mut names) = (BTreeSet::new(), BTreeSet::new());
        for used in processes {
            let Ok(pid) = i32::try_from(used.pid) else { continue };
            // What cannot be looked at counts as there.
            let alive = !matches!(process::find(pid), Ok(None));
            let name = if alive { busy::program(pid) } else { String::new() };
            if alive && busy::is_watcher(pid, &name, &ctx.config.gpu.watchers) {
                continue;
            }
            let holder = may.iter().find(|holder| process::is_of(pid, &holder.container));
            let of = was.filter(|was| was.pids.contains(&used.pid)).map(|was| was.of.clone());
            match (holder, may.is_empty(), alive) {
                (Some(holder), ..) => {
                    inside.insert(used.pid);
                    names.insert(holder.shown().to_owned());
                }
                // Its container holds the GPU yet, and nobody else gets it. Whose it was is kept for then.
                (None, false, false) => {
                    if let Some(of) = of {
                        inside.insert(used.pid);
                        names.insert(of);
                    }
                }
                (None, true, false) => {
                    on.leftovers.push(Leftover { pid: used.pid, name, of });
                }
                (None, true, true) if of.is_some() => {
                    on.leftovers.push(Leftover { pid: used.pid, name, of });
                }
                (None, _, true) => on.strangers.push((used.pid, name)),
            }
        }
        if !inside.is_empty() {
            let of = names.into_iter().collect::<Vec<_>>().join(", ");
            on.inside = Some(Inside { of, pids: inside });
        }
        all.insert(unit.clone(), on);
    }
    all
}

/// `process 4711 (python)`, or the first few of several.
pub(super) fn strangers_words(strangers: &[(u32, String)]) -> String {
    const NAMED: usize = 3;
    let mut named: Vec<String> =
        strangers.iter().take(NAMED).map(|(pid, name)| format!("{pid} ({name})")).collect();
    if let Some(more) = strangers.len().checked_sub(NAMED).filter(|more| *more > 0) {
        named.push(format!("{more} more"));
    }
    let word = if strangers.len() == 1 { "process" } else { "processes" };
    format!("{word} {}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_strangers_are_named() {
        let some = |n: u32| (1..=n).map(|pid| (pid, "a".to_owned())).collect::<Vec<_>>();
        assert_eq!(strangers_words(&some(1)), "process 1 (a)");
        assert_eq!(strangers_words(&some(3)), "processes 1 (a), 2 (a), 3 (a)");
        assert_eq!(strangers_words(&some(5)), "processes 1 (a), 2 (a), 3 (a), 2 more");
    }
}
