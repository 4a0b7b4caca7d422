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
use gpuctl_tests::story::{Aside, Story};
use gpuctl_tests::{Options, engine_runs_here, programs, skip};

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
