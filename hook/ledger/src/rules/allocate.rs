//! Which GPUs? Given what a node has and who holds it, the set that a request gets, or why not.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::config::AllPolicy;
use crate::model::{
    ContainerId, Gpu, GpuRef, GpuRequest, Health, Inventory, Kind, Lease, Part, Piece, Place, Unit,
    Wanted,
};
use crate::rules::liveness::Life;
use crate::rules::topology::{Free, choose};

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
    /// What the node itself shows in use, whatever the ledger says: by whom, for people. One that is in
    /// use as a whole keeps its parts from others, and the other way round.
    pub busy: &'a BTreeMap<Unit, String>,
}

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Want<'a> {
    /// The request.
    pub request: &'a GpuRequest,
    /// For whom: what this container itself holds counts as free.
    pub container: Option<&'a ContainerId>,
    /// Taken first, where free: what it held last.
    pub prefer: &'a [Unit],
    /// What `all` means when not all are free.
    pub all: AllPolicy,
}

/// Why something is not free.
#[derive(Debug, Clone, PartialEq)]
pub enum Taken {
    /// Somebody holds it.
    Held(Box<Lease>),
    /// Somebody holds the GPU that it is a part of, or a part of it: which.
    Overlap(Place, Box<Lease>),
    /// It is not healthy: why.
    Unhealthy(String),
    /// The node shows it in use without a lease: by whom.
    Busy(String),
    /// It is cut into MIG devices.
    Mig,
    /// As many containers share it as may.
    Full,
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
    /// The node has none, or too few, that are as was asked.
    NoneLike {
        /// What was asked for.
        wanted: Wanted,
        /// So many are.
        have: u32,
        /// What the node has of that kind, for people.
        kinds: Vec<String>,
    },
    /// Fewer are free than were asked for.
    NotFree {
        /// Asked for.
        asked: u32,
        /// Free now.
        free: u32,
        /// Each in the way, and why it is.
        taken: Vec<(Place, Taken)>,
    },
    /// `all`, and not all are free.
    NotAll {
        /// Free now.
        free: u32,
        /// What the node has.
        have: u32,
        /// As above.
        taken: Vec<(Place, Taken)>,
    },
    /// One that was named is not free.
    NamedTaken {
        /// How many whole GPUs of the node are free now.
        free: u32,
        /// Those in the way.
        taken: Vec<(Place, Taken)>,
    },
    /// One that was named is not there.
    NoSuch {
        /// As it was named.
        named: String,
        /// What the node has.
        have: u32,
    },
    /// The same was named twice, in two spellings, or a GPU and a part of it.
    Twice {
        /// The first.
        first: Place,
        /// The second.
        second: Place,
    },
}

/// What stands in the way of what, seen once for a decision.
struct Sight<'a> {
    supply: &'a Supply<'a>,
    container: Option<&'a ContainerId>,
    /// Leases in force, of things that the node has.
    leased: Vec<(Piece<'a>, &'a Lease)>,
    /// What is in use, of things that the node has.
    busy: Vec<(Piece<'a>, &'a str)>,
}

impl<'a> Sight<'a> {
    fn new(supply: &'a Supply<'a>, container: Option<&'a ContainerId>) -> Self {
        let inventory = supply.inventory;
        let in_force = supply.leases.iter().filter(|(_, judged)| judged.life != Life::Gone);
        let busy = supply.busy.iter();
        Self {
            supply,
            container,
            leased: in_force
                .filter_map(|(unit, judged)| Some((inventory.piece(unit)?, &judged.lease)))
                .collect(),
            busy: busy
                .filter_map(|(unit, by)| Some((inventory.piece(unit)?, by.as_str())))
                .collect(),
        }
    }

    /// Leases of others than the container itself.
    fn others(&self) -> impl Iterator<Item = &(Piece<'a>, &'a Lease)> {
        let own = |lease: &Lease| self.container == Some(&lease.holder.container);
        self.leased.iter().filter(move |(_, lease)| !own(lease))
    }

