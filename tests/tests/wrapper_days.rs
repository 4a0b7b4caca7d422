//! kill -9 of gpuctl-runtime, of the gate and of the release hook at their worst moments, and of what
//! stands around them; and containers that end or are removed while they are being scaled. After
//! each: no GPU has two holders, none is lost, and the container can be started or removed.
//! The hook must be built with `--features faults`, as `tests/run` does.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use gpuctl_ledger::node::lock::{self, Lock};
use gpuctl_sim::processes;
use gpuctl_tests::node::wait_for;
use gpuctl_tests::{Ledger, Node, Options, Output, engine_runs_here, probe, programs, skip, state};

const LONG: [&str; 5] = ["--stop-signal", "KILL", "busybox", "sleep", "100000"];
/// How long something may take that waits for the death of something else.
const SOON: Duration = Duration::from_secs(20);

/// Has runtime and hooks die where they come by one point after the other.
fn kill_at(node: &Node, points: &[&str]) {
    let text: String = points.iter().map(|p| format!("{p}\n")).collect();
    fs::create_dir_all(node.place().run()).unwrap();
    fs::write(node.place().run().join("kill_at"), text).unwrap();
}

#[track_caller]
fn all_killed(node: &Node, got: &Output) {
    let left = fs::read_to_string(node.place().run().join("kill_at")).unwrap_or_default();
    assert_eq!(left, "", "not killed: was the hook built with --features faults?\n{got}");
}

fn run(node: &Node, name: &str, gpus: &str) -> Output {
    node.docker(&[&["run", "-d", "--name", name, "--gpus", gpus], &LONG[..]].concat())
}

fn managed(node: &Node, name: &str, gpus: &str) -> Output {
    node.gpuctl(&[&["run", "-d", "--name", name, "--gpus", gpus], &LONG[..]].concat())
}

/// Whoever asks for all of them gets them: none is lost, whatever the books say.
#[track_caller]
fn all_can_be_had(node: &Node) {
    wait_for("all GPUs", SOON, || {
        node.docker(&["run", "--rm", "--gpus", "8", "busybox", "true"]).code == 0
    });
}

/// Whole: it may open what it leases, and that is so many.
#[track_caller]
fn has(node: &Node, container: &str, gpus: usize) {
    let opens = probe::opens(node, container);
    assert_eq!(opens.len(), gpus, "{container} opens {opens:?}");
    assert_eq!(node.leased_minors(&node.id(container)), opens);
}

#[test]
fn a_killed_runtime_or_gate_loses_no_gpu() {
    if !engine_runs_here() {
        return;
    }
    for ledger in [Ledger::Sqlite, Ledger::Etcd(1)] {
        let node = Node::start(Options { ledger, ..Options::default() });
        for point in ["claimed", "injected", "gate", "noted", "activated"] {
            kill_at(&node, &[point]);
            let got = run(&node, "ca", "8");
            assert_ne!(got.code, 0, "{point}\n{got}");
            all_killed(&node, &got);
            node.check_exclusive();
            node.docker_ok(&["run", "--rm", "busybox", "true"]);
            all_can_be_had(&node);
            node.docker_ok(&["start", "ca"]);
            has(&node, "ca", 8);
            // While it runs nobody else gets any.
            assert_eq!(node.docker(&["run", "--rm", "--gpus", "1", "busybox", "true"]).code, 125);
            kill_at(&node, &[point]);
            let got = node.docker(&["restart", "ca"]);
            assert_ne!(got.code, 0, "{point}\n{got}");
            all_killed(&node, &got);
            node.check_exclusive();
            node.docker_ok(&["rm", "-f", "ca"]);
            all_can_be_had(&node);
        }
        node.check();
        assert!(node.leases().is_empty());
    }
}

