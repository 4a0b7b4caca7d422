//! kill -9 of the plugin and of the service at every step of the journal. After each: the next
//! command, or `doctor --fix`, says in one line which change it finished or undid, and the
//! container is exactly what it was or exactly what was asked for. Which of the two is known for
//! each step. The plugin must be built with `--features faults`, as `tests/run` does.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use gpuctl_tests::node::wait_for;
use gpuctl_tests::state::{self, Seen};
use gpuctl_tests::{Node, Options, Output, engine_runs_here, mends_here, programs, skip};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

const USER: u32 = 12345;

/// What is to become of a broken change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Undone,
    Done,
    /// Done, and its journal was gone already: there is nothing to say.
    Silent,
}
use End::{Done, Silent, Undone};

const RUN: [(&str, End); 5] = [
    ("run:create:begun", Undone),
    ("run:create:done", Undone),
    ("run:start:begun", Undone),
    ("run:start:done", Done),
    ("run:end:done", Silent),
];
const SCALE: [(&str, End); 7] = [
    ("scale:claim:begun", Undone),
    ("scale:claim:done", Undone),
    ("scale:restart:begun", Done),
    ("scale:restart:done", Done),
    ("scale:rename:begun", Done),
    ("scale:rename:done", Done),
    ("scale:end:done", Silent),
];
const REMOVE: [(&str, End); 5] = [
    ("remove:remove:begun", Done),
    ("remove:remove:done", Done),
    ("remove:forget:begun", Done),
    ("remove:forget:done", Done),
    ("remove:end:done", Silent),
];

/// Who brings it to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mender {
    Next,
    Doctor,
}
const MENDERS: [Mender; 2] = [Mender::Next, Mender::Doctor];

impl Mender {
    fn mend(self, node: &Node, next: &[&str]) -> Output {
        match self {
            Self::Next => node.gpuctl(next),
            Self::Doctor => node.gpuctl(&["doctor", "--fix"]),
        }
    }
}

/// One that ends at once when it is stopped.
fn long(name: &str, gpus: usize) -> Vec<String> {
    let gpus = gpus.to_string();
    let words = ["run", "-d", "--name", name, "--gpus", &gpus, "--stop-signal", "KILL"];
    words.iter().chain(&["busybox", "sleep", "100000"]).map(ToString::to_string).collect()
}

fn words(line: &[String]) -> Vec<&str> {
    line.iter().map(String::as_str).collect()
}

/// It was said in one line which change was broken off and what became of it, and no journal is left.
#[track_caller]
fn said(node: &Node, got: &Output, change: &str, end: End, at: &str) {
    assert_eq!(node.open_changes(), Vec::<String>::new(), "{at}\n{got}");
    let text = format!("{}{}", got.stdout, got.stderr);
    let lines: Vec<&str> = text.lines().filter(|l| l.contains("broken off")).collect();
    let word = match end {
        Silent => return assert!(lines.is_empty(), "{at}\n{got}"),
        Done => "it is done",
        Undone => "it is undone",
    };
    let [line] = lines.as_slice() else { panic!("{at}: {lines:?}\n{got}") };
    assert!(line.contains(change) && line.contains(word), "{at}: {line}\n{got}");
}

/// The ledger is as it was.
#[track_caller]
fn unchanged(node: &Node, before: &state::Records, at: &str) {
    assert_eq!(state::difference(before, &state::ledger(node)), Vec::<String>::new(), "{at}");
}