    /// Whether a piece may be granted now; why not otherwise.
    fn obstacle(&self, piece: &Piece<'_>) -> Option<Taken> {
        let held = || self.others().filter(|(other, _)| other.overlaps(piece));
        if let Some((_, lease)) = held().find(|(other, _)| other.place() == piece.place()) {
            return Some(Taken::Held(Box::new((*lease).clone())));
        }
        // Whoever has a part of it: as a whole it is nobody's.
        if piece.part == Part::Whole && !piece.gpu.mig.is_empty() {
            return Some(Taken::Mig);
        }
        if let Some((other, lease)) = held().next() {
            return Some(Taken::Overlap(other.place(), Box::new((*lease).clone())));
        }
        if let Health::Bad(why) = piece.health() {
            return Some(Taken::Unhealthy(why.clone()));
        }
        let busy = self.busy.iter().find(|(other, _)| other.overlaps(piece));
        if let Some((_, by)) = busy {
            return Some(Taken::Busy((*by).to_owned()));
        }
        let is_slot = matches!(piece.part, Part::Slot(_));
        // The config may have had more slots before.
        (is_slot && self.sharing(piece.gpu) >= piece.gpu.slots).then_some(Taken::Full)
    }

    /// How many others have a slot of a GPU.
    fn sharing(&self, gpu: &Gpu) -> u32 {
        let slot_of =
            |piece: &Piece<'_>| piece.gpu.unit == gpu.unit && matches!(piece.part, Part::Slot(_));
        number(self.others().filter(|(piece, _)| slot_of(piece)).count())
    }

    /// How many MIG devices of a GPU somebody has.
    fn cut_used(&self, gpu: &Gpu) -> usize {
        self.leased.iter().filter(|(p, _)| p.gpu.unit == gpu.unit && p.mig().is_some()).count()
    }

    /// Those that are free, and why the others are not.
    fn part<'p>(&self, pieces: Vec<Piece<'p>>) -> (Vec<Piece<'p>>, Vec<(Place, Taken)>) {
        let (mut free, mut taken) = (Vec::new(), Vec::new());
        for piece in pieces {
            match self.obstacle(&piece) {
                None => free.push(piece),
                Some(why) => taken.push((piece.place(), why)),
            }
        }
        (free, taken)
    }

    fn named(&self, list: &[GpuRef]) -> Result<Vec<Unit>, Shortage> {
        let mut pieces: Vec<Piece<'_>> = Vec::new();
        for named in list {
            let Some(piece) = self.supply.inventory.locate(named) else {
                let have = number(self.supply.inventory.gpus.len());
                return Err(Shortage::NoSuch { named: named.to_string(), have });
            };
            if let Some(other) = pieces.iter().find(|other| other.overlaps(&piece)) {
                return Err(Shortage::Twice { first: other.place(), second: piece.place() });
            }
            pieces.push(piece);
        }
        let units = pieces.iter().map(Piece::unit).collect();
        match self.part(pieces) {
            (_, taken) if taken.is_empty() => Ok(units),
            (_, taken) => {
                let all = self.supply.inventory.gpus.iter().map(Piece::from).collect();
                Err(Shortage::NamedTaken { free: number(self.part(all).0.len()), taken })
            }
        }
    }

    /// The best `n` of free whole GPUs.
    fn best(&self, free: &[Piece<'_>], n: u32, prefer: &[Unit]) -> Vec<Unit> {
        let candidates: Vec<Free<'_>> = free
            .iter()
            .map(|piece| {
                let held = prefer.contains(&piece.gpu.unit);
                Free { gpu: piece.gpu, held, spared: piece.gpu.slots > 0 && !held }
            })
            .collect();
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        let mut chosen: Vec<&Gpu> = choose(&candidates, n)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|at| candidates.get(at).map(|free| free.gpu))
            .collect();
        // The container sees them in nvidia-smi's order.
        chosen.sort_by_key(|gpu| gpu.index);
        chosen.into_iter().map(|gpu| gpu.unit.clone()).collect()
    }

    fn matching(&self, wanted: &Wanted, prefer: &[Unit]) -> Result<Vec<Unit>, Shortage> {
        let gpus = &self.supply.inventory.gpus;
        let of_kind = |piece: &Piece<'_>| match (wanted.kind, piece.part) {
            (Kind::Whole, Part::Whole) => piece.gpu.mig.is_empty(),
            (Kind::Mig, Part::Mig(_)) | (Kind::Shared, Part::Slot(_)) => true,
            _ => false,
        };
        let all: Vec<Piece<'_>> = gpus.iter().flat_map(Gpu::pieces).filter(of_kind).collect();
        let kinds = kinds(&all);
        let fitting: Vec<Piece<'_>> =
            all.into_iter().filter(|piece| wanted.fits(piece.gpu, piece.mig())).collect();
        let have = number(fitting.len());
        if have < wanted.count {
            return Err(Shortage::NoneLike { wanted: wanted.clone(), have, kinds });
        }
        let (mut free, taken) = self.part(fitting);
        if number(free.len()) < wanted.count {
            let free = number(free.len());
            return Err(Shortage::NotFree { asked: wanted.count, free, taken });
        }
        let held = |piece: &Piece<'_>| prefer.contains(&piece.unit());
        match wanted.kind {
            Kind::Whole => return Ok(self.best(&free, wanted.count, prefer)),
            // The smallest that will do, of GPUs that others are on already: what is large, and what
            // is whole, is for those who need it.
            Kind::Mig => free
                .sort_by_key(|p| (!held(p), p.memory(), Reverse(self.cut_used(p.gpu)), p.place())),
            // The GPU with the fewest others on it.
            Kind::Shared => free.sort_by_key(|p| (!held(p), self.sharing(p.gpu), p.place())),
        }
        free.truncate(usize::try_from(wanted.count).unwrap_or(usize::MAX));
        free.sort_by_key(Piece::place);
        Ok(free.iter().map(Piece::unit).collect())
    }
}

