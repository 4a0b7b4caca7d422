//! events: what was decided, and what is, for those who look on.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixDatagram;
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use gpuctl_tests::engine_runs_here;
use gpuctl_tests::node::{run, wait_for};
use gpuctl_tests::served::{DAEMON, NOBODY, Served};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Longer than a line takes to be shown.
const SHOWN: Duration = Duration::from_secs(20);

/// One who looks on, and his lines as they come.
struct Looker {
    child: Child,
    lines: Receiver<String>,
}

impl Looker {
    fn begin(served: &Served, user: u32, flags: &[&str]) -> Self {
        let mut child = served.begin(user, &[&["events"], flags].concat());
        let out = child.stdout.take().expect("a pipe");
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    #[track_caller]
    fn next(&self) -> String {
        self.lines.recv_timeout(SHOWN).expect("a line in time")
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(-pid), signal).expect("it can be signalled");
    }

    fn ended(mut self) -> (i32, String) {
        let until = Instant::now() + SHOWN;
        let code = loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                break status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut text = String::new();
        let _ = self.child.stderr.take().expect("a pipe").read_to_string(&mut text);
        (code, text)
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What there is, as objects.
#[track_caller]
fn all(served: &Served, user: u32, flags: &[&str]) -> Vec<Value> {
    let line = [&["events", "--since", "1h", "--until", "0s", "--format", "json"], flags].concat();
    let got = served.ok(user, &line);
    got.stdout.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
}

fn words(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|l| l["decision"].as_str()).collect()
}

#[test]
fn every_decision_is_a_line_and_filters_find_it() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    let journal = UnixDatagram::bind(node.place().journal()).expect("a socket");
    journal.set_read_timeout(Some(SHOWN)).unwrap();
    let heard = || {
        let mut bytes = [0; 65536];
        let n = journal.recv(&mut bytes).expect("the journal is told");
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    };
    let train = ["run", "-d", "--name", "train", "--gpus", "1", "busybox", "sleep", "100000"];
    served.ok(DAEMON, &train);
    let told = heard();
    for field in [
        "MESSAGE=granted train-0 (",
        "PRIORITY=6",
        "SYSLOG_IDENTIFIER=gpuctl",
        "GPUCTL_DECISION=granted",
        "GPUCTL_NAME=train-0",
        "GPUCTL_USER=daemon",
        "GPUCTL_GPUS=GPU-",
        "GPUCTL_REASON=started",
    ] {
        assert!(told.lines().any(|l| l.starts_with(field)), "no {field} in\n{told}");
    }
    served.ok(NOBODY, &["scale", "train", "--gpus", "3"]);
    let many = ["run", "-d", "--name", "many", "--gpus", "9", "busybox", "true"];
    assert_eq!(served.ask(NOBODY, &many).code, 125);
    assert_eq!(run(node, "bare", &["--gpus", "1"]).code, 0);
    assert_eq!(run(node, "late", &["--gpus", "5"]).code, 125);
    assert_eq!(run(node, "wide", &["--device-cgroup-rule", "c 195:* rwm"]).code, 0);
    served.ok(DAEMON, &["stop", "-t", "0", "train"]);
    node.docker_ok(&["rm", "-f", "bare"]);
    wait_for("the end of bare", SHOWN, || node.leases().is_empty());

