//! Ordinary users work through the service's socket: every command, who may and who may not, what
//! comes over it that is no request, its end, and changes that meet. Their runs stand in runs.rs.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::{Duration, Instant};

use docker_gpuctl::service::protocol::PROTOCOL;
use gpuctl_tests::node::wait_for;
use gpuctl_tests::served::{DAEMON, NOBODY, Served, ended};
use gpuctl_tests::{Output, engine_runs_here, state};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A container that takes two seconds to stop.
const SLOW: &str = "trap 'sleep 2; exit 0' TERM; while :; do sleep 0.1; done";

#[track_caller]
fn refused(got: &Output, code: i32) {
    assert_eq!(got.code, code, "{got}");
    assert!(got.stderr.contains("error: ") && got.stderr.contains("hint: "), "{got}");
}

/// Reads what the service says until this is in it.
#[track_caller]
fn read_until(stream: &mut UnixStream, wanted: &str) {
    let mut said = String::new();
    while !said.contains(wanted) {
        let mut more = [0; 4096];
        let n = stream.read(&mut more).unwrap();
        assert!(n > 0, "no {wanted}: {said}");
        said.push_str(&String::from_utf8_lossy(&more[..n]));
    }
}

#[test]
fn a_user_in_the_group_can_do_everything() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    let run = ["run", "-d", "--name", "train", "--gpus", "2", "--stop-signal", "KILL", "busybox"];
    let got = served.ok(DAEMON, &[&run[..], &["sh", "-c", "echo hello; sleep 100000"]].concat());
    assert!(got.stdout.contains(&node.id("train-0")), "{got}");
    let row = state::row(node, "train").expect("root's ps shows it");
    assert_eq!(row["owner"], "daemon", "{row}");
    let ps = served.ok(NOBODY, &["ps"]);
    let line = ps.stdout.lines().find(|l| l.starts_with("train ")).unwrap_or_default().to_owned();
    assert!(line.contains("daemon"), "others see whose it is\n{ps}");
    let gpus = served.ok(DAEMON, &["gpus", "--format", "json"]);
    let held =
        gpus.stdout.lines().filter(|l| l.contains("\"train-0\"") && l.contains("\"daemon\""));
    assert_eq!(held.count(), 2, "{gpus}");
    let got = served.ok(DAEMON, &["exec", "train", "sh", "-c", "echo tool >/tool; cat /tool"]);
    assert_eq!(got.stdout, "tool\n", "{got}");
    assert_eq!(served.ask(DAEMON, &["exec", "train", "sh", "-c", "exit 9"]).code, 9);
    assert_eq!(served.ok(DAEMON, &["logs", "train"]).stdout, "hello\n");
    served.ok(DAEMON, &["scale", "train", "--gpus", "4"]);
    let seen = state::seen(node, "train").expect("it is there");
    assert_eq!((seen.version, seen.opens.len(), &seen.opens), (1, 4, &seen.leased), "{seen:?}");
    served.ok(DAEMON, &["stop", "train"]);
    assert!(node.leases().is_empty());
    served.ok(DAEMON, &["start", "train"]);
    served.ok(DAEMON, &["restart", "train"]);
    let seen = state::seen(node, "train").expect("it is there");
    assert_eq!((seen.version, seen.opens.len(), &seen.opens), (1, 4, &seen.leased), "{seen:?}");
    assert_eq!(served.ok(DAEMON, &["exec", "train", "cat", "/tool"]).stdout, "tool\n");
    let inspected = served.ok(DAEMON, &["inspect", "train"]);
    assert!(inspected.stdout.contains(&seen.id), "{inspected}");
    // Who changed it is known too: another of the group may.
    served.ok(NOBODY, &["scale", "train", "--gpus", "1"]);
    let history = served.ok(DAEMON, &["history", "train", "--format", "json"]);
    let by: Vec<serde_json::Value> =
        history.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let by: Vec<&str> = by.iter().filter_map(|r| r["by"].as_str()).collect();
    assert_eq!(by, ["daemon", "daemon", "nobody"], "{history}");
    assert_eq!(state::row(node, "train").unwrap()["owner"], "daemon", "it stays daemon's");
    served.ok(DAEMON, &["version"]);
    served.ok(DAEMON, &["doctor"]);
    served.ok(DAEMON, &["create", "--name", "later", "--gpus", "1", "busybox", "true"]);
    served.ok(DAEMON, &["rm", "--history", "later"]);
    served.ok(DAEMON, &["rm", "-f", "--history", "train"]);
    assert_eq!(state::difference(&state::Records::new(), &state::ledger(node)), [""; 0]);
    assert!(state::containers(node).is_empty());
    node.check();
}

