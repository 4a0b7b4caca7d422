//! Days on which the ledger cannot be written, read or waited for, with a real Engine. On each:
//! containers without GPUs start as ever, with GPUs they are refused with a clear line and in time,
//! what runs stays, commands say what is so and change nothing; and afterwards all works, with no GPU
//! lost and none given twice.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gpuctl_ledger::store::Store;
use gpuctl_tests::node::wait_for;
use gpuctl_tests::{Etcd, Ledger, Node, Options, Output, engine_runs_here, probe, state};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::mount::{MsFlags, mount};

/// The longest wait for one answer of the ledger that the nodes here are set to.
const LIMIT: Duration = Duration::from_secs(1);
/// What a refusal may take beyond it: an Engine on a busy machine.
const MORE: Duration = Duration::from_secs(6);
const LONG: [&str; 3] = ["busybox", "sleep", "100000"];

/// A node whose ledger is waited for no longer than [`LIMIT`].
fn node(ledger: Ledger) -> Node {
    let node = Node::start(Options { ledger, ..Options::default() });
    let limit = format!("[ledger]\ntimeout_ms = {}\n", LIMIT.as_millis());
    node.edit_config(|text| text.replacen("[ledger]\n", &limit, 1));
    node
}

/// A node with its state on a small disk of its own, which the Engine's namespace has too.
fn node_on_a_disk() -> Node {
    let node = node(Ledger::Sqlite);
    node.power_off();
    remount(&node, MsFlags::empty());
    node.write_inventory();
    node.power_on();
    node
}

fn remount(node: &Node, flags: MsFlags) {
    let options = Some("size=2m,mode=700");
    mount(Some("tmpfs"), &node.place().state(), Some("tmpfs"), flags, options).expect("a tmpfs");
}

/// Who is there when the day begins: train with 2 GPUs, none with none and stopped, bare with 2, ends
/// with 1. Three are free.
fn people(node: &Node) {
    let long = [&["--stop-timeout", "0"][..], &LONG].concat();
    node.gpuctl_ok(&[&["run", "-d", "--name", "train", "--gpus", "2"], &long[..]].concat());
    node.gpuctl_ok(&[&["run", "-d", "--name", "none"], &long[..]].concat());
    node.gpuctl_ok(&["stop", "none"]);
    node.docker_ok(&[&["run", "-d", "--name", "bare", "--gpus", "2"], &long[..]].concat());
    node.docker_ok(&[&["run", "-d", "--name", "ends", "--gpus", "1"], &long[..]].concat());
}

/// One line of ours with all these words, in time, with Docker's code for a refusal.
#[track_caller]
fn refused(node: &Node, words: &[&str]) {
    let began = Instant::now();
    let got = node.docker(&["run", "--rm", "--gpus", "1", "busybox", "true"]);
    let took = began.elapsed();
    assert_eq!(got.code, 125, "{got}");
    let ours: Vec<&str> = got.stderr.lines().filter(|l| l.contains("gpuctl: ")).collect();
    let [line] = ours.as_slice() else { panic!("{} lines of ours\n{got}", ours.len()) };
    for word in words {
        assert!(line.contains(word), "no {word:?} in\n{got}");
    }
    for raw in ["os error", "SQLITE", "database", "rpc", "status:", "disk I/O"] {
        assert!(!line.contains(raw), "{raw:?} in\n{got}");
    }
    assert!(took < LIMIT + MORE, "a hook is bounded: {took:?}\n{got}");
}

/// One error with a hint, in time, and no data.
#[track_caller]
fn told(got: &Output, code: i32, words: &[&str]) {
    assert_eq!(got.code, code, "{got}");
    for start in ["error: ", "hint: "] {
        assert_eq!(got.stderr.lines().filter(|l| l.starts_with(start)).count(), 1, "{got}");
    }
    let error = got.stderr.lines().find(|l| l.starts_with("error: ")).unwrap_or_default();
    for word in words {
        assert!(error.contains(word), "no {word:?} in\n{got}");
    }
    for raw in ["os error", "SQLITE", "panicked", "Some("] {
        assert!(!got.stderr.contains(raw), "{raw:?} in\n{got}");
    }
    assert_eq!(got.stdout, "", "{got}");
}

