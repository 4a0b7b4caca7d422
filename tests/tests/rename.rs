//! rename: a container with all that is kept of it, at once or not at all.

use std::time::Duration;

use gpuctl_tests::node::wait_for;
use gpuctl_tests::state::{self, Records};
use gpuctl_tests::{Ledger, Node, Options, engine_runs_here, mends_here};

fn run<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let first = ["run", "-d", "--name", name, "--gpus", "2", "--stop-signal", "KILL"];
    [&first, more, &["busybox", "sleep", "100000"]].concat()
}

/// No record is of this name, and none says it.
#[track_caller]
fn gone(node: &Node, name: &str, at: &str) {
    for (key, record) in state::ledger(node) {
        let says = |pointer: &str| record.pointer(pointer).is_some_and(|v| v == name);
        let is = key.split('/').nth(1) == Some(name) || says("/name") || says("/holder/name");
        assert!(!is, "{at}: {key}: {record}");
    }
}

#[test]
fn everything_of_a_container_follows() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options {
        config: "[ports]\nrange = \"21500-21519\"\n".into(),
        ..Options::default()
    });
    node.docker_ok(&["network", "create", "lan"]);
    node.gpuctl_ok(&run("train", &["--network", "lan", "-p", "auto:22"]));
    node.gpuctl_ok(&["scale", "train", "--gpus", "3"]);
    let before = state::seen(&node, "train").unwrap();
    let ports = node.gpuctl_ok(&["ports", "-q"]);
    let got = node.gpuctl(&["rename", "train-1", "learn"]);
    assert_eq!((got.code, got.stdout.as_str()), (0, "learn-1\n"), "{got}");
    assert!(got.stderr.contains("stay train until it gets a new container"), "{got}");
    gone(&node, "train", "after");
    let after = state::seen(&node, "learn").unwrap();
    let expected = state::Seen { docker_name: "learn-1".into(), ..before };
    assert_eq!(after, expected, "nothing restarted, nothing lost");
    assert_eq!(node.gpuctl_ok(&["ports", "-q"]), ports);
    let gpus = node.gpuctl_ok(&["gpus"]);
    assert_eq!(gpus.matches("learn-1").count(), 3, "{gpus}");
    // On its network both names find it.
    for name in ["learn-1", "train"] {
        node.docker_ok(&[
            "run",
            "--rm",
            "--network",
            "lan",
            "busybox",
            "busybox",
            "ping",
            "-c",
            "1",
            name,
        ]);
    }
    // And it goes on as one: its start takes the binding, its stop gives the GPUs back.
    node.gpuctl_ok(&["restart", "learn"]);
    node.gpuctl_ok(&["scale", "learn", "--gpus", "1"]);
    assert_eq!(state::seen(&node, "learn").unwrap().history, [0, 1, 2]);
    node.gpuctl_ok(&["stop", "learn"]);
    assert!(node.leases().is_empty());
    node.gpuctl_ok(&["start", "learn"]);
    node.check();
    // The old name is free again, with a history of its own.
    node.gpuctl_ok(&run("train", &[]));
    assert_eq!(state::history(&node, "train"), [0]);
    node.gpuctl_ok(&["rm", "-f", "--history", "train", "learn"]);
    assert_eq!(state::difference(&Records::new(), &state::ledger(&node)), [""; 0]);
}

#[test]
fn names_that_are_taken_or_would_be_mistaken_are_refused() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.gpuctl_ok(&run("train", &[]));
    node.gpuctl_ok(&run("eval", &[]));
    node.gpuctl_ok(&run("past", &[]));
    node.gpuctl_ok(&["rm", "-f", "past"]);
    node.docker_ok(&["create", "--name", "theirs-0", "busybox", "true"]);
    let ledger = state::ledger(&node);
    for (words, why) in [
        (["rename", "train", "train"], "is its name already"),
        (["rename", "train", "eval"], "the name eval is in use"),
        (["rename", "train", "past"], "the name past has a history"),
        (["rename", "train", "eval-7"], "is that of a version of container eval"),
        (["rename", "train", "theirs"], "Docker has a container theirs-0 already"),
        (["rename", "nobody", "xx"], "no container nobody"),
        (["rename", "train-3", "xx"], "train has no version 3"),
    ] {
        let got = node.gpuctl(&words);
        assert_eq!((got.code, got.stdout.as_str()), (1, ""), "{got}");
        assert!(got.stderr.contains(why) && got.stderr.contains("hint: "), "{got}");
        assert_eq!(state::difference(&ledger, &state::ledger(&node)), [""; 0], "{got}");
    }
    // What has only a history can be renamed too.
    assert_eq!(node.gpuctl_ok(&["rename", "past", "former"]), "former");
    assert_eq!(state::history(&node, "former"), [0]);
    gone(&node, "past", "after");
}

const POINTS: [(&str, bool); 9] = [
    ("rename:copy:begun", false),
    ("rename:copy:done", false),
    ("rename:names:begun", false),
    ("rename:names:done", false),
    ("rename:records:begun", true),
    ("rename:records:done", true),
    ("rename:forget:begun", true),
    ("rename:forget:done", true),
    ("rename:end:done", true),
];