#[test]
fn a_managed_container_survives_a_killed_runtime_or_gate() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    for point in ["claimed", "injected", "gate", "noted", "activated"] {
        kill_at(&node, &[point]);
        let got = managed(&node, "train", "2");
        assert_ne!(got.code, 0, "{point}\n{got}");
        assert!(got.stderr.contains("error: "), "{point}\n{got}");
        all_killed(&node, &got);
        node.check_exclusive();
        node.gpuctl(&["rm", "-f", "--history", "train"]);
        let got = managed(&node, "train", "2");
        assert_eq!(got.code, 0, "{point}\n{got}");
        has(&node, "train-0", 2);
        node.docker_ok(&["exec", "train-0", "touch", "/installed"]);

        // Once: the change is undone, and it runs as it did.
        kill_at(&node, &[point]);
        let got = node.gpuctl(&["scale", "train", "--gpus", "5"]);
        assert_eq!(got.code, 1, "{point}\n{got}");
        all_killed(&node, &got);
        assert_eq!(node.open_changes(), Vec::<String>::new(), "{point}\n{got}");
        has(&node, "train-0", 2);

        // Undoing too is killed: it is down, says so, and comes up with what it had.
        kill_at(&node, &[point, point]);
        let got = node.gpuctl(&["scale", "train", "--gpus", "5"]);
        assert_eq!(got.code, 1, "{point}\n{got}");
        assert!(got.stderr.contains("error: "), "{point}\n{got}");
        all_killed(&node, &got);
        node.check_exclusive();
        let next = node.gpuctl(&["start", "train"]);
        assert_eq!(next.code, 0, "{point}\n{got}\n{next}");
        assert_eq!(node.open_changes(), Vec::<String>::new(), "{point}\n{next}");
        let now = state::seen(&node, "train").expect("it is there");
        assert_eq!((now.version, now.opens.len()), (0, 2), "{point}: {now:?}\n{got}\n{next}");
        has(&node, "train-0", 2);
        node.docker_ok(&["exec", "train-0", "ls", "/installed"]);
        node.gpuctl_ok(&["scale", "train", "--gpus", "5"]);
        has(&node, "train-1", 5);
        node.gpuctl_ok(&["rm", "-f", "--history", "train"]);
        all_can_be_had(&node);
    }
    node.check();
}

#[test]
fn a_killed_release_is_made_good_by_whoever_asks_next() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    for points in [&["release"][..], &["release", "release"], &["release", "deleted"]] {
        let got = run(&node, "ca", "8");
        assert_eq!(got.code, 0, "{points:?}\n{got}");
        kill_at(&node, points);
        let got = node.docker(&["kill", "ca"]);
        assert_eq!(got.code, 0, "{points:?}\n{got}");
        wait_for("its end", SOON, || {
            node.docker_ok(&["inspect", "--format", "{{.State.Running}}", "ca"]) == "false"
        });
        node.docker_ok(&["run", "--rm", "busybox", "true"]);
        all_can_be_had(&node);
        all_killed(&node, &got);
        node.docker_ok(&["start", "ca"]);
        has(&node, "ca", 8);
        node.docker_ok(&["rm", "-f", "ca"]);
        all_can_be_had(&node);
    }
    node.check();
    assert!(node.leases().is_empty());
}

/// Keeps everybody on the node from granting: wrapper and engine wait.
fn nobody_grants(node: &Node) -> Lock {
    let taken = lock::take(&node.config().paths.grants(), ".lock", SOON);
    taken.expect("a lock file").expect("nobody has it")
}

/// Gives everybody time to wait in.
fn patient(node: &Node) {
    node.edit_config(|text| text.replacen("[ledger]\n", "[ledger]\ntimeout_ms = 30000\n", 1));
}

/// The runtimes that are making a container.
fn creating(node: &Node) -> BTreeSet<i32> {
    let all = processes::of(node.place()).into_iter();
    all.filter(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = words.split(|b| *b == 0).collect();
        words.first().is_some_and(|w| w.ends_with(b"/gpuctl-gate"))
            && words.contains(&&b"create"[..])
    })
    .collect()
}

