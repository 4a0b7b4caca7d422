//! 64 containers at a time claim, activate and end on eight GPUs, each a process of its own, killed
//! at random: on SQLite and on etcd. Never two holders, nothing leaked for good.
//!
//! A holder proves that it is alone by a lock on a file of the GPU, which the kernel drops when it is
//! killed: two holders at once are seen whatever the ledger says.

// All of this is tests; clippy only knows the functions that are marked so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::exit)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gpuctl_ledger::config::{AllPolicy, Config};
use gpuctl_ledger::grant::{Claim, GrantError, activate, claim, end};
use gpuctl_ledger::ledger::Ledger;
use gpuctl_ledger::model::{
    ContainerId, DockerName, Gpu, GpuRequest, Health, Holder, Inventory, SCHEMA, Timestamp, Token,
    Unit,
};
use gpuctl_ledger::node::{files, process};
use gpuctl_ledger::view::NodeView;
use nix::fcntl::{Flock, FlockArg};

#[path = "store/etcd_server.rs"]
#[allow(dead_code)]
mod etcd_server;

const HOLDERS: usize = 64;
const GPUS: u32 = 8;
/// How the worker tells what became of it.
const HELD: i32 = 0;
const SHORT: i32 = 3;
const TWO_HOLDERS: i32 = 4;
const BROKEN: i32 = 5;
/// Its time was up before it had anything: on a machine that has more to do than this.
const LATE: i32 = 6;

fn unit(n: u32) -> Unit {
    Unit::new(format!("GPU-{n}")).unwrap()
}

/// A node of files: eight GPUs, a driver that shows them, a Docker root without containers.
fn node(folder: &Path, url: &str) -> Config {
    let pci = |n: u32| format!("0000:{n:02x}:00.0");
    for n in 0..GPUS {
        std::fs::create_dir_all(folder.join("proc/gpus").join(pci(n))).unwrap();
    }
    std::fs::create_dir_all(folder.join("docker/containers")).unwrap();
    std::fs::create_dir_all(folder.join("held")).unwrap();
    files::make_private_dir(&folder.join("run")).unwrap();
    files::make_private_dir(&folder.join("state")).unwrap();
    let text = format!(
        "node = \"n\"\n[ledger]\nurl = \"{url}\"\ntimeout_ms = 20000\n[paths]\nstate = \"{0}/state\"\nrun = \"{0}/run\"\n\
         [docker]\nroot = \"{0}/docker\"\n[gpu]\nproc = \"{0}/proc\"\n",
        folder.display()
    );
    files::replace(&folder.join("config.toml"), text.as_bytes(), 0o644).unwrap();
    let config = Config::read(&folder.join("config.toml")).unwrap();
    let inventory = Inventory {
        schema: SCHEMA,
        at: Timestamp::now(),
        driver: "1".into(),
        gpus: (0..GPUS)
            .map(|n| Gpu {
                index: n,
                unit: unit(n),
                // No device node of this machine has such a minor: nobody can have it open.
                minor: 240 - n,
                model: "m".into(),
                pci: format!("0000{}", pci(n)),
                memory: 1,
                health: Health::Ok,
                numa: None,
                links: Vec::new(),
                peers: Vec::new(),
                mig: Vec::new(),
                slots: 0,
            })
            .collect(),
    };
    files::replace_json(&config.paths.inventory(), &inventory, false).unwrap();
    config
}

fn holder(id: &str) -> Holder {
    Holder {
        container: ContainerId::new(id).unwrap(),
        docker_name: DockerName::new(id).unwrap(),
        name: None,
        owner: None,
    }
}

fn ask(
    ledger: &Ledger,
    view: &NodeView<'_>,
    holder: &Holder,
    n: u32,
    token: &Token,
) -> Result<Vec<Unit>, GrantError> {
    let request = GpuRequest::count(n);
    let what = Claim {
        holder,
        request: &request,
        prefer: &[],
        token,
        binding: None,
        all: AllPolicy::Refuse,
        free_rest: true,
        operation: None,
    };
    claim(ledger, view, &what, Duration::from_secs(20)).map(|granted| granted.units)
}

/// The worker: claims, proves that it is alone, activates, holds for a while. Entered as a test of
/// its own by [`play`]; without its variables it is nobody's.
#[test]
fn worker() {
    let Some(folder) = std::env::var_os("CONTENTION_FOLDER") else { return };
    let var = |name: &str| std::env::var(name).unwrap();
    let config = Config::read(&PathBuf::from(&folder).join("config.toml")).unwrap();
    let code = work(
        Path::new(&folder),
        &config,
        &var("CONTENTION_ID"),
        var("CONTENTION_COUNT").parse().unwrap(),
        Duration::from_millis(var("CONTENTION_HOLD").parse().unwrap()),
        &Token::new(var("CONTENTION_TOKEN")).unwrap(),
    );
    std::process::exit(code);
}