/// What must be so on such a day. `reads` says whether the ledger can still be read.
#[track_caller]
fn day(node: &Node, words: &[&str], reads: bool) {
    let before = state::containers(node);
    let train = probe::opens(node, "train-0");
    let bare = probe::opens(node, "bare");
    assert_eq!((train.len(), bare.len()), (2, 2));
    node.docker_ok(&["run", "--rm", "busybox", "true"]);
    refused(node, words);
    let limit = LIMIT * 2 + MORE;
    let run = ["run", "-d", "--name", "new", "--gpus", "1", "busybox", "sleep", "100000"];
    for (code, line) in [
        (125, &run[..]),
        (1, &["scale", "train", "--gpus", "3"]),
        (1, &["scale", "train", "--gpus", "0"]),
        (1, &["rm", "-f", "train"]),
    ] {
        let began = Instant::now();
        told(&node.gpuctl(line), code, words);
        assert!(began.elapsed() < limit, "{line:?} took {:?}", began.elapsed());
    }
    for line in [&["ps"][..], &["gpus"], &["history", "train"]] {
        let got = node.gpuctl(line);
        if reads {
            assert_eq!(got.code, 0, "{got}");
        } else {
            told(&got, 1, words);
        }
    }
    assert_eq!(state::containers(node), before, "commands that failed changed something");
    assert_eq!((probe::opens(node, "train-0"), probe::opens(node, "bare")), (train, bare));
    let doctor = node.gpuctl(&["doctor"]);
    assert_eq!(doctor.code, 1, "{doctor}");
    let said = format!("{}{}", doctor.stdout, doctor.stderr);
    assert!(words.iter().all(|word| said.contains(word)), "doctor does not say it\n{doctor}");
    // A managed container that is to have no GPU needs no ledger.
    node.docker_ok(&["start", "none-0"]);
    node.docker_ok(&["kill", "none-0"]);
}

/// What must be so when the day is over and nothing of the ledger was lost: `ledger` is what stood in
/// it before. ends was removed in between.
#[track_caller]
fn over(node: &Node, ledger: &state::Records, ends: &str) {
    let now = state::ledger(node);
    let of_ends = |value: &serde_json::Value| value["holder"]["container"] == ends;
    let without =
        |all: &state::Records| all.clone().into_iter().filter(|(_, v)| !of_ends(v)).collect();
    let (was, is): (state::Records, state::Records) = (without(ledger), without(&now));
    assert_eq!(was, is, "{:#?}", state::difference(&was, &is));
    wait_for("the GPUs of what ended meanwhile", Duration::from_secs(15), || {
        node.docker(&["run", "--rm", "--gpus", "4", "busybox", "true"]).code == 0
    });
    wait_for("those again", Duration::from_secs(15), || {
        node.gpuctl(&["scale", "train", "--gpus", "6"]).code == 0
    });
    assert_eq!(probe::opens(node, "train-1").len(), 6);
    node.gpuctl_ok(&["start", "none"]);
    node.gpuctl_ok(&["rm", "-f", "train"]);
    node.docker_ok(&["rm", "-f", "bare"]);
    wait_for("all GPUs", Duration::from_secs(15), || {
        node.docker(&["run", "--rm", "--gpus", "all", "busybox", "true"]).code == 0
    });
    node.check();
}

#[test]
fn a_read_only_disk() {
    if !engine_runs_here() {
        return;
    }
    let node = node_on_a_disk();
    people(&node);
    let (ledger, ends) = (state::ledger(&node), node.id("ends"));
    remount(&node, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
    day(&node, &["ledger", "cannot be written", "read-only"], true);
    node.docker_ok(&["rm", "-f", "ends"]);
    remount(&node, MsFlags::MS_REMOUNT);
    over(&node, &ledger, &ends);
}

#[test]
fn a_full_disk() {
    if !engine_runs_here() {
        return;
    }
    let node = node_on_a_disk();
    people(&node);
    let (ledger, ends) = (state::ledger(&node), node.id("ends"));
    let filler = node.place().state().join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    day(&node, &["ledger", "cannot be written", "full"], true);
    node.docker_ok(&["rm", "-f", "ends"]);
    fs::remove_file(&filler).unwrap();
    over(&node, &ledger, &ends);
}

/// A lock of SQLite's own, held as another process would: by its description, so that what this
/// process does with SQLite meanwhile neither has it nor drops it.
fn lock(file: &Path, kind: i32, start: i64, length: i64) -> File {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let range = libc::flock {
        l_type: i16::try_from(kind).unwrap(),
        l_whence: 0,
        l_start: start,
        l_len: length,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&range)).expect("nobody else has the lock");
    assert!(file.as_raw_fd() > 0);
    file
}

