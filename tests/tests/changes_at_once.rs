//! Many containers changed at once by many processes, now and then the same one by two: each change is
//! whole or refused, none is lost between two others, and nothing is left over.
//!
//! 12 containers by 8 processes; 50 in `tests/run --full`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use gpuctl_tests::{Node, Options, Output, engine_runs_here, probe, state};
use serde_json::Value;

const PROCESSES: usize = 8;
/// With a GPU: as many as there are of them.
const WITH: usize = 6;

fn name(number: usize) -> String {
    format!("job{number}")
}

/// The changes that each process makes, one after the other: of what, and how.
fn plan(process: usize, containers: usize, each: usize) -> Vec<(usize, usize)> {
    let mut seed = 7919 * (process as u64 + 1);
    let mut next = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).expect("small") % below
    };
    // The first of each is to a container that another process begins with too.
    (0..each)
        .map(|turn| if turn == 0 { (process / 2, 0) } else { (next(containers), next(5)) })
        .collect()
}

fn change(node: &Node, (number, kind): (usize, usize), turn: usize) -> Output {
    let (name, value) = (name(number), format!("V={turn}"));
    let memory = format!("{}m", 32 + turn);
    match kind {
        0 | 1 => node.gpuctl(&["update", &name, "--env", &value]),
        2 => node.gpuctl(&["update", &name, "--memory", &memory]),
        3 => node.gpuctl(&["update", &name, "--replace"]),
        _ => node.gpuctl(&["rollback", &name, "0"]),
    }
}

/// Whether it was made. Else somebody else was at it, and nothing came of it.
#[track_caller]
fn made(got: &Output) -> bool {
    let nothing = got.stderr.contains("nothing to do");
    if got.code == 0 {
        return !nothing;
    }
    let busy = ["under way", "by somebody else meanwhile", "try again"];
    assert!(got.code == 1 && busy.iter().any(|word| got.stderr.contains(word)), "{got}");
    false
}

#[test]
fn containers_changed_at_once_are_each_whole() {
    if !engine_runs_here() {
        return;
    }
    let full = gpuctl_tests::full();
    let (containers, each) = if full { (50, 15) } else { (12, 3) };
    let config = "[ports]\nrange = \"22100-22199\"\n".to_owned();
    let node = Node::start(Options { config, ..Options::default() });
    for number in 0..containers {
        let gpus = if number < WITH { "1" } else { "0" };
        let name = name(number);
        let run = ["run", "-d", "--name", &name, "--gpus", gpus, "--stop-signal", "KILL"];
        let more = ["-p", "auto:22", "-v", "/scratch", "busybox", "sleep", "100000"];
        node.gpuctl_ok(&[&run[..], &more].concat());
        let script = format!("echo {name} >/own; echo {name} >/scratch/own");
        node.docker_ok(&["exec", &format!("{name}-0"), "sh", "-c", &script]);
    }
    let ports = node.gpuctl_ok(&["ports", "-q"]);
    let count = Mutex::new(BTreeMap::<usize, u64>::new());
    std::thread::scope(|scope| {
        for process in 0..PROCESSES {
            let (node, count) = (&node, &count);
            scope.spawn(move || {
                for (turn, what) in plan(process, containers, each).into_iter().enumerate() {
                    if made(&change(node, what, process * each + turn + 1)) {
                        *count.lock().unwrap().entry(what.0).or_default() += 1;
                    }
                }
            });
        }
    });
    node.check();
    assert_eq!(node.open_changes(), Vec::<String>::new());
    let count = count.into_inner().unwrap();
    let total: u64 = count.values().sum();
    assert!(total as usize > PROCESSES * each / 2, "hardly any of them came to be: {count:?}");
    let mut known = BTreeSet::new();
    for number in 0..containers {
        let name = name(number);
        let version = count.get(&number).copied().unwrap_or_default();
        let expected: Vec<u64> = (0..=version).collect();
        assert_eq!(state::history(&node, &name), expected, "{name}: each made one version");
        let is = format!("{name}-{version}");
        let running = ["ps", "--format", "{{.Names}}", "--filter"];
        let filter = format!("name=^/{name}-[0-9]+$");
        assert_eq!(node.docker_ok(&[&running[..], &[&filter]].concat()), is);
        let own = node.docker_ok(&["exec", &is, "cat", "/own", "/scratch/own"]);
        assert_eq!(own, format!("{name}\n{name}"));
        let opens = probe::opens(&node, &is);
        assert_eq!(opens.len(), usize::from(number < WITH), "{name}");
        assert_eq!(opens, node.leased_minors(&node.id(&is)), "{name}");
        known.extend(versions(&node, &name));
    }
    assert_eq!(node.gpuctl_ok(&["ports", "-q"]), ports, "each has the port that it had");
    let there = node.docker_ok(&["ps", "-aq", "--no-trunc"]);
    let there: BTreeSet<String> = there.lines().map(str::to_owned).collect();
    assert_eq!(there, known, "no container without a version, no version without its container");
    let volumes = node.docker_ok(&["volume", "ls", "-q"]);
    assert_eq!(volumes.lines().count(), containers, "each has the volume that it had");
    eprintln!("{total} changes to {containers} containers by {PROCESSES} processes");
}

/// The ids of all versions of a container.
fn versions(node: &Node, name: &str) -> BTreeSet<String> {
    let records = state::ledger(node);
    let prefix = format!("versions/{name}/");
    let of = records.iter().filter(|(key, _)| key.starts_with(&prefix));
    of.map(|(_, record): (_, &Value)| record["container"].as_str().unwrap().to_owned()).collect()
}
