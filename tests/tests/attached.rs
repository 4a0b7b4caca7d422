//! `run -it` at a terminal: signals, a supervisor's too, keys and the terminal's end reach the
//! container as with `docker run -it`, and nothing runs on with nobody there.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gpuctl_tests::node::wait_for;
use gpuctl_tests::served::DAEMON;
use gpuctl_tests::{Node, Options, engine_runs_here, state};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

/// Says by its exit code which signal it got.
const SCRIPT: &str = "trap 'exit 41' INT; trap 'exit 42' TERM; trap 'exit 43' HUP; echo ready; \
                      while :; do sleep 0.1; done";

/// A command at a terminal of its own, whose session it leads.
struct Seat {
    /// The terminal's other end; without it the terminal is gone.
    screen: Option<std::fs::File>,
    /// Kept open, so that modes can be read after the command's end.
    terminal: Option<std::os::fd::OwnedFd>,
    child: Child,
    shown: String,
}

impl Seat {
    fn take(command: &Command) -> Self {
        let pty = openpty(None, None).expect("a terminal");
        fcntl(&pty.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        fcntl(&pty.slave, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut led = Command::new("setsid");
        led.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => led.env(name, value),
                None => led.env_remove(name),
            };
        }
        let side = || Stdio::from(pty.slave.try_clone().unwrap());
        led.stdin(side()).stdout(side()).stderr(side());
        let child = led.spawn().expect("setsid starts");
        Self {
            screen: Some(pty.master.into()),
            terminal: Some(pty.slave),
            child,
            shown: String::new(),
        }
    }

    fn look(&mut self) {
        let Some(screen) = &mut self.screen else { return };
        let mut bytes = [0; 4096];
        match screen.read(&mut bytes) {
            Ok(n) => self.shown.push_str(&String::from_utf8_lossy(&bytes[..n])),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => {}
        }
    }

