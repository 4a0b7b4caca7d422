//! kill -9 of the plugin at every step of rm, on both ledgers, and of the service's client at many
//! moments of a scale; and what becomes of a broken change where somebody renames, removes or takes a
//! name meanwhile. What run and scale do when they are killed stands in crash.rs.
//! The programs must be built with `--features faults`, as `tests/run` does.

use std::time::Duration;

use gpuctl_tests::node::wait_for;
use gpuctl_tests::{Ledger, Node, Options, Output, engine_runs_here, probe, state};

const REMOVE: [&str; 5] = [
    "remove:remove:begun",
    "remove:remove:done",
    "remove:forget:begun",
    "remove:forget:done",
    "remove:end:done",
];

/// The Docker containers of a managed name.
fn of(node: &Node, name: &str) -> Vec<String> {
    let filter = format!("name=^/{name}-[0-9]+$");
    let list = node.docker_ok(&["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"]);
    list.lines().map(str::to_owned).collect()
}

/// What must be so once the next command has run: nothing is open, and it was said what became of
/// the broken change. After the journal's end there is nothing left to say.
#[track_caller]
fn settled(node: &Node, point: &str, next: &Output) {
    assert_eq!(node.open_changes(), Vec::<String>::new(), "{point}\n{next}");
    let said = next.stderr.contains("broken off");
    assert_eq!(said, !point.ends_with("end:done"), "{point}\n{next}");
}

#[test]
fn rm_killed_at_every_step_is_all_or_nothing() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options { ledger: Ledger::Etcd(1), ..Options::default() });
    for (n, point) in REMOVE.iter().enumerate() {
        let name = format!("t{n}");
        let run = [
            "run",
            "-d",
            "--name",
            &name,
            "--gpus",
            "1",
            "--stop-timeout",
            "0",
            "busybox",
            "sleep",
            "100000",
        ];
        node.gpuctl_ok(&run);
        node.gpuctl_killed_at(point, &["rm", "-f", &name]);
        node.check_exclusive();
        let next = node.gpuctl(&["start", &name]);
        settled(&node, point, &next);
        let there = of(&node, &name);
        if there.is_empty() {
            wait_for("its GPU", Duration::from_secs(10), || node.leases().is_empty());
        } else {
            assert_eq!(probe::opens(&node, &there[0]).len(), 1, "{point}\n{next}");
            node.gpuctl_ok(&["rm", "-f", &name]);
            wait_for("its GPU", Duration::from_secs(10), || node.leases().is_empty());
        }
    }
    node.check();
}

#[test]
fn a_client_that_dies_leaves_the_service_to_end_the_change() {
    if !engine_runs_here() {
        return;
    }
    use std::os::unix::fs::MetadataExt as _;
    let node = Node::start(Options { service: true, ..Options::default() });
    let group = std::fs::metadata(node.place().docker_socket()).unwrap().gid();
    node.gpuctl_ok(&[
        "run",
        "-d",
        "--name",
        "train",
        "--gpus",
        "2",
        "--stop-timeout",
        "0",
        "busybox",
        "sleep",
        "100000",
    ]);
    let mut has = 2;
    for wait in [0, 20, 50, 100, 200, 400] {
        use std::os::unix::process::CommandExt as _;
        let to = if has == 2 { 4 } else { 2 };
        let number = to.to_string();
        let mut command = node.gpuctl_command_as(
            12345,
            group,
            &["scale", "train", "--gpus", &number, "--timeout", "0"],
        );
        let mut client = command.process_group(0).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        let pid = nix::unistd::Pid::from_raw(i32::try_from(client.id()).unwrap());
        let _ = nix::sys::signal::killpg(pid, nix::sys::signal::Signal::SIGKILL);
        client.wait().unwrap();
        // What the service had read of it by then, it has begun by now.
        std::thread::sleep(Duration::from_millis(500));
        wait_for("the change's end", Duration::from_secs(30), || node.open_changes().is_empty());
        let names = of(&node, "train");
        assert_eq!(names.len(), 1, "{names:?}");
        has = probe::opens(&node, &names[0]).len();
        assert!(has == 2 || has == 4, "{has} GPUs");
        node.check_exclusive();
    }
    node.check();
}

/// Before its id stands in the journal, and after.
#[test]
fn a_broken_run_is_undone_under_whatever_name_and_another_of_its_name_is_left_alone() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.gpuctl_ok(&["ps"]);
    let nothing = state::ledger(&node);
    let run = ["run", "-d", "--name", "job", "--gpus", "2", "busybox", "sleep", "100000"];
    for point in ["run:create:done", "run:start:begun"] {
        for next in [&["start", "job"][..], &["doctor", "--fix"]] {
            let at = format!("{point}, {next:?}");
            node.gpuctl_killed_at(point, &run);
            node.docker_ok(&["rename", "job-0", "moved"]);
            let theirs = node.docker_ok(&["create", "--name", "job-0", "busybox", "true"]);
            let got = node.gpuctl(next);
            settled(&node, point, &both_as_stderr(&got));
            let there = node.docker_ok(&["ps", "-aq", "--no-trunc"]);
            assert_eq!(there, theirs, "{at}\n{got}");
            let left = state::difference(&nothing, &state::ledger(&node));
            assert_eq!(left, Vec::<String>::new(), "{at}\n{got}");
            node.docker_ok(&["rm", "job-0"]);
        }
    }
    node.check();
}

