//! Engines newer than Debian 12's 20.10, which take CDI devices: what a user of them does, on each
//! of those that Debian has. Every test goes through all its steps on one Engine, since making the
//! Engine's home costs more than they do; a failure names its step.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use gpuctl_ledger::model::LeaseState;
use gpuctl_sim::engine;
use gpuctl_tests::newer::Debian;
use gpuctl_tests::node::{run, wait_for};
use gpuctl_tests::{Node, Options, engine_runs_here, probe, state};

#[test]
fn the_engine_of_debian_trixie() {
    if !engine_runs_here() {
        return;
    }
    let Some(debian) = Debian::of("trixie") else { return };
    all(&node(&debian, false), "overlay2");
}

#[test]
fn the_engine_of_debian_sid_with_both_image_stores() {
    if !engine_runs_here() {
        return;
    }
    let Some(debian) = Debian::of("sid") else { return };
    all(&node(&debian, false), "overlay2");
    all(&node(&debian, true), "overlayfs");
}

fn node(debian: &Debian, containerd_store: bool) -> Node {
    let root = Some(debian.root());
    let engine = engine::Options { root, containerd_store, ..engine::Options::default() };
    Node::start(Options { engine, inventory: false, service: true, ..Options::default() })
}

fn all(node: &Node, driver: &str) {
    let version = node.docker_ok(&["version", "--format", "{{.Server.Version}}"]);
    eprintln!("Engine {version}, {driver}");
    let major: u32 = version.split('.').next().and_then(|n| n.parse().ok()).expect("a version");
    assert!(major >= 25, "{version} takes no CDI devices");
    assert_eq!(node.docker_ok(&["info", "--format", "{{.Driver}}"]), driver);
    // The service's first look writes the inventory.
    node.gpuctl_ok(&["doctor", "--fix"]);
    without_gpus(node);
    cdi_devices(node);
    cdi_in_other_words(node);
    gpus_flag(node);
    other_routes(node);
    managed(node);
    managed_by_others(node);
    stop_of_what_does_not_run(node);
    a_signal_of_ones_own(node);
    node.check();
}

/// What is printed of a test that fails ends in the step that failed.
fn step(name: &str) {
    eprintln!("step: {name}");
}

/// The minors that a running container has, which must be the same from all sides: what it can open
/// and what it shows, active leases of its own, and what the kernel lets through.
#[track_caller]
fn has(node: &Node, container: &str) -> BTreeSet<u32> {
    let opens = probe::opens(node, container);
    let id = node.id(container);
    assert_eq!(probe::shows(node, container), opens, "{container}'s /dev and what it opens");
    assert_eq!(node.leased_minors(&id), opens, "{container}'s leases and what it opens");
    let leases = node.leases();
    let mut own = leases.values().filter(|l| l.holder.container.as_str() == id);
    assert!(own.all(|l| l.state == LeaseState::Active), "{leases:#?}");
    if let Some(granted) = node.granted().get(&id) {
        assert_eq!(granted, &opens, "{container}: the kernel's word and the probe's");
    }
    opens
}

#[track_caller]
fn runs(node: &Node, name: &str, flags: &[&str]) -> BTreeSet<u32> {
    let got = run(node, name, flags);
    assert_eq!(got.code, 0, "{got}\n{}", node.site().engine().last_words());
    has(node, name)
}

/// Docker's refusal: 125, our name, on one line all the words expected; and nothing of it stays.
#[track_caller]
fn refused(node: &Node, name: &str, flags: &[&str], words: &[&str]) {
    let before = node.leases().len();
    let got = run(node, name, flags);
    assert_eq!(got.code, 125, "{got}");
    let line =
        got.stderr.lines().find(|l| l.contains("gpuctl: ")).unwrap_or_else(|| panic!("{got}"));
    for word in words {
        assert!(line.contains(word), "no {word:?} in\n{got}");
    }
    assert_eq!(node.leases().len(), before, "leases after a refusal");
    node.docker_ok(&["rm", name]);
}