#[test]
fn run_is_whole_or_nothing() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.gpuctl_ok(&["ps"]);
    let nothing = state::ledger(&node);
    for mender in MENDERS {
        for (point, end) in RUN {
            let at = format!("{point}, {mender:?}");
            node.gpuctl_killed_at(point, &words(&long("job", 2)));
            node.check_exclusive();
            let got = mender.mend(&node, &["start", "job"]);
            said(&node, &got, "run of job", end, &at);
            let seen = state::seen(&node, "job");
            if end == Undone {
                assert_eq!(seen, None, "{at}\n{got}");
                unchanged(&node, &nothing, &at);
                continue;
            }
            assert_eq!(got.code, 0, "{at}\n{got}");
            let seen = seen.unwrap_or_else(|| panic!("{at}: it is gone\n{got}"));
            assert!(
                seen.running && seen.docker_name == "job-0" && seen.gpus == "2",
                "{at}: {seen:?}"
            );
            assert_eq!((seen.leased.len(), &seen.leased), (2, &seen.opens), "{at}: {seen:?}");
            assert_eq!(seen.history, [0], "{at}");
            node.gpuctl_ok(&["rm", "-f", "--history", "job"]);
            unchanged(&node, &nothing, &at);
        }
    }
    node.check();
}

/// What the next command on an undone `run` may be, and that each of them says so.
#[test]
fn every_command_on_a_name_ends_what_was_broken_off() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.gpuctl_ok(&["ps"]);
    let nothing = state::ledger(&node);
    let next: [&[&str]; 6] = [
        &["start", "job"],
        &["stop", "job"],
        &["restart", "job"],
        &["rm", "job"],
        &["scale", "job", "--gpus", "1"],
        &["scale", "job-0", "--gpus", "1"],
    ];
    for command in next {
        let at = format!("{command:?}");
        node.gpuctl_killed_at("run:create:done", &words(&long("job", 2)));
        let got = node.gpuctl(command);
        said(&node, &got, "run of job", Undone, &at);
        assert_eq!(got.code, 1, "{at}\n{got}");
        assert!(got.stderr.contains("error: ") && got.stderr.contains("hint: "), "{at}\n{got}");
        assert_eq!(state::seen(&node, "job"), None, "{at}\n{got}");
        unchanged(&node, &nothing, &at);
    }
    // The same run again just works.
    node.gpuctl_killed_at("run:create:done", &words(&long("job", 2)));
    let got = node.gpuctl(&words(&long("job", 2)));
    said(&node, &got, "run of job", Undone, "run");
    assert_eq!(got.code, 0, "{got}");
    assert_eq!(state::seen(&node, "job").map(|s| s.opens.len()), Some(2));
    node.check();
}

/// The new state of a scale, from the old.
fn scaled(old: &Seen, to: usize, now: &Seen) -> Seen {
    Seen {
        docker_name: format!("train-{}", old.version + 1),
        version: old.version + 1,
        gpus: to.to_string(),
        history: old.history.iter().copied().chain([old.version + 1]).collect(),
        // Which ones is for the allocation's own tests, how many is looked at by the caller.
        leased: now.leased.clone(),
        opens: now.leased.clone(),
        started_at: now.started_at.clone(),
        ..old.clone()
    }
}

fn scale(from: usize, to: usize, running: bool) {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.gpuctl_ok(&words(&long("train", from)));
    node.docker_ok(&["exec", "train-0", "sh", "-c", "echo tool >/opt-tool"]);
    if !running {
        node.gpuctl_ok(&["stop", "train"]);
    }
    let (from_word, to_word) = (from.to_string(), to.to_string());
    let next = if running { ["start", "train"] } else { ["stop", "train"] };
    for (mends, mender) in MENDERS.into_iter().enumerate() {
        for (number, (point, end)) in SCALE.into_iter().enumerate() {
            if !mends_here(mends, number, MENDERS.len()) {
                continue;
            }
            let at = format!("{point}, {mender:?}");
            let old = state::seen(&node, "train").expect("it is there");
            let ledger = state::ledger(&node);
            node.gpuctl_killed_at(point, &["scale", "train", "--gpus", &to_word]);
            node.check_exclusive();
            let started = node.docker_ok(&["inspect", "--format", "{{.State.StartedAt}}", &old.id]);
            let got = mender.mend(&node, &next);
            assert_eq!(got.code, 0, "{at}\n{got}");
            said(&node, &got, "scale of train", end, &at);
            let now = state::seen(&node, "train").expect("it is there");
            // Mending restarts only what the change itself had not yet restarted.
            let restarts = running && point == "scale:restart:begun";
            assert_eq!(now.started_at != started, restarts, "{at}\n{got}");
            let files = node.docker_ok(&["diff", &now.docker_name]);
            assert!(files.lines().any(|l| l == "A /opt-tool"), "{at}: {files}");
            if end == Undone {
                assert_eq!(now, old, "{at}\n{got}");
                unchanged(&node, &ledger, &at);
                continue;
            }
            assert_eq!(now, scaled(&old, to, &now), "{at}\n{got}");
            assert_eq!(now.leased.len(), if running { to } else { 0 }, "{at}\n{got}");
            assert_eq!(
                now.started_at != old.started_at,
                running,
                "{at}: restarted once, if it ran"
            );
            let common = old.leased.intersection(&now.leased).count();
            assert_eq!(common, if running { from.min(to) } else { 0 }, "{at}: those it had first");
            node.gpuctl_ok(&["scale", "train", "--gpus", &from_word]);
        }
    }
    node.check();
}

