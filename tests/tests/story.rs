//! The story that README and quickstart tell, with the same commands, on both ledgers.

use std::collections::BTreeSet;
use std::time::Duration;

use gpuctl_tests::node::wait_for;
use gpuctl_tests::{Ledger, Node, Options, engine_runs_here, probe};

/// The GPUs of the managed container at this name in Docker, from all three sides.
#[track_caller]
fn has(node: &Node, docker_name: &str) -> BTreeSet<u32> {
    let opens = probe::opens(node, docker_name);
    assert_eq!(node.leased_minors(&node.id(docker_name)), opens, "{docker_name}'s leases");
    assert_eq!(probe::shows(node, docker_name), opens, "{docker_name}'s /dev");
    opens
}

fn story(ledger: Ledger) {
    if !engine_runs_here() {
        return;
    }
    let node =
        Node::start(Options { ledger, inventory: false, service: true, ..Options::default() });
    let listed = node.gpuctl_ok(&["gpus", "--format", "json"]);
    for gpu in node.gpus() {
        assert!(listed.contains(&gpu.uuid), "{listed}");
    }

    // Three GPUs; something is installed.
    let shown = node.gpuctl(&[
        "run",
        "-d",
        "--name",
        "train",
        "--gpus",
        "3",
        "--stop-timeout",
        "0",
        "busybox",
        "sleep",
        "100000",
    ]);
    assert_eq!(shown.code, 0, "{shown}");
    assert!(shown.to_string().contains("train-0"), "the name in Docker is told\n{shown}");
    let id = node.id("train-0");
    assert!(shown.stdout.contains(&id), "the id, as docker run -d prints it\n{shown}");
    let three = has(&node, "train-0");
    assert_eq!(three.len(), 3);
    let install = "mkdir -p /opt/tool && echo 'tool 1.0' >/opt/tool/version";
    node.gpuctl_ok(&["exec", "train", "sh", "-c", install]);
    let installed = |node: &Node| {
        assert_eq!(node.gpuctl_ok(&["exec", "train", "cat", "/opt/tool/version"]), "tool 1.0");
    };

    // Two for somebody else; then not four more.
    node.docker_ok(&[
        "run", "-d", "--name", "notebook", "--gpus", "2", "busybox", "sleep", "100000",
    ]);
    let two = has(&node, "notebook");
    assert!(two.len() == 2 && two.is_disjoint(&three));
    let no = node.docker(&["run", "--rm", "--gpus", "4", "busybox", "true"]);
    assert_eq!(no.code, 125, "{no}");
    assert!(no.stderr.contains("gpuctl: ") && no.stderr.contains("3"), "{no}");
    let no = node.gpuctl(&["run", "-d", "--name", "more", "--gpus", "4", "busybox", "true"]);
    assert_eq!(no.code, 125, "{no}");
    assert!(no.stderr.contains("hint: "), "{no}");
    assert!(node.docker_ok(&["ps", "-aq", "--filter", "name=more"]).is_empty(), "nothing changed");

    // Five: the same container, what was installed is there.
    let scaled = node.gpuctl(&["scale", "train", "--gpus", "5"]);
    assert_eq!(scaled.code, 0, "{scaled}");
    assert!(scaled.to_string().contains("restart"), "it says that processes restart\n{scaled}");
    let five = has(&node, "train-1");
    assert!(five.len() == 5 && five.is_superset(&three) && five.is_disjoint(&two));
    assert_eq!(node.id("train-1"), id);
    installed(&node);
    node.check_exclusive();

    // More than there are: untouched.
    let started =
        |node: &Node| node.docker_ok(&["inspect", "--format", "{{.State.StartedAt}}", "train-1"]);
    let before = started(&node);
    assert_eq!(node.gpuctl(&["scale", "train", "--gpus", "7"]).code, 1);
    assert_eq!(
        node.gpuctl(&["scale", "train", "--gpus", "5"]).code,
        0,
        "the same number is no error"
    );
    assert_eq!(node.gpuctl(&["scale", "train", "--gpus", "2", "--dry-run"]).code, 0);
    assert_eq!((started(&node), has(&node, "train-1")), (before, five));

    // To none and back.
    node.gpuctl_ok(&["scale", "train", "--gpus", "0"]);
    assert_eq!(has(&node, "train-2"), [].into());
    installed(&node);
    wait_for("the five", Duration::from_secs(10), || node.leases().len() == 2);
    node.gpuctl_ok(&["scale", "train", "--gpus", "3"]);
    let back = has(&node, "train-3");
    assert_eq!(back.len(), 3);

    // Stop gives them back, somebody takes them, start takes others.
    node.gpuctl_ok(&["stop", "train"]);
    wait_for("the three", Duration::from_secs(10), || node.leases().len() == 2);
    let devices: Vec<String> = node
        .gpus()
        .iter()
        .enumerate()
        .filter(|(_, g)| back.contains(&g.minor))
        .map(|(index, _)| index.to_string())
        .collect();
    let devices = format!("\"device={}\"", devices.join(","));
    node.docker_ok(&[
        "run", "-d", "--name", "other", "--gpus", &devices, "busybox", "sleep", "100000",
    ]);
    assert_eq!(has(&node, "other"), back);
    node.gpuctl_ok(&["start", "train"]);
    let others = has(&node, "train-3");
    assert!(others.len() == 3 && others.is_disjoint(&back));
    installed(&node);
    assert_eq!(node.id("train-3"), id);
    node.check();

    // What is told about it.
    let ps = node.gpuctl_ok(&["ps"]);
    assert!(ps.contains("train"), "{ps}");
    let history = node.gpuctl_ok(&["history", "train"]);
    assert!(history.lines().count() >= 4, "versions 0 to 3\n{history}");

    // rm refuses what runs, and then forgets only what it is told to.
    let no = node.gpuctl(&["rm", "train"]);
    assert_eq!(no.code, 1, "{no}");
    assert_eq!(has(&node, "train-3"), others);
    node.gpuctl_ok(&["rm", "-f", "train"]);
    wait_for("train's GPUs", Duration::from_secs(10), || node.leases().len() == 5);
    assert!(node.gpuctl_ok(&["history", "train"]).lines().count() >= 4, "history stays");
    node.gpuctl_ok(&["run", "-d", "--from", "train", "--name", "again"]);
    assert_eq!(has(&node, "again-0").len(), 3);
    node.check();
}

