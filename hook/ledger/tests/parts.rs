//! A GPU and its parts are leased under keys of their own. Claims of both at once, by changes that leave
//! no note on the node: never do both succeed.

// All of this is tests; clippy only knows the functions that are marked so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Barrier;
use std::time::Duration;

use gpuctl_ledger::config::{AllPolicy, Config};
use gpuctl_ledger::grant::{Claim, GrantError, claim};
use gpuctl_ledger::ledger::{Batch, Ledger};
use gpuctl_ledger::model::{
    ContainerId, DockerName, GpuRequest, Holder, Inventory, SCHEMA, Timestamp, Token,
};
use gpuctl_ledger::node::files;
use gpuctl_ledger::store::Outcome;
use gpuctl_ledger::view::NodeView;

/// Rounds; without the conditions on what overlaps, one in a few goes wrong.
const ROUNDS: usize = 40;

/// A node of files: a GPU that is shared and one that is cut.
fn node(folder: &Path) -> Config {
    for gpu in ["0000:01:00.0", "0000:02:00.0"] {
        std::fs::create_dir_all(folder.join("proc/gpus").join(gpu)).unwrap();
    }
    for (gi, minors) in [(1, [11, 12]), (2, [21, 22])] {
        let gi = folder.join(format!("proc/capabilities/gpu239/mig/gi{gi}"));
        std::fs::create_dir_all(gi.join("ci0")).unwrap();
        for (at, minor) in [(gi.clone(), minors[0]), (gi.join("ci0"), minors[1])] {
            std::fs::write(at.join("access"), format!("DeviceFileMinor: {minor}\n")).unwrap();
        }
    }
    std::fs::create_dir_all(folder.join("docker/containers")).unwrap();
    files::make_private_dir(&folder.join("run")).unwrap();
    files::make_private_dir(&folder.join("state")).unwrap();
    let at = folder.display();
    let text = format!(
        "node = \"n\"\n[ledger]\nurl = \"sqlite://{at}/ledger.db\"\n[paths]\nstate = \"{at}/state\"\nrun = \"{at}/run\"\n\
         [docker]\nroot = \"{at}/docker\"\n[gpu]\nproc = \"{at}/proc\"\n[[gpu.shared]]\ngpus = [0]\nslots = 2\n"
    );
    files::replace(&folder.join("config.toml"), text.as_bytes(), 0o644).unwrap();
    let config = Config::read(&folder.join("config.toml")).unwrap();
    let gpus = serde_json::json!([
        {"index": 0, "unit": "GPU-0", "minor": 240, "model": "m", "pci": "00000000:01:00.0", "memory": 1},
        {"index": 1, "unit": "GPU-1", "minor": 239, "model": "m", "pci": "00000000:02:00.0", "memory": 1,
         "mig": [{"index": 0, "unit": "MIG-1", "memory": 1, "caps": [11, 12]},
                 {"index": 1, "unit": "MIG-2", "memory": 1, "caps": [21, 22]}]}
    ]);
    let inventory = Inventory {
        schema: SCHEMA,
        at: Timestamp::now(),
        driver: "1".into(),
        gpus: serde_json::from_value(gpus).unwrap(),
    };
    files::replace_json(&config.paths.inventory(), &inventory, false).unwrap();
    config
}

/// Claims as a change does, which writes no note; the token under which it succeeded.
fn ask(config: &Config, id: &str, request: &str) -> Option<Token> {
    let ledger = Ledger::open(config).unwrap();
    let view = NodeView::new(config).unwrap();
    let holder = Holder {
        container: ContainerId::new(id).unwrap(),
        docker_name: DockerName::new(id).unwrap(),
        name: None,
        owner: None,
    };
    let token = Token::random().unwrap();
    let request: GpuRequest = request.parse().unwrap();
    let what = Claim {
        holder: &holder,
        request: &request,
        prefer: &[],
        token: &token,
        binding: None,
        all: AllPolicy::Refuse,
        free_rest: false,
        operation: Some(&token),
    };
    match claim(&ledger, &view, &what, Duration::from_secs(20)) {
        Ok(_) => Some(token),
        Err(GrantError::Refused(_)) => None,
        Err(e) => panic!("{e}"),
    }
}