#[test]
fn scale_to_more_is_the_old_state_or_the_new() {
    scale(2, 4, true);
}

#[test]
fn scale_to_fewer_is_the_old_state_or_the_new() {
    scale(4, 2, true);
}

#[test]
fn scale_to_none_is_the_old_state_or_the_new() {
    scale(2, 0, true);
}

#[test]
fn scale_from_none_is_the_old_state_or_the_new() {
    scale(0, 2, true);
}

#[test]
fn scale_of_a_stopped_one_is_the_old_state_or_the_new() {
    scale(2, 3, false);
}

#[test]
fn rm_is_finished_and_its_history_is_as_asked() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.gpuctl_ok(&["ps"]);
    let nothing = state::ledger(&node);
    for mender in MENDERS {
        for history in [false, true] {
            for (point, end) in REMOVE {
                let at = format!("{point}, {mender:?}, history {history}");
                node.gpuctl_ok(&words(&long("job", 2)));
                let rm: &[&str] =
                    if history { &["rm", "-f", "--history", "job"] } else { &["rm", "-f", "job"] };
                node.gpuctl_killed_at(point, rm);
                node.check_exclusive();
                let got = mender.mend(&node, &["start", "job"]);
                said(&node, &got, "rm of job", end, &at);
                if mender == Mender::Next {
                    assert!(got.code == 1 && got.stderr.contains("hint: "), "{at}\n{got}");
                }
                assert_eq!(state::seen(&node, "job"), None, "{at}\n{got}");
                assert!(node.leases().is_empty(), "{at}\n{got}");
                assert_eq!(!state::history(&node, "job").is_empty(), !history, "{at}\n{got}");
                if !history {
                    node.gpuctl_ok(&["rm", "--history", "job"]);
                }
                unchanged(&node, &nothing, &at);
            }
        }
    }
    node.check();
}

