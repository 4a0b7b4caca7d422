//! Leases for what runs already. Pure: what a container may open it holds, so that no GPU in use is
//! granted to another.

use std::collections::{BTreeMap, BTreeSet};

use gpuctl_ledger::model::{ContainerId, Gpu, Inventory, Part, Piece, Place, Unit};

use super::observed::Seen;

/// The leases of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seed {
    /// Its id.
    pub(super) id: ContainerId,
    /// Its name.
    pub(super) name: String,
    /// Its init.
    pub(super) pid: i32,
    /// When it was started, RFC 3339.
    pub(super) started: String,
    /// The GPUs and MIG devices: where they stand, and what the ledger knows them by.
    pub(super) gpus: Vec<(Place, Unit)>,
}

/// What to write down, and what cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Seeding {
    /// In the order in which the containers were started.
    pub(super) seeds: Vec<Seed>,
    /// Containers that may open what another holds, or everything; a line each.
    pub(super) holes: Vec<String>,
}

fn moment(text: &str) -> i128 {
    text.parse::<jiff::Timestamp>().map_or(i128::MAX, jiff::Timestamp::as_nanosecond)
}

/// What it holds: of a privileged container only what it names or has open, since it may open
/// everything whether it means to or not; of others all that its rules open.
fn wanted<'a>(seen: &Seen, inventory: &'a Inventory) -> Vec<Piece<'a>> {
    let access = &seen.access;
    let every = access.all && !access.privileged;
    let named: BTreeSet<u32> = access.minors.iter().chain(&seen.open).copied().collect();
    let open = inventory.gpus.iter().filter(|gpu| every || named.contains(&gpu.minor));
    open.flat_map(|gpu| parts(seen, gpu)).collect()
}

/// What of a GPU whose node is open: the MIG devices whose two nodes are open too; all of it where it has
/// none such, for then it is not known what the container is at. A shared GPU is one without us.
fn parts<'a>(seen: &Seen, gpu: &'a Gpu) -> Vec<Piece<'a>> {
    let access = &seen.access;
    let every = access.all_caps && !access.privileged;
    let open = |caps: &[u32; 2]| every || caps.iter().all(|minor| access.caps.contains(minor));
    let parts: Vec<Piece<'_>> = gpu
        .mig
        .iter()
        .filter(|mig| open(&mig.caps))
        .map(|mig| Piece { gpu, part: Part::Mig(mig) })
        .collect();
    if parts.is_empty() { vec![gpu.into()] } else { parts }
}

/// The leases that are missing. `leases` are those of living holders.
pub(super) fn seeding(
    containers: &[Seen],
    inventory: &Inventory,
    leases: &BTreeMap<Unit, (ContainerId, String)>,
) -> Seeding {
    let mut held = leases.clone();
    let mut seeding = Seeding::default();
    let mut running: Vec<&Seen> = containers.iter().filter(|c| c.running && !c.exempt).collect();
    running.sort_by_key(|c| (moment(&c.started), c.id.clone()));
    for seen in running {
        let Some(pid) = seen.pid else { continue };
        let mut gpus = Vec::new();
        let mut shared: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for piece in wanted(seen, inventory) {
            let overlaps = |unit: &Unit| inventory.piece(unit).is_some_and(|p| p.overlaps(&piece));
            let holders: Vec<_> =
                held.iter().filter(|(unit, _)| overlaps(unit)).map(|(_, who)| who).collect();
            // Of a slot that it holds the whole node is open, to it and to the others.
            if holders.iter().any(|(id, _)| *id == seen.id) {
                continue;
            }
            let others: BTreeSet<String> = holders.iter().map(|(_, name)| name.clone()).collect();
            if others.is_empty() {
                held.insert(piece.unit(), (seen.id.clone(), seen.name.clone()));
                gpus.push((piece.place(), piece.unit()));
            }
            for other in others {
                shared.entry(other).or_default().push(piece.place().to_string());
            }
        }
        for (other, indexes) in shared {
            seeding.holes.push(format!(
                "{} may open GPU {}, which {other} holds: both can use it until one of them is stopped",
                seen.name,
                indexes.join(",")
            ));
        }
        if seen.access.privileged && seen.access.all {
            seeding.holes.push(format!(
                "{} is privileged and may open every GPU: it holds only what it names or has open now; \
                 make it anew, or name it in policy.exempt",
                seen.name
            ));
        }
        if !gpus.is_empty() {
            let (id, name, started) = (seen.id.clone(), seen.name.clone(), seen.started.clone());
            seeding.seeds.push(Seed { id, name, pid, started, gpus });
        }
    }
    seeding
}

#[cfg(test)]
mod tests {
    use super::super::testing::{inventory, seen};
    use super::*;

    fn indexes(seed: &Seed) -> Vec<u32> {
        seed.gpus.iter().map(|(place, _)| place.gpu()).collect()
    }