/// SQLite's PENDING_BYTE, from which on its locks lie in the file itself: one byte, one for RESERVED,
/// 510 for SHARED.
const LOCKS: i64 = 0x4000_0000;
/// The byte of the -shm file that the one writer locks.
const WRITER: i64 = 120;

#[test]
fn a_ledger_that_another_process_has_locked() {
    if !engine_runs_here() {
        return;
    }
    let node = node(Ledger::Sqlite);
    people(&node);
    let (ledger, ends) = (state::ledger(&node), node.id("ends"));
    let file = node.place().sqlite();

    // In the middle of a write that does not end: BEGIN IMMEDIATE.
    let store: Box<dyn Store> = node.store();
    store.list("/").unwrap();
    let reader = lock(&file, libc::F_RDLCK, LOCKS + 2, 510);
    let writer = lock(&file.with_extension("db-shm"), libc::F_WRLCK, WRITER, 1);
    day(&node, &["ledger", "cannot be reached"], true);
    drop((writer, reader, store));
    node.docker_ok(&["run", "--rm", "--gpus", "3", "busybox", "true"]);

    // All of the file for itself: a backup that copies it, PRAGMA locking_mode = EXCLUSIVE.
    let all = lock(&file, libc::F_WRLCK, LOCKS, 512);
    day(&node, &["ledger", "cannot be reached"], false);
    node.docker_ok(&["rm", "-f", "ends"]);
    drop(all);
    over(&node, &ledger, &ends);
}

/// The ledger's file with what it says beside it, and what becomes of a node where it is cut short:
/// names and history are lost, no GPU is.
#[test]
fn a_ledger_that_was_cut_short_is_made_anew_from_what_runs() {
    if !engine_runs_here() {
        return;
    }
    let node = node(Ledger::Sqlite);
    people(&node);
    let file = node.place().sqlite();
    let good = fs::read(&file).unwrap();
    assert!(!file.with_extension("db-wal").exists(), "all of it is in the file");
    for length in [0, good.len() / 2 / 4096 * 4096, good.len() - 100] {
        fs::write(&file, &good[..length]).unwrap();
        day(&node, &["ledger", "damaged", file.to_str().unwrap()], false);
    }
    let hint = node.gpuctl(&["doctor"]).stdout;
    let path = file.display().to_string();
    assert!(hint.contains(&path) && hint.contains("docker gpuctl doctor --fix"), "{hint}");

    let (train, bare) = (probe::opens(&node, "train-0"), probe::opens(&node, "bare"));
    let gone: PathBuf = file.with_extension("damaged");
    fs::rename(&file, &gone).unwrap();
    // The new ledger knows of nobody. The node does.
    let got = node.docker(&["run", "--rm", "--gpus", "4", "busybox", "true"]);
    assert_eq!(got.code, 125, "{got}");
    node.docker_ok(&["run", "--rm", "--gpus", "3", "busybox", "true"]);
    let said = node.gpuctl(&["doctor", "--fix"]);
    let told = format!("{}{}", said.stdout, said.stderr);
    assert!(told.contains("train-0"), "what is lost is said\n{said}");
    assert_eq!(node.leased_minors(&node.id("train-0")), train, "{said}");
    assert_eq!(node.leased_minors(&node.id("bare")), bare, "{said}");
    assert_eq!(probe::opens(&node, "train-0"), train);
    node.check();
    assert_eq!(node.leases().len(), 5);

    // Its name and history are lost: it runs on, and is no longer docker gpuctl's.
    let got = node.gpuctl(&["scale", "train", "--gpus", "3"]);
    assert_eq!(got.code, 1, "{got}");
    assert!(got.stderr.contains("train") && got.stderr.contains("hint: "), "{got}");
    assert_eq!(state::row(&node, "train"), None);
    // A start by hand of what the ledger does not know is refused; nobody can have its GPUs twice.
    let got = node.docker(&["restart", "-t", "0", "train-0"]);
    assert_eq!(got.code, 1, "{got}");
    assert!(got.stderr.contains("gpuctl: ") && got.stderr.contains("train-0"), "{got}");
    node.docker_ok(&["rm", "-f", "train-0"]);
    node.docker_ok(&["rm", "-f", "ends"]);
    // At once, and under its name: what it held does not count as being changed by this very run.
    node.gpuctl_ok(&["run", "-d", "--name", "train", "--gpus", "6", "busybox", "sleep", "100000"]);
    assert!(probe::opens(&node, "train-0").is_disjoint(&bare));
    node.check();
}

