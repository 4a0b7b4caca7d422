//! update, rollback, history and diff: what a container was, what it is, and nothing lost between.

use gpuctl_tests::probe;
use gpuctl_tests::{Node, Options, engine_runs_here, state};
use serde_json::Value;

/// What was written into the container, seen from within.
const FILES: &str = "cat /tool; stat -c '%a %h' /tool /d/same; ls /bin/df 2>/dev/null || echo gone";
const SEEN: &str = "tool\n4750 2\n4750 2\ngone";

fn node() -> Node {
    Node::start(Options {
        config: "[ports]\nrange = \"21800-21809\"\n".into(),
        ..Options::default()
    })
}

/// `train` with two GPUs, files of its own, a named and an anonymous volume.
fn run(node: &Node, more: &[&str]) {
    let words =
        ["run", "-d", "--name", "train", "--gpus", "2", "--stop-signal", "KILL", "-e", "A=1"];
    let volumes = ["-v", "data:/data", "-v", "/scratch", "--restart", "unless-stopped"];
    let command = ["busybox", "sleep", "100000"];
    node.gpuctl_ok(&[&words[..], &volumes, more, &command].concat());
    let script = "echo tool >/tool; chmod 4750 /tool; rm /bin/df; mkdir /d; ln /tool /d/same; \
                  echo x >/data/x; echo y >/scratch/y";
    node.docker_ok(&["exec", "train-0", "sh", "-c", script]);
}

fn within(node: &Node, container: &str, script: &str) -> String {
    node.docker_ok(&["exec", container, "sh", "-c", script])
}

/// How many GPUs it can open, and that these are the ones that it holds.
#[track_caller]
fn opens(node: &Node, container: &str) -> usize {
    let opens = probe::opens(node, container);
    assert_eq!(opens, node.leased_minors(&node.id(container)), "{container}");
    opens.len()
}

fn inspect(node: &Node, container: &str) -> Value {
    let text = node.docker_ok(&["inspect", container]);
    let mut all: Value = serde_json::from_str(&text).unwrap();
    all[0].take()
}

#[test]
fn limits_change_without_a_restart_and_back() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    run(&node, &["--memory", "64m"]);
    let before = inspect(&node, "train-0");
    let got = node.gpuctl(&[
        "update",
        "train",
        "--memory",
        "128m",
        "--cpus",
        "1.5",
        "--restart",
        "always",
    ]);
    assert_eq!((got.code, got.stdout.as_str()), (0, "train-1\n"), "{got}");
    let after = inspect(&node, "train-1");
    assert_eq!(after["State"]["StartedAt"], before["State"]["StartedAt"], "nothing restarts");
    assert_eq!(after["HostConfig"]["Memory"], 128 << 20);
    assert_eq!(after["HostConfig"]["NanoCpus"], 1_500_000_000);
    assert_eq!(after["HostConfig"]["RestartPolicy"]["Name"], "always");
    // Limits and GPUs together are one change.
    node.gpuctl_ok(&["update", "train", "--memory", "256m", "--gpus", "3"]);
    assert_eq!(opens(&node, "train-2"), 3);
    assert_eq!(inspect(&node, "train-2")["HostConfig"]["Memory"], 256 << 20);
    let history = node.gpuctl_ok(&["history", "train"]);
    assert!(history.contains("memory 64MB -> 128MB"), "{history}");
    let again = node.gpuctl(&["update", "train", "--memory", "256m"]);
    assert!(again.code == 0 && again.stderr.contains("nothing to do"), "{again}");
    assert_eq!(node.gpuctl(&["update", "train"]).code, 1);
    // What Docker refuses leaves all as it was.
    let refused = node.gpuctl(&["update", "train", "--memory", "1k"]);
    assert_eq!(refused.code, 1, "{refused}");
    assert_eq!(inspect(&node, "train-2")["HostConfig"]["Memory"], 256 << 20);
    assert_eq!(opens(&node, "train-2"), 3);
    node.check();
}

