//! prune and rm: what is kept of older versions - retired containers, kept layers - goes when it is asked
//! to, and nothing else does.

use std::path::PathBuf;

use gpuctl_ledger::store::Write;
use gpuctl_tests::state::{self, Records};
use gpuctl_tests::{Node, Options, engine_runs_here};
use serde_json::{Value, json};

fn key(path: &str) -> String {
    format!("/gpuctl/v1/nodes/node1/{path}")
}

fn get(node: &Node, path: &str) -> Value {
    let entry = node.store().get(&key(path)).unwrap().unwrap_or_else(|| panic!("no {path}"));
    serde_json::from_slice(&entry.value).unwrap()
}

fn put(node: &Node, path: &str, record: &Value) {
    let put = Write::Put(key(path), serde_json::to_vec(record).unwrap());
    let _ = node.store().commit(&[], &[put]).unwrap();
}

/// The container `train` at version `to`, whose versions before are each a container of its own: what a
/// replace leaves. Version 0 has a kept layer, of which this is the folder.
fn replaced(node: &Node, to: u32) -> PathBuf {
    let run =
        ["run", "-d", "--name", "train", "--gpus", "1", "--stop-signal", "KILL", "-v", "/scratch"];
    node.gpuctl_ok(&[&run[..], &["busybox", "sleep", "100000"]].concat());
    node.docker_ok(&["exec", "train-0", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=3"]);
    let id = node.id("train-0");
    let (record, version, binding) = (
        get(node, "containers/train"),
        get(node, "versions/train/0000000000"),
        get(node, &format!("bindings/{id}")),
    );
    node.gpuctl_ok(&["stop", "train"]);
    let mut current = id;
    for n in 1..=to {
        let old = get(node, &format!("bindings/{current}"));
        put(node, &format!("bindings/{current}"), &with(&old, &[("retired", json!(true))]));
        let create = ["create", "--runtime", "gpuctl", "--volumes-from", &current, "--name"];
        let name = format!("train-{n}");
        let rest = [name.as_str(), "busybox", "sleep", "100000"];
        current = node.docker_ok(&[&create[..], &rest].concat());
        let is = [("container", json!(current)), ("version", json!(n))];
        put(node, "containers/train", &with(&record, &is));
        put(node, &format!("versions/train/{n:010}"), &with(&version, &is));
        put(node, &format!("bindings/{current}"), &with(&binding, &is));
    }
    let folder = node.config().layers().join("train/0");
    std::fs::create_dir_all(folder.join("usr")).unwrap();
    std::fs::write(folder.join("usr/tool"), "x").unwrap();
    let layer = json!({"path": folder, "bytes": 5_242_880, "at": "2026-11-22T00:52:04.854Z"});
    put(node, "versions/train/0000000000", &with(&version, &[("layer", layer)]));
    folder
}

fn with(record: &Value, fields: &[(&str, Value)]) -> Value {
    let mut record = record.clone();
    for (name, value) in fields {
        record[*name] = value.clone();
    }
    record
}

fn names(node: &Node) -> String {
    let mut list: Vec<String> = node
        .docker_ok(&["ps", "-a", "--format", "{{.Names}}"])
        .lines()
        .map(str::to_owned)
        .collect();
    list.sort();
    list.join(" ")
}

#[test]
fn older_containers_and_layers_go_by_age_and_number_and_never_unasked() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    assert!(node.gpuctl(&["prune"]).stderr.contains("nothing is kept"));
    let layer = replaced(&node, 3);
    node.gpuctl_ok(&["start", "train"]);
    node.gpuctl_ok(&["run", "-d", "--name", "other", "busybox", "sleep", "1000"]);
    let before = (names(&node), state::ledger(&node));
    let dry = node.gpuctl_ok(&["prune", "--dry-run"]);
    let rows: Vec<&str> = dry.lines().filter(|l| l.starts_with("train ")).collect();
    assert_eq!(rows.len(), 3, "{dry}");
    assert!(
        rows[0].contains("train-0") && rows[0].contains("kept") && rows[0].contains("8MB"),
        "{dry}"
    );
    let got = node.gpuctl(&["prune"]);
    assert!(got.code == 1 && got.stderr.contains("there is no terminal to ask"), "{got}");
    assert!(
        got.stderr.contains("train-1") && got.stdout.is_empty(),
        "it says what would go\n{got}"
    );
    for kept in [&["--keep", "3"][..], &["--older-than", "1d"], &["other"]] {
        let got = node.gpuctl(&[&["prune", "-f"], kept].concat());
        assert!(got.code == 0 && got.stderr.contains("nothing is kept"), "{got}");
    }
    assert_eq!(names(&node), before.0);
    assert_eq!(state::difference(&before.1, &state::ledger(&node)), [""; 0]);

    assert_eq!(node.gpuctl_ok(&["prune", "-f", "--keep", "2"]), "train-0");
    assert_eq!(names(&node), "other-0 train-1 train-2 train-3");
    assert!(!layer.exists() && !layer.parent().unwrap().exists());
    let version = get(&node, "versions/train/0000000000");
    assert!(
        version.get("layer").is_none() && version["why"] == "run",
        "its history stays: {version}"
    );
    assert_eq!(node.gpuctl_ok(&["prune", "-f", "train-3"]), "train-1\ntrain-2");
    assert_eq!(names(&node), "other-0 train-3");
    let bindings = state::ledger(&node).into_keys().filter(|k| k.starts_with("bindings/")).count();
    assert_eq!(bindings, 2);
    assert_eq!(state::history(&node, "train"), [0, 1, 2, 3]);
    node.check();
}

#[test]
fn killed_at_every_step_it_is_finished() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    for point in ["remove:begun", "remove:done", "end:done"] {
        for mender in [&["ps"][..], &["doctor", "--fix"], &["stop", "train"]] {
            let layer = replaced(&node, 2);
            node.gpuctl_killed_at(&format!("prune:{point}"), &["prune", "-f"]);
            let got = node.gpuctl(mender);
            if mender == ["ps"] {
                node.gpuctl_ok(&["doctor", "--fix"]);
            }
            assert_eq!(node.open_changes(), Vec::<String>::new(), "{point}\n{got}");
            assert_eq!(
                (names(&node), layer.exists()),
                ("train-2".to_owned(), false),
                "{point}\n{got}"
            );
            node.gpuctl_ok(&["rm", "-f", "--history", "train"]);
        }
    }
}

