//! pause, commit, ports, rename and adopt on Engines newer than Debian 12's, whose endpoints, images and
//! names of runtimes are not quite the same.

use gpuctl_sim::engine;
use gpuctl_tests::newer::Debian;
use gpuctl_tests::{Node, Options, engine_runs_here, probe, state};

#[test]
fn on_the_engine_of_debian_trixie() {
    if !engine_runs_here() {
        return;
    }
    let Some(debian) = Debian::of("trixie") else { return };
    all(&debian, false, "21600-21619");
}

#[test]
fn on_the_engine_of_debian_sid_with_both_image_stores() {
    if !engine_runs_here() {
        return;
    }
    let Some(debian) = Debian::of("sid") else { return };
    all(&debian, false, "21620-21639");
    all(&debian, true, "21640-21659");
}

fn all(debian: &Debian, containerd_store: bool, range: &str) {
    let root = Some(debian.root());
    let engine = engine::Options { root, containerd_store, ..engine::Options::default() };
    let config = format!("[ports]\nrange = \"{range}\"\n");
    let node = Node::start(Options { engine, config, ..Options::default() });
    eprintln!("{}", node.docker_ok(&["version", "--format", "{{.Server.Version}}"]));

    let run =
        ["run", "-d", "--name", "train", "--gpus", "2", "--stop-signal", "KILL", "-p", "auto:22"];
    node.gpuctl_ok(&[&run[..], &["-v", "data:/data", "busybox", "sleep", "100000"]].concat());
    node.docker_ok(&["exec", "train-0", "sh", "-c", "echo tool >/tool"]);
    node.gpuctl_ok(&["pause", "train"]);
    node.gpuctl_ok(&["unpause", "train"]);
    let got = node.gpuctl(&["commit", "-c", "ENV A=b", "train", "tools/train:v1"]);
    assert!(got.code == 0 && got.stdout.starts_with("sha256:"), "{got}");
    assert!(got.stderr.contains("/data (volume data)"), "{got}");
    let label = "{{index .Config.Labels \"gpuctl.operation\"}}";
    assert_eq!(node.docker_ok(&["image", "inspect", "-f", label, "tools/train:v1"]), "");
    assert_eq!(node.docker_ok(&["run", "--rm", "tools/train:v1", "cat", "/tool"]), "tool");
    let port = node.gpuctl_ok(&["ports", "-q"]);
    let format = "{{(index (index .HostConfig.PortBindings \"22/tcp\") 0).HostPort}}";
    assert_eq!(node.docker_ok(&["inspect", "-f", format, "train-0"]), port);
    node.gpuctl_ok(&["rename", "train", "learn"]);
    node.gpuctl_ok(&["scale", "learn", "--gpus", "3"]);
    assert_eq!(state::seen(&node, "learn").unwrap().opens.len(), 3);
    node.gpuctl_ok(&["rm", "-f", "--history", "learn"]);
    assert_eq!(node.gpuctl_ok(&["ports", "-q"]), "");

    node.docker_ok(&["network", "create", "--subnet", "10.214.9.0/24", "lan"]);
    let fixed = ["--network", "lan", "--ip", "10.214.9.9"];
    let web = ["run", "-d", "--name", "web", "--gpus", "2", "--stop-signal", "KILL"];
    node.docker_ok(&[&web[..], &fixed, &["busybox", "sleep", "100000"]].concat());
    let before = node.leased_minors(&node.id("web"));
    node.gpuctl_ok(&["adopt", "web", "--name", "site"]);
    let place = "{{with .NetworkSettings.Networks.lan}}{{.IPAddress}}{{end}}";
    let is = "10.214.9.9";
    assert_eq!(node.docker_ok(&["inspect", "-f", place, "site-0"]), is);
    // The Engine's names of it: its DNS has no iptables here.
    let names = "{{json .NetworkSettings.Networks.lan.DNSNames}}";
    let names = node.docker_ok(&["inspect", "-f", names, "site-0"]);
    for name in ["\"web\"", "\"site\"", "\"site-0\""] {
        assert!(names.contains(name), "{names}");
    }
    node.gpuctl_ok(&["restart", "site"]);
    assert_eq!(node.docker_ok(&["inspect", "-f", place, "site-0"]), is);
    assert_eq!(probe::opens(&node, "site-0"), before);
    node.gpuctl_ok(&["scale", "site", "--gpus", "1"]);
    assert_eq!(state::seen(&node, "site").unwrap().opens.len(), 1);
    node.check();
}
