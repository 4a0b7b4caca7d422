//! Volumes on Engines newer than Debian 12's: the limit, a resize, a roll, what only they know (a folder of a
//! volume), and what they remove.

use std::process::Command;

use gpuctl_sim::engine;
use gpuctl_tests::newer::Debian;
use gpuctl_tests::node::LIMIT;
use gpuctl_tests::{Node, Options, Output, engine_runs_here};

fn inside(node: &Node, mount: &str, script: &str) -> String {
    let words = ["run", "--rm", "--network", "none", "--mount", mount, "busybox", "sh", "-c"];
    node.docker_ok(&[&words[..], &[script]].concat())
}

/// The host's CLI, outside the Engine's root: that has no programs for filesystems.
fn gpuctl(node: &Node, words: &[&str]) -> Output {
    let mut docker = Command::new("docker");
    docker.envs(node.site().engine().environment()).arg("gpuctl").args(words);
    gpuctl_sim::command::run(&mut docker, LIMIT).expect("it starts")
}

#[track_caller]
fn gpuctl_ok(node: &Node, words: &[&str]) -> String {
    let got = gpuctl(node, words);
    assert_eq!(got.code, 0, "{got}");
    got.stdout.trim().to_owned()
}

fn of(volume: &str) -> String {
    format!("type=volume,src={volume},dst=/v")
}

fn volumes(suite: &str, least: u32) {
    if !engine_runs_here() {
        return;
    }
    let Some(debian) = Debian::of(suite) else { return };
    // The devices of the host: loop devices are among them, GPUs not.
    let engine =
        engine::Options { root: Some(debian.root()), own_dev: false, ..engine::Options::default() };
    let node = Node::start(Options { engine, volumes: Some(""), ..Options::default() });
    let version = node.docker_ok(&["version", "--format", "{{.Server.Version}}"]);
    eprintln!("Engine {version}");
    let major: u32 = version.split('.').next().and_then(|n| n.parse().ok()).expect("a version");
    assert!(major >= least, "{version}");

    assert_eq!(gpuctl_ok(&node, &["volume", "create", "data", "--size", "32MB"]), "data-0");
    let fill = "dd if=/dev/zero of=/v/full bs=4096 2>/tmp/e; grep -c 'No space left' /tmp/e; stat -c %s /v/full; rm /v/full";
    let got = inside(&node, &of("data-0"), fill);
    let (full, bytes) = got.split_once('\n').expect("two lines");
    let room = 32 << 20;
    let bytes: u64 = bytes.parse().expect("a number");
    assert!(full == "1" && bytes <= room && room - bytes < 128 << 10, "{got}");

    inside(&node, &of("data-0"), "mkdir /v/sub; echo top >/v/f; echo below >/v/sub/f");
    let run = |name: &str, flags: &[&str]| {
        let words = ["run", "-d", "--name", name, "--network", "none", "--stop-signal", "KILL"];
        gpuctl_ok(&node, &[&words[..], flags, &["busybox", "sleep", "100000"]].concat());
    };
    let exec =
        |container: &str, script: &str| node.docker_ok(&["exec", container, "sh", "-c", script]);
    run("train", &["-v", "data-0:/data"]);
    run("reads", &["--volumes-from", "train-0:ro"]);
    run("part", &["--mount", "type=volume,src=data-0,dst=/sub,volume-subpath=sub,readonly"]);
    assert_eq!(exec("part-0", "cat /sub/f"), "below");
    let rolled = gpuctl(&node, &["volume", "resize", "data", "48MB", "--roll"]);
    assert_eq!((rolled.code, rolled.stdout.as_str()), (0, "data-1\n"), "{rolled}");
    exec("train-1", "echo new >/data/f; echo new below >/data/sub/f");
    let sees = "cat FILE; touch FILE 2>&1 | grep -c Read-only";
    assert_eq!(exec("reads-1", &sees.replace("FILE", "/data/f")), "new\n1");
    assert_eq!(exec("part-1", &sees.replace("FILE", "/sub/f")), "new below\n1");
    assert_eq!(inside(&node, &of("data-0"), "cat /v/f /v/sub/f"), "top\nbelow");
    let used = gpuctl(&node, &["volume", "rm", "data"]);
    assert!(used.code == 1 && used.stderr.contains("in use by part-1, reads-1, train-1"), "{used}");
    gpuctl_ok(&node, &["rm", "-f", "train", "reads", "part"]);
    gpuctl_ok(&node, &["prune", "-f"]);

    assert_eq!(gpuctl_ok(&node, &["volume", "resize", "data", "40MB", "--in-place"]), "data-1");
    // Docker's prune leaves volumes with options alone; somebody removes one all the same.
    node.docker_ok(&["container", "prune", "-f"]);
    node.docker_ok(&["volume", "prune", "--all", "-f"]);
    assert!(node.docker_ok(&["volume", "ls", "-q"]).contains("data-1"));
    node.docker_ok(&["volume", "rm", "data-1"]);
    gpuctl(&node, &["doctor", "--fix"]);
    assert_eq!(inside(&node, &of("data-1"), "cat /v/f"), "new");
    node.docker_ok(&["volume", "create", "old"]);
    inside(&node, &of("old"), "echo old >/v/f");
    gpuctl_ok(&node, &["volume", "adopt", "old"]);
    assert_eq!(gpuctl_ok(&node, &["volume", "resize", "old", "16MB"]), "old-1");
    assert_eq!(inside(&node, &of("old-1"), "cat /v/f"), "old");
    gpuctl_ok(&node, &["volume", "rm", "--history", "old", "data"]);
    assert_eq!(node.docker_ok(&["volume", "ls", "-q"]), "");
    node.check();
}

#[test]
fn volumes_on_the_engine_of_debian_trixie() {
    volumes("trixie", 26);
}

#[test]
fn volumes_on_the_engine_of_debian_sid() {
    volumes("sid", 28);
}
