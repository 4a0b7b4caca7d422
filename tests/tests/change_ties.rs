//! Changes of containers that hang on something else: on what their image says, on volumes that are gone
//! meanwhile, on other containers that were changed.

use gpuctl_tests::{Node, Options, engine_runs_here};
use serde_json::Value;

fn inspect(node: &Node, container: &str) -> Value {
    let text = node.docker_ok(&["inspect", container]);
    let mut all: Value = serde_json::from_str(&text).unwrap();
    all[0].take()
}

fn began(node: &Node, container: &str) -> Value {
    inspect(node, container)["State"]["StartedAt"].clone()
}

/// Is refused before anything is touched.
#[track_caller]
fn refused(node: &Node, container: &str, words: &[&str], why: &str) {
    let before = began(node, container);
    let got = node.gpuctl(words);
    assert!(got.code == 1 && got.stderr.contains(why), "{words:?}: {got}");
    assert_eq!(began(node, container), before, "{words:?}");
}

#[test]
fn what_the_image_says_comes_back_and_is_not_said_to_be_removed() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.docker_ok(&["create", "--name", "base", "busybox"]);
    let of_image = ["ENV MODE=image", "LABEL vendor=acme", "VOLUME /cache"];
    let changes: Vec<&str> = of_image.iter().flat_map(|change| ["--change", *change]).collect();
    node.docker_ok(&[&["commit"][..], &changes, &["base", "own"]].concat());
    node.gpuctl_ok(&["run", "-d", "--name", "train", "own", "sleep", "100000"]);
    for (flag, what) in [("--env-rm", "MODE"), ("--label-rm", "vendor"), ("--mount-rm", "/cache")] {
        refused(&node, "train-0", &["update", "train", flag, what], "the image");
    }
    node.gpuctl_ok(&["update", "train", "-t", "0", "--env", "MODE=own"]);
    node.gpuctl_ok(&["update", "train", "-t", "0", "--env-rm", "MODE"]);
    let env = inspect(&node, "train-2")["Config"]["Env"].to_string();
    assert!(env.contains("MODE=image"), "{env}");
    let history = node.gpuctl_ok(&["history", "train"]);
    assert!(!history.contains("removed"), "{history}");
    node.check();
}

#[test]
fn a_rollback_does_not_make_a_volume_that_is_gone() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    for volume in ["before", "after"] {
        node.docker_ok(&["volume", "create", volume]);
    }
    node.gpuctl_ok(&[
        "run",
        "-d",
        "--name",
        "train",
        "-v",
        "before:/d",
        "busybox",
        "sleep",
        "100000",
    ]);
    node.gpuctl_ok(&["update", "train", "-t", "0", "--volume", "before:after"]);
    node.gpuctl_ok(&["prune", "-f", "train"]);
    node.docker_ok(&["volume", "rm", "before"]);
    refused(&node, "train-1", &["rollback", "train"], "is not there any more");
    refused(&node, "train-1", &["rollback", "train", "--dry-run"], "is not there any more");
    let volumes = node.docker_ok(&["volume", "ls", "-q"]);
    assert!(!volumes.contains("before"), "{volumes}");
    node.docker_ok(&["volume", "create", "before"]);
    node.gpuctl_ok(&["rollback", "train", "-t", "0"]);
    node.check();
}

#[test]
fn a_container_that_another_one_names_is_followed_through_its_changes() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.gpuctl_ok(&["run", "-d", "--name", "main", "-v", "/vol", "busybox", "sleep", "100000"]);
    let beside = ["run", "-d", "--name", "side", "--volumes-from", "main-0"];
    let program = ["--network", "container:main-0", "busybox", "sleep", "100000"];
    node.gpuctl_ok(&[&beside[..], &program].concat());
    // In place: its name is another.
    node.gpuctl_ok(&["update", "main", "--memory", "64m"]);
    node.gpuctl_ok(&["update", "side", "-t", "0", "--env", "A=1"]);
    // By a new container: its id is another.
    node.gpuctl_ok(&["update", "main", "-t", "0", "--env", "A=1"]);
    node.gpuctl_ok(&["prune", "-f", "main"]);
    node.gpuctl_ok(&["update", "side", "-t", "0", "--env", "A=2"]);
    let (main, side) = (inspect(&node, "main-2"), inspect(&node, "side-2"));
    let id = main["Id"].as_str().unwrap();
    assert_eq!(side["HostConfig"]["NetworkMode"], format!("container:{id}"));
    assert_eq!(side["Mounts"][0]["Name"], main["Mounts"][0]["Name"]);
    assert_eq!(side["State"]["Running"], true);
    // Where it is gone, that is said before anything stops.
    node.gpuctl_ok(&["rm", "-f", "main"]);
    refused(&node, "side-2", &["update", "side", "--env", "A=3"], "has no such container");
    node.check();
}

#[test]
fn a_snapshot_is_part_of_the_plan_and_is_kept_only_where_something_changes() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.gpuctl_ok(&["run", "-d", "--name", "train", "busybox", "sleep", "100000"]);
    let nothing = node.gpuctl(&["update", "train", "--snapshot", "--restart", "no"]);
    assert!(nothing.code == 0 && nothing.stderr.contains("nothing to do"), "{nothing}");
    assert!(!nothing.stderr.contains("kept"), "{nothing}");
    let wrong = ["update", "train", "--snapshot", "--env-rm", "NONE"];
    let got = node.gpuctl(&wrong);
    assert!(got.code == 1 && !got.stderr.contains("kept"), "{got}");
    let plan = node.gpuctl_ok(&["update", "train", "--snapshot", "--memory", "64m", "--dry-run"]);
    assert!(plan.starts_with("keep the files of train-0 as version 0's: "), "{plan}");
    node.gpuctl_ok(&["update", "train", "--snapshot", "--memory", "64m"]);
    let history = node.gpuctl_ok(&["history", "train"]);
    assert!(history.contains("snapshot"), "{history}");
    node.check();
}
