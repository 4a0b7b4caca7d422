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
    let run = ["run", "-d", "--name", "foreign", "--network", "container:main-0"];
    node.docker_ok(&[&run[..], &["busybox", "sleep", "100000"]].concat());
    // In place: its name is another. Nothing restarts, so nobody loses a network.
    let limits = node.gpuctl(&["update", "main", "--memory", "64m"]);
    assert!(limits.code == 0 && !limits.stderr.contains("loses it"), "{limits}");
    node.gpuctl_ok(&["update", "side", "-t", "0", "--env", "A=1"]);
    // By a new container: its id is another.
    let told = [
        "side-1 shares the network of main-1 and loses it: docker gpuctl update side --replace gives it that of main-2",
        "foreign shares the network of main-1 and loses it: made anew with --network container:main-2",
    ];
    let change = ["update", "main", "-t", "0", "--env", "A=1"];
    let plan = node.gpuctl_ok(&[&change[..], &["--dry-run"]].concat());
    let done = node.gpuctl(&change);
    assert_eq!(done.code, 0, "{done}");
    for line in told {
        assert!(
            plan.contains(line) && done.stderr.contains(&format!("warning: {line}")),
            "{plan}{done}"
        );
    }
    node.gpuctl_ok(&["prune", "-f", "main"]);
    node.gpuctl_ok(&["update", "side", "-t", "0", "--env", "A=2"]);
    let (main, side) = (inspect(&node, "main-2"), inspect(&node, "side-2"));
    let id = main["Id"].as_str().unwrap();
    assert_eq!(side["HostConfig"]["NetworkMode"], format!("container:{id}"));
    assert_eq!(side["Mounts"][0]["Name"], main["Mounts"][0]["Name"]);
    assert_eq!(side["State"]["Running"], true);
    // A restart takes the network of who shares it, until that one restarts too.
    let lost = node.gpuctl(&["scale", "main", "-t", "0", "--gpus", "1"]);
    let line = "side-2 shares the network of main-2 and loses it until docker gpuctl restart side";
    assert!(lost.code == 0 && lost.stderr.contains(line), "{lost}");
    let links = |container: &str| node.docker_ok(&["exec", container, "ls", "/sys/class/net"]);
    assert_eq!(links("side-2"), "lo", "it has lost it");
    node.gpuctl_ok(&["restart", "-t", "0", "side"]);
    assert!(links("side-2").contains("eth0"), "it has it again");
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

#[test]
fn what_docker_would_refuse_at_the_start_is_refused_while_the_container_runs() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = listener.local_addr().unwrap().port();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let program = ["busybox", "sleep", "100000"];
    let other = format!("127.0.0.1:{free}:80");
    node.docker_ok(&[&["run", "-d", "--name", "other", "-p", &other][..], &program].concat());
    let image = ["run", "-d", "--name", "train", "-p", "auto:22"];
    node.gpuctl_ok(&[&image[..], &program].concat());
    let nowhere = node.place().at("nowhere");
    let mount = format!("type=bind,src={},dst=/sets", nowhere.display());
    let why = format!("bind source path does not exist: {}", nowhere.display());
    refused(&node, "train-0", &["update", "train", "--mount-add", &mount], &why);
    let publish = format!("{busy}:80");
    refused(&node, "train-0", &["update", "train", "--publish", &publish], "by a process");
    let publish = format!("{free}:80");
    refused(&node, "train-0", &["update", "train", "--publish", &publish], "in use by other");
    // Another protocol, another address; and its own ports stay its own.
    let (udp, beside) = (format!("{busy}:80/udp"), format!("127.0.0.2:{busy}:80"));
    let update = ["update", "train", "-t", "0"];
    let more = ["--publish", &udp, "--publish", &beside];
    node.gpuctl_ok(&[&update[..], &more].concat());
    node.docker_ok(&["rm", "-f", "other"]);
    let moved = ["--publish-rm", "80", "--publish", &format!("127.0.0.2:{busy}:81")];
    node.gpuctl_ok(&[&update[..], &moved].concat());
    let binds = format!("{}:/sets", nowhere.display());
    node.gpuctl_ok(&[&update[..], &["--mount-add", &binds]].concat());
    assert!(nowhere.is_dir());
    let nothing = node.gpuctl(&["update", "train", "--restart", "no"]);
    assert!(nothing.code == 0 && nothing.stderr.contains("train is so already"), "{nothing}");
    node.gpuctl_ok(&["update", "train", "--cpus", "1"]);
    node.gpuctl_ok(&["update", "train", "-t", "0", "--cpus", "0", "--env", "EMPTY="]);
    assert_eq!(inspect(&node, "train-5")["HostConfig"]["NanoCpus"], 0);
    let diff = node.gpuctl_ok(&["diff", "train"]);
    assert!(diff.lines().any(|l| l.starts_with("env EMPTY") && l.contains("\"\"")), "{diff}");
    node.check();
}