#[test]
fn who_may_not_and_nobody_there_are_told_what_to_do() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    let run = ["run", "-d", "--name", "job", "--gpus", "1", "busybox", "true"];
    let lines: [(&[&str], i32); 5] = [
        (&["ps"], 1),
        (&["gpus"], 1),
        (&run, 125),
        (&["scale", "job", "--gpus", "2"], 1),
        (&["exec", "job", "true"], 1),
    ];
    for (line, code) in lines {
        let got = node.gpuctl_as(DAEMON, 54321, line);
        refused(&got, code);
        assert!(got.stderr.contains("group docker"), "{got}");
    }
    // Killed: its socket is still there. Then without one.
    node.kill_service();
    for there in [true, false] {
        assert_eq!(node.place().socket().exists(), there);
        for (line, code) in lines {
            let got = served.ask(DAEMON, line);
            refused(&got, code);
            assert!(got.stderr.contains("no gpuctl service answers"), "{got}");
        }
        let _ = std::fs::remove_file(node.place().socket());
    }
    assert!(state::containers(node).is_empty(), "docker create was never called");
    // A socket that a killed service left is no hindrance to the next.
    node.start_service();
    served.ok(DAEMON, &["ps"]);
    node.check();
}

/// A request as it comes over the socket.
fn create(name: &str) -> String {
    format!(
        r#"{{"op":"create","name":"{name}","gpus":{{"count":1}},"start":"detached","auto_remove":false,"from":null}}"#
    )
}

