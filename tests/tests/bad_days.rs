//! Days on which the node, the Engine, the driver or a colleague misbehaves. After each: no GPU has
//! two holders, none is lost for good, containers without GPUs start as ever.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use gpuctl_sim::processes;
use gpuctl_tests::node::wait_for;
use gpuctl_tests::{Ledger, Node, Options, engine_runs_here, probe};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LONG: [&str; 3] = ["busybox", "sleep", "100000"];

fn run(node: &Node, flags: &[&str]) -> String {
    let mut all = vec!["run", "-d"];
    all.extend(flags);
    all.extend(LONG);
    node.docker_ok(&all)
}

fn managed(node: &Node, flags: &[&str]) {
    let mut all = vec!["run", "-d"];
    all.extend(flags);
    all.extend(LONG);
    node.gpuctl_ok(&all);
}

fn plain_containers_start(node: &Node) {
    node.docker_ok(&["run", "--rm", "busybox", "true"]);
}

#[test]
fn a_reboot_frees_what_does_not_come_back_and_keeps_what_does() {
    if !engine_runs_here() {
        return;
    }
    for ledger in [Ledger::Sqlite, Ledger::Etcd(1)] {
        let node = Node::start(Options { ledger, ..Options::default() });
        run(&node, &["--name", "gone", "--gpus", "2"]);
        run(&node, &["--name", "back", "--gpus", "2", "--restart", "always"]);
        managed(&node, &["--name", "train", "--gpus", "2", "--restart", "unless-stopped"]);
        managed(&node, &["--name", "stays-down", "--gpus", "1"]);
        let before: BTreeSet<u32> = probe::opens(&node, "train-0");
        let backs: BTreeSet<u32> = probe::opens(&node, "back");
        assert_eq!(node.leases().len(), 7);
        node.reboot();
        wait_for("the restarted ones", Duration::from_secs(20), || {
            node.docker_ok(&["ps", "--format", "{{.Names}}"]).lines().count() == 2
        });
        assert_eq!(probe::opens(&node, "train-0"), before, "those it had");
        assert_eq!(probe::opens(&node, "back"), backs, "those that were kept for it");
        node.check();
        assert_eq!(node.leases().len(), 4);
        node.gpuctl_ok(&["start", "stays-down"]);
        run(&node, &["--name", "new", "--gpus", "3"]);
        plain_containers_start(&node);
        node.check();
    }
}

#[test]
fn a_killed_init_shim_or_engine_loses_no_gpu() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let id = run(&node, &["--name", "ca", "--gpus", "8"]);
    let shim = processes::of(node.place()).into_iter().find(|pid| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        words.contains("containerd-shim") && words.contains(&id)
    });
    kill(Pid::from_raw(shim.expect("a shim")), Signal::SIGKILL).unwrap();
    wait_for("its GPUs", Duration::from_secs(20), || {
        node.docker(&["run", "--rm", "--gpus", "8", "busybox", "true"]).code == 0
    });
    node.check();

    run(&node, &["--name", "cb", "--gpus", "3"]);
    run(&node, &["--name", "cc", "--gpus", "3", "--restart", "always"]);
    node.kill_engine();
    node.check_exclusive();
    node.start_engine();
    plain_containers_start(&node);
    wait_for("cc", Duration::from_secs(20), || node.docker(&["exec", "cc", "true"]).code == 0);
    node.check();
    let free = 8 - node.leases().len();
    run(&node, &["--name", "cd", "--gpus", &free.to_string()]);
    node.check();
}

