//! Properties of the rules, over nodes and holders made at random.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::config::AllPolicy;
use crate::model::{
    BootId, ContainerId, DockerName, Evidence, Gpu, GpuRef, GpuRequest, Health, Holder, Inventory,
    Lease, LeaseState, Process, SCHEMA, Timestamp, Token, Unit,
};
use crate::rules::allocate::{Judged, Shortage, Supply, Want, allocate};
use crate::rules::liveness::{Facts, Files, Life, RESTART_GRACE_MS, RestartPolicy, Seen, judge};

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
        mig: Vec::new(),
    }
}

fn lease(n: u32, container: &str, state: LeaseState) -> Lease {
    let process = Process { pid: 1, start: 1 };
    Lease {
        schema: SCHEMA,
        unit: unit(n),
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
    let one =
        (any::<bool>(), proptest::option::of((0..3u8, life())), proptest::bool::weighted(0.1));
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
        for (n, (healthy, held, busy)) in cards.into_iter().enumerate() {
            let n = u32::try_from(n).unwrap();
            node.inventory.gpus.push(gpu(n, healthy));
            if let Some((who, life)) = held {
                let lease = lease(n, &format!("c{who}"), LeaseState::Active);
                node.leases.insert(unit(n), Judged { lease, life });
            }
            if busy {
                node.busy.insert(unit(n), "process 1".into());
            }
        }
        node
    })
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
            ],
            1..5
        )
        .prop_map(GpuRequest::Named),
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
                let gpu = node.inventory.by_unit(unit);
                prop_assert!(gpu.is_some_and(|g| g.health == Health::Ok), "not there or not healthy");
                prop_assert!(!node.busy.contains_key(unit), "busy");
                if let Some(judged) = node.leases.get(unit) {
                    let own = judged.lease.holder.container == me;
                    prop_assert!(own || judged.life == Life::Gone, "somebody else's");
                }
            }
            let number = u32::try_from(units.len()).unwrap();
            match &request {
                GpuRequest::None => prop_assert_eq!(number, 0),
                GpuRequest::Count(n) => prop_assert_eq!(number, *n),
                GpuRequest::Named(list) => prop_assert_eq!(units.len(), list.len()),
                GpuRequest::All => match all {
                    AllPolicy::Refuse => prop_assert_eq!(units.len(), node.inventory.gpus.len()),
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
        let free = node.inventory.gpus.iter().filter(|g| {
            g.health == Health::Ok
                && !node.busy.contains_key(&g.unit)
                && node.leases.get(&g.unit).is_none_or(|j| j.life == Life::Gone)
        }).count();
        let supply =
            Supply { inventory: &node.inventory, leases: &node.leases, busy: &node.busy };
        let request = GpuRequest::Count(n);
        let want =
            Want { request: &request, container: None, prefer: &[], all: AllPolicy::Refuse };
        let free = u32::try_from(free).unwrap();
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