#[test]
fn an_engine_that_is_killed_while_the_runtime_waits() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    patient(&node);
    assert_eq!(run(&node, "ca", "2").code, 0);
    // The runtime goes on before the Engine is back, after it, or is killed too.
    for when in ["before", "after", "never"] {
        let held = nobody_grants(&node);
        let line = [&["run", "-d", "--name", "late", "--gpus", "3"], &LONG[..]].concat();
        let mut client = node.spawn(&line);
        wait_for("the runtime", SOON, || !creating(&node).is_empty());
        node.kill_engine();
        assert_ne!(client.wait().unwrap().code(), Some(0), "{when}");
        match when {
            "before" => {
                drop(held);
                wait_for("the runtime's end", SOON, || creating(&node).is_empty());
                node.check_exclusive();
                node.start_engine();
            }
            "after" => {
                node.start_engine();
                node.docker_ok(&["run", "--rm", "busybox", "true"]);
                drop(held);
                wait_for("the runtime's end", SOON, || creating(&node).is_empty());
            }
            _ => {
                for pid in creating(&node) {
                    let pid = nix::unistd::Pid::from_raw(pid);
                    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
                }
                drop(held);
                node.start_engine();
            }
        }
        node.check_exclusive();
        node.docker_ok(&["run", "--rm", "busybox", "true"]);
        // It can be started, or it says why not; it can be removed.
        let status = node.docker_ok(&["inspect", "--format", "{{.State.Status}}", "late"]);
        let got = node.docker(&["start", "late"]);
        node.check_exclusive();
        if got.code == 0 {
            has(&node, "late", 3);
        }
        // Engine 20.10 takes what the killed one had made for its own, and cannot start that.
        assert!(got.code == 0 || got.stderr.contains("already exists"), "{when}: {status}\n{got}");
        node.docker_ok(&["rm", "-f", "late"]);
        wait_for("all but two GPUs", SOON, || {
            node.docker(&["run", "--rm", "--gpus", "6", "busybox", "true"]).code == 0
        });
        // The Engine took what runs with it or not; ca is there again.
        node.docker_ok(&["start", "ca"]);
        has(&node, "ca", 2);
        node.check();
    }
}

/// Has `scale` wait in the middle of its claim, while `meanwhile` happens.
fn scaled_while(node: &Node, gpus: &str, meanwhile: impl FnOnce()) -> Output {
    let held = nobody_grants(node);
    std::thread::scope(|scope| {
        let scale =
            scope.spawn(|| node.gpuctl(&["scale", "train", "--gpus", gpus, "--timeout", "0"]));
        wait_for("the change", SOON, || !node.open_changes().is_empty());
        meanwhile();
        drop(held);
        scale.join().expect("an end of scale")
    })
}

#[test]
fn a_container_that_ends_while_it_is_scaled() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    patient(&node);
    assert_eq!(managed(&node, "train", "2").code, 0);
    let id = node.id("train-0");
    for (to, kill) in [("4", true), ("1", true), ("3", false)] {
        let before = state::seen(&node, "train").expect("it is there");
        let got = scaled_while(&node, to, || {
            if kill {
                node.docker_ok(&["kill", &id]);
            } else {
                let pid = node.docker_ok(&["inspect", "--format", "{{.State.Pid}}", &id]);
                let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
            }
            wait_for("its end", SOON, || {
                node.docker_ok(&["inspect", "--format", "{{.State.Running}}", &id]) == "false"
            });
            node.docker_ok(&["run", "--rm", "busybox", "true"]);
        });
        node.check_exclusive();
        assert_eq!(node.open_changes(), Vec::<String>::new(), "{got}");
        let after = state::seen(&node, "train").expect("it is still there");
        assert_eq!(after.id, id);
        if got.code == 0 {
            assert_eq!((after.version, after.gpus.as_str()), (before.version + 1, to), "{got}");
        } else {
            assert!(got.stderr.contains("error: "), "{got}");
            assert_eq!((after.version, &after.gpus), (before.version, &before.gpus), "{got}");
        }
        node.gpuctl_ok(&["start", "train"]);
        let after = state::seen(&node, "train").expect("it is still there");
        assert!(after.running && after.opens == after.leased, "{after:?}\n{got}");
        assert_eq!(after.opens.len().to_string(), after.gpus, "{got}");
        node.check();
    }
}