#[test]
fn a_colleague_behind_our_back() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options { service: true, ..Options::default() });
    managed(&node, &["--name", "removed", "--gpus", "2"]);
    managed(&node, &["--name", "renamed", "--gpus", "2"]);
    managed(&node, &["--name", "updated", "--gpus", "2"]);
    node.docker_ok(&["rm", "-f", "removed-0"]);
    wait_for("the GPUs of the removed", Duration::from_secs(10), || node.leases().len() == 4);
    assert!(node.gpuctl_ok(&["ps", "-a"]).contains("renamed"));
    node.docker_ok(&["rename", "renamed-0", "stolen"]);
    let got = node.gpuctl(&["scale", "renamed", "--gpus", "3"]);
    node.check_exclusive();
    if got.code != 0 {
        assert!(got.stderr.contains("error: ") && got.stderr.contains("stolen"), "{got}");
    }
    node.docker_ok(&["update", "--cpu-shares", "512", "updated-0"]);
    assert_eq!(probe::opens(&node, "updated-0").len(), 2, "an update takes no GPU away");
    node.gpuctl_ok(&["rm", "-f", "updated"]);
    node.gpuctl_ok(&["run", "-d", "--from", "removed", "--name", "removed2"]);
    assert_eq!(probe::opens(&node, "removed2-0").len(), 2);
    node.check();
}

#[test]
fn a_wrong_config_stops_gpu_containers_only() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let good = std::fs::read_to_string(node.place().config()).unwrap();
    for (wrong, word) in [("[ledger]\nurll = 1\n", "urll"), ("][", "line 1")] {
        node.edit_config(|_| wrong.into());
        plain_containers_start(&node);
        let got = node.docker(&["run", "--rm", "--gpus", "1", "busybox", "true"]);
        assert_eq!(got.code, 125, "{got}");
        assert!(got.stderr.contains("config") && got.stderr.contains(word), "{got}");
        // What asks for no GPU, and would only open them with all else, starts without them.
        let rule = ["run", "-d", "--name", "wide", "--device-cgroup-rule", "c *:* rwm"];
        node.docker_ok(&[&rule[..], &LONG].concat());
        assert_eq!(probe::opens(&node, "wide"), [].into());
        node.docker_ok(&["rm", "-f", "wide"]);
        // Without the config runc itself is found, which may not be able to give all privileges here.
        let got = node.docker(&["run", "--rm", "--privileged", "busybox", "true"]);
        assert!(!got.stderr.contains("gpuctl: "), "{got}");
        let both = ["run", "--rm", "--privileged", "--gpus", "1", "busybox", "true"];
        assert_eq!(node.docker(&both).code, 125);
    }
    node.edit_config(|_| good);
    node.docker_ok(&["run", "--rm", "--gpus", "1", "busybox", "true"]);
    node.check();
}

#[test]
fn a_missing_or_torn_cdi_spec_is_said_and_leaks_nothing() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let path = node.place().cdi().join("nvidia.json");
    let good = std::fs::read_to_string(&path).unwrap();
    for torn in [None, Some(""), Some(&good[..good.len() / 2])] {
        match torn {
            None => std::fs::remove_file(&path).unwrap(),
            Some(text) => gpuctl_sim::files::write(&path, text).unwrap(),
        }
        plain_containers_start(&node);
        let got = node.docker(&["run", "--rm", "--gpus", "1", "busybox", "true"]);
        assert_eq!(got.code, 125, "{got}");
        assert!(got.stderr.contains("gpuctl: ") && got.stderr.contains("CDI"), "{got}");
        wait_for("the refused claim's end", Duration::from_secs(10), || node.leases().is_empty());
    }
    gpuctl_sim::files::write(&path, &good).unwrap();
    node.docker_ok(&["run", "--rm", "--gpus", "8", "busybox", "true"]);
    node.check();
}

#[test]
fn a_gpu_that_vanishes_is_given_to_nobody() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options { service: true, ..Options::default() });
    managed(&node, &["--name", "train", "--gpus", "8"]);
    let mut profile: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(node.place().profile()).unwrap()).unwrap();
    let gone = profile["gpus"].as_array_mut().unwrap().remove(2);
    let file = node.place().at("seven.json");
    std::fs::write(&file, profile.to_string()).unwrap();
    node.set_profile_file(&file);
    node.docker_ok(&["kill", "train-0"]);
    wait_for("the release", Duration::from_secs(15), || node.leases().is_empty());
    let got = node.docker(&["run", "--rm", "--gpus", "8", "busybox", "true"]);
    assert_eq!(got.code, 125, "{got}");
    run(&node, &["--name", "seven", "--gpus", "7"]);
    let minor = u32::try_from(gone["minor"].as_u64().unwrap()).unwrap();
    assert!(!probe::opens(&node, "seven").contains(&minor));
    let got = node.gpuctl(&["start", "train"]);
    assert_ne!(got.code, 0, "{got}");
    node.check();
}

