//! Commands of the documentation that change the host: the packages are installed, upgraded and removed, and an
//! etcd is restored, each on a stage of its own. See tests/src/pages.rs for what a block means.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gpuctl_sim::command;
use gpuctl_tests::hosts::{default_runtime, host_with};
use gpuctl_tests::node::LIMIT;
use gpuctl_tests::packages::have;
use gpuctl_tests::sshd::free_port;
use gpuctl_tests::story::{Aside, Story};
use gpuctl_tests::{Ledger, Node, Options, engine_runs_here, probe, programs, skip};

fn options() -> Options {
    Options { service: true, name: "gpu1", ..Options::default() }
}

/// Where packages put the plugin.
const PLUGIN: &str = "/usr/libexec/docker/cli-plugins/docker-gpuctl";

/// What dpkg says of the package: its state and version.
fn installed() -> String {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${db:Status-Status} ${Version}", "docker-gpuctl"]);
    command::run(&mut query, LIMIT).expect("dpkg-query runs").stdout
}

/// Whether apt would find the Engine that the deb depends on without fetching it.
fn apt_has_docker() -> bool {
    ["docker.io", "docker-ce", "moby-engine"].iter().any(|name| {
        let mut query = Command::new("dpkg-query");
        query.args(["-W", "-f", "${db:Status-Status}", name]);
        command::run(&mut query, LIMIT).is_ok_and(|got| got.stdout == "installed")
    })
}

/// A checkout of the source, of which `packaging/build` takes the programs that the tests have built, and
/// makes the deb once.
fn lay_out_source(folder: &Path) {
    let file = folder.join("packaging/build");
    let from = programs::programs().hook;
    let script = format!(
        "#!/bin/sh\nto=$PWD/target/package\n! ls $to/*.deb 2>/dev/null || [ $# != 1 ] || exit 0\n\
         exec {}/packaging/build --only deb --fast --programs {} --out $to \"$@\"\n",
        programs::repository().display(),
        from.parent().expect("a folder of programs").display()
    );
    fs::create_dir_all(folder.join("packaging")).expect("a folder");
    gpuctl_sim::files::write(&file, &script).expect("written");
    gpuctl_sim::files::install(&file.clone(), &file).expect("written");
}

#[test]
fn install() {
    if !engine_runs_here() || !have(&["apt", "dpkg-deb"]) {
        return;
    }
    if !apt_has_docker() {
        return skip("apt does not know this machine's Docker: it is no package");
    }
    let aside = Aside::with_programs();
    let node = host_with("{}", options());
    aside.shows(&node);
    let story = Story::on(&node).with("DEBIAN_FRONTEND", "noninteractive".into());
    lay_out_source(story.folder());
    // As one who answers apt with Y.
    let yes = "APT::Get::Assume-Yes \"true\";\n";
    fs::write("/etc/apt/apt.conf.d/99yes", yes).expect("written");
    // From here on Docker has the plugin that a package brings, or none.
    let own = node.site().plugin();
    let kept = node.place().at("plugin");
    fs::rename(&own, &kept).expect("moved");
    assert!(!Path::new(PLUGIN).exists(), "this machine has one");

    story.runs("docs/guide/install.md");
    assert_eq!(default_runtime(&node), "runc", "removed with its setup");
    assert!(!Path::new(PLUGIN).exists() && installed().starts_with("config-files "));

    story.runs_apart("README.md", "install");
    assert_eq!(default_runtime(&node), "gpuctl-gate");
    node.gpuctl_ok(&["run", "-d", "--name", "one", "--gpus", "2", "busybox", "sleep", "100000"]);
    let mut newer = Command::new("packaging/build");
    newer.args(["--version", "9.9.9", "--out"]).arg(story.folder()).current_dir(story.folder());
    let made = command::run(&mut newer, Duration::from_secs(120)).expect("it runs");
    assert_eq!(made.code, 0, "{made}");
    let named = |name: &str| story.folder().join(format!("docker-gpuctl_{name}_amd64.deb"));
    fs::rename(named("9.9.9"), named("NEW")).expect("the deb of another version");
    story.runs_apart("docs/operations/upgrade.md", "install");
    assert_eq!(installed(), "installed 9.9.9");
    assert_eq!(default_runtime(&node), "gpuctl-gate");
    assert_eq!(node.leased_minors(&node.id("one-0")).len(), 2);
    fs::rename(&kept, &own).expect("moved back");
    node.check();
}