#[test]
fn a_broken_scale_whose_new_name_somebody_has_taken_is_undone() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.gpuctl_ok(&["run", "-d", "--name", "job", "--gpus", "1", "busybox", "sleep", "100000"]);
    node.gpuctl_ok(&["stop", "-t", "0", "job"]);
    let before = state::ledger(&node);
    node.gpuctl_killed_at("scale:rename:begun", &["scale", "job", "--gpus", "3"]);
    let theirs = node.docker_ok(&["create", "--name", "job-1", "busybox", "true"]);
    let got = node.gpuctl(&["start", "job"]);
    assert_eq!(got.code, 0, "{got}");
    settled(&node, "scale:rename:begun", &got);
    assert!(got.stderr.contains("job-1 is another container by now"), "{got}");
    assert_eq!(node.docker_ok(&["inspect", "-f", "{{.Id}}", "job-1"]), theirs);
    assert_eq!(node.leases().len(), 1, "it has what it had");
    node.gpuctl_ok(&["stop", "-t", "0", "job"]);
    let after = state::ledger(&node);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    node.gpuctl_ok(&["rm", "job"]);
    node.docker_ok(&["rm", "job-1"]);
    node.check();
}

/// doctor tells on stdout what other commands tell on stderr.
fn both_as_stderr(got: &Output) -> Output {
    Output { stderr: format!("{}{}", got.stderr, got.stdout), ..got.clone() }
}

/// A container whose program does not end when it is told to, and which is waited for a whole day.
fn stubborn(node: &Node) {
    let run = ["run", "-d", "--name", "od", "--gpus", "2", "--stop-timeout", "86400"];
    node.gpuctl_ok(&[&run[..], &["busybox", "sleep", "100000"]].concat());
}

/// The author of a change is dead: nobody waits as long for the container as he had wanted to, and
/// the node is looked at meanwhile.
#[test]
fn a_broken_change_to_a_stubborn_container_is_ended_soon_and_the_watch_goes_on() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options { service: true, ..Options::default() });
    stubborn(&node);
    node.gpuctl_killed_at(
        "scale:restart:begun",
        &["scale", "od", "--gpus", "1", "--timeout", "86400"],
    );
    let watch = node.config().paths.watch();
    let age = || std::fs::metadata(&watch).ok()?.modified().ok()?.elapsed().ok();
    wait_for("a first look", Duration::from_secs(10), || age().is_some());
    let mut oldest = Duration::ZERO;
    // 30 s are the next command's; the stop of one that does not listen takes 10.
    wait_for("the change's end", Duration::from_secs(60), || {
        oldest = oldest.max(age().unwrap_or(Duration::MAX));
        node.open_changes().is_empty()
    });
    assert!(oldest < Duration::from_secs(8), "nobody looked at the node for {oldest:?}");
    let now = state::seen(&node, "od").expect("it is there");
    assert_eq!((now.version, now.opens.len(), now.running), (1, 1, true), "{now:?}");
    node.check();
}

/// The author lives, and waits.
#[test]
fn who_meets_a_change_under_way_is_told_whose_it_is_and_how_to_end_its_wait() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    stubborn(&node);
    let got = node.gpuctl(&["scale", "od", "--gpus", "1", "--timeout", "-1"]);
    assert!(got.code == 1 && got.stderr.contains("without an end"), "{got}");
    assert!(got.stderr.contains("hint: --timeout"), "{got}");
    assert_eq!(node.open_changes(), Vec::<String>::new());
    let mut scale = node.spawn(&["gpuctl", "scale", "od", "--gpus", "1", "--timeout", "600"]);
    wait_for("the change", Duration::from_secs(20), || !node.open_changes().is_empty());
    std::thread::sleep(Duration::from_secs(1));
    let got = node.gpuctl(&["rm", "-f", "od"]);
    assert_eq!(got.code, 1, "{got}");
    for word in ["scale of od by root", "docker-gpuctl, pid ", " s\n", "docker kill od-0"] {
        assert!(got.stderr.contains(word), "{word:?} is not said\n{got}");
    }
    node.docker_ok(&["kill", "od-0"]);
    assert!(scale.wait().unwrap().success());
    let now = state::seen(&node, "od").expect("it is there");
    assert_eq!((now.version, now.opens.len(), now.running), (1, 1, true), "{now:?}");
    // stop has no journal, and a lock all the same.
    let mut stop = node.spawn(&["gpuctl", "stop", "od", "--timeout", "-1"]);
    std::thread::sleep(Duration::from_secs(3));
    let got = node.gpuctl(&["rm", "-f", "od"]);
    assert_eq!(got.code, 1, "{got}");
    for word in ["change to od (docker-gpuctl, pid ", "docker kill od-1"] {
        assert!(got.stderr.contains(word), "{word:?} is not said\n{got}");
    }
    node.docker_ok(&["kill", "od-1"]);
    assert!(stop.wait().unwrap().success());
    node.check();
}

#[test]
fn a_container_that_is_removed_while_a_scale_stops_it_is_said_to_be_removed() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    stubborn(&node);
    let line = ["scale", "od", "--gpus", "1", "--timeout", "600"];
    let got = std::thread::scope(|scope| {
        let scale = scope.spawn(|| node.gpuctl(&line));
        wait_for("the change", Duration::from_secs(20), || !node.open_changes().is_empty());
        std::thread::sleep(Duration::from_secs(1));
        node.docker_ok(&["rm", "-f", "od-0"]);
        scale.join().expect("an end of scale")
    });
    assert_eq!(got.code, 1, "{got}");
    assert!(got.stderr.contains("od was removed meanwhile"), "{got}");
    for wrong in ["undoing it failed", "as it was", "now od-1"] {
        assert!(!got.stderr.contains(wrong), "{wrong:?} is said\n{got}");
    }
    assert_eq!(node.open_changes(), Vec::<String>::new(), "{got}");
    assert!(node.leases().is_empty(), "{got}");
    node.gpuctl_ok(&["rm", "--history", "od"]);
    node.check();
}