#[test]
fn a_new_container_has_all_that_the_old_one_had_but_the_change() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    run(&node, &["-p", "auto:22", "--shm-size", "65m", "--cap-add", "SYS_TIME"]);
    let old = inspect(&node, "train-0");
    let plan = node.gpuctl(&["update", "train", "--env", "A=2", "--dry-run"]);
    assert!(plan.stdout.contains("by a new container train-1"), "{plan}");
    assert_eq!(inspect(&node, "train-0")["State"]["StartedAt"], old["State"]["StartedAt"]);
    let words = ["update", "train", "--env", "A=2", "--gpus", "3", "--publish", "auto:80"];
    let got = node.gpuctl(&words);
    assert_eq!((got.code, got.stdout.as_str()), (0, "train-1\n"), "{got}");
    assert_eq!(within(&node, "train-1", FILES), SEEN);
    assert_eq!(
        within(&node, "train-1", "echo $A; hostname; cat /data/x /scratch/y"),
        "2\ntrain\nx\ny"
    );
    assert_eq!(opens(&node, "train-1"), 3);
    let new = inspect(&node, "train-1");
    for field in ["ShmSize", "CapAdd", "Binds", "Runtime", "RestartPolicy"] {
        assert_eq!(new["HostConfig"][field], old["HostConfig"][field], "{field}");
    }
    let volume = |shown: &Value| {
        let mounts = shown["Mounts"].as_array().unwrap().clone();
        mounts.iter().find(|m| m["Destination"] == "/scratch").unwrap()["Name"].clone()
    };
    assert_eq!(volume(&new), volume(&old), "the anonymous volume is the same one");
    assert_eq!(node.gpuctl_ok(&["ports", "-q"]).lines().count(), 2);
    // The old one is kept, stopped, and may not be started: its port is the new one's, and so its name.
    let kept = inspect(&node, "train-0");
    assert_eq!(kept["State"]["Status"], "exited");
    assert_eq!(kept["HostConfig"]["RestartPolicy"]["Name"], "no");
    let refused = node.docker(&["start", "train-0"]);
    assert_eq!(refused.code, 1, "{refused}");
    // Another change: what one has written since is there too, and the ports are given back.
    within(&node, "train-1", "echo more >>/tool");
    let words =
        ["update", "train", "--env-rm", "A", "--publish-rm", "80", "--mount-add", "sets:/sets"];
    node.gpuctl_ok(&words);
    assert_eq!(
        within(&node, "train-2", "cat /tool; echo $A; cat /scratch/y; ls -d /sets"),
        "tool\nmore\n\ny\n/sets"
    );
    assert_eq!(node.gpuctl_ok(&["ports", "-q"]).lines().count(), 1);
    let diff = node.gpuctl_ok(&["diff", "train"]);
    assert!(diff.contains("env A") && diff.contains("mount /sets"), "{diff}");
    // Back to the beginning, the files of now; then with the files of version 1.
    node.gpuctl_ok(&["rollback", "train", "0"]);
    assert_eq!(within(&node, "train-3", "cat /tool; echo $A"), "tool\nmore\n1");
    assert_eq!(opens(&node, "train-3"), 2);
    node.gpuctl_ok(&["rollback", "train", "0", "--files"]);
    assert_eq!(within(&node, "train-4", "cat /tool; echo $A"), "tool\n1");
    let history = node.gpuctl_ok(&["history", "train"]);
    assert!(
        history.contains("rollback to 0 with its files") && history.contains("container"),
        "{history}"
    );
    assert_eq!(node.gpuctl(&["rollback", "train", "9"]).code, 1);
    node.gpuctl_ok(&["rm", "-f", "-v", "train"]);
    assert_eq!(node.docker_ok(&["ps", "-aq", "--filter", "name=train"]), "");
    // The rollback took a mount away, and from there on the anonymous volume was named: it stays.
    let left = node.docker_ok(&["volume", "ls", "-q", "--filter", "dangling=true"]);
    let mut expected = vec!["data".to_owned(), "sets".to_owned()];
    expected.push(volume(&old).as_str().unwrap().to_owned());
    expected.sort();
    assert_eq!(left.lines().collect::<Vec<_>>(), expected);
    node.check();
}

#[test]
fn anonymous_volumes_stay_anonymous_over_a_change() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    run(&node, &[]);
    node.gpuctl_ok(&["update", "train", "--replace"]);
    node.gpuctl_ok(&["update", "train", "--replace"]);
    assert_eq!(within(&node, "train-2", FILES), SEEN);
    assert_eq!(within(&node, "train-2", "cat /scratch/y"), "y");
    node.gpuctl_ok(&["rm", "-f", "-v", "train"]);
    assert_eq!(node.docker_ok(&["volume", "ls", "-q"]), "data", "rm -v takes the anonymous one");
    node.check();
}

#[test]
fn what_cannot_be_replaced_goes_on_as_it_was() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    run(&node, &[]);
    let before = (state::ledger(&node), state::containers(&node));
    for (words, why) in [
        (&["--image", "nowhere:1"][..], "is not on this host"),
        (&["--env-rm", "NONE"], "not set"),
        (&["--mount-rm", "/none"], "nothing is mounted"),
        (&["--gpus", "99", "--env", "A=3"], "99 GPUs asked for"),
    ] {
        let got = node.gpuctl(&[&["update", "train"][..], words].concat());
        assert!(got.code == 1 && got.stderr.contains(why), "{got}");
    }
    assert_eq!((state::ledger(&node), state::containers(&node)), before);
    // One that fails when it is stopped already runs again: Docker knows no such mode.
    let got = node.gpuctl(&["update", "train", "--mount-add", "/tmp:/x:nonsense"]);
    assert!(got.code == 1 && got.stderr.contains("runs again as it was"), "{got}");
    assert_eq!(within(&node, "train-0", FILES), SEEN);
    assert_eq!(opens(&node, "train-0"), 2);
    assert_eq!(inspect(&node, "train-0")["HostConfig"]["RestartPolicy"]["Name"], "unless-stopped");
    node.check();
}

#[test]
fn killed_at_every_step_it_is_the_old_or_the_new() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    run(&node, &[]);
    let mut version = 0;
    for step in ["ports", "claim", "stop", "create", "carry", "start", "record"] {
        for when in ["begun", "done"] {
            let at = format!("replace:{step}:{when}");
            let words = ["update", "train", "--env", "B=2", "--gpus", "3", "--publish", "auto:80"];
            node.gpuctl_killed_at(&at, &words);
            // The next command brings it to its end.
            let got = node.gpuctl(&["start", "train"]);
            assert_eq!(got.code, 0, "{at}: {got}");
            assert!(node.open_changes().is_empty(), "{at}");
            let list = node.docker_ok(&["ps", "--format", "{{.Names}}"]);
            let (is, gpus, ports) = if list == format!("train-{version}") {
                (list, 2, 0)
            } else {
                assert_eq!(list, format!("train-{}", version + 1), "{at}: {got}");
                (list, 3, 1)
            };
            assert_eq!(within(&node, &is, FILES), SEEN, "{at}");
            assert_eq!(opens(&node, &is), gpus, "{at}");
            assert_eq!(node.gpuctl_ok(&["ports", "-q"]).lines().count(), ports, "{at}");
            node.check();
            if gpus == 3 {
                node.gpuctl_ok(&["rollback", "train"]);
                version += 2;
            }
        }
    }
}