fn free(config: &Config, id: &str) {
    let ledger = Ledger::open(config).unwrap();
    ledger.release(&ContainerId::new(id).unwrap(), None, None).unwrap();
}

#[test]
fn of_a_gpu_and_its_part_claimed_at_once_one_is_granted() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: holders are judged by root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = node(folder.path());
    let mut granted = [0, 0];
    for _ in 0..ROUNDS {
        let barrier = Barrier::new(2);
        let at_once = |id: &str, request: &str| {
            barrier.wait();
            ask(&config, id, request)
        };
        let (whole, part) = std::thread::scope(|scope| {
            let whole = scope.spawn(|| at_once("whole", "device=0"));
            let part = scope.spawn(|| at_once("part", "device=GPU-0/1"));
            (whole.join().unwrap(), part.join().unwrap())
        });
        assert!(whole.is_some() != part.is_some(), "both, or neither: {whole:?} {part:?}");
        granted[usize::from(part.is_some())] += 1;
        free(&config, "whole");
        free(&config, "part");
    }
    println!("whole {}, part {}", granted[0], granted[1]);
}

#[test]
fn what_the_dead_hold_of_a_gpu_that_is_claimed_goes_and_that_is_written_down() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: holders are judged by root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = node(folder.path());
    let audit =
        || std::fs::read_to_string(folder.path().join("state/audit.log")).unwrap_or_default();
    assert!(ask(&config, "part", "device=GPU-0/1").is_some());
    assert!(ask(&config, "whole", "device=0").is_none());
    // Another process had this one's pid, and Docker has no such container.
    let ledger = Ledger::open(&config).unwrap();
    let mut batch = Batch::new();
    for at in ledger.leases().unwrap().into_values() {
        let mut dead = at.record;
        dead.evidence.claimer.start = 1;
        let key = ledger.keys().lease(&dead.unit);
        batch.at(key.clone(), at.revision).put(key, &dead);
    }
    assert!(matches!(ledger.commit(&batch).unwrap(), Outcome::Done(_)));
    assert!(!audit().contains("released"), "{}", audit());
    assert!(ask(&config, "whole", "device=0").is_some());
    let units: Vec<String> = ledger.leases().unwrap().keys().map(ToString::to_string).collect();
    assert_eq!(units, ["GPU-0"]);
    let told = audit();
    let line = told.lines().find(|line| line.contains("\"released\"")).unwrap_or(&told);
    assert!(line.contains("GPU-0/1") && line.contains("\"part\""), "{line}");
}

#[test]
fn parts_of_one_gpu_go_to_many_and_the_whole_to_none_of_them() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: holders are judged by root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = node(folder.path());
    assert!(ask(&config, "ca", "mig=1").is_some());
    assert!(ask(&config, "cb", "mig=1").is_some());
    assert!(ask(&config, "cc", "mig=1").is_none());
    assert!(ask(&config, "cd", "shared").is_some());
    assert!(ask(&config, "ce", "shared").is_some());
    assert!(ask(&config, "cf", "shared").is_none());
    assert!(ask(&config, "cg", "1").is_none(), "the one is shared, the other cut");
    // The config has fewer slots now than are held: one that goes makes no room yet.
    let text = std::fs::read_to_string(folder.path().join("config.toml")).unwrap();
    let three = text.replace("slots = 2", "slots = 3");
    files::replace(&folder.path().join("config.toml"), three.as_bytes(), 0o644).unwrap();
    let more = Config::read(&folder.path().join("config.toml")).unwrap();
    assert!(ask(&more, "ch", "shared").is_some());
    free(&config, "cd");
    assert!(ask(&config, "ci", "shared").is_none(), "two are on it yet");
    free(&config, "ce");
    assert!(ask(&config, "ci", "shared").is_some());
    let leases = Ledger::open(&config).unwrap().leases().unwrap();
    let units: Vec<&str> = leases.keys().map(|unit| unit.as_str()).collect();
    assert_eq!(units, ["GPU-0/0", "GPU-0/2", "MIG-1", "MIG-2"]);
}