#[test]
fn a_container_that_is_removed_while_it_is_scaled() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    patient(&node);
    for to in ["4", "1"] {
        assert_eq!(managed(&node, "train", "2").code, 0);
        let got = scaled_while(&node, to, || {
            node.docker_ok(&["rm", "-f", "train-0"]);
        });
        assert_eq!(got.code, 1, "{got}");
        assert!(got.stderr.contains("error: ") && got.stderr.contains("train"), "{got}");
        node.check_exclusive();
        let next = node.gpuctl(&["start", "train"]);
        assert_eq!(next.code, 1, "{got}\n{next}");
        assert!(next.stderr.contains("hint: "), "{got}\n{next}");
        assert_eq!(node.open_changes(), Vec::<String>::new(), "{got}\n{next}");
        all_can_be_had(&node);
        assert!(state::containers(&node).is_empty(), "{got}");
        node.check();
        node.gpuctl_ok(&["rm", "--history", "train"]);
    }
}

#[test]
fn a_change_broken_off_on_a_container_that_is_killed_or_removed() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let points = ["scale:claim:begun", "scale:claim:done", "scale:restart:begun"];
    for (point, to) in points.iter().flat_map(|point| ["4", "1", "0"].map(|to| (*point, to))) {
        for remove in [false, true] {
            let at = format!("{point}, to {to}, removed: {remove}");
            let got = managed(&node, "train", "2");
            assert_eq!(got.code, 0, "{at}\n{got}");
            node.gpuctl_killed_at(point, &["scale", "train", "--gpus", to]);
            if remove {
                node.docker_ok(&["rm", "-f", "train-0"]);
            } else {
                node.docker_ok(&["kill", "train-0"]);
            }
            node.check_exclusive();
            node.docker_ok(&["run", "--rm", "busybox", "true"]);
            let next = node.gpuctl(&["start", "train"]);
            assert_eq!(node.open_changes(), Vec::<String>::new(), "{at}\n{next}");
            if remove {
                assert_eq!(next.code, 1, "{at}\n{next}");
                assert!(next.stderr.contains("hint: "), "{at}\n{next}");
            } else {
                assert_eq!(next.code, 0, "{at}\n{next}");
                assert!(next.stderr.contains("broken off"), "{at}\n{next}");
                let now = state::seen(&node, "train").expect("it is there");
                let whole = (now.version == 0 && now.gpus == "2")
                    || (now.version == 1 && now.gpus == to)
                    || (now.version == 1 && to == "0" && now.opens.is_empty());
                assert!(whole, "{at}: {now:?}\n{next}");
                assert!(now.running && now.opens == now.leased, "{at}: {now:?}\n{next}");
            }
            node.gpuctl(&["rm", "-f", "--history", "train"]);
            all_can_be_had(&node);
            assert!(state::containers(&node).is_empty(), "{at}");
        }
    }
    node.check();
    assert!(node.leases().is_empty());
}

/// What kills runtime and hooks for tests is in no release.
#[test]
fn a_released_hook_has_no_faults_in_it() {
    let needle = b"killed for a test";
    let has = |bytes: &[u8]| bytes.windows(needle.len()).any(|w| w == needle);
    let ours = fs::read(programs::programs().hook).unwrap();
    assert!(has(&ours), "the tests' own hook was built without --features faults: ./tests/run");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| programs::repository().join("target"), std::path::PathBuf::from);
    let folders = fs::read_dir(&target).into_iter().flatten().flatten();
    let built: Vec<_> = folders
        .map(|folder| folder.path().join("release/gpuctl-hook"))
        .filter(|path| path.is_file())
        .collect();
    for path in &built {
        assert!(!has(&fs::read(path).unwrap()), "{} can be killed by a file", path.display());
    }
    if built.is_empty() {
        skip("no hook was built for release: packaging/quickstart builds one");
    }
}