#[test]
fn alone_a_host_process_on_a_gpu_keeps_it_from_being_given() {
    if !engine_runs_here() {
        return;
    }
    use std::os::unix::fs::OpenOptionsExt as _;
    let node = Node::start(Options::default());
    // No driver stands behind the node, so it cannot be opened; a handle for its path can be had.
    let minor = node.minor(0);
    let held = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_PATH)
        .open(node.place().dev().join(format!("nvidia{minor}")))
        .unwrap();
    let got = node.docker(&["run", "--rm", "--gpus", "device=0", "busybox", "true"]);
    assert_eq!(got.code, 125, "{got}");
    assert!(got.stderr.contains(&std::process::id().to_string()), "it says which process\n{got}");
    run(&node, &["--name", "seven", "--gpus", "7"]);
    assert!(!probe::opens(&node, "seven").contains(&minor), "a busy one is skipped");
    assert_eq!(node.docker(&["run", "--rm", "--gpus", "1", "busybox", "true"]).code, 125);
    drop(held);
    node.docker_ok(&["run", "--rm", "--gpus", "device=0", "busybox", "true"]);
    node.check();
}

/// Processes of an ordinary user with so many files open that nobody can look at all of them in time.
struct Crowd(std::process::Child);

impl Crowd {
    fn gather() -> Self {
        use std::os::unix::process::CommandExt as _;
        let script = "use POSIX; for (1..200) { next if fork(); my $f = POSIX::open('/dev/null', 0); \
                      for (1..19000) { POSIX::dup($f) // last } sleep 600; exit 0 } sleep 600";
        // As a login gives it; what we were started with may be less.
        let limited = "ulimit -n 20000 && exec setpriv --reuid=1000 --regid=1000 --clear-groups perl -e \"$0\"";
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", limited, script]).process_group(0);
        Self(shell.spawn().unwrap())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).unwrap();
        let _ = nix::sys::signal::killpg(Pid::from_raw(pid), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

#[test]
fn alone_a_million_open_files_are_said_in_time_and_the_driver_asked_instead() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options { service: true, ..Options::default() });
    let service = Pid::from_raw(node.site().service().expect("the service runs"));
    let crowd = Crowd::gather();
    let one = ["run", "--rm", "--gpus", "1", "busybox", "true"];
    // Its watch of the driver, which tells who uses GPUs, is soon too old to count.
    kill(service, Signal::SIGSTOP).unwrap();
    let refused = || {
        let began = Instant::now();
        let got = node.docker(&one);
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}\n{got}", began.elapsed());
        (got.code != 0).then_some(got)
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let got = loop {
        if let Some(got) = refused() {
            break got;
        }
        assert!(Instant::now() < deadline, "a look that cannot be finished was not noticed");
    };
    assert_eq!(got.code, 125, "{got}");
    assert!(got.stderr.contains("looked at in time") && got.stderr.contains("(perl)"), "{got}");
    plain_containers_start(&node);
    kill(service, Signal::SIGCONT).unwrap();
    wait_for("the service's watch", Duration::from_secs(60), || refused().is_none());
    drop(crowd);
    node.check();
}

#[test]
fn two_nodes_with_one_name_on_one_etcd() {
    if !engine_runs_here() {
        return;
    }
    let mut first = Node::start(Options { ledger: Ledger::Etcd(1), ..Options::default() });
    run(&first, &["--name", "ca", "--gpus", "2"]);
    let url = first.etcd().url();
    let second = Node::start(Options { ledger: Ledger::Url(url.clone()), ..Options::default() });
    let got = second.docker(&["run", "--rm", "--gpus", "1", "busybox", "true"]);
    assert_eq!(got.code, 125, "{got}");
    assert!(got.stderr.contains("gpuctl: ") && got.stderr.contains("node1"), "{got}");
    plain_containers_start(&second);
    first.check();
    let third =
        Node::start(Options { ledger: Ledger::Url(url), name: "node3", ..Options::default() });
    run(&third, &["--name", "ca", "--gpus", "8"]);
    third.check();
    first.check();
}