/// Removes them. What stopped by hand keeps its GPUs for some seconds, in case that it is to start
/// again, and stays on the books until somebody looks: doctor does.
#[track_caller]
fn rm(node: &Node, names: &[&str]) {
    let ids: Vec<String> = names.iter().map(|n| node.id(n)).collect();
    node.docker_ok(&[&["rm", "-f"], names].concat());
    wait_for("the end of the leases", Duration::from_secs(15), || {
        node.gpuctl_ok(&["doctor", "--fix"]);
        node.leases().values().all(|l| !ids.iter().any(|id| id == l.holder.container.as_str()))
    });
}

fn cdi(node: &Node, index: usize) -> (String, BTreeSet<u32>) {
    (format!("nvidia.com/gpu={index}"), [node.minor(index)].into())
}

fn without_gpus(node: &Node) {
    step("a container without GPUs runs as ever");
    assert_eq!(node.docker_ok(&["run", "--rm", "busybox", "echo", "hello"]), "hello");
    assert_eq!(runs(node, "plain", &[]), [].into());
    assert_eq!(node.docker(&["run", "--rm", "busybox", "sh", "-c", "exit 7"]).code, 7);
    assert!(node.leases().is_empty());
    rm(node, &["plain"]);
}

/// The service cannot know that somebody stopped a container that waits for a start: no Engine writes it
/// down. If one does some day, it is to be heeded.
fn stop_of_what_does_not_run(node: &Node) {
    step("docker stop of a container that does not run");
    node.docker_ok(&["run", "--name", "off", "--restart", "on-failure:3", "busybox", "true"]);
    let before = state::written_by_docker(node, "off");
    node.docker_ok(&["stop", "off"]);
    assert_eq!(state::written_by_docker(node, "off"), before);
    assert!(!before.1, "{before:?}");
    rm(node, &["off"]);
}

/// stop and restart by a signal that is named: the container says which it got.
fn a_signal_of_ones_own(node: &Node) {
    step("a signal of one's own");
    let script = "trap 'echo got INT; exit 41' INT; trap 'echo got TERM; exit 42' TERM; echo ready; \
                  while :; do sleep 0.1; done";
    node.gpuctl_ok(&["run", "-d", "--name", "told", "--gpus", "1", "busybox", "sh", "-c", script]);
    let log = || node.docker_ok(&["logs", "told-0"]);
    let ready = |times: usize| {
        let is_ready = || log().matches("ready").count() == times;
        wait_for("its traps", Duration::from_secs(30), is_ready);
    };
    let state = "{{.State.Status}} {{.State.ExitCode}}";
    ready(1);
    let wrong = node.gpuctl(&["stop", "-s", "NOPE", "told"]);
    assert!(wrong.code == 1 && wrong.stderr.contains("NOPE"), "{wrong}");
    assert_eq!(node.docker_ok(&["inspect", "--format", state, "told-0"]), "running 0");
    node.gpuctl_ok(&["stop", "--signal", "INT", "told"]);
    assert_eq!(node.docker_ok(&["inspect", "--format", state, "told-0"]), "exited 41");
    node.gpuctl_ok(&["start", "told"]);
    ready(2);
    node.gpuctl_ok(&["restart", "-s", "SIGINT", "told"]);
    ready(3);
    assert_eq!(log(), "ready\ngot INT\nready\ngot INT\nready");
    node.gpuctl_ok(&["rm", "-f", "told"]);
}

fn cdi_devices(node: &Node) {
    step("--device nvidia.com/gpu=3 is GPU 3 and no other");
    let (three, minor) = cdi(node, 3);
    assert_ne!(minor, [3].into(), "a profile where index is not minor");
    assert_eq!(runs(node, "ca", &["--device", &three]), minor);
    let leases = node.leases();
    assert_eq!(leases.len(), 1, "{leases:#?}");

    step("the same GPU a second time is refused, by every route, naming the holder");
    let node3 = format!("/dev/nvidia{}", minor.first().expect("one"));
    let uuid = format!("nvidia.com/gpu={}", node.gpus()[3].uuid);
    for flags in [
        ["--device", three.as_str()],
        ["--device", &uuid],
        ["--device", &node3],
        ["--gpus", "device=3"],
        ["--device", "nvidia.com/gpu=all"],
        ["--gpus", "all"],
    ] {
        refused(node, "cb", &flags, &["GPU 3", "ca"]);
    }
    refused(node, "cb", &["--device", "nvidia.com/gpu=2", "--device", &three], &["GPU 3", "ca"]);

    step("docker restart and docker stop and start give it again");
    node.docker_ok(&["restart", "-t", "0", "ca"]);
    assert_eq!(has(node, "ca"), minor, "after a restart");
    node.docker_ok(&["stop", "-t", "0", "ca"]);
    node.docker_ok(&["start", "ca"]);
    assert_eq!(has(node, "ca"), minor, "after stop and start");

    step("rm -f gives it back");
    node.docker_ok(&["rm", "-f", "ca"]);
    wait_for("GPU 3", Duration::from_secs(15), || {
        node.docker(&["run", "--rm", "--device", &three, "busybox", "true"]).code == 0
    });
    assert_eq!(runs(node, "cb", &["--device", &three]), minor);
    rm(node, &["cb"]);
    assert!(node.leases().is_empty());
}

