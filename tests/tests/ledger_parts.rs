//! A ledger that knows less than the node: of a GPU and its parts too, nothing is written down for two.

use gpuctl_ledger::model::{ContainerId, Lease, Unit};
use gpuctl_ledger::store::{Outcome, Write};
use gpuctl_tests::{Node, Options, engine_runs_here};

/// Writes into the ledger what an old copy of it might have: none of these leases, but that one.
fn rewrite(node: &Node, gone: &[&str], lease: &Lease) {
    let name = node.config().node_name().unwrap().to_string();
    let key = |unit: &str| format!("/gpuctl/v1/nodes/{name}/leases/{unit}");
    let keys = node.store().list(&format!("/gpuctl/v1/nodes/{name}/leases/")).unwrap();
    let mut writes: Vec<Write> = keys
        .entries
        .iter()
        .filter(|e| {
            let lease: Lease = serde_json::from_slice(&e.value).unwrap();
            gone.contains(&lease.unit.as_str())
        })
        .map(|e| Write::Delete(e.key.clone()))
        .collect();
    assert_eq!(writes.len(), gone.len(), "{writes:?}");
    writes.push(Write::Put(key(lease.unit.as_str()), serde_json::to_vec(lease).unwrap()));
    assert!(matches!(node.store().commit(&[], &writes).unwrap(), Outcome::Done(_)));
}

#[test]
fn a_lost_lease_on_a_part_is_not_written_beside_anothers_on_the_whole() {
    if !engine_runs_here() {
        return;
    }
    let config = "[[gpu.shared]]\ngpus = [6]\nslots = 2\n".to_owned();
    let node = Node::start(Options { config, ..Options::default() });
    let run = |name: &str, gpus: &str| {
        node.gpuctl_ok(&[
            "run",
            "-d",
            "--name",
            name,
            "--gpus",
            gpus,
            "--stop-timeout",
            "0",
            "busybox",
            "sleep",
            "100000",
        ]);
    };
    run("part", "shared");
    run("other", "device=0");
    let unit = |text: &str| Unit::new(text).unwrap();
    let leases = node.leases();
    let whole = node.gpus()[6].uuid.clone();
    let slot = leases.keys().find(|unit| unit.starts_with(&whole)).unwrap().clone();
    assert_ne!(slot, whole);

    // The ledger shows the whole GPU leased to one that lives: people have to stop one of the two.
    let others = leases.values().find(|l| l.holder.docker_name.as_str() == "other-0").unwrap();
    let wrong = Lease { unit: unit(&whole), ..others.clone() };
    rewrite(&node, &[&slot], &wrong);
    let said = node.gpuctl(&["doctor", "--fix"]);
    let told = format!("part-0 runs on {slot}, and the ledger shows {whole} leased to other-0");
    assert!(said.stdout.contains(&told), "{said}");
    assert!(!node.leases().contains_key(&slot), "{:#?}", node.leases());

    // Leased to one that is dead it is no obstacle, and goes.
    let mut dead = Lease { unit: unit(&whole), ..others.clone() };
    dead.holder.container = ContainerId::new("0123456789abcdef").unwrap();
    dead.evidence.init = None;
    dead.evidence.cgroup = None;
    dead.evidence.claimer.start = 1;
    rewrite(&node, &[], &dead);
    let said = node.gpuctl(&["doctor", "--fix"]);
    assert_eq!(node.leases(), leases, "{said}");
    node.check();
}
