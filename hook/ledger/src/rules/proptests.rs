//! Properties of the rules, over nodes and holders made at random.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::config::AllPolicy;
use crate::model::{
    BootId, ContainerId, DockerName, Evidence, Gpu, GpuRef, GpuRequest, Health, Holder, Inventory,
    Kind, Lease, LeaseState, MigDevice, Path, Peer, Process, SCHEMA, Timestamp, Token, Unit,
    Wanted,
};
use crate::rules::allocate::{Judged, Shortage, Supply, Want, allocate};
use crate::rules::liveness::{Facts, Files, Life, RESTART_GRACE_MS, RestartPolicy, Seen, judge};
use crate::rules::topology::{Free, choose};

fn unit(n: u32) -> Unit {
    Unit::new(format!("GPU-{n}")).unwrap()
}

fn gpu(n: u32, healthy: bool) -> Gpu {
    Gpu {
        index: n,
        unit: unit(n),
        // Index is not minor: whoever confuses them is found out.
        minor: 100 - n,
        model: "m".into(),
        pci: format!("00000000:{n:02x}:00.0"),
        memory: 1,
        health: if healthy { Health::Ok } else { Health::Bad("x".into()) },
        numa: None,
        links: Vec::new(),
        peers: Vec::new(),
        mig: Vec::new(),
        slots: 0,
    }
}

/// The parts that a card of some kind has: MIG devices, slots, or none.
fn parts(kind: u8, n: u32) -> Vec<Unit> {
    let mig = |k| Unit::new(format!("MIG-{n}-{k}")).unwrap();
    let slot = |k| Unit::new(format!("GPU-{n}/{k}")).unwrap();
    match kind {
        1 => (0..3).map(mig).collect(),
        2 => (0..3).map(slot).collect(),
        _ => Vec::new(),
    }
}

/// Whether two units are one, or one is part of the other: by their names alone.
fn meet(a: &Unit, b: &Unit) -> bool {
    let read = |unit: &Unit| -> (String, String) {
        let text = unit.as_str().to_owned();
        if let Some(rest) = text.strip_prefix("MIG-") {
            let (card, part) = rest.split_once('-').unwrap();
            return (card.into(), format!("m{part}"));
        }
        let rest = text.strip_prefix("GPU-").unwrap();
        let (card, part) = rest.split_once('/').unwrap_or((rest, ""));
        (card.into(), part.into())
    };
    let ((card, part), (other_card, other_part)) = (read(a), read(b));
    card == other_card && (part == other_part || part.is_empty() || other_part.is_empty())
}

fn lease(n: u32, container: &str, state: LeaseState) -> Lease {
    lease_of(&unit(n), container, state)
}

fn lease_of(unit: &Unit, container: &str, state: LeaseState) -> Lease {
    let process = Process { pid: 1, start: 1 };
    Lease {
        schema: SCHEMA,
        unit: unit.clone(),
        holder: Holder {
            container: ContainerId::new(container).unwrap(),
            docker_name: DockerName::new(container).unwrap(),
            name: None,
            owner: None,
        },
        since: Timestamp::from_millis(0),
        token: Token::new("t").unwrap(),
        state,
        evidence: Evidence {
            boot_id: BootId::new("b").unwrap(),
            claimer: process,
            init: Some(process),
            cgroup: None,
            ended: None,
        },
    }
}

fn life() -> impl Strategy<Value = Life> {
    prop_oneof![
        Just(Life::Alive),
        Just(Life::Changing),
        Just(Life::Unknown),
        Just(Life::Reserved),
        Just(Life::Gone)
    ]
}

#[derive(Debug, Clone)]
struct Node {
    inventory: Inventory,
    leases: BTreeMap<Unit, Judged>,
    busy: BTreeMap<Unit, String>,
}