/// An etcd on a slow line: every piece that comes is passed on after a while.
struct Slow {
    port: u16,
    delay: Arc<AtomicU64>,
}

impl Slow {
    fn before(etcd: &Etcd) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = etcd.url().trim_start_matches("etcd://").to_owned();
        let delay = Arc::new(AtomicU64::new(0));
        let slow = Self { port, delay: Arc::clone(&delay) };
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(&target) else { continue };
                let ends = (near.try_clone().unwrap(), far.try_clone().unwrap());
                for (from, to) in [(near, far), (ends.1, ends.0)] {
                    let delay = Arc::clone(&delay);
                    std::thread::spawn(move || pass(from, to, &delay));
                }
            }
        });
        slow
    }

    fn url(&self) -> String {
        format!("etcd://127.0.0.1:{}", self.port)
    }

    fn by(&self, delay: Duration) {
        self.delay.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::Relaxed);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, delay: &AtomicU64) {
    let mut piece = [0; 65536];
    while let Ok(length) = from.read(&mut piece) {
        std::thread::sleep(Duration::from_millis(delay.load(Ordering::Relaxed)));
        if length == 0 || to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[test]
fn an_etcd_that_is_slower_than_its_limit() {
    if !engine_runs_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(folder.path(), 1).unwrap();
    let slow = Slow::before(&etcd);
    let node = node(Ledger::Url(slow.url()));
    people(&node);
    let (ledger, ends) = (state::ledger(&node), node.id("ends"));
    slow.by(LIMIT * 2);
    day(&node, &["ledger", "cannot be reached"], false);
    node.docker_ok(&["rm", "-f", "ends"]);
    slow.by(Duration::ZERO);
    over(&node, &ledger, &ends);
}

/// Each answer comes in time, and all that a claim needs does not: refused, or granted, in time.
#[test]
fn an_etcd_that_is_just_within_its_limit() {
    if !engine_runs_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(folder.path(), 1).unwrap();
    let slow = Slow::before(&etcd);
    let node = node(Ledger::Url(slow.url()));
    people(&node);
    let before = state::containers(&node);
    for delay in [60, 150, 300, 450] {
        slow.by(Duration::from_millis(delay));
        node.docker_ok(&["run", "--rm", "busybox", "true"]);
        let began = Instant::now();
        let got = node.docker(&["run", "--gpus", "3", "--rm", "busybox", "true"]);
        let took = began.elapsed();
        assert!(got.code == 0 || got.code == 125, "{delay} ms\n{got}");
        assert!(got.code == 0 || got.stderr.contains("ledger"), "{delay} ms\n{got}");
        assert!(took < LIMIT * 4 + MORE, "{delay} ms: {took:?}\n{got}");
        let got = node.gpuctl(&["scale", "train", "--gpus", "2"]);
        assert!(got.code == 0 || got.stderr.contains("ledger"), "{delay} ms\n{got}");
        slow.by(Duration::ZERO);
        node.check_exclusive();
        assert_eq!(state::containers(&node), before, "{delay} ms");
        wait_for("what a slow claim left", Duration::from_secs(15), || {
            node.docker(&["run", "--rm", "--gpus", "3", "busybox", "true"]).code == 0
        });
    }
    node.check();
}
