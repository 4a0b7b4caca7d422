//! What setup writes down for containers that run already, where the ledger shows leases of the dead on
//! the same GPUs, on their parts, or on what they are parts of.

use std::collections::BTreeMap;
use std::fs;

use gpuctl_ledger::model::{ContainerId, DockerName, Lease, Unit};
use gpuctl_ledger::store::{Outcome, Write};
use gpuctl_tests::hosts::{host_with, setup_ok};
use gpuctl_tests::node::run;
use gpuctl_tests::{Node, Options, engine_runs_here};
use serde_json::Value;

/// Who holds what, by their names in Docker.
fn holders(node: &Node) -> BTreeMap<String, String> {
    let of = |(unit, lease): (String, Lease)| (unit, lease.holder.docker_name.to_string());
    node.leases().into_iter().map(of).collect()
}

/// A lease on `unit` of a container that is gone and whose processes are, made of another's.
fn dead(of: &Lease, name: &str, id: &str, unit: &str) -> Lease {
    let mut lease = Lease { unit: Unit::new(unit).unwrap(), ..of.clone() };
    lease.holder.container = ContainerId::new(id).unwrap();
    lease.holder.docker_name = DockerName::new(name).unwrap();
    (lease.evidence.init, lease.evidence.cgroup) = (None, None);
    lease.evidence.claimer.start = 1;
    lease
}

fn write(node: &Node, leases: &[Lease]) {
    let name = node.config().node_name().unwrap().to_string();
    let put = |lease: &Lease| {
        let key = format!("/gpuctl/v1/nodes/{name}/leases/{}", lease.unit.as_str());
        Write::Put(key, serde_json::to_vec(lease).unwrap())
    };
    let writes: Vec<Write> = leases.iter().map(put).collect();
    assert!(matches!(node.store().commit(&[], &writes).unwrap(), Outcome::Done(_)));
}

/// The lines of the audit log of one decision: whose, on what, why.
fn told(node: &Node, decision: &str) -> Vec<(String, Vec<String>, String)> {
    let text = fs::read_to_string(node.place().state().join("audit.log")).unwrap_or_default();
    let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    lines
        .filter(|line| line["decision"] == decision)
        .map(|line| {
            let mut gpus: Vec<String> = line["gpus"].as_array().unwrap().iter().map(word).collect();
            gpus.sort();
            (word(&line["name"]), gpus, word(&line["reason"]))
        })
        .collect()
}

#[test]
fn leases_of_the_dead_on_what_runs_already_go_with_all_that_overlaps_it_and_are_told() {
    if !engine_runs_here() {
        return;
    }
    let config = "[[gpu.shared]]\ngpus = [1]\nslots = 2\n".into();
    let node = host_with("{}", Options { profile: "mig1", config, ..Options::default() });
    let gpus = node.gpus();
    let (whole, shared) = (gpus[0].uuid.as_str(), gpus[1].uuid.as_str());
    let [first, mine, last] = gpus[0].mig() else { panic!("three MIG devices") };
    let parent = format!("/dev/nvidia{}", gpus[0].minor);
    let part = |name: &str, mig: &gpuctl_sim::profile::Mig| {
        let [gi, ci] = mig.caps.map(|minor| format!("/dev/nvidia-caps/nvidia-cap{minor}"));
        let nodes = ["--runtime", "runc", "--device", &parent, "--device", &gi, "--device", &ci];
        assert_eq!(run(&node, name, &nodes).code, 0);
    };
    part("part", mine);
    setup_ok(&node, &[]);
    assert_eq!(holders(&node), [(mine.uuid.clone(), "part".to_owned())].into());
    let granted = told(&node, "granted");
    assert_eq!(granted.len(), 1, "{granted:?}");
    assert_eq!((&*granted[0].0, &*granted[0].1), ("part", &[mine.uuid.clone()][..]));

    // Past the cooperative level two more come up: on the shared GPU as a whole, and on another part.
    let leases = node.leases();
    let living = &leases[&mine.uuid];
    let slots = [0, 1].map(|slot| format!("{shared}/{slot}"));
    let one = |unit: &str| dead(living, "dead-one", "0123456789abcdef", unit);
    let two = |unit: &str| dead(living, "dead-two", "fedcba9876543210", unit);
    write(&node, &[one(shared), one(&slots[0]), two(&slots[1]), two(whole), two(&first.uuid)]);
    let device = format!("/dev/nvidia{}", gpus[1].minor);
    assert_eq!(run(&node, "bare", &["--runtime", "runc", "--device", &device]).code, 0);
    part("other", last);
    let got = setup_ok(&node, &[]);
    assert!(
        got.stdout.contains("GPU 1 to bare") && got.stdout.contains("GPU 0:2 to other"),
        "{got}"
    );

    // What overlaps is gone; what does not stays until somebody asks for it.
    let want = [(&mine.uuid, "part"), (&last.uuid, "other"), (&first.uuid, "dead-two")];
    let mut want: BTreeMap<String, String> =
        want.into_iter().map(|(unit, name)| (unit.clone(), name.to_owned())).collect();
    want.insert(shared.to_owned(), "bare".to_owned());
    assert_eq!(holders(&node), want);
    let mut released = told(&node, "released");
    released.sort();
    let mut expected = vec![
        ("dead-one", vec![shared.to_owned(), slots[0].clone()], "bare"),
        ("dead-two", vec![slots[1].clone()], "bare"),
        ("dead-two", vec![whole.to_owned()], "other"),
    ];
    expected.sort();
    let seen: Vec<_> = released
        .iter()
        .map(|(name, gpus, why)| {
            let found = "its process is gone; setup found it, for ";
            (name.as_str(), gpus.clone(), why.strip_prefix(found).unwrap_or(why))
        })
        .collect();
    assert_eq!(seen, expected);
    assert!(setup_ok(&node, &[]).stdout.is_empty(), "once is enough");

    // Where the node's GPUs cannot be read, nothing is claimed and nothing freed.
    write(&node, &[two(whole)]);
    node.docker_ok(&["rm", "-f", "other"]);
    let before = holders(&node);
    part("late", last);
    fs::write(node.config().paths.inventory(), "{").unwrap();
    fs::write(node.place().run().join("quarantine.json"), "{").unwrap();
    let got = gpuctl_tests::hosts::setup(&node, &[]);
    assert_eq!(got.code, 1, "{got}");
    assert!(got.stderr.contains("running containers cannot be given leases"), "{got}");
    assert!(got.stderr.contains("goes on where this stopped"), "{got}");
    assert_eq!(holders(&node), before);
    fs::remove_file(node.place().run().join("quarantine.json")).unwrap();
    let got = setup_ok(&node, &[]);
    assert!(got.stdout.contains("GPU 0:2 to late"), "{got}");
}