#[test]
fn nothing_that_comes_over_the_socket_kills_it() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    let run = ["run", "-d", "--name", "job", "--gpus", "1", "busybox", "sleep", "100000"];
    served.ok(DAEMON, &run);
    let pid = served.pid();
    let before = (state::ledger(node), state::containers(node));
    let connect = || {
        let stream = UnixStream::connect(node.place().socket()).expect("it answers");
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    let deep = format!("{}\n", "[".repeat(500_000));
    let long = "x".repeat(3 << 20);
    let hello = |more: &str| format!("{{\"protocol\":{PROTOCOL}{more}}}\n");
    let other = format!("{{\"protocol\":{},\"request\":{{\"op\":\"gpus\"}}}}\n", PROTOCOL + 1);
    let nothing = hello("");
    let unknown = hello(r#","request":{"op":"format_disk"}"#);
    let odd_names = hello(r#","request":{"op":"start","names":["../../../etc","","\u0000"]}"#);
    let create = |name: &str| hello(&format!(",\"request\":{}", create(name)));
    let odd_name = create("../../etc/passwd");
    let dashes = create("--privileged");
    let garbage: [&[u8]; 17] = [
        b"",
        b"\n",
        b"\n\n\n\n",
        b"hello\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
        b"\xff\xfe\x00\n",
        b"{}\n",
        b"null\n",
        nothing.as_bytes(),
        unknown.as_bytes(),
        other.as_bytes(),
        odd_names.as_bytes(),
        odd_name.as_bytes(),
        dashes.as_bytes(),
        deep.as_bytes(),
        long.as_bytes(),
    ];
    for bytes in garbage {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        // Said in whole, and the writing end closed: it answers with a failure or closes.
        let mut stream = connect();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.contains("\"failed\""), "{shown}: {answer}");
        // Said in half, and gone.
        let mut stream = connect();
        let _ = stream.write_all(&bytes[..bytes.len() / 2]);
        drop(stream);
    }
    // Who opens more than a user may, and says nothing, shuts out nobody else.
    let mut idle: Vec<UnixStream> = (0..20).map(|_| served.connect_as(DAEMON)).collect();
    let got = served.ask(DAEMON, &["ps"]);
    refused(&got, 1);
    assert!(got.stderr.contains("too many connections open: 16 of them are yours"), "{got}");
    served.ok(NOBODY, &["ps"]);
    // Several together shut out others, but never root, who is counted nowhere.
    idle.extend((1001..1004).flat_map(|user| vec![user; 16]).map(|user| served.connect_as(user)));
    let got = served.ask(NOBODY, &["ps"]);
    refused(&got, 1);
    assert!(got.stderr.contains("too many connections open\n"), "{got}");
    idle.extend((0..80).map(|_| connect()));
    let mut root = node.site().engine().docker();
    let root = root.env("GPUCTL_VIA", "service").args(["gpuctl", "ps"]).output().unwrap();
    assert!(root.status.success(), "{root:?}");
    drop(idle);
    wait_for("room", Duration::from_secs(5), || served.ask(DAEMON, &["ps"]).code == 0);
    // Without being closed they lose their places too.
    let idle: Vec<UnixStream> = (0..16).map(|_| served.connect_as(DAEMON)).collect();
    wait_for("room", Duration::from_secs(15), || served.ask(DAEMON, &["ps"]).code == 0);
    drop(idle);
    // One who answers what it was not asked, or with rubbish, has its change undone.
    for reply in
        ["rubbish\n", "\"attached\"\n", "{\"created\":\"../..\"}\n", "{\"attach_ended\":0}\n"]
    {
        let mut stream = connect();
        stream.write_all(create("other").as_bytes()).unwrap();
        read_until(&mut stream, "\"create\"");
        stream.write_all(reply.as_bytes()).unwrap();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut rest = String::new();
        let _ = stream.read_to_string(&mut rest);
        assert!(!rest.contains("\"ok\""), "{reply}: {rest}");
        wait_for("its end", Duration::from_secs(10), || node.open_changes().is_empty());
    }
    assert_eq!(served.pid(), pid, "it is the same process");
    assert_eq!(state::difference(&before.0, &state::ledger(node)), [""; 0]);
    assert_eq!(state::containers(node), before.1);
    node.check();
}

#[test]
fn a_client_names_no_container_that_it_did_not_create() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    let victim = node.docker_ok(&["run", "-d", "--name", "victim", "busybox", "sleep", "100000"]);
    let before = (state::ledger(node), state::containers(node));
    let mut stream = UnixStream::connect(node.place().socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let ask = format!("{{\"protocol\":{PROTOCOL},\"request\":{}}}", create("mine"));
    stream.write_all(format!("{ask}\n").as_bytes()).unwrap();
    read_until(&mut stream, "\"create\"");
    stream.write_all(format!("{{\"created\":\"{victim}\"}}\n").as_bytes()).unwrap();
    let mut rest = String::new();
    let _ = stream.read_to_string(&mut rest);
    assert!(
        rest.contains("\"failed\""),
        "somebody else's container was taken for the new one: {rest}"
    );
    wait_for("its end", Duration::from_secs(10), || node.open_changes().is_empty());
    assert_eq!(state::difference(&before.0, &state::ledger(node)), [""; 0]);
    assert_eq!(state::containers(node), before.1);
    node.check();
}

#[test]
fn told_to_end_it_finishes_what_is_under_way() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    let run = ["run", "-d", "--name", "train", "--gpus", "2", "busybox", "sh", "-c", SLOW];
    served.ok(DAEMON, &run);
    let scale = served.begin(DAEMON, &["scale", "train", "--gpus", "4"]);
    wait_for("the journal", Duration::from_secs(10), || !node.open_changes().is_empty());
    std::thread::sleep(Duration::from_millis(300));
    let pid = served.pid();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    // Whoever comes now is not served, and does not wait for ever.
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    refused(&served.ask(NOBODY, &["ps"]), 1);
    assert!(begun.elapsed() < Duration::from_secs(20));
    let (code, text) = ended(scale);
    assert_eq!(code, 0, "{text}");
    wait_for("its end", Duration::from_secs(10), || node.site().service().is_none());
    assert_eq!(node.open_changes(), [""; 0]);
    assert!(!node.place().socket().exists(), "it takes its socket with it");
    let seen = state::seen(node, "train").expect("it is there");
    assert_eq!((seen.version, seen.opens.len(), &seen.opens), (1, 4, &seen.leased), "{seen:?}");
    // Idle, it ends at once.
    node.start_service();
    let pid = served.pid();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    wait_for("its end", Duration::from_secs(3), || node.site().service().is_none());
    node.check();
}