fn node() -> impl Strategy<Value = Node> {
    let held = || proptest::option::weighted(0.4, (0..3u8, life()));
    let parts_held = proptest::collection::vec(held(), 3);
    let one = (
        proptest::bool::weighted(0.8),
        held(),
        proptest::bool::weighted(0.1),
        prop_oneof![3 => Just(0u8), 1 => Just(1), 1 => Just(2)],
        parts_held,
        proptest::option::weighted(0.1, 0..3usize),
    );
    proptest::collection::vec(one, 0..10).prop_map(|cards| {
        let mut node = Node {
            inventory: Inventory {
                schema: SCHEMA,
                at: Timestamp::from_millis(0),
                driver: String::new(),
                gpus: Vec::new(),
            },
            leases: BTreeMap::new(),
            busy: BTreeMap::new(),
        };
        for (n, (healthy, held, busy, kind, parts_held, busy_part)) in cards.into_iter().enumerate()
        {
            let n = u32::try_from(n).unwrap();
            let parts = parts(kind, n);
            let mut card = gpu(n, healthy);
            if kind == 2 {
                card.slots = 3;
            }
            if kind == 1 {
                let mig = |(k, unit): (u32, &Unit)| MigDevice {
                    index: k,
                    unit: unit.clone(),
                    memory: u64::from(k),
                    profile: String::new(),
                    caps: [k, k + 100],
                    health: Health::Ok,
                };
                card.mig = (0..).zip(&parts).map(mig).collect();
            }
            node.inventory.gpus.push(card);
            let mut hold = |unit: &Unit, held: Option<(u8, Life)>| {
                if let Some((who, life)) = held {
                    let lease = lease_of(unit, &format!("c{who}"), LeaseState::Active);
                    node.leases.insert(unit.clone(), Judged { lease, life });
                }
            };
            hold(&unit(n), held);
            for (unit, held) in parts.iter().zip(parts_held) {
                hold(unit, held);
            }
            if busy {
                node.busy.insert(unit(n), "process 1".into());
            }
            if let Some(part) = busy_part.and_then(|k| parts.get(k)) {
                node.busy.insert(part.clone(), "process 2".into());
            }
        }
        node
    })
}

impl Node {
    /// Whether a unit may go to a container, by hand.
    fn is_free(&self, unit: &Unit, me: Option<&ContainerId>) -> bool {
        let held = |(other, judged): (&Unit, &Judged)| {
            meet(unit, other)
                && judged.life != Life::Gone
                && me != Some(&judged.lease.holder.container)
        };
        !self.leases.iter().any(held) && !self.busy.keys().any(|busy| meet(unit, busy))
    }

    /// The whole GPUs that may go to a container.
    fn free_gpus(&self) -> u32 {
        let free =
            |g: &&Gpu| g.health == Health::Ok && g.mig.is_empty() && self.is_free(&g.unit, None);
        u32::try_from(self.inventory.gpus.iter().filter(free).count()).unwrap()
    }

    fn uncut(&self) -> usize {
        self.inventory.gpus.iter().filter(|g| g.mig.is_empty()).count()
    }
}

fn request() -> impl Strategy<Value = GpuRequest> {
    prop_oneof![
        Just(GpuRequest::None),
        (1..12u32).prop_map(GpuRequest::Count),
        Just(GpuRequest::All),
        proptest::collection::vec(
            prop_oneof![
                (0..12u32).prop_map(GpuRef::Index),
                (0..12u32).prop_map(|n| GpuRef::Uuid(format!("gpu-{n}"))),
                (88..101u32).prop_map(GpuRef::Minor),
                (0..10u32, 0..4u32).prop_map(|(n, k)| GpuRef::MigIndex(n, k)),
                (0..10u32, 0..4u32).prop_map(|(n, k)| GpuRef::Uuid(format!("mig-{n}-{k}"))),
                (0..10u32, 0..4u32).prop_map(|(n, k)| GpuRef::Uuid(format!("GPU-{n}/{k}"))),
            ],
            1..5
        )
        .prop_map(GpuRequest::Named),
        (1..6u32).prop_map(|n| GpuRequest::Matching(Wanted::any(Kind::Whole, n))),
        (1..6u32).prop_map(|n| GpuRequest::Matching(Wanted::any(Kind::Mig, n))),
        Just(GpuRequest::shared()),
    ]
}

fn policy() -> impl Strategy<Value = AllPolicy> {
    prop_oneof![
        Just(AllPolicy::Refuse),
        Just(AllPolicy::Free),
        (1..9u32).prop_map(AllPolicy::Count)
    ]
}