#[test]
fn a_killed_service_is_mended_by_the_next_command_of_its_user() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options { service: true, ..Options::default() });
    let group = std::fs::metadata(node.place().docker_socket()).unwrap().gid();
    let ask = |line: &[&str]| node.gpuctl_as(USER, group, line);
    let got = ask(&words(&long("train", 2)));
    assert_eq!(got.code, 0, "{got}");
    let rest = state::ledger(&node);
    node.kill_service();
    let killed = |point: &str, line: &[&str]| {
        node.start_service_killed_at(point);
        let got = ask(line);
        assert_ne!(got.code, 0, "{point}\n{got}");
        assert!(got.stderr.contains("error: ") && got.stderr.contains("hint: "), "{point}\n{got}");
        wait_for("the service's end", Duration::from_secs(10), || node.site().service().is_none());
        node.check_exclusive();
        node.start_service();
    };
    for (point, end) in RUN {
        killed(point, &words(&long("job", 1)));
        let got = ask(&["start", "job"]);
        said(&node, &got, "run of job", end, point);
        assert_eq!(state::seen(&node, "job").is_some(), end != Undone, "{point}\n{got}");
        if end != Undone {
            let got = ask(&["rm", "-f", "--history", "job"]);
            assert_eq!(got.code, 0, "{got}");
        }
        unchanged(&node, &rest, point);
        node.kill_service();
    }
    for (point, end) in SCALE {
        let old = state::seen(&node, "train").expect("it is there");
        let to = if old.leased.len() == 2 { 4 } else { 2 };
        killed(point, &["scale", "train", "--gpus", &to.to_string()]);
        let got = ask(&["start", "train"]);
        assert_eq!(got.code, 0, "{point}\n{got}");
        said(&node, &got, "scale of train", end, point);
        let now = state::seen(&node, "train").expect("it is there");
        let asked = if end == Undone { old } else { scaled(&old, to, &now) };
        assert_eq!(now, asked, "{point}\n{got}");
        assert_eq!(now.opens, now.leased, "{point}");
        node.kill_service();
    }
    for (point, end) in REMOVE {
        node.start_service();
        let got = ask(&words(&long("job", 1)));
        assert_eq!(got.code, 0, "{got}");
        node.kill_service();
        killed(point, &["rm", "-f", "job"]);
        let got = ask(&["start", "job"]);
        said(&node, &got, "rm of job", end, point);
        assert_eq!(state::seen(&node, "job"), None, "{point}\n{got}");
        let got = ask(&["rm", "--history", "job"]);
        assert_eq!(got.code, 0, "{got}");
        node.kill_service();
    }
    node.check();
}

/// Docker takes its time for a restart; the plugin dies in the middle of it.
#[test]
fn killed_while_docker_restarts_it() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    // It takes a second to end.
    let script = "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done";
    let run = ["run", "-d", "--name", "train", "--gpus", "2", "busybox", "sh", "-c", script];
    node.gpuctl_ok(&run);
    node.docker_ok(&["exec", "train-0", "touch", "/installed"]);
    for wait in [50, 200, 400, 700, 1000, 1200, 1400, 1700, 2000] {
        let old = state::seen(&node, "train").expect("it is there");
        let to = if old.leased.len() == 2 { 5 } else { 2 };
        let number = to.to_string();
        let mut child = plugin(&node, &["scale", "train", "--gpus", &number]);
        std::thread::sleep(Duration::from_millis(wait));
        end(&mut child);
        node.check_exclusive();
        // At once, while Docker may be at it still.
        let got = node.gpuctl(&["start", "train"]);
        assert_eq!(got.code, 0, "after {wait} ms\n{got}");
        assert_eq!(node.open_changes(), Vec::<String>::new(), "after {wait} ms\n{got}");
        // What Docker had begun, it ends by itself; that is over now.
        std::thread::sleep(Duration::from_millis(2500));
        node.check_exclusive();
        let now = state::seen(&node, "train").expect("it is there");
        assert!(now.running && now.opens == now.leased, "after {wait} ms: {now:?}\n{got}");
        assert_eq!(now.id, old.id);
        let numbers = (now.gpus.clone(), now.leased.len(), now.version);
        let (before, after) = (old.leased.len(), old.version + 1);
        let is_old = numbers == (before.to_string(), before, old.version);
        let is_new = numbers == (number.clone(), to, after);
        assert!(is_old || is_new, "after {wait} ms: {now:?}\nbefore: {old:?}\n{got}");
        node.docker_ok(&["exec", &now.docker_name, "ls", "/installed"]);
    }
    node.check();
}

/// The plugin itself, without the Docker CLI that starts it, the first of a group.
fn plugin(node: &Node, line: &[&str]) -> std::process::Child {
    use std::os::unix::process::CommandExt as _;
    let mut command = std::process::Command::new(node.site().plugin());
    command.arg("gpuctl").args(line).envs(node.site().engine().environment()).process_group(0);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    command.stderr(std::process::Stdio::null()).spawn().expect("the plugin starts")
}