/// The kinds there are, each once, with how many: `3 x NVIDIA A100-SXM4-80GB 80GB`.
fn kinds(pieces: &[Piece<'_>]) -> Vec<String> {
    let mut counted: Vec<(String, u32)> = Vec::new();
    for piece in pieces {
        let profile = piece.mig().map_or("", |mig| &mig.profile);
        let space = if profile.is_empty() { "" } else { " " };
        let memory = piece.memory() >> 20;
        let shown = format!("{}{space}{profile} ({memory}MiB)", piece.gpu.model);
        match counted.iter_mut().find(|(have, _)| *have == shown) {
            Some((_, count)) => *count += 1,
            None => counted.push((shown, 1)),
        }
    }
    counted.into_iter().map(|(shown, count)| format!("{count} x {shown}")).collect()
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The units that the request gets, in the order in which it is to see them.
///
/// # Errors
/// [`Shortage`] when it cannot have all of what it asks for; then it gets nothing.
pub fn allocate(supply: &Supply<'_>, want: &Want<'_>) -> Result<Vec<Unit>, Shortage> {
    let sight = Sight::new(supply, want.container);
    let whole = || supply.inventory.gpus.iter().map(Piece::from);
    match want.request {
        GpuRequest::None => Ok(Vec::new()),
        GpuRequest::Named(list) => sight.named(list),
        GpuRequest::Matching(wanted) => sight.matching(wanted, want.prefer),
        GpuRequest::Count(n) => {
            let have = number(supply.inventory.gpus.len());
            let (free, taken) = sight.part(whole().collect());
            count(&sight, want, *n, have, free, taken)
        }
        GpuRequest::All => {
            // One that is cut into MIG devices is no whole GPU, and these are asked for by name or kind.
            let uncut: Vec<Piece<'_>> = whole().filter(|p| p.gpu.mig.is_empty()).collect();
            let have = number(uncut.len());
            let (free, taken) = sight.part(uncut);
            let free_count = number(free.len());
            let n = match want.all {
                AllPolicy::Count(n) => n,
                AllPolicy::Free if free_count > 0 => free_count,
                AllPolicy::Refuse if free_count == have && have > 0 => have,
                AllPolicy::Free | AllPolicy::Refuse => {
                    return Err(Shortage::NotAll { free: free_count, have, taken });
                }
            };
            count(&sight, want, n, have, free, taken)
        }
    }
}

fn count(
    sight: &Sight<'_>,
    want: &Want<'_>,
    n: u32,
    have: u32,
    free: Vec<Piece<'_>>,
    taken: Vec<(Place, Taken)>,
) -> Result<Vec<Unit>, Shortage> {
    let free_count = number(free.len());
    if n > have {
        return Err(Shortage::TooMany { asked: n, have });
    }
    if n > free_count {
        return Err(Shortage::NotFree { asked: n, free: free_count, taken });
    }
    Ok(sight.best(&free, n, want.prefer))
}
