//! The harness proves itself: an Engine with simulated GPUs comes up, runs containers, survives
//! what tests do to it, and leaves nothing behind.

use std::path::Path;

use gpuctl_sim::processes;
use gpuctl_tests::{Node, Options, engine_runs_here, probe};

fn bare() -> Options {
    Options { product: false, ..Options::default() }
}

#[test]
fn an_engine_runs_containers_and_leaves_nothing() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(bare());
    let place = node.place().clone();
    assert_eq!(node.docker_ok(&["run", "--rm", "busybox", "echo", "hello"]), "hello");
    node.docker_ok(&[
        "run",
        "-d",
        "--name",
        "stays",
        "--restart",
        "always",
        "busybox",
        "sleep",
        "1000",
    ]);
    assert!(processes::of(&place).len() >= 4, "dockerd, containerd, a shim and a sleep");
    assert!(!processes::cgroups(&place).is_empty());
    let bridge = Path::new("/sys/class/net").join(gpuctl_sim::bridge::name(&place));
    assert!(bridge.exists());
    drop(node);
    assert!(!bridge.exists());
    assert_eq!(processes::of(&place), Vec::<i32>::new());
    assert_eq!(processes::mounts(&place), Vec::<std::path::PathBuf>::new());
    assert_eq!(processes::cgroups(&place), Vec::<std::path::PathBuf>::new());
    assert!(!place.root().exists());
}

#[test]
fn the_engines_dev_is_the_nodes_and_the_hosts_stays_as_it_is() {
    if !engine_runs_here() {
        return;
    }
    let before = Path::new("/dev/nvidia3").exists();
    let node = Node::start(bare());
    node.docker_ok(&[
        "run",
        "-d",
        "--name",
        "one",
        "--device",
        "/dev/nvidia3",
        "busybox",
        "sleep",
        "1000",
    ]);
    node.docker_ok(&["run", "-d", "--name", "none", "busybox", "sleep", "1000"]);
    assert_eq!(probe::opens(&node, "one"), [3].into());
    assert_eq!(probe::shows(&node, "one"), [3].into());
    assert_eq!(probe::opens(&node, "none"), [].into());
    assert_eq!(node.granted()[&node.id("one")], [3].into(), "the kernel's word is the probe's");
    assert_eq!(node.granted()[&node.id("none")], [].into());
    assert_eq!(Path::new("/dev/nvidia3").exists(), before);
}

#[test]
fn containers_outlive_a_killed_engine_and_not_a_reboot() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(bare());
    node.docker_ok(&["run", "-d", "--name", "plain", "busybox", "sleep", "1000"]);
    node.docker_ok(&[
        "run",
        "-d",
        "--name",
        "always",
        "--restart",
        "always",
        "busybox",
        "sleep",
        "1000",
    ]);
    let boot = std::fs::read_to_string(node.place().boot_id()).unwrap();
    assert_eq!(node.granted().len(), 2);
    node.kill_engine();
    assert_eq!(node.granted().len(), 2, "the shims keep them");
    node.start_engine();
    node.reboot();
    assert_ne!(std::fs::read_to_string(node.place().boot_id()).unwrap(), boot);
    assert_eq!(node.docker_ok(&["ps", "--format", "{{.Names}}"]), "always");
}

#[test]
fn gpus_come_and_go_with_the_profile() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(bare());
    assert_eq!(node.gpus().len(), 8);
    assert!(node.place().dev().join("nvidia7").exists());
    node.set_profile("consumer2");
    assert_eq!(node.gpus().len(), 2);
    assert!(!node.place().dev().join("nvidia7").exists());
    assert!(node.place().dev().join("null").exists());
}

#[test]
fn a_privileged_container_can_open_everything_where_nobody_strips() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(bare());
    node.docker_ok(&["run", "-d", "--name", "all", "--privileged", "busybox", "sleep", "1000"]);
    assert_eq!(probe::opens(&node, "all"), (0..10).collect());
    assert_eq!(probe::shows(&node, "all"), (0..8).collect());
    assert_eq!(node.granted()[&node.id("all")], (0..8).collect());
}

#[test]
fn what_a_killed_test_left_is_swept_by_the_next() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(bare());
    node.docker_ok(&["run", "-d", "busybox", "sleep", "1000"]);
    let place = node.place().clone();
    std::mem::forget(node);
    // As if its maker had been another process, now gone.
    gpuctl_sim::files::write(&place.owner(), "1 999999999999\n").unwrap();
    gpuctl_sim::sweep::sweep(place.root().parent().unwrap()).unwrap();
    assert_eq!(processes::of(&place), Vec::<i32>::new());
    assert!(!place.root().exists());
}