fn cdi_in_other_words(node: &Node) {
    step("by UUID, several, all");
    let uuid = &node.gpus()[4].uuid;
    assert_eq!(
        runs(node, "ca", &["--device", &format!("nvidia.com/gpu={uuid}")]),
        [node.minor(4)].into()
    );
    let two = ["--device", "nvidia.com/gpu=2", "--device", "nvidia.com/gpu=6"];
    assert_eq!(runs(node, "cb", &two), [node.minor(2), node.minor(6)].into());
    rm(node, &["ca", "cb"]);
    assert_eq!(runs(node, "ca", &["--device", "nvidia.com/gpu=all"]), (0..8).collect());
    refused(node, "cb", &["--device", "nvidia.com/gpu=0"], &["GPU 0", "ca"]);
    rm(node, &["ca"]);

    step("what CDI does not know is Docker's own refusal, and costs nobody a GPU");
    let got = run(node, "ca", &["--device", "nvidia.com/gpu=17"]);
    assert!(got.code == 125 && got.stderr.contains("nvidia.com/gpu=17"), "{got}");
    node.docker_ok(&["rm", "ca"]);
    assert!(node.leases().is_empty());

    step("beside --privileged; as a device request of the driver cdi, as Compose writes it");
    let (five, minor) = cdi(node, 5);
    assert_eq!(runs(node, "ca", &["--privileged", "--device", &five]), minor);
    refused(node, "cb", &["--gpus", "1", "--device", &five], &["ask in one way"]);
    rm(node, &["ca"]);
    assert_eq!(runs(node, "ca", &["--gpus", &format!("driver=cdi,\"device={five}\"")]), minor);
    rm(node, &["ca"]);

    step("the program sees what CDI says of its environment");
    let shown = node.docker_ok(&["run", "--rm", "--device", &five, "cuda-like", "env"]);
    assert!(shown.lines().any(|l| l == "NVIDIA_VISIBLE_DEVICES=void"), "{shown}");
}

fn gpus_flag(node: &Node) {
    step("--gpus 2 is two free ones, not 0 and 1");
    let zero = runs(node, "c0", &["--device", "nvidia.com/gpu=0"]);
    let a = runs(node, "ca", &["--gpus", "2"]);
    let b = runs(node, "cb", &["--gpus", "2"]);
    assert_eq!((a.len(), b.len()), (2, 2));
    assert!(a.is_disjoint(&b) && a.is_disjoint(&zero) && b.is_disjoint(&zero), "{a:?} {b:?}");
    refused(node, "cc", &["--gpus", "4"], &["4 GPUs asked for, 3 "]);

    step("--gpus device= is just those, or none");
    rm(node, &["c0", "ca", "cb"]);
    let wanted: BTreeSet<u32> = [node.minor(1), node.minor(5)].into();
    assert_eq!(runs(node, "ca", &["--gpus", "\"device=1,5\""]), wanted);
    refused(node, "cb", &["--gpus", "\"device=4,5\""], &["GPU 5", "ca"]);
    let uuid = format!("device={}", node.gpus()[7].uuid);
    assert_eq!(runs(node, "cb", &["--gpus", &uuid]), [node.minor(7)].into());
    rm(node, &["ca", "cb"]);
    assert_eq!(runs(node, "ca", &["--gpus", "all"]).len(), 8);
    rm(node, &["ca"]);
}

