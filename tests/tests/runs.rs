//! Attached and detached runs of ordinary users, through the service: streams, exit codes, signals,
//! and what is said of a run whose client cannot go on.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use gpuctl_tests::node::wait_for;
use gpuctl_tests::served::{DAEMON, Served, ended};
use gpuctl_tests::{engine_runs_here, state};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

#[test]
fn an_attached_run_is_as_docker_runs() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    let run = |more: &[&str]| {
        let all = [&["run", "--rm", "--name", "job", "--gpus", "1"], more].concat();
        served.ask(DAEMON, &all)
    };
    let got = run(&["busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((got.code, got.stdout.as_str()), (7, "out\n"), "{got}");
    assert!(got.stderr.lines().any(|l| l == "err"), "{got}");
    let gone = || {
        wait_for("--rm", Duration::from_secs(10), || state::containers(node).is_empty());
        wait_for("its GPU", Duration::from_secs(10), || node.leases().is_empty());
        assert!(state::row(node, "job").is_none());
    };
    gone();
    // Once more under the same name, and so that it is over before anybody has looked.
    for _ in 0..5 {
        let got = run(&["busybox", "true"]);
        assert_eq!((got.code, got.stdout.as_str()), (0, ""), "{got}");
        gone();
    }
    // Only the streams that are attached to; what Docker itself has to say is heard in any case.
    let both = ["busybox", "sh", "-c", "echo out; echo err >&2; exit 7"];
    let got = run(&[&["-a", "stdout"], &both[..]].concat());
    assert_eq!((got.code, got.stdout.as_str()), (7, "out\n"), "{got}");
    assert!(!got.stderr.lines().any(|l| l == "err"), "{got}");
    gone();
    let got = run(&[&["-a", "STDERR"], &both[..]].concat());
    assert_eq!((got.code, got.stdout.as_str()), (7, ""), "{got}");
    assert!(got.stderr.lines().any(|l| l == "err"), "{got}");
    gone();
    let got = run(&["-a", "stdout", "busybox", "/no/such"]);
    assert!(got.code == 127 && got.stderr.contains("no such file"), "{got}");
    gone();
    let big = run(&["busybox", "sh", "-c", "seq 1 100000"]);
    assert_eq!(big.stdout.lines().count(), 100_000, "no output is lost: exit {}", big.code);
    gone();
    for (code, image, program) in
        [(127, "busybox", "/no/such"), (126, "busybox", "/etc"), (125, "no-such-image:x", "true")]
    {
        let got = run(&[image, program]);
        assert_eq!(got.code, code, "{got}");
        gone();
    }
    // -t promises a terminal to whoever reads from it.
    for asked in [
        &["run", "-it", "--rm", "busybox", "true"][..],
        &["gpuctl", "run", "-it", "--rm", "busybox", "true"],
    ] {
        let got = node.docker(asked);
        assert!(got.code == 1 && got.stderr.contains("the input device is not a TTY"), "{got}");
    }
    gone();
    // What it reads comes from the user's terminal.
    let line = ["run", "-i", "--rm", "--name", "job", "--gpus", "1", "busybox", "wc", "-c"];
    let mut command: Command = node.gpuctl_command_as(DAEMON, served.group, &line);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"0123456789").unwrap();
    let (code, text) = ended(child);
    assert!(code == 0 && text.lines().any(|l| l.trim() == "10"), "{code}: {text}");
    gone();
    // It sees its GPU and no other.
    let got = run(&["busybox", "sh", "-c", "ls /dev | grep -c '^nvidia[0-9]'"]);
    assert_eq!(got.stdout, "1\n", "{got}");
    gone();
    // A signal to the whole group, as a key or a supervisor sends it, is the container's.
    let script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done";
    let line = ["run", "--rm", "--name", "job", "--gpus", "1", "busybox", "sh", "-c", script];
    let mut child = served.begin(DAEMON, &line);
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\n");
    killpg(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let (code, text) = ended(child);
    assert_eq!(code, 42, "{text}");
    gone();
    node.check();
}

#[test]
fn a_run_whose_id_cannot_be_shown_is_named() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    let line = ["run", "-d", "--name", "job", "--gpus", "1", "busybox", "sleep", "100000"];
    let full = std::fs::File::create("/dev/full").unwrap();
    let mut command: Command = node.gpuctl_command_as(DAEMON, served.group, &line);
    let output = command.stdout(full).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let why = "error: job-0 runs, but its id could not be written: No space left on device\n\
               hint: docker gpuctl stop job stops it\n";
    assert!(text.ends_with(why), "{text}");
    assert_eq!(state::seen(node, "job").map(|seen| seen.opens.len()), Some(1));
    node.check();
}

#[test]
fn a_stop_that_is_interrupted_ends_the_one_under_way_and_leaves_the_others() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    let script = "trap 'echo asked' TERM; while true; do sleep 1; done";
    let names = ["one", "two"];
    for name in names {
        let line = ["run", "-d", "--stop-timeout", "8", "--name", name, "--gpus", "1"];
        served.ok(DAEMON, &[&line[..], &["busybox", "sh", "-c", script]].concat());
    }
    for user in [DAEMON, 0] {
        let asked = || node.docker_ok(&["logs", "one-0"]).lines().count();
        let before = asked();
        let child = served.begin(user, &["stop", "one", "two"]);
        wait_for("the signal", Duration::from_secs(30), || asked() > before);
        killpg(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
        let (code, text) = ended(child);
        assert_eq!(code, 130, "{text}");
        // It goes on to its end, whoever waits for it; the other is not asked.
        let runs = |name: &str| state::row(node, name).is_some_and(|row| row["running"] == true);
        wait_for("its end", Duration::from_secs(30), || !runs("one"));
        assert!(runs("two"), "{text}");
        assert_eq!(node.docker_ok(&["logs", "two-0"]), "", "{text}");
        served.ok(DAEMON, &["start", "one"]);
    }
    node.check();
}

#[test]
fn a_run_that_is_interrupted_says_what_became_of_it() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    let line = ["run", "-d", "--name", "job", "--gpus", "1", "busybox", "sleep", "100000"];
    // At many moments: before it is created, while Docker makes it, after its start was begun, too late.
    for moment in 0..12 {
        let child = served.begin(DAEMON, &line);
        std::thread::sleep(Duration::from_millis(40 * moment));
        killpg(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
        let (code, text) = ended(child);
        let at = format!("{} ms: exit {code}\n{text}", 40 * moment);
        let named = text.contains("interrupted, but job-0 runs already")
            && text.contains("hint: docker gpuctl stop job stops it");
        // By a signal before ours could be caught (255: docker caught its own, and its plugin's end is -1),
        // or after the id was printed.
        let early = code == -1 || code == 255 && text.is_empty();
        assert!((early || matches!(code, 130 | 0)) && (code == 130 || !named), "{at}");
        // It is so when it is said.
        let runs = named || code == 0;
        assert_eq!(state::row(node, "job").is_some(), runs, "{at}");
        assert_eq!(node.leases().len(), usize::from(runs), "{at}");
        assert_eq!(node.open_changes(), [""; 0], "{at}");
        if runs {
            served.ok(DAEMON, &["rm", "-f", "--history", "job"]);
            wait_for("its GPU", Duration::from_secs(10), || node.leases().is_empty());
        }
    }
    node.check();
}