    let of = |filter: &str| all(&served, DAEMON, &["-f", filter]);
    let of_train = of("container=train");
    // The restart of the scale is a start of its own.
    let expected = ["granted", "granted", "rebound", "reserved", "released"];
    assert_eq!(words(&of_train), expected, "{of_train:#?}");
    let users: Vec<&str> = of_train.iter().filter_map(|l| l["user"].as_str()).collect();
    assert_eq!(users, ["daemon", "daemon", "nobody", "daemon", "daemon"], "{of_train:#?}");
    assert_eq!(of_train[2]["gpus"].as_array().map(Vec::len), Some(3), "{of_train:#?}");
    assert_eq!(of_train[2]["indexes"], json!([0, 1, 2]), "{of_train:#?}");
    assert_eq!(of_train[4]["gpus"].as_array().map(Vec::len), Some(3), "{of_train:#?}");
    let of_bare = of("container=bare");
    assert_eq!(words(&of_bare), ["granted", "reserved", "released"], "{of_bare:#?}");
    assert_eq!(of_bare[0]["user"], Value::Null);
    let refused = of("decision=refused");
    let names: Vec<&str> = refused.iter().filter_map(|l| l["name"].as_str()).collect();
    assert_eq!(names, ["many-0", "late"], "{refused:#?}");
    assert_eq!(refused[0]["user"], "nobody");
    assert!(refused[1]["reason"].as_str().is_some_and(|r| r.contains("5 GPUs asked for, 4 free")));
    assert_eq!(words(&of("container=wide")), ["stripped"]);
    let on_3 = of("gpu=3");
    assert!(!on_3.is_empty() && on_3.iter().all(|l| l["name"] == "bare"), "{on_3:#?}");
    let everything = all(&served, DAEMON, &[]);
    assert_eq!(all(&served, DAEMON, &["-n", "2"]), everything[everything.len() - 2..]);
    // Not asked for in JSON, each is a line for people; root reads the log itself.
    let got = node.gpuctl(&["events", "--until", "0s", "-f", "decision=stripped"]);
    assert_eq!((got.code, got.stdout.lines().count()), (0, 1), "{got}");
    assert!(got.stdout.contains(" stripped wide (id=") && got.stdout.contains("user=-"), "{got}");
    for wrong in ["gpu=17", "colour=red", "decision=odd"] {
        let got = served.ask(DAEMON, &["events", "--until", "0s", "-f", wrong]);
        assert_eq!(got.code, 1, "{got}");
        assert!(got.stderr.contains("error: ") && got.stderr.contains("hint: "), "{got}");
    }
    node.check();
}

#[test]
fn who_follows_sees_what_comes_over_a_rotation_until_he_or_the_service_ends() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    assert_eq!(run(node, "one", &["--gpus", "1"]).code, 0);
    let looker = Looker::begin(&served, DAEMON, &[]);
    let root = Looker::begin(&served, 0, &["--since", "0", "-f", "container=two"]);
    assert!(looker.next().contains(" granted one ("), "the last that there are come first");
    // Full, the log is rotated by the next line.
    let log = node.place().state().join("audit.log");
    std::fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(10 << 20).unwrap();
    assert_eq!(run(node, "two", &["--gpus", "1"]).code, 0);
    assert!(looker.next().contains(" granted two ("));
    assert!(root.next().contains(" granted two ("));
    assert!(log.with_extension("log.1").exists(), "it was rotated");
    node.docker_ok(&["rm", "-f", "one"]);
    // A restart by hand would look the same at first.
    assert!(looker.next().contains(" reserved one ("));
    let line = looker.next();
    assert!(line.contains(" released one (") && line.contains("gpus=0,"), "{line}");
    root.signal(Signal::SIGINT);
    assert_eq!(root.ended().0, 130);
    looker.signal(Signal::SIGINT);
    assert_eq!(looker.ended().0, 130);
    // A reader that goes ends it too, and a service that is to end waits for nobody.
    let looker = Looker::begin(&served, DAEMON, &[]);
    looker.next();
    let pid = served.pid();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    wait_for("the end of the service", SHOWN, || node.site().service().is_none());
    let (code, said) = looker.ended();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("the gpuctl service ends"), "{said}");
    node.start_service();
    node.check();
}

#[test]
fn who_does_not_read_on_holds_nobody_up() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    assert_eq!(run(node, "one", &["--gpus", "1"]).code, 0);
    let lookers: Vec<Looker> =
        (0..4).map(|_| Looker::begin(&served, DAEMON, &["--since", "0"])).collect();
    for looker in &lookers {
        looker.next();
        looker.signal(Signal::SIGSTOP);
    }
    let log = node.place().state().join("audit.log");
    let line = std::fs::read_to_string(&log).unwrap();
    let line = line.lines().next().expect("a line").to_owned() + "\n";
    let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    std::io::Write::write_all(&mut file, line.repeat(15_000).as_bytes()).unwrap();
    let until = Instant::now() + Duration::from_secs(14);
    while Instant::now() < until {
        let began = Instant::now();
        served.ok(DAEMON, &["ps"]);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        std::thread::sleep(Duration::from_millis(500));
    }
    // They have been given up, and their places are free: as many as a user has can be had.
    let places: Vec<_> = (0..15).map(|_| served.connect_as(DAEMON)).collect();
    served.ok(DAEMON, &["ps"]);
    drop(places);
    for looker in &lookers {
        looker.signal(Signal::SIGCONT);
    }
    node.check();
}