fn killed_everywhere(ledger: Ledger) {
    let node = Node::start(Options {
        ledger,
        config: "[ports]\nrange = \"21520-21539\"\n".into(),
        ..Options::default()
    });
    node.gpuctl_ok(&run("train", &["-p", "auto:22"]));
    node.gpuctl_ok(&["scale", "train", "--gpus", "3"]);
    let menders: [&[&str]; 4] = [
        &["start", "train"],
        &["start", "learn"],
        &["doctor", "--fix"],
        &["rename", "train", "learn"],
    ];
    for (mends, mender) in menders.into_iter().enumerate() {
        for (number, (point, done)) in POINTS.into_iter().enumerate() {
            if !mends_here(mends, number, menders.len()) {
                continue;
            }
            let at = format!("{point}, {mender:?}");
            let (old, records) = (state::seen(&node, "train").unwrap(), state::ledger(&node));
            node.gpuctl_killed_at(point, &["rename", "train", "learn"]);
            node.check_exclusive();
            let got = node.gpuctl(mender);
            assert_eq!(node.open_changes(), Vec::<String>::new(), "{at}\n{got}");
            let text = format!("{}{}", got.stdout, got.stderr);
            let lines: Vec<&str> = text.lines().filter(|l| l.contains("broken off")).collect();
            if point != "rename:end:done" {
                let word = if done { "it is done" } else { "it is undone" };
                let one = matches!(lines.as_slice(), [line] if line.contains(word));
                assert!(one, "{at}: {lines:?}\n{got}");
            }
            // The same again, after it was undone, does it.
            let again = mender[0] == "rename" && !done;
            if done || again {
                gone(&node, "train", &at);
                let now = state::seen(&node, "learn").expect("it is there");
                assert_eq!(
                    now,
                    state::Seen { docker_name: "learn-1".into(), ..old },
                    "{at}\n{got}"
                );
                node.gpuctl_ok(&["rename", "learn", "train"]);
            }
            gone(&node, "learn", &at);
            assert_eq!(state::difference(&records, &state::ledger(&node)), [""; 0], "{at}\n{got}");
            let names = node.docker_ok(&["ps", "-a", "--format", "{{.Names}}"]);
            assert_eq!(names, "train-1", "{at}");
        }
    }
    node.check();
}

#[test]
fn killed_at_every_step_it_is_the_old_name_or_the_new() {
    if engine_runs_here() {
        killed_everywhere(Ledger::Sqlite);
    }
}

#[test]
fn killed_at_every_step_on_etcd_too() {
    if engine_runs_here() {
        killed_everywhere(Ledger::Etcd(1));
    }
}

#[test]
fn more_versions_than_a_commit_takes_follow_and_an_undo_that_is_killed_is_ended() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.gpuctl_ok(&["create", "--name", "train", "--gpus", "1", "busybox", "sleep", "100000"]);
    // As many as hundreds of changes leave: the last one's record, again and again.
    let store = node.store();
    let key = |n: u32| format!("/gpuctl/v1/nodes/node1/versions/train/{n:010}");
    let first = store.get(&key(0)).unwrap().expect("a version");
    let mut record: serde_json::Value = serde_json::from_slice(&first.value).unwrap();
    record["spec"]["Config"]["Padding"] = "x".repeat(40_000).into();
    for n in 1..300 {
        record["version"] = n.into();
        let put = gpuctl_ledger::store::Write::Put(key(n), serde_json::to_vec(&record).unwrap());
        let _ = store.commit(&[], &[put]).unwrap();
    }
    let records = state::ledger(&node);
    node.gpuctl_killed_at("rename:names:done", &["rename", "train", "learn"]);
    // The undo dies before its last commit, and again.
    for _ in 0..2 {
        node.gpuctl_killed_at("rename:names:done", &["start", "train"]);
    }
    let got = node.gpuctl(&["doctor", "--fix"]);
    assert!(got.stdout.contains("it is undone"), "{got}");
    assert_eq!(state::difference(&records, &state::ledger(&node)), [""; 0], "{got}");
    assert_eq!(node.gpuctl_ok(&["rename", "train", "learn"]), "learn-0");
    gone(&node, "train", "300 versions");
    assert_eq!(state::history(&node, "learn").len(), 300);
}

#[test]
fn two_renames_that_meet_end_with_one_container_and_one_name() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.gpuctl_ok(&run("aa", &[]));
    node.gpuctl_ok(&run("bb", &[]));
    // Crosswise, so that each wants the lock that the other has.
    for round in 0..6 {
        let mut first = node.spawn(&["gpuctl", "rename", "aa", "cc"]);
        let mut second = node.spawn(&["gpuctl", "rename", "bb", "cc"]);
        let mut third = node.spawn(&["gpuctl", "scale", "aa", "--gpus", "1"]);
        let codes = [&mut first, &mut second].map(|child| child.wait().unwrap().code());
        third.wait().unwrap();
        assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{round}: {codes:?}");
        let left = if codes[0] == Some(0) { "bb" } else { "aa" };
        let back = if codes[0] == Some(0) { "aa" } else { "bb" };
        assert!(state::seen(&node, left).is_some() && state::seen(&node, "cc").is_some());
        assert_eq!(node.open_changes(), Vec::<String>::new());
        node.gpuctl_ok(&["rename", "cc", back]);
        node.gpuctl_ok(&["scale", "aa", "--gpus", "2"]);
    }
    wait_for("no change is open", Duration::from_secs(5), || node.open_changes().is_empty());
    node.check();
}
