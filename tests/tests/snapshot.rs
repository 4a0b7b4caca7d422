//! snapshot: the writable layer of now is kept as this version's.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gpuctl_tests::newer::Debian;
use gpuctl_tests::node::wait_for;
use gpuctl_tests::served::{DAEMON, Served};
use gpuctl_tests::state;
use gpuctl_tests::{Node, Options, engine_runs_here};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn run(node: &Node) {
    let run = ["run", "-d", "--name", "train", "--gpus", "1", "--stop-signal", "KILL", "busybox"];
    node.gpuctl_ok(&[&run[..], &["sleep", "100000"]].concat());
    let script = "echo tool >/tool; chmod 4750 /tool; rm /bin/df; mkdir /d; ln /tool /d/same; mkfifo /d/f || true";
    node.docker_ok(&["exec", "train-0", "sh", "-c", script]);
}

/// The record of a kept layer.
fn kept(node: &Node, version: u32) -> Option<Value> {
    let key = format!("versions/train/{version:010}");
    state::ledger(node).get(&key)?.get("layer").cloned()
}

fn folder(layer: &Value) -> PathBuf {
    layer["path"].as_str().expect("a path").into()
}

/// All folders in the place of the layers.
fn folders(node: &Node) -> Vec<PathBuf> {
    let below = |path: &Path| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    below(&node.config().layers()).iter().flat_map(|name| below(name)).collect()
}

#[track_caller]
fn whole(layer: &Path) {
    assert_eq!(std::fs::read_to_string(layer.join("tool")).unwrap(), "tool\n");
    let meta = std::fs::metadata(layer.join("tool")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.nlink()), (0o4750, 2));
    assert_eq!(std::fs::metadata(layer.join("d/same")).unwrap().ino(), meta.ino());
    let gone = std::fs::symlink_metadata(layer.join("bin/df")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0, "a whiteout");
    let outside = std::fs::metadata(layer.parent().unwrap().parent().unwrap()).unwrap();
    assert_eq!((outside.uid(), outside.permissions().mode() & 0o077), (0, 0), "root's alone");
}

#[test]
fn what_is_kept_is_all_that_was_written() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    run(&node);
    let before = state::seen(&node, "train").unwrap();
    let got = node.gpuctl(&["snapshot", "train"]);
    assert_eq!((got.code, got.stdout.as_str()), (0, "train-0\n"), "{got}");
    let lines: Vec<&str> = got.stderr.lines().collect();
    assert!(lines[0].starts_with("keeping ") && lines[0].contains("stand still"), "{got}");
    assert!(lines[1].contains("files kept in "), "{got}");
    let first = folder(&kept(&node, 0).expect("it is kept"));
    whole(&first);
    assert_eq!(state::seen(&node, "train").unwrap(), before, "it runs on");
    assert_eq!(node.docker_ok(&["inspect", "-f", "{{.State.Status}}", "train-0"]), "running");
    // Again: that of now takes the place of the one before.
    node.docker_ok(&["exec", "train-0", "touch", "/later"]);
    node.gpuctl_ok(&["snapshot", "train-0"]);
    let second = folder(&kept(&node, 0).unwrap());
    assert!(second.join("later").exists() && !first.exists());
    // A version that was changed in place keeps files of its own by that only.
    node.gpuctl_ok(&["scale", "train", "--gpus", "2"]);
    assert_eq!(kept(&node, 1), None);
    node.gpuctl_ok(&["stop", "train"]);
    node.gpuctl_ok(&["snapshot", "train"]);
    whole(&folder(&kept(&node, 1).unwrap()));
    assert_eq!(folders(&node).len(), 2);
    // One that its user has paused stays so.
    node.gpuctl_ok(&["start", "train"]);
    node.gpuctl_ok(&["pause", "train"]);
    node.gpuctl_ok(&["snapshot", "train"]);
    assert_eq!(node.docker_ok(&["inspect", "-f", "{{.State.Status}}", "train-1"]), "paused");
    node.gpuctl_ok(&["unpause", "train"]);
    assert_eq!(node.gpuctl_ok(&["prune", "-f"]), "train-0");
    assert_eq!(folders(&node).len(), 1);
    node.gpuctl_ok(&["rename", "train", "learn"]);
    node.gpuctl_ok(&["rm", "-f", "--history", "learn"]);
    assert_eq!(folders(&node).len(), 0);
    assert_eq!(state::difference(&state::Records::new(), &state::ledger(&node)), [""; 0]);
    node.check();
}