#[test]
fn the_story_on_sqlite() {
    story(Ledger::Sqlite);
}

#[test]
fn the_story_on_etcd() {
    story(Ledger::Etcd(1));
}

#[test]
fn wrong_use_is_told_and_changes_nothing() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.gpuctl_ok(&["run", "-d", "--name", "train", "--gpus", "1", "busybox", "sleep", "100000"]);
    let containers = || node.docker_ok(&["ps", "-a", "--format", "{{.ID}} {{.Names}} {{.State}}"]);
    let before = (node.leases(), containers());
    let wrong: [(&[&str], i32); 11] = [
        (&["run", "-d", "--name", "train", "--gpus", "1", "busybox", "true"], 125),
        (&["run", "-d", "--name", "big", "--gpus", "9", "busybox", "true"], 125),
        (&["run", "-d", "--name", "many", "--gpus", "8", "busybox", "true"], 125),
        (&["run", "-d", "--name", "image", "--gpus", "1", "no-such-image:x", "true"], 125),
        (&["run", "-d", "--name", "word", "--gpus", "some", "busybox", "true"], 125),
        (&["scale", "nobody", "--gpus", "1"], 1),
        (&["scale", "train-7", "--gpus", "2"], 1),
        (&["scale", "train"], 1),
        (&["stop", "nobody"], 1),
        (&["rm", "train"], 1),
        (&["fly"], 1),
    ];
    for (arguments, code) in wrong {
        let got = node.gpuctl(arguments);
        assert_eq!(got.code, code, "{got}");
        assert!(!got.stderr.is_empty(), "{got}");
        if code == 1 {
            assert!(got.stderr.contains("error: ") && got.stderr.contains("hint: "), "{got}");
        }
    }
    assert_eq!((node.leases(), containers()), before);
    node.check();
}

#[test]
fn others_than_root_are_served_over_the_socket() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options { service: true, ..Options::default() });
    use std::os::unix::fs::MetadataExt as _;
    let socket = std::fs::metadata(node.place().socket()).unwrap();
    assert_eq!(socket.mode() & 0o007, 0, "others have no access to the socket");
    let group = std::fs::metadata(node.place().docker_socket()).unwrap().gid();
    assert_eq!(socket.gid(), group, "the socket's group is docker's");
    let run = [
        "run",
        "-d",
        "--name",
        "theirs",
        "--gpus",
        "2",
        "--stop-timeout",
        "0",
        "busybox",
        "sleep",
        "100000",
    ];
    let got = node.gpuctl_as(12345, group, &run);
    assert_eq!(got.code, 0, "{got}");
    assert_eq!(has(&node, "theirs-0").len(), 2);
    let got = node.gpuctl_as(12345, group, &["scale", "theirs", "--gpus", "3"]);
    assert_eq!(got.code, 0, "{got}");
    assert_eq!(has(&node, "theirs-1").len(), 3);
    let got = node.gpuctl_as(12345, 54321, &["ps"]);
    assert_ne!(got.code, 0, "who may not talk to Docker may not talk to the service\n{got}");
    node.kill_service();
    let got = node.gpuctl_as(12345, group, &["ps"]);
    assert_eq!(got.code, 1, "{got}");
    assert!(got.stderr.contains("hint: "), "without a service it is said what to do\n{got}");
    assert_eq!(node.gpuctl(&["ps"]).code, 0, "root needs none");
    node.check();
}