    #[test]
    fn what_a_container_may_open_it_holds_and_who_was_first_holds_what_two_share() {
        let inventory = inventory(4);
        let mut late = seen("late", &[1, 2]);
        late.started = "2026-01-01T10:00:05.12Z".into();
        let mut first = seen("first", &[2, 3]);
        first.started = "2026-01-01T10:00:05.1Z".into();
        let got = seeding(&[late, first], &inventory, &BTreeMap::new());
        let names: Vec<&str> = got.seeds.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["first", "late"]);
        assert_eq!(indexes(&got.seeds[0]), [2, 3]);
        assert_eq!(indexes(&got.seeds[1]), [1]);
        assert_eq!(got.holes.len(), 1);
        assert!(
            got.holes[0].starts_with("late may open GPU 2, which first holds"),
            "{:?}",
            got.holes
        );
    }

    #[test]
    fn wildcards_hold_all_that_is_free_privileged_ones_what_they_have_open() {
        let inventory = inventory(4);
        let mut wild = seen("wild", &[]);
        wild.access.all = true;
        let mut privileged = seen("priv", &[]);
        (privileged.access.all, privileged.access.privileged, privileged.open) =
            (true, true, vec![2]);
        privileged.started = "2020-01-01T00:00:00Z".into();
        let got = seeding(&[wild, privileged], &inventory, &BTreeMap::new());
        assert_eq!(indexes(&got.seeds[0]), [1]);
        assert_eq!(indexes(&got.seeds[1]), [0, 2, 3]);
        assert!(got.holes.iter().any(|h| h.starts_with("priv is privileged")), "{:?}", got.holes);
        assert!(
            got.holes.iter().any(|h| h.starts_with("wild may open GPU 1, which priv")),
            "{:?}",
            got.holes
        );
    }

    #[test]
    fn what_is_leased_already_and_what_is_exempt_or_stopped_is_left() {
        let inventory = inventory(2);
        let (mut one, mut two, mut three) =
            (seen("one", &[0]), seen("two", &[1]), seen("three", &[1]));
        for c in [&mut one, &mut two, &mut three] {
            c.access.minors = c.access.minors.iter().map(|m| m - 2).collect();
        }
        two.exempt = true;
        three.running = false;
        let mut leases = BTreeMap::new();
        leases.insert(inventory.gpus[0].unit.clone(), (one.id.clone(), "one".to_owned()));
        assert_eq!(seeding(&[one, two, three], &inventory, &leases), Seeding::default());
    }

    fn units(seed: &Seed) -> Vec<&str> {
        seed.gpus.iter().map(|(_, unit)| unit.as_str()).collect()
    }

    #[test]
    fn whoever_has_a_mig_device_holds_that_and_not_its_gpu() {
        let inventory = super::super::testing::cut(4);
        let (mut one, mut two) = (seen("one", &[0]), seen("two", &[0, 1]));
        (one.access.caps, two.access.caps) = ([3, 4].into(), [5, 6].into());
        let got = seeding(&[one.clone(), two.clone()], &inventory, &BTreeMap::new());
        assert_eq!(units(&got.seeds[0]), ["MIG-0-0"]);
        assert_eq!(units(&got.seeds[1]), ["MIG-0-1", "GPU-1"]);
        assert_eq!(got.holes, [""; 0]);
        // Half of a key opens nothing: then what it has is not known.
        let mut half = seen("half", &[0]);
        half.access.caps = [3].into();
        let got = seeding(std::slice::from_ref(&half), &inventory, &BTreeMap::new());
        assert_eq!(units(&got.seeds[0]), ["GPU-0"]);
        half.started = "2027-01-01T00:00:00Z".into();
        let got = seeding(&[one, half], &inventory, &BTreeMap::new());
        assert_eq!((got.seeds.len(), got.holes.len()), (1, 1));
        assert!(got.holes[0].starts_with("half may open GPU 0, which one holds"), "{got:?}");
        // Whoever may open everything holds what is left of it.
        let mut wild = seen("wild", &[]);
        (wild.access.all, wild.access.all_caps) = (true, true);
        wild.started = "2027-01-01T00:00:00Z".into();
        let got = seeding(&[wild, two], &inventory, &BTreeMap::new());
        assert_eq!(units(&got.seeds[1]), ["MIG-0-0", "GPU-2", "GPU-3"]);
    }

    #[test]
    fn a_shared_gpu_is_held_whole_unless_a_slot_of_it_is() {
        let mut inventory = inventory(4);
        inventory.gpus[1].slots = 2;
        let got = seeding(&[seen("bare", &[1])], &inventory, &BTreeMap::new());
        assert_eq!(units(&got.seeds[0]), ["GPU-1"]);
        let (slot, bare) = (seen("slot", &[1]), seen("bare", &[1]));
        let lease = (Unit::new("GPU-1/0").unwrap(), (slot.id.clone(), "slot".to_owned()));
        let got = seeding(&[slot, bare], &inventory, &BTreeMap::from([lease]));
        assert_eq!(got.seeds, []);
        assert_eq!(got.holes.len(), 1, "{:?}", got.holes);
        assert!(
            got.holes[0].starts_with("bare may open GPU 1, which slot holds"),
            "{:?}",
            got.holes
        );
    }
}