#[test]
fn killed_at_every_step_nothing_half_is_left_and_nothing_stands_still() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    run(&node);
    node.gpuctl_ok(&["snapshot", "train"]);
    let status = || node.docker_ok(&["inspect", "-f", "{{.State.Status}}", "train-0"]);
    for mender in [&["start", "train"][..], &["doctor", "--fix"]] {
        for point in ["copy:begun", "copy:done", "end:done"] {
            let (layer, records) = (kept(&node, 0), state::ledger(&node));
            node.gpuctl_killed_at(&format!("snapshot:{point}"), &["snapshot", "train"]);
            let got = node.gpuctl(mender);
            assert_eq!(node.open_changes(), Vec::<String>::new(), "{point}\n{got}");
            assert_eq!(status(), "running", "{point}\n{got}");
            if point == "end:done" {
                assert_ne!(kept(&node, 0), layer);
                whole(&folder(&kept(&node, 0).unwrap()));
                node.gpuctl_ok(&["snapshot", "train"]);
                continue;
            }
            assert!(
                got.to_string().contains("snapshot of train was broken off: it is undone"),
                "{got}"
            );
            assert_eq!(
                state::difference(&records, &state::ledger(&node)),
                [""; 0],
                "{point}\n{got}"
            );
            whole(&folder(&layer.unwrap()));
        }
    }
    // In the middle of the copy, and by an interrupt there: it goes on at once.
    node.docker_ok(&[
        "exec",
        "train-0",
        "sh",
        "-c",
        "i=0; while [ $i -lt 20000 ]; do echo $i >/d/$i; i=$((i+1)); done",
    ]);
    let (layer, count) = (kept(&node, 0), folders(&node).len());
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        let mut command = std::process::Command::new(node.site().plugin());
        command.args(["gpuctl", "snapshot", "train"]).envs(node.site().engine().environment());
        let mut child = command.spawn().unwrap();
        wait_for("the pause", Duration::from_secs(10), || status() == "paused");
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let code = child.wait().unwrap().code();
        if signal == Signal::SIGINT {
            assert_eq!((code, status()), (Some(130), "running".to_owned()));
        } else {
            assert_eq!(status(), "paused");
            let got = node.gpuctl(&["start", "train"]);
            assert!(got.code == 0 && got.stderr.contains("it is undone"), "{got}");
            assert_eq!(status(), "running");
        }
        assert_eq!((kept(&node, 0), node.open_changes().len()), (layer.clone(), 0));
    }
    assert!(folders(&node).len() <= count, "{:?}", folders(&node));
    node.check();
}

#[test]
fn a_user_in_the_group_keeps_files_too() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    run(&served.node);
    served.ok(DAEMON, &["snapshot", "train"]);
    whole(&folder(&kept(&served.node, 0).unwrap()));
}

#[test]
fn with_containerds_image_store_too() {
    if !engine_runs_here() {
        return;
    }
    let Some(debian) = Debian::of("sid") else { return };
    let node = debian.containerd_node();
    node.gpuctl_ok(&["create", "--name", "train", "busybox", "sleep", "100000"]);
    let got = node.gpuctl(&["snapshot", "train"]);
    assert!(got.code == 1 && got.stderr.contains("train-0 has never run"), "{got}");
    node.gpuctl_ok(&["rm", "--history", "train"]);
    run(&node);
    node.gpuctl_ok(&["snapshot", "train"]);
    whole(&folder(&kept(&node, 0).unwrap()));
}