#[test]
fn rm_takes_all_that_is_kept_and_rename_all_that_is_named() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let layer = replaced(&node, 2);
    node.gpuctl_ok(&["rename", "train", "learn"]);
    assert_eq!(names(&node), "learn-0 learn-1 learn-2");
    assert!(!state::ledger(&node).values().any(|r| r["name"] == "train"));
    // The older one still says so, under the new name.
    let got = node.docker(&["start", "learn-0"]);
    assert!(got.code == 1 && got.stderr.contains("learn"), "{got}");
    assert!(layer.exists());
    let volumes = || node.docker_ok(&["volume", "ls", "-q"]);
    assert_eq!(volumes().lines().count(), 1);
    node.gpuctl_ok(&["rm", "-v", "learn"]);
    assert_eq!((names(&node), volumes()), (String::new(), String::new()));
    assert!(!layer.exists());
    assert_eq!(state::history(&node, "learn"), [0, 1, 2]);
    node.gpuctl_ok(&["rm", "--history", "learn"]);
    assert_eq!(state::difference(&Records::new(), &state::ledger(&node)), [""; 0]);
    // A layer that lies elsewhere is not touched, and is said.
    let _ = replaced(&node, 0);
    let version = get(&node, "versions/train/0000000000");
    let layer = json!({"path": "/etc", "bytes": 1, "at": "2026-11-22T00:52:04.854Z"});
    put(&node, "versions/train/0000000000", &with(&version, &[("layer", layer)]));
    let got = node.gpuctl(&["rm", "train"]);
    assert!(got.code == 1 && got.stderr.contains("/etc does not lie in"), "{got}");
    assert!(std::path::Path::new("/etc/passwd").exists());
    assert_eq!(node.open_changes(), Vec::<String>::new());
    node.check();
}