proptest! {
    /// The first invariant, as far as the rule goes: nothing is granted that a living, unknown,
    /// changing or waited-for holder has, that is not healthy, or that the node shows in use.
    #[test]
    fn nothing_is_granted_that_is_not_free(
        node in node(),
        request in request(),
        all in policy(),
        who in 0..4u8,
        prefer in proptest::collection::vec(0..12u32, 0..4),
    ) {
        let me = ContainerId::new(format!("c{who}")).unwrap();
        let prefer: Vec<Unit> = prefer.into_iter().map(unit).collect();
        let supply =
            Supply { inventory: &node.inventory, leases: &node.leases, busy: &node.busy };
        let want = Want { request: &request, container: Some(&me), prefer: &prefer, all };
        let granted = allocate(&supply, &want);
        if let Ok(units) = &granted {
            let mut once = units.clone();
            once.sort();
            once.dedup();
            prop_assert_eq!(once.len(), units.len(), "a GPU twice");
            for unit in units {
                let piece = node.inventory.piece(unit);
                prop_assert!(piece.is_some_and(|p| *p.health() == Health::Ok), "not there or not healthy");
                prop_assert!(node.is_free(unit, Some(&me)), "busy, or somebody else's, or a part of it is");
                let cut = node.inventory.by_unit(unit).is_some_and(|gpu| !gpu.mig.is_empty());
                prop_assert!(!cut, "a whole GPU that is cut");
                let meets = units.iter().filter(|other| meet(unit, other)).count();
                prop_assert_eq!(meets, 1, "a GPU and a part of it at once");
            }
            let number = u32::try_from(units.len()).unwrap();
            match &request {
                GpuRequest::None => prop_assert_eq!(number, 0),
                GpuRequest::Count(n) => prop_assert_eq!(number, *n),
                GpuRequest::Named(list) => prop_assert_eq!(units.len(), list.len()),
                GpuRequest::Matching(wanted) => prop_assert_eq!(number, wanted.count),
                GpuRequest::All => match all {
                    AllPolicy::Refuse => prop_assert_eq!(units.len(), node.uncut()),
                    AllPolicy::Free => prop_assert!(number > 0),
                    AllPolicy::Count(n) => prop_assert_eq!(number, n),
                },
            }
        }
        // The same question has the same answer.
        prop_assert_eq!(granted, allocate(&supply, &want));
    }

    /// A refusal of a count is never wrong: counting what is free by hand gives the same number.
    #[test]
    fn a_count_is_refused_only_when_there_are_not_enough(node in node(), n in 1..12u32) {
        let free = node.free_gpus();
        let supply =
            Supply { inventory: &node.inventory, leases: &node.leases, busy: &node.busy };
        let request = GpuRequest::Count(n);
        let want =
            Want { request: &request, container: None, prefer: &[], all: AllPolicy::Refuse };
        match allocate(&supply, &want) {
            Ok(_) => prop_assert!(n <= free),
            Err(Shortage::TooMany { have, .. }) => prop_assert!(n > have),
            Err(Shortage::NotFree { free: said, taken, .. }) => {
                prop_assert!(n > free);
                prop_assert_eq!(said, free);
                prop_assert_eq!(taken.len() + said as usize, node.inventory.gpus.len());
            }
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    /// So it is with MIG devices and slots.
    #[test]
    fn a_part_is_refused_only_when_there_is_none(node in node(), n in 1..5u32, shared in any::<bool>()) {
        let (kind, n) = if shared { (Kind::Shared, 1) } else { (Kind::Mig, n) };
        let parts = node.inventory.gpus.iter().filter(|g| g.health == Health::Ok);
        let parts = parts.flat_map(|g| g.pieces().skip(1).map(|piece| piece.unit()));
        let free = parts
            .filter(|unit| unit.slot().is_some() == shared && node.is_free(unit, None))
            .count();
        let supply =
            Supply { inventory: &node.inventory, leases: &node.leases, busy: &node.busy };
        let request = GpuRequest::Matching(Wanted::any(kind, n));
        let want =
            Want { request: &request, container: None, prefer: &[], all: AllPolicy::Refuse };
        match allocate(&supply, &want) {
            Ok(units) => {
                prop_assert!(units.iter().all(|unit| unit.slot().is_some() == shared));
                prop_assert!(n as usize <= free);
            }
            Err(Shortage::NoneLike { have, .. }) => prop_assert!(n > have),
            Err(Shortage::NotFree { free: said, .. }) => {
                prop_assert!(n as usize > free);
                prop_assert_eq!(said as usize, free);
            }
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    /// What a container held last it gets again, as far as it is free and as many as fit.
    #[test]
    fn what_was_held_last_comes_first(node in node(), n in 1..6u32, last in 0..10u32) {
        let supply =
            Supply { inventory: &node.inventory, leases: &node.leases, busy: &node.busy };
        let request = GpuRequest::Count(n);
        let prefer = [unit(last)];
        let ask = |prefer| allocate(
            &supply,
            &Want { request: &request, container: None, prefer, all: AllPolicy::Refuse },
        );
        if let (Ok(with), Ok(_)) = (ask(&prefer), ask(&[])) {
            let named = GpuRequest::Named(vec![GpuRef::Index(last)]);
            let alone =
                Want { request: &named, container: None, prefer: &[], all: AllPolicy::Refuse };
            if allocate(&supply, &alone).is_ok() {
                prop_assert!(with.contains(&unit(last)));
            }
        }
    }
}

const PATHS: [Path; 6] =
    [Path::Board, Path::Switch, Path::Switches, Path::Bridge, Path::Socket, Path::System];

/// A machine: NVLinks and way over PCI of every pair, made at random.
fn machine() -> impl Strategy<Value = Vec<Vec<(u32, usize)>>> {
    let links = prop_oneof![3 => Just(0u32), 1 => Just(1), 1 => Just(2)];
    proptest::collection::vec(proptest::collection::vec((links, 0..6usize), 8), 1..=8).prop_map(
        |raw| {
            // The same from both ends.
            let of = |a: usize, b: usize| raw[a.min(b)][a.max(b)];
            (0..raw.len()).map(|a| (0..raw.len()).map(|b| of(a, b)).collect()).collect()
        },
    )
}

fn cards(table: &[Vec<(u32, usize)>]) -> Vec<Gpu> {
    (0..table.len())
        .map(|a| {
            let peer = |b: usize| Peer {
                gpu: u32::try_from(b).unwrap(),
                nvlinks: table[a][b].0,
                path: PATHS[table[a][b].1],
            };
            let peers = (0..table.len()).filter(|b| *b != a).map(peer).collect();
            Gpu { peers, ..gpu(u32::try_from(a).unwrap(), true) }
        })
        .collect()
}

/// How good a set is, by hand: pairs with NVLinks, NVLinks, pairs within switch, switches, bridge, socket.
fn goodness(table: &[Vec<(u32, usize)>], set: &[usize]) -> [u32; 6] {
    let mut sum = [0; 6];
    for &a in set {
        for &b in set.iter().filter(|&&b| b > a) {
            let (links, path) = table[a][b];
            sum[0] += u32::from(links > 0);
            sum[1] += links;
            for (at, nearest) in [(2, 1), (3, 2), (4, 3), (5, 4)] {
                sum[at] += u32::from(path <= nearest);
            }
        }
    }
    sum
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Of all sets of so many, tried one by one, none has better links, and of those as good none
    /// leaves better ones: so no linked pair is broken where that can be had otherwise.
    #[test]
    fn no_other_set_is_better(table in machine(), n in 1..=8usize, held in 0..256usize, spared in 0..256usize) {
        let cards = cards(&table);
        let most = cards.len();
        let is = |mask: usize, at: usize| mask & (1 << at) != 0;
        let free: Vec<Free<'_>> = cards
            .iter()
            .enumerate()
            .map(|(at, gpu)| Free { gpu, held: is(held, at), spared: is(spared, at) && !is(held, at) })
            .collect();
        let merit = |set: &[usize]| {
            let left: Vec<usize> = (0..most).filter(|at| !set.contains(at)).collect();
            let of = |which: &dyn Fn(&Free<'_>) -> bool| set.iter().filter(|&&at| which(&free[at])).count();
            let spared = most - of(&|f| f.spared);
            (of(&|f| f.held), spared, goodness(&table, set), goodness(&table, &left))
        };
        let Some(chosen) = choose(&free, n) else {
            prop_assert!(n > most);
            return Ok(());
        };
        prop_assert_eq!(chosen.len(), n);
        let best = (0..1usize << most)
            .filter(|mask| mask.count_ones() as usize == n)
            .map(|mask| merit(&(0..most).filter(|at| is(mask, *at)).collect::<Vec<_>>()))
            .max();
        prop_assert_eq!(Some(merit(&chosen)), best);
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Of a machine too large to try every set, in pairs: pairs are given whole, and left whole.
    #[test]
    fn pairs_of_a_large_machine_stay_whole(pairs in 12..20u32, n in 1..7usize, odd in any::<bool>()) {
        let mut gpus: Vec<Gpu> = (0..2 * pairs).map(|a| gpu(a, true)).collect();
        for card in &mut gpus {
            card.links = vec![card.index ^ 1];
        }
        // Half of one pair is somebody else's.
        let gpus: Vec<Gpu> = gpus.into_iter().filter(|g| !odd || g.index != 8).collect();
        let free: Vec<Free<'_>> =
            gpus.iter().map(|gpu| Free { gpu, held: false, spared: false }).collect();
        for n in [2 * n, 2 * n + 1] {
            let chosen: Vec<u32> =
                choose(&free, n).unwrap().into_iter().map(|at| gpus[at].index).collect();
            prop_assert_eq!(chosen.len(), n);
            let whole = chosen.iter().filter(|a| chosen.contains(&(*a ^ 1))).count();
            prop_assert_eq!(whole, n / 2 * 2, "{:?}", chosen);
        }
    }
}

fn seen() -> impl Strategy<Value = Seen> {
    prop_oneof![Just(Seen::There), Just(Seen::Gone), Just(Seen::Unknown)]
}

fn files() -> impl Strategy<Value = Files> {
    let policy = prop_oneof![
        Just(RestartPolicy::No),
        Just(RestartPolicy::Always),
        (0..4u32).prop_map(RestartPolicy::OnFailure)
    ];
    prop_oneof![
        Just(Files::Absent),
        Just(Files::Unreadable),
        (policy, any::<bool>(), any::<bool>(), 0..4u32, proptest::option::of(0..2i32)).prop_map(
            |(policy, stopped_by_hand, ever_started, restarts, exit_code)| Files::Present {
                policy,
                stopped_by_hand,
                ever_started,
                restarts,
                exit_code
            }
        ),
    ]
}

proptest! {
    /// The eighth invariant: where anything is there or unknown, the GPU is held.
    #[test]
    fn uncertain_is_held(
        claimer in seen(),
        init in proptest::option::of(seen()),
        cgroup in proptest::option::of(seen()),
        files in files(),
        state in prop_oneof![
            Just(LeaseState::Claimed), Just(LeaseState::Active), Just(LeaseState::Reserved)
        ],
        same_boot in any::<bool>(),
        change_open in any::<bool>(),
        now in 0..10_000i64,
        ended in proptest::option::of(0..10_000i64),
    ) {
        let mut lease = lease(0, "c", state);
        lease.evidence.ended = ended.map(Timestamp::from_millis);
        let facts = Facts {
            same_boot, claimer, init, cgroup, files, change_open,
            now: Timestamp::from_millis(now),
        };
        let life = judge(&lease, &facts);
        if change_open {
            prop_assert_eq!(life, Life::Changing);
        } else if life == Life::Gone {
            prop_assert!(!matches!(files, Files::Unreadable));
            if same_boot {
                let process: Vec<Seen> = match (state, init) {
                    (LeaseState::Claimed, _) | (_, None) => vec![claimer],
                    (_, Some(init)) => vec![init, cgroup.unwrap_or(Seen::Gone)],
                };
                prop_assert!(process.iter().all(|s| *s == Seen::Gone));
            }
            if let Files::Present { policy, stopped_by_hand, ever_started, .. } = files {
                // What Docker will start again by itself is not gone.
                prop_assert!(!(policy == RestartPolicy::Always && !stopped_by_hand && ever_started));
                // An end that nobody has written down may be a moment ago.
                prop_assert!(!(stopped_by_hand && same_boot && ended.is_none()));
                if stopped_by_hand && same_boot && let Some(ended) = ended {
                    // Or in the future: the clock was set back, and nobody waits for it to catch up.
                    prop_assert!(now.abs_diff(ended) >= RESTART_GRACE_MS);
                }
            }
        }
    }
}
