//! Which GPUs? Given what a node has and who holds it, the set that a request gets, or why not.

use std::collections::BTreeMap;

use crate::config::AllPolicy;
use crate::model::{ContainerId, Gpu, GpuRequest, Health, Inventory, Lease, Unit};
use crate::rules::liveness::Life;

/// A lease and the verdict over its holder.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The lease.
    pub lease: Lease,
    /// Whether its holder lives.
    pub life: Life,
}

/// What there is.
#[derive(Debug, Clone, Copy)]
pub struct Supply<'a> {
    /// The node's GPUs.
    pub inventory: &'a Inventory,
    /// The leases of the node.
    pub leases: &'a BTreeMap<Unit, Judged>,
    /// GPUs that the node itself shows in use, whatever the ledger says: by whom, for people.
    pub busy: &'a BTreeMap<Unit, String>,
}

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Want<'a> {
    /// The request.
    pub request: &'a GpuRequest,
    /// For whom: what this container itself holds counts as free.
    pub container: Option<&'a ContainerId>,
    /// Taken first, where free, in this order.
    pub prefer: &'a [Unit],
    /// What `all` means when not all are free.
    pub all: AllPolicy,
}

/// Why a GPU is not free.
#[derive(Debug, Clone, PartialEq)]
pub enum Taken {
    /// Somebody holds it.
    Held(Box<Lease>),
    /// It is not healthy: why.
    Unhealthy(String),
    /// The node shows it in use without a lease: by whom.
    Busy(String),
    /// It is cut into MIG devices.
    Mig,
}

/// Why a request gets nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Shortage {
    /// The node has fewer than were asked for.
    TooMany {
        /// Asked for.
        asked: u32,
        /// What the node has.
        have: u32,
    },
    /// Fewer are free than were asked for.
    NotFree {
        /// Asked for.
        asked: u32,
        /// Free now.
        free: u32,
        /// Index of each GPU in the way, and why it is.
        taken: Vec<(u32, Taken)>,
    },
    /// `all`, and not all are free.
    NotAll {
        /// Free now.
        free: u32,
        /// What the node has.
        have: u32,
        /// As above.
        taken: Vec<(u32, Taken)>,
    },
    /// A GPU that was named is not free.
    NamedTaken {
        /// Those in the way.
        taken: Vec<(u32, Taken)>,
    },
    /// A GPU that was named is not there.
    NoSuch {
        /// As it was named.
        named: String,
        /// What the node has.
        have: u32,
    },
    /// The same GPU was named twice, in two spellings.
    Twice {
        /// Its index.
        index: u32,
    },
}

/// Whether a GPU may be granted to `container` now; why not otherwise.
fn obstacle(gpu: &Gpu, supply: &Supply<'_>, container: Option<&ContainerId>) -> Option<Taken> {
    if let Some(Judged { lease, life }) = supply.leases.get(&gpu.unit) {
        let own = container == Some(&lease.holder.container);
        if !own && *life != Life::Gone {
            return Some(Taken::Held(Box::new(lease.clone())));
        }
    }
    if !gpu.mig.is_empty() {
        return Some(Taken::Mig);
    }
    if let Health::Bad(why) = &gpu.health {
        return Some(Taken::Unhealthy(why.clone()));
    }
    supply.busy.get(&gpu.unit).map(|by| Taken::Busy(by.clone()))
}

/// The units that the request gets, in the order in which it is to see them.
///
/// # Errors
/// [`Shortage`] when it cannot have all of what it asks for; then it gets nothing.
pub fn allocate(supply: &Supply<'_>, want: &Want<'_>) -> Result<Vec<Unit>, Shortage> {
    let have = u32::try_from(supply.inventory.gpus.len()).unwrap_or(u32::MAX);
    let mut free: Vec<&Gpu> = Vec::new();
    let mut taken: Vec<(u32, Taken)> = Vec::new();
    for gpu in &supply.inventory.gpus {
        match obstacle(gpu, supply, want.container) {
            None => free.push(gpu),
            Some(why) => taken.push((gpu.index, why)),
        }
    }
    let free_count = u32::try_from(free.len()).unwrap_or(u32::MAX);
    let number = match want.request {
        GpuRequest::None => return Ok(Vec::new()),
        GpuRequest::Named(list) => {
            let mut units: Vec<Unit> = Vec::new();
            let mut in_the_way = Vec::new();
            for named in list {
                let Some(gpu) = supply.inventory.find(named) else {
                    return Err(Shortage::NoSuch { named: named.to_string(), have });
                };
                if units.contains(&gpu.unit) {
                    return Err(Shortage::Twice { index: gpu.index });
                }
                units.push(gpu.unit.clone());
                in_the_way.extend(taken.iter().filter(|(index, _)| *index == gpu.index).cloned());
            }
            return if in_the_way.is_empty() {
                Ok(units)
            } else {
                Err(Shortage::NamedTaken { taken: in_the_way })
            };
        }
        GpuRequest::Count(n) => *n,
        GpuRequest::All => match want.all {
            AllPolicy::Count(n) => n,
            AllPolicy::Free if free_count > 0 => free_count,
            AllPolicy::Free => return Err(Shortage::NotAll { free: 0, have, taken }),
            AllPolicy::Refuse if free_count < have || have == 0 => {
                return Err(Shortage::NotAll { free: free_count, have, taken });
            }
            AllPolicy::Refuse => have,
        },
    };
    if number > have {
        return Err(Shortage::TooMany { asked: number, have });
    }
    if number > free_count {
        return Err(Shortage::NotFree { asked: number, free: free_count, taken });
    }
    // Preferred ones in their order, then the rest in nvidia-smi order; the container sees them in
    // nvidia-smi order again.
    free.sort_by_key(|gpu| {
        let place = want.prefer.iter().position(|unit| *unit == gpu.unit).unwrap_or(usize::MAX);
        (place, gpu.index)
    });
    free.truncate(usize::try_from(number).unwrap_or(usize::MAX));
    free.sort_by_key(|gpu| gpu.index);
    Ok(free.iter().map(|gpu| gpu.unit.clone()).collect())
}