/// An etcd as a unit of its host: its data lies where packages put it. `$1` is what systemctl is to do.
const ETCD: &str = r#"
here=@here@
case "$1 $2" in
    "stop etcd")
        kill "$(cat $here/pid)"
        while kill -0 "$(cat $here/pid)" 2>/dev/null; do sleep 0.1; done
        ;;
    "start etcd")
        setsid etcd --name m0 --data-dir /var/lib/etcd \
            --listen-client-urls http://127.0.0.1:@port@ --advertise-client-urls http://127.0.0.1:@port@ \
            --listen-peer-urls http://127.0.0.1:0 --initial-advertise-peer-urls http://10.0.0.1:2380 \
            --initial-cluster m0=http://10.0.0.1:2380 >>$here/log 2>&1 </dev/null &
        echo $! >$here/pid
        for _ in $(seq 100); do
            etcdctl --user root:secret-of-root get x >/dev/null 2>&1 && exit 0
            etcdctl get x >/dev/null 2>&1 && exit 0
            sleep 0.1
        done
        cat $here/log
        exit 1
        ;;
    *) echo "no systemctl $*"; exit 1 ;;
esac"#;

/// Ends the etcd however the test ends.
struct Ends(std::path::PathBuf);

impl Drop for Ends {
    fn drop(&mut self) {
        let pid = fs::read_to_string(&self.0).ok().and_then(|t| t.trim().parse().ok());
        if let Some(pid) = pid {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}

#[test]
fn etcd_is_restored() {
    if !engine_runs_here() {
        return;
    }
    if ["etcd", "etcdctl"].iter().any(|name| command::find(&[name]).is_err()) {
        return skip("etcd is not installed");
    }
    let _aside = Aside::new();
    let _ = fs::remove_dir_all("/var/lib/etcd");
    let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
    let _ends = Ends(folder.path().join("pid"));
    let port = free_port();
    let endpoint = format!("127.0.0.1:{port}");
    let script = ETCD
        .replace("@here@", &folder.path().display().to_string())
        .replace("@port@", &port.to_string());
    let sh = |line: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", line, "systemctl", "start", "etcd"]);
        shell.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", &endpoint);
        let got = command::run(&mut shell, LIMIT).expect("sh runs");
        assert_eq!(got.code, 0, "{got}");
    };
    sh(&script);
    let url = format!("etcd://{endpoint}");
    let ledger = Ledger::Url(url.clone());
    let node = Node::start(Options { ledger, service: false, ..options() });
    let password = node.place().at("etcd-password");
    gpuctl_sim::files::write(&password, "secret-of-gpu1\n").expect("written");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&password, private).expect("mode");
    let (url, file) = (format!("url = \"{url}\""), password.display());
    let user = format!("{url}\nuser = \"gpuctl-gpu1\"\npassword_file = \"{file}\"");
    node.edit_config(|text| text.replace(&url, &user));
    sh("set -e
        etcdctl user add root:secret-of-root; etcdctl user grant-role root root
        etcdctl role add gpu1; etcdctl role grant-permission gpu1 readwrite /gpuctl/v1/nodes/gpu1/ /gpuctl/v1/nodes/gpu10
        etcdctl user add gpuctl-gpu1:secret-of-gpu1; etcdctl user grant-role gpuctl-gpu1 gpu1
        etcdctl auth enable");
    node.start_service();
    let train = "run -d --name train --gpus 2 --stop-timeout 0 busybox sleep 100000";
    node.gpuctl_ok(&train.split(' ').collect::<Vec<_>>());
    Story::on(&node)
        .with("ETCDCTL_API", "3".into())
        .with("ETCDCTL_ENDPOINTS", endpoint.clone())
        .program("systemctl", &script)
        .runs_apart("docs/operations/backup.md", "etcd");
    assert!(Path::new("/var/lib/etcd.old/member").is_dir());
    let opens = probe::opens(&node, "train-0");
    assert_eq!((opens.len(), node.leased_minors(&node.id("train-0"))), (3, opens));
    node.check();
}