fn other_routes(node: &Node) {
    step("a device node, a wildcard rule, --privileged, an image that names all");
    assert_eq!(runs(node, "ca", &["--device", "/dev/nvidia6"]), [6].into());
    assert_eq!(runs(node, "cb", &["--device-cgroup-rule", "c 195:* rwm"]), [].into());
    assert_eq!(runs(node, "cc", &["--privileged"]), [].into());
    assert_eq!(runs(node, "cd", &["--privileged", "--gpus", "1"]).len(), 1);
    node.docker_ok(&["run", "-d", "--name", "ce", "cuda-like", "sleep", "100000"]);
    assert_eq!(has(node, "ce"), [].into());
    rm(node, &["ca", "cb", "cc", "cd", "ce"]);
}

fn managed(node: &Node) {
    step("docker gpuctl run; something is installed");
    let run =
        ["run", "-d", "--name", "train", "--gpus", "2", "--stop-timeout", "0", "busybox", "sleep"];
    node.gpuctl_ok(&[&run[..], &["100000"]].concat());
    let id = node.id("train-0");
    let two = has(node, "train-0");
    assert_eq!(two.len(), 2);
    let install = "mkdir -p /opt/tool && echo 'tool 1.0' >/opt/tool/version";
    node.gpuctl_ok(&["exec", "train", "sh", "-c", install]);
    let installed = |name: &str| {
        assert_eq!(node.id(name), id, "the same container");
        assert_eq!(node.gpuctl_ok(&["exec", "train", "cat", "/opt/tool/version"]), "tool 1.0");
    };

    step("docker gpuctl run takes no GPU by --device, and says what to type");
    let line = ["run", "-d", "--name", "other", "--device", "nvidia.com/gpu=5", "busybox", "true"];
    let got = node.gpuctl(&line);
    assert!(got.code == 125 && got.stderr.contains("hint: --gpus device=5"), "{got}");

    step("docker run beside it cannot have one of them");
    let taken = |minors: &BTreeSet<u32>, want: bool| {
        let found = node.gpus().iter().position(|g| minors.contains(&g.minor) == want);
        format!("nvidia.com/gpu={}", found.expect("a GPU"))
    };
    refused(node, "notebook", &["--device", &taken(&two, true)], &["train-0"]);
    let one = runs(node, "notebook", &["--device", &taken(&two, false)]);

    step("scale to more, to none, back");
    node.gpuctl_ok(&["scale", "train", "--gpus", "4"]);
    let four = has(node, "train-1");
    assert!(four.len() == 4 && four.is_superset(&two) && four.is_disjoint(&one), "{four:?}");
    installed("train-1");
    assert_eq!(node.gpuctl(&["scale", "train", "--gpus", "8"]).code, 1);
    assert_eq!(has(node, "train-1"), four, "a refused scale changes nothing");
    node.gpuctl_ok(&["scale", "train", "--gpus", "0"]);
    assert_eq!(has(node, "train-2"), [].into());
    installed("train-2");
    node.gpuctl_ok(&["scale", "train", "--gpus", "3"]);
    assert_eq!(has(node, "train-3").len(), 3);
    installed("train-3");

    step("stop gives them back, start takes them again, rm ends it");
    node.gpuctl_ok(&["stop", "train"]);
    wait_for("the three", Duration::from_secs(10), || node.leases().len() == 1);
    node.gpuctl_ok(&["start", "train"]);
    assert_eq!(has(node, "train-3").len(), 3);
    installed("train-3");
    node.gpuctl_ok(&["rm", "-f", "train"]);
    wait_for("the three", Duration::from_secs(10), || node.leases().len() == 1);
    assert_eq!(node.docker_ok(&["ps", "-a", "--format", "{{.Names}}"]), "notebook");
    rm(node, &["notebook"]);
}

fn managed_by_others(node: &Node) {
    step("a user who is not root, by the service");
    let group = std::fs::metadata(node.place().docker_socket()).expect("a socket").gid();
    let line = ["run", "-d", "--name", "theirs", "--gpus", "1", "busybox", "sleep", "100000"];
    let got = node.gpuctl_as(12345, group, &line);
    assert_eq!(got.code, 0, "{got}");
    assert_eq!(has(node, "theirs-0").len(), 1);
    assert_eq!(node.gpuctl_as(12345, group, &["rm", "-f", "theirs"]).code, 0);
}