#[test]
fn an_etcd_restored_from_an_older_backup_gives_no_gpu_twice() {
    if !engine_runs_here() {
        return;
    }
    let mut node = Node::start(Options { ledger: Ledger::Etcd(1), ..Options::default() });
    run(&node, &["--name", "old", "--gpus", "1"]);
    let backup = node.place().at("backup.db");
    let etcd = node.etcd();
    etcd.ctl(&["snapshot", "save", &backup.display().to_string()]).unwrap().ok().unwrap();
    run(&node, &["--name", "young", "--gpus", "4"]);
    node.docker_ok(&["rm", "-f", "old"]);
    wait_for("old's GPU", Duration::from_secs(10), || {
        node.gpuctl(&["doctor", "--fix"]);
        node.leases().len() == 4
    });
    node.etcd().restore(0, &backup).unwrap();
    // The ledger knows nothing of young and still shows old. The node knows better.
    let young = probe::opens(&node, "young");
    let got =
        node.docker(&["run", "-d", "--name", "new", "--gpus", "4", "busybox", "sleep", "100000"]);
    if got.code == 0 {
        assert!(probe::opens(&node, "new").is_disjoint(&young));
    }
    let got = node.docker(&["run", "--rm", "--gpus", "8", "busybox", "true"]);
    assert_eq!(got.code, 125, "{got}");
    node.gpuctl(&["doctor", "--fix"]);
    node.check();
    assert_eq!(node.leased_minors(&node.id("young")), young, "doctor writes down what it sees");
}

#[test]
fn an_engine_without_a_bridge_network_scales_as_any() {
    if !engine_runs_here() {
        return;
    }
    // Engine 20.10 with --bridge none: "docker rename" of a container that was restarted fails with
    // "sandbox ... not found", as long as it runs.
    let mut options = Options::default();
    options.engine.bridge = false;
    let node = Node::start(options);
    managed(&node, &["--name", "train", "--gpus", "2"]);
    node.gpuctl_ok(&["scale", "train", "--gpus", "3", "--timeout", "0"]);
    assert_eq!(probe::opens(&node, "train-1").len(), 3);
    node.gpuctl_ok(&["scale", "train", "--gpus", "1", "--timeout", "0"]);
    assert_eq!(probe::opens(&node, "train-2").len(), 1);
    node.check();
}

#[test]
fn an_etcd_restored_to_before_a_restart_gives_no_gpu_twice() {
    if !engine_runs_here() {
        return;
    }
    let mut node =
        Node::start(Options { ledger: Ledger::Etcd(1), service: true, ..Options::default() });
    run(&node, &["--name", "aa", "--gpus", "\"device=0\""]);
    let backup = node.place().at("backup.db");
    let etcd = node.etcd();
    etcd.ctl(&["snapshot", "save", &backup.display().to_string()]).unwrap().ok().unwrap();
    node.docker_ok(&["restart", "-t", "0", "aa"]);
    let had = probe::opens(&node, "aa");
    node.etcd().restore(0, &backup).unwrap();
    // The ledger shows the evidence of a process that is dead, the node's note one that lives.
    let start = ["run", "-d", "--name", "bb", "--gpus", "\"device=0\"", "busybox", "sleep", "9"];
    let got = node.docker(&start);
    assert_eq!(got.code, 125, "{got}");
    // Nor does the service take the old evidence for a death.
    std::thread::sleep(Duration::from_secs(14));
    assert_eq!(node.leased_minors(&node.id("aa")), had);
    node.docker_ok(&["rm", "-f", "bb"]);
    let got = node.docker(&start);
    assert_eq!(got.code, 125, "{got}");
    node.docker_ok(&["rm", "-f", "bb"]);
    node.check();
}