#[test]
fn two_users_change_two_containers_at_once() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    for (user, name) in [(DAEMON, "one"), (NOBODY, "two")] {
        served.ok(user, &["run", "-d", "--name", name, "--gpus", "1", "busybox", "sh", "-c", SLOW]);
    }
    let one = served.begin(DAEMON, &["scale", "one", "--gpus", "4"]);
    let two = served.begin(NOBODY, &["scale", "two", "--gpus", "4"]);
    wait_for("both at once", Duration::from_secs(10), || node.open_changes().len() == 2);
    for child in [one, two] {
        let (code, text) = ended(child);
        assert_eq!(code, 0, "{text}");
    }
    let (one, two) = (state::seen(node, "one").unwrap(), state::seen(node, "two").unwrap());
    assert_eq!((one.opens.len(), two.opens.len()), (4, 4), "{one:?} {two:?}");
    assert!(one.opens.is_disjoint(&two.opens));
    node.check();
    // Both want more than is left for two: one gets it, the other is told and keeps what it has.
    for name in ["one", "two"] {
        served.ok(DAEMON, &["scale", name, "--gpus", "2", "--timeout", "0"]);
    }
    let first = served.begin(DAEMON, &["scale", "one", "--gpus", "6", "--timeout", "0"]);
    let second = served.begin(NOBODY, &["scale", "two", "--gpus", "6", "--timeout", "0"]);
    let (first, second) = (ended(first), ended(second));
    let codes = [first.0, second.0];
    assert!(codes == [0, 1] || codes == [1, 0], "{first:?} {second:?}");
    let loser = if first.0 == 1 { &first.1 } else { &second.1 };
    assert!(loser.contains("error: ") && loser.contains("hint: "), "{loser}");
    let (one, two) = (state::seen(node, "one").unwrap(), state::seen(node, "two").unwrap());
    let mut numbers = [one.opens.len(), two.opens.len()];
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 6], "{one:?} {two:?}");
    node.check();
}

#[test]
fn changes_to_one_container_are_never_interleaved() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    served
        .ok(DAEMON, &["run", "-d", "--name", "train", "--gpus", "1", "busybox", "sh", "-c", SLOW]);
    // Through the service, through the service, and by root itself.
    let one = served.begin(DAEMON, &["scale", "train", "--gpus", "4"]);
    let two = served.begin(NOBODY, &["scale", "train", "--gpus", "2"]);
    let got = node.gpuctl(&["scale", "train", "--gpus", "3"]);
    let all = [ended(one), ended(two), (got.code, got.to_string())];
    assert_eq!(node.open_changes(), [""; 0]);
    for (code, text) in &all {
        assert!(*code == 0 || text.contains("under way"), "waited or refused: {text}");
        assert!(
            !text.contains("broken off"),
            "a living change is not taken for a dead one: {text}"
        );
    }
    let done = all.iter().filter(|(code, _)| *code == 0).count() as u64;
    let seen = state::seen(node, "train").expect("it is there");
    assert_eq!((seen.version, &seen.opens), (done, &seen.leased), "{seen:?} {all:?}");
    assert_eq!(seen.history, (0..=done).collect::<Vec<_>>(), "each change has its own version");
    assert_eq!(seen.gpus, seen.opens.len().to_string());
    // One that takes longer than anybody waits.
    let stubborn = "trap '' TERM; while :; do sleep 0.1; done";
    let run = ["run", "-d", "--name", "mule", "--gpus", "1", "busybox", "sh", "-c", stubborn];
    served.ok(DAEMON, &run);
    let long = served.begin(DAEMON, &["scale", "mule", "--gpus", "2", "--timeout", "14"]);
    wait_for("the journal", Duration::from_secs(10), || !node.open_changes().is_empty());
    let lines: [&[&str]; 2] = [&["scale", "mule", "--gpus", "3"], &["rm", "-f", "mule"]];
    let children: Vec<Child> = lines.iter().map(|line| served.begin(NOBODY, line)).collect();
    for child in children {
        let (code, text) = ended(child);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("under way") && text.contains("hint: "), "{text}");
    }
    let (code, text) = ended(long);
    assert_eq!(code, 0, "{text}");
    let seen = state::seen(node, "mule").expect("it is there");
    assert_eq!((seen.version, seen.opens.len()), (1, 2), "{seen:?}");
    node.check();
}
