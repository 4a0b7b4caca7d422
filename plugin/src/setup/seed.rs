//! Leases for what runs already. Pure: what a container may open it holds, so that no GPU in use is
//! granted to another.

use std::collections::{BTreeMap, BTreeSet};

use gpuctl_ledger::model::{ContainerId, Gpu, Inventory, Unit};

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
    /// The GPUs: index and unit.
    pub(super) gpus: Vec<(u32, Unit)>,
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
fn wanted<'a>(seen: &Seen, inventory: &'a Inventory) -> Vec<&'a Gpu> {
    let every = seen.access.all && !seen.access.privileged;
    let named: BTreeSet<u32> = seen.access.minors.iter().chain(&seen.open).copied().collect();
    inventory.gpus.iter().filter(|gpu| every || named.contains(&gpu.minor)).collect()
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
        for gpu in wanted(seen, inventory) {
            match held.get(&gpu.unit) {
                Some((id, _)) if *id == seen.id => {}
                Some((_, other)) => {
                    shared.entry(other.clone()).or_default().push(gpu.index.to_string());
                }
                None => {
                    held.insert(gpu.unit.clone(), (seen.id.clone(), seen.name.clone()));
                    gpus.push((gpu.index, gpu.unit.clone()));
                }
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
        seed.gpus.iter().map(|(index, _)| *index).collect()
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
}