    #[track_caller]
    fn until(&mut self, text: &str) {
        let begun = Instant::now();
        while !self.shown.contains(text) {
            assert!(begun.elapsed() < Duration::from_secs(30), "no {text}: {}", self.shown);
            self.look();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn keys(&mut self, keys: &[u8]) {
        self.screen.as_mut().unwrap().write_all(keys).unwrap();
    }

    /// Whether lines are edited and echoed, as a shell left it.
    fn is_as_before(&self) -> bool {
        let modes = tcgetattr(self.terminal.as_ref().unwrap().as_fd()).unwrap();
        modes.local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    fn close(&mut self) {
        self.terminal = None;
        self.screen = None;
    }

    /// Its exit code.
    #[track_caller]
    fn ended(&mut self) -> i32 {
        let begun = Instant::now();
        loop {
            self.look();
            if let Some(status) = self.child.try_wait().unwrap() {
                self.look();
                return status.code().unwrap_or(-1);
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "it goes on: {}", self.shown);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The plugin's process, which is the Docker CLI's child.
    fn plugin(&self) -> Pid {
        let mut all = vec![self.child.id()];
        while let Some(pid) = all.pop() {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if comm.trim() == "docker-gpuctl" {
                return Pid::from_raw(i32::try_from(pid).unwrap());
            }
            for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten() {
                let children = task.unwrap().path().join("children");
                let children = std::fs::read_to_string(children).unwrap_or_default();
                all.extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
            }
        }
        panic!("no plugin runs: {}", self.shown)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.close();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn gone(node: &Node, what: &str) {
    wait_for(what, Duration::from_secs(10), || state::containers(node).is_empty());
    wait_for(what, Duration::from_secs(10), || node.leases().is_empty());
}

/// Whether its one container has this status and exit code.
fn says(node: &Node, text: &str) -> bool {
    let id = node.docker_ok(&["ps", "-aq"]);
    node.docker_ok(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", &id]) == text
}

/// Runs it with these flags, at a terminal, until it is ready.
#[track_caller]
fn seat(node: &Node, user: u32, flags: &[&str]) -> Seat {
    seat_of(node, user, flags, SCRIPT)
}

/// docker gpuctl with these words, as root or as another user of the docker group.
fn command(node: &Node, user: u32, line: &[&str]) -> Command {
    if user == 0 {
        let mut command = node.site().engine().docker();
        command.arg("gpuctl").args(line);
        return command;
    }
    let group = std::fs::metadata(node.place().docker_socket()).unwrap().gid();
    node.gpuctl_command_as(user, group, line)
}

/// As [`seat`], with this script, which says so when it is ready.
#[track_caller]
fn seat_of(node: &Node, user: u32, flags: &[&str], script: &str) -> Seat {
    let run = ["run", "--name", "job", "--gpus", "1"];
    let program = ["busybox", "sh", "-c", script];
    let line = [&run, flags, &program].concat();
    let mut seat = Seat::take(&command(node, user, &line));
    seat.until("ready");
    assert_eq!(node.leases().len(), 1, "{}", seat.shown);
    seat
}

fn signals_and_the_end_of_the_terminal(user: u32) {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options { service: true, ..Options::default() });
    for (signal, code) in [(Signal::SIGINT, 41), (Signal::SIGTERM, 42), (Signal::SIGHUP, 43)] {
        let mut seat = seat(&node, user, &["-it", "--rm"]);
        assert!(!seat.is_as_before(), "the container has the keys");
        kill(seat.plugin(), signal).unwrap();
        assert_eq!(seat.ended(), code, "{signal}: {}", seat.shown);
        assert!(seat.is_as_before(), "{signal} leaves the terminal as it was");
        gone(&node, signal.as_str());
    }
    // To the whole group, as a supervisor sends it.
    let mut whole = seat(&node, user, &["-it", "--rm"]);
    killpg(Pid::from_raw(i32::try_from(whole.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(whole.ended(), 42, "{}", whole.shown);
    gone(&node, "TERM to the group");
    // The terminal is closed, by an ssh that is gone.
    let mut closed = seat(&node, user, &["-it", "--rm"]);
    closed.close();
    gone(&node, "a closed terminal");
    let mut closed = seat(&node, user, &["-it"]);
    closed.close();
    // It got the signal of a closed terminal.
    wait_for("its end", Duration::from_secs(10), || says(&node, "exited 43"));
    wait_for("its GPU", Duration::from_secs(20), || node.leases().is_empty());
    // What a record says of its terminal counts, too.
    node.gpuctl_ok(&["rm", "-f", "job"]);
    let line = ["gpuctl", "run", "--from", "job", "--name", "job", "--gpus", "1", "-i"];
    let mut again = Seat::take(node.site().engine().docker().args(line));
    again.until("ready");
    kill(again.plugin(), Signal::SIGTERM).unwrap();
    assert_eq!(again.ended(), 42, "{}", again.shown);
    node.gpuctl_ok(&["rm", "-f", "job"]);
    gone(&node, "its removal");
    node.check();
}

#[test]
fn roots_signals_reach_a_container_with_a_terminal() {
    signals_and_the_end_of_the_terminal(0);
}

#[test]
fn a_users_signals_reach_a_container_with_a_terminal() {
    signals_and_the_end_of_the_terminal(DAEMON);
}

#[test]
fn a_start_with_the_terminal_on_it() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options { service: true, ..Options::default() });
    let seat_of = |user: u32, line: &[&str]| Seat::take(&command(&node, user, line));
    let create = ["create", "-it", "--name", "job", "--gpus", "1", "busybox", "sh", "-c", SCRIPT];
    node.gpuctl_ok(&create);
    // It never ran; keys are bytes that it reads.
    let mut first = seat_of(DAEMON, &["start", "-a", "-i", "job"]);
    first.until("ready");
    assert_eq!(node.leases().len(), 1, "{}", first.shown);
    assert!(!first.is_as_before(), "the container has the keys");
    first.keys(b"\x03");
    assert_eq!(first.ended(), 41, "{}", first.shown);
    assert!(first.is_as_before(), "the terminal is as it was");
    wait_for("its GPU", Duration::from_secs(20), || node.leases().is_empty());
    // It ran before. The keys to detach leave it alone, and so do signals, as with docker start.
    let mut again = seat_of(0, &["start", "-ai", "--detach-keys", "ctrl-x", "job"]);
    again.until("ready");
    again.keys(b"\x18");
    assert_eq!(again.ended(), 0, "{}", again.shown);
    assert!(again.is_as_before() && says(&node, "running 0"));
    // Attached to while it runs.
    let mut beside = seat_of(DAEMON, &["start", "-ai", "job"]);
    wait_for("its terminal", Duration::from_secs(10), || !beside.is_as_before());
    kill(beside.plugin(), Signal::SIGTERM).unwrap();
    beside.ended();
    std::thread::sleep(Duration::from_millis(300));
    assert!(beside.is_as_before() && says(&node, "running 0"), "{}", beside.shown);
    node.gpuctl_ok(&["rm", "-f", "--history", "job"]);
    // Without a terminal of its own it gets the signals.
    node.gpuctl_ok(&["create", "--name", "job", "--gpus", "1", "busybox", "sh", "-c", SCRIPT]);
    for _ in 0..2 {
        let mut plain = seat_of(DAEMON, &["start", "-a", "job"]);
        plain.until("ready");
        assert_eq!(node.leases().len(), 1, "{}", plain.shown);
        kill(plain.plugin(), Signal::SIGTERM).unwrap();
        assert_eq!(plain.ended(), 42, "{}", plain.shown);
        wait_for("its GPU", Duration::from_secs(20), || node.leases().is_empty());
    }
    // What keeps it from starting is said in our words, and once.
    node.gpuctl_ok(&[
        "run", "-d", "--name", "holder", "--gpus", "all", "busybox", "sleep", "100000",
    ]);
    let mut refused = seat_of(DAEMON, &["start", "-a", "job"]);
    assert_eq!(refused.ended(), 1, "{}", refused.shown);
    assert_eq!(refused.shown.matches("error:").count(), 1, "{}", refused.shown);
    assert!(refused.shown.contains("holder"), "{}", refused.shown);
    let mut two = seat_of(0, &["start", "-a", "job", "holder"]);
    assert_eq!(two.ended(), 1, "{}", two.shown);
    assert!(two.shown.contains("multiple containers at once"), "{}", two.shown);
    assert!(node.docker_ok(&["ps", "-aq", "--filter", "status=running"]).lines().count() == 1);
    node.gpuctl_ok(&["rm", "-f", "job", "holder"]);
    // One that is to be removed at its end leaves nothing.
    let rm = ["create", "--rm", "--name", "job", "--gpus", "1", "busybox", "sh", "-c", "exit 5"];
    node.gpuctl_ok(&rm);
    let mut last = seat_of(0, &["start", "-a", "job"]);
    assert_eq!(last.ended(), 5, "{}", last.shown);
    gone(&node, "--rm");
    // 20.10 takes no signal for a stop, and would drop it without a word.
    node.gpuctl_ok(&["run", "-d", "--name", "job", "busybox", "sleep", "100000"]);
    let old = node.gpuctl(&["stop", "-s", "INT", "job"]);
    assert!(old.code == 1 && old.stderr.contains("older than 23.0"), "{old}");
    assert!(says(&node, "running 0"), "nothing was done");
    node.gpuctl_ok(&["rm", "-f", "job"]);
    node.check();
}

#[test]
fn keys_and_the_wish_to_keep_signals_away() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options { service: true, ..Options::default() });
    // Keys come as bytes where the container reads them; else they are signals to us.
    for flags in [&["-it", "--rm"], &["-t", "--rm"], &["-i", "--rm"]] {
        let mut seat = seat(&node, DAEMON, flags);
        seat.keys(b"\x03");
        assert_eq!(seat.ended(), 41, "{flags:?}: {}", seat.shown);
        assert!(seat.is_as_before(), "{flags:?}");
        gone(&node, "ctrl-c");
    }
    // The keys to detach leave it alone.
    let mut detached = seat(&node, DAEMON, &["-it"]);
    detached.keys(b"\x10\x11");
    assert_eq!(detached.ended(), 0, "{}", detached.shown);
    assert!(detached.is_as_before());
    assert!(says(&node, "running 0"));
    node.gpuctl_ok(&["rm", "-f", "job"]);
    // Signals only end our looking on.
    let mut away = seat(&node, DAEMON, &["-it", "--sig-proxy=false"]);
    kill(away.plugin(), Signal::SIGTERM).unwrap();
    away.ended();
    std::thread::sleep(Duration::from_millis(500));
    assert!(says(&node, "running 0") && away.is_as_before(), "{}", away.shown);
    node.gpuctl_ok(&["rm", "-f", "job"]);
    gone(&node, "its removal");
    node.check();
}

#[test]
fn the_terminals_size_reaches_the_container() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let script = "trap 'exit 42' TERM; echo ready; while :; do stty size; sleep 0.2; done";
    for flags in [&["-it", "--rm"], &["-t", "--rm"]] {
        let mut seat = seat_of(&node, 0, flags, script);
        let name = nix::unistd::ttyname(seat.terminal.as_ref().unwrap()).unwrap();
        let mut stty = Command::new("stty");
        stty.arg("-F").arg(name).args(["rows", "41", "cols", "123"]);
        assert!(stty.status().unwrap().success());
        seat.until("41 123");
        kill(seat.plugin(), Signal::SIGTERM).unwrap();
        assert_eq!(seat.ended(), 42, "{flags:?}: {}", seat.shown);
        wait_for("--rm", Duration::from_secs(10), || state::containers(&node).is_empty());
    }
    node.check();
}

#[test]
fn a_shell_with_job_control_gets_its_terminal_back() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options { service: true, ..Options::default() });
    let docker = node.site().engine().docker();
    let mut shell = Command::new("bash");
    shell.args(["--norc", "--noprofile", "-i"]).env("PS1", "\\#> ");
    for (name, value) in docker.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        shell.env(name, value);
    }
    let docker = docker.get_program().to_str().unwrap();
    let mut seat = Seat::take(&shell);
    let run = format!("{docker} gpuctl run -it --rm --name job --gpus 1 busybox sh -c");
    // Lines that are typed are the container's while it runs, and then the shell's.
    seat.keys(format!("{run} 'echo rea''dy; read x; echo got-$x; exit 7'\n").as_bytes());
    seat.until("ready");
    seat.keys(b"a-line\n");
    seat.until("got-a-line");
    // What is typed before its end is the container's.
    seat.until("2> ");
    seat.keys(b"echo co''de-$?\n");
    seat.until("code-7");
    wait_for("--rm", Duration::from_secs(10), || state::containers(&node).is_empty());
    // The window is closed.
    seat.shown.clear();
    let script = SCRIPT.replace('\'', "\"").replace("ready", "rea\"\"dy");
    seat.keys(format!("{run} '{script}'\n").as_bytes());
    seat.until("ready");
    seat.close();
    gone(&node, "a closed window");
    node.check();
}