fn end(child: &mut std::process::Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let _ = kill(pid, Signal::SIGKILL);
    child.wait().unwrap();
}

/// A client dies while its `docker create` is under way, which may go on and end without it.
#[test]
fn a_client_killed_while_it_creates_leaves_nothing_half_done() {
    if !engine_runs_here() {
        return;
    }
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let node = Node::start(Options { service: true, ..Options::default() });
    let group = std::fs::metadata(node.place().docker_socket()).unwrap().gid();
    node.gpuctl_ok(&["ps"]);
    let nothing = state::ledger(&node);
    // A Docker CLI that takes two seconds to create, as one that pulls does.
    let docker = node.site().engine().docker();
    let real = docker.get_program().to_str().unwrap().to_owned();
    let slow = node.place().at("slow-docker");
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *' --help '*) ;; *' create '*) sleep 2 ;; esac\nexec {real} \"$@\"\n"
    );
    gpuctl_sim::files::write(&slow, &script).unwrap();
    std::fs::set_permissions(&slow, std::fs::Permissions::from_mode(0o755)).unwrap();
    for (served, whole_group) in [(true, false), (true, true), (false, false), (false, true)] {
        let at = format!("through the service: {served}, its docker create too: {whole_group}");
        let line = long("job", 2);
        let mut client = if served {
            let mut client = std::process::Command::new("setpriv");
            client.args(["--reuid", &USER.to_string(), "--regid", &group.to_string()]);
            client.arg("--clear-groups").arg(node.site().plugin());
            client
        } else {
            std::process::Command::new(node.site().plugin())
        };
        client.arg("gpuctl").args(&line).envs(node.site().engine().environment());
        client.env("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", &slow).process_group(0);
        let mut client = client.spawn().unwrap();
        wait_for("the journal", Duration::from_secs(10), || !node.open_changes().is_empty());
        std::thread::sleep(Duration::from_millis(300));
        let pid = Pid::from_raw(i32::try_from(client.id()).unwrap());
        let _ = if whole_group { killpg(pid, Signal::SIGKILL) } else { kill(pid, Signal::SIGKILL) };
        client.wait().unwrap();
        if served {
            wait_for("the change's end", Duration::from_secs(10), || {
                node.open_changes().is_empty()
            });
            unchanged(&node, &nothing, &at);
        }
        std::thread::sleep(Duration::from_secs(3));
        node.check_exclusive();
        // The same again works, whatever docker create has left.
        let got = node.gpuctl_as(USER, group, &words(&line));
        assert_eq!(got.code, 0, "{at}\n{got}");
        let now = state::seen(&node, "job").expect("it is there");
        assert_eq!(
            (now.opens.len(), &now.opens, now.history.as_slice()),
            (2, &now.leased, &[0][..]),
            "{at}"
        );
        node.gpuctl_ok(&["rm", "-f", "--history", "job"]);
        assert_eq!(state::containers(&node).len(), 0, "{at}");
        unchanged(&node, &nothing, &at);
    }
    node.check();
}

/// What kills the program for tests is in no release.
#[test]
fn a_release_has_no_faults_in_it() {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| programs::repository().join("target"), std::path::PathBuf::from);
    let release = target.join("release/docker-gpuctl");
    let needle = b"GPUCTL_KILL_AT";
    let has = |bytes: &[u8]| bytes.windows(needle.len()).any(|w| w == needle);
    let ours = std::fs::read(programs::programs().plugin).unwrap();
    assert!(has(&ours), "the tests' own plugin was built without --features faults: ./tests/run");
    match std::fs::read(&release) {
        Ok(bytes) => {
            assert!(!has(&bytes), "{} can be killed by its environment", release.display())
        }
        Err(_) => skip("no release was built: packaging/quickstart builds one"),
    }
}