fn work(folder: &Path, config: &Config, id: &str, n: u32, hold: Duration, token: &Token) -> i32 {
    let ledger = Ledger::open(config).unwrap();
    let view = NodeView::new(config).unwrap();
    let holder = holder(id);
    let units = match ask(&ledger, &view, &holder, n, token) {
        Ok(units) => units,
        Err(GrantError::Refused(_)) => return SHORT,
        Err(GrantError::Slow | GrantError::Contended) => return LATE,
        Err(e) => {
            eprintln!("claim: {e}");
            return BROKEN;
        }
    };
    let mut locks = Vec::new();
    for unit in &units {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(folder.join("held").join(unit.as_str()))
            .unwrap();
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => locks.push(lock),
            Err(_) => {
                eprintln!("{unit} has two holders, one is {id}");
                return TWO_HOLDERS;
            }
        }
    }
    let init = process::own().unwrap();
    let seen = ledger.leases().unwrap();
    let active = match activate(&ledger, seen, &holder.container, token, init, None) {
        Ok(active) => active,
        Err(e) => {
            eprintln!("activate: {e}");
            return BROKEN;
        }
    };
    if active.len() != units.len() {
        eprintln!("claimed {units:?} and activated {active:?}");
        return TWO_HOLDERS;
    }
    std::thread::sleep(hold);
    HELD
}

/// Numbers that differ from run to run and need be no better than that.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn spawn(folder: &Path, id: &str, n: u64, hold: u64, token: &Token) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "worker", "--nocapture", "--test-threads=1"])
        .env("CONTENTION_FOLDER", folder)
        .env("CONTENTION_ID", id)
        .env("CONTENTION_COUNT", n.to_string())
        .env("CONTENTION_HOLD", hold.to_string())
        .env("CONTENTION_TOKEN", token.as_str())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// What all players saw.
#[derive(Default)]
struct Score {
    held: AtomicU32,
    short: AtomicU32,
    killed: AtomicU32,
    late: AtomicU32,
    wrong: AtomicU32,
}

/// One player: rounds of a container each, ended as a runtime would, or not at all.
fn player(config: &Config, folder: &Path, number: usize, until: Instant, score: &Score) {
    let seed = Timestamp::now().millis().unsigned_abs();
    let mut dice = Dice(seed.wrapping_mul(7919) ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9));
    let ledger = Ledger::open(config).unwrap();
    let view = NodeView::new(config).unwrap();
    let mut round = 0;
    while Instant::now() < until {
        round += 1;
        let id = format!("c{number}r{round}");
        let token = Token::random().unwrap();
        let mut child = spawn(folder, &id, 1 + dice.roll(4), dice.roll(600), &token);
        if dice.roll(2) == 0 {
            std::thread::sleep(Duration::from_millis(dice.roll(400)));
            let _ = child.kill();
        }
        let status = child.wait().unwrap();
        match status.code() {
            None => score.killed.fetch_add(1, Ordering::Relaxed),
            Some(HELD) => score.held.fetch_add(1, Ordering::Relaxed),
            Some(SHORT) => score.short.fetch_add(1, Ordering::Relaxed),
            Some(LATE) => score.late.fetch_add(1, Ordering::Relaxed),
            Some(_) => score.wrong.fetch_add(1, Ordering::Relaxed),
        };
        // Poststop is a hint that is sometimes lost: then others find the lease's holder dead.
        if dice.roll(3) > 0 {
            let _ = end(&ledger, &view, &ContainerId::new(id).unwrap(), Some(&token)).unwrap();
        }
    }
}

fn play(url: &str) {
    let folder = tempfile::tempdir().unwrap();
    let config = node(folder.path(), &url.replace("FOLDER", &folder.path().to_string_lossy()));
    let score = Score::default();
    let until = Instant::now() + Duration::from_secs(20);
    std::thread::scope(|scope| {
        for number in 0..HOLDERS {
            let (config, folder, score) = (&config, folder.path(), &score);
            scope.spawn(move || player(config, folder, number, until, score));
        }
    });
    let count = |n: &AtomicU32| n.load(Ordering::Relaxed);
    println!(
        "{url}: {} held, {} found too few free, {} killed, {} late, {} wrong",
        count(&score.held),
        count(&score.short),
        count(&score.killed),
        count(&score.late),
        count(&score.wrong)
    );
    assert_eq!(count(&score.wrong), 0);
    assert!(count(&score.held) > 20 && count(&score.killed) > 20, "the game was not played");
    // Everybody is dead: all GPUs can be had at once.
    let ledger = Ledger::open(&config).unwrap();
    let view = NodeView::new(&config).unwrap();
    let all = ask(&ledger, &view, &holder("last"), GPUS, &Token::random().unwrap()).unwrap();
    assert_eq!(all.len(), GPUS as usize);
}

#[test]
fn sqlite() {
    play("sqlite://FOLDER/state/ledger.db");
}

#[test]
fn etcd() {
    let Some(cluster) = etcd_server::Cluster::start(1, &[]) else { return };
    play(&format!("etcd://{}", cluster.addresses().join(",")));
}
