//! Every change, broken off at every place where it can be: kill -9 and Ctrl-C at each point that the
//! program passes, kill -9 and a lost connection at each request to the Engine, and who ends it killed in
//! turn. After each it is exactly the old state or exactly the new one, and that is said.
//!
//! Always a few of these, the same ones each time; all of them with GPUCTL_FULL (`tests/run --full`).
//! GPUCTL_BREAK_EVERY=5 takes every fifth, GPUCTL_BREAK_ONLY=replace those of one change.

use gpuctl_tests::broken::{Change, Tally, clear, every_way, once};
use gpuctl_tests::{Node, Options, engine_runs_here};

/// `train`, with two GPUs, files, volumes, a port.
fn train(node: &Node) {
    let words =
        ["run", "-d", "--name", "train", "--gpus", "2", "--stop-signal", "KILL", "-e", "A=1"];
    let more =
        ["-v", "data:/data", "-v", "/scratch", "--restart", "unless-stopped", "-p", "auto:22"];
    node.gpuctl_ok(&[&words[..], &more, &["busybox", "sleep", "100000"]].concat());
    let script = "echo tool >/tool; chmod 4750 /tool; rm /bin/df; mkdir /d; ln /tool /d/same; \
                  echo x >/data/x; echo y >/scratch/y; touch -d @7 /tool /data/x /scratch/y";
    node.docker_ok(&["exec", "train-0", "sh", "-c", script]);
}

fn stopped(node: &Node) {
    train(node);
    node.gpuctl_ok(&["stop", "train"]);
}

fn nothing(node: &Node) {
    node.gpuctl_ok(&["ps"]);
}

/// At its second version, the first kept.
fn replaced(node: &Node) {
    train(node);
    node.gpuctl_ok(&["update", "train", "--env", "B=1"]);
    node.docker_ok(&["exec", "train-1", "sh", "-c", "echo more >>/tool; touch -d @7 /tool"]);
}

/// With the files of now kept, and others since.
fn kept(node: &Node) {
    train(node);
    node.gpuctl_ok(&["snapshot", "train"]);
    node.gpuctl_ok(&["update", "train", "--memory", "64m"]);
    node.docker_ok(&["exec", "train-1", "sh", "-c", "echo more >>/tool; touch -d @7 /tool"]);
}

fn replaced_and_kept(node: &Node) {
    replaced(node);
    node.gpuctl_ok(&["snapshot", "train"]);
    node.gpuctl_ok(&["update", "train", "--env", "B=2"]);
}

fn paused(node: &Node) {
    train(node);
    node.gpuctl_ok(&["pause", "train"]);
}

/// One that Docker has made.
fn web(node: &Node) {
    nothing(node);
    if !node.docker_ok(&["network", "ls", "--format", "{{.Name}}"]).contains("lan") {
        node.docker_ok(&["network", "create", "--subnet", "10.216.1.0/24", "lan"]);
    }
    let words = ["run", "-d", "--name", "web", "--gpus", "2", "--stop-signal", "KILL"];
    let more = ["--network", "lan", "--ip", "10.216.1.9", "-v", "/scratch"];
    node.docker_ok(&[&words[..], &more, &["busybox", "sleep", "100000"]].concat());
}

/// Locks the container, ends what was broken off, and does nothing then.
const LOOK: &[&str] = &["update", "train", "--replace", "--dry-run"];

/// Of containers.
const CONTAINERS: &[Change] = &[
    Change {
        name: "run",
        before: nothing,
        command: &[
            "run", "-d", "--name", "train", "--gpus", "2", "-p", "auto:22", "-v", "/scratch",
            "busybox", "sleep", "100000",
        ],
        fails: false,
        next: LOOK,
    },
    Change {
        name: "run that fails",
        before: nothing,
        command: &[
            "run", "-d", "--name", "train", "--gpus", "2", "-p", "auto:22", "busybox", "/none",
        ],
        fails: true,
        next: LOOK,
    },
    Change {
        name: "create",
        before: nothing,
        command: &["create", "--name", "train", "--gpus", "2", "busybox", "sleep", "100000"],
        fails: false,
        next: LOOK,
    },
    Change {
        name: "scale",
        before: train,
        command: &["scale", "train", "--gpus", "3"],
        fails: false,
        next: LOOK,
    },
    Change {
        name: "scale of a stopped one",
        before: stopped,
        command: &["scale", "train", "--gpus", "1"],
        fails: false,
        next: LOOK,
    },
    Change {
        name: "limits",
        before: train,
        command: &["update", "train", "--memory", "64m", "--restart", "always"],
        fails: false,
        next: LOOK,
    },
    Change {
        name: "limits and GPUs",
        before: train,
        command: &["update", "train", "--memory", "64m", "--gpus", "1"],
        fails: false,
        next: LOOK,
    },
    Change {
        name: "limits that Docker refuses",
        before: train,
        command: &["update", "train", "--memory", "1k", "--gpus", "3"],
        fails: true,
        next: LOOK,
    },
    Change {
        name: "limits alone that Docker refuses",
        before: train,
        command: &["update", "train", "--memory", "1k"],
        fails: true,
        next: LOOK,
    },
    Change {
        name: "replace",
        before: train,
        command: &["update", "train", "--env", "B=2", "--gpus", "3", "--publish", "auto:80"],
        fails: false,
        next: LOOK,
    },
    Change {
        name: "replace of a stopped one",
        before: stopped,
        command: &["update", "train", "--env", "B=2"],
        fails: false,
        next: LOOK,
    },
    Change {
        name: "replace that fails",
        before: train,
        command: &["update", "train", "--mount-add", "/tmp:/x:nonsense"],
        fails: true,
        next: LOOK,
    },
    Change {
        name: "rollback",
        before: replaced,
        command: &["rollback", "train"],
        fails: false,
        next: LOOK,
    },
    Change {
        name: "rollback --files to an old container",
        before: replaced,
        command: &["rollback", "train", "0", "--files"],
        fails: false,
        next: LOOK,
    },
    Change {
        name: "rollback --files to a snapshot",
        before: kept,
        command: &["rollback", "train", "0", "--files"],
        fails: false,
        next: LOOK,
    },
    Change {
        name: "snapshot",
        before: train,
        command: &["snapshot", "train"],
        fails: false,
        next: LOOK,
    },
    Change {
        name: "clone",
        before: train,
        command: &["clone", "train", "twin", "--volumes"],
        fails: false,
        next: &["update", "twin", "--replace", "--dry-run"],
    },
    Change {
        name: "clone of a stopped one",
        before: stopped,
        command: &["clone", "train", "twin"],
        fails: false,
        next: &["update", "twin", "--replace", "--dry-run"],
    },
    Change {
        name: "rename",
        before: replaced,
        command: &["rename", "train", "learn"],
        fails: false,
        next: LOOK,
    },
    Change {
        name: "adopt",
        before: web,
        command: &["adopt", "web", "--name", "site"],
        fails: false,
        next: &["update", "site", "--replace", "--dry-run"],
    },
    Change {
        name: "commit",
        before: train,
        command: &["commit", "train", "shelf:1"],
        fails: false,
        next: LOOK,
    },
    Change { name: "pause", before: train, command: &["pause", "train"], fails: false, next: LOOK },
    Change {
        name: "unpause",
        before: paused,
        command: &["unpause", "train"],
        fails: false,
        next: LOOK,
    },
    Change { name: "stop", before: train, command: &["stop", "train"], fails: false, next: LOOK },
    Change {
        name: "start",
        before: stopped,
        command: &["start", "train"],
        fails: false,
        next: LOOK,
    },
    Change {
        name: "prune",
        before: replaced_and_kept,
        command: &["prune", "-f", "train"],
        fails: false,
        next: LOOK,
    },
    Change {
        name: "rm",
        before: replaced_and_kept,
        command: &["rm", "-f", "train"],
        fails: false,
        next: LOOK,
    },
    Change {
        name: "rm with all",
        before: replaced_and_kept,
        command: &["rm", "-f", "-v", "--history", "train"],
        fails: false,
        next: LOOK,
    },
];

/// `data`, with a file.
fn volume(node: &Node) {
    node.gpuctl_ok(&["volume", "create", "data", "--size", "32MB"]);
    written(node, "data-0", "one");
}

fn written(node: &Node, volume: &str, text: &str) {
    let place = format!("{volume}:/v");
    let script = format!("echo {text} >/v/file; touch -d @7 /v/file");
    let run = ["run", "--rm", "--network", "none", "-v", &place, "busybox", "sh", "-c", &script];
    node.docker_ok(&run);
}

fn resized(node: &Node) {
    volume(node);
    node.gpuctl_ok(&["volume", "resize", "data", "40MB"]);
    written(node, "data-1", "two");
}

/// On xfs, which grows while it is in use.
fn of_xfs(node: &Node) {
    node.gpuctl_ok(&["volume", "create", "data", "--size", "300MB"]);
    written(node, "data-0", "one");
}

/// Two containers have it: one writes, one reads.
fn in_use(node: &Node) {
    volume(node);
    let run = ["run", "-d", "--network", "none", "--stop-signal", "KILL", "--name"];
    let sleep = ["busybox", "sleep", "100000"];
    node.gpuctl_ok(&[&run[..], &["train", "--gpus", "2", "-v", "data-0:/data"], &sleep].concat());
    node.gpuctl_ok(&[&run[..], &["eval", "-v", "data-0:/sets:ro"], &sleep].concat());
}

const LOOK_AT_IT: &[&str] = &["volume", "resize", "data", "1GB", "--dry-run"];

/// Of volumes.
const VOLUMES: &[Change] = &[
    Change {
        name: "volume create",
        before: nothing,
        command: &["volume", "create", "data", "--size", "16MB"],
        fails: false,
        next: LOOK_AT_IT,
    },
    Change {
        name: "volume resize",
        before: volume,
        command: &["volume", "resize", "data", "40MB"],
        fails: false,
        next: LOOK_AT_IT,
    },
    Change {
        name: "volume resize --in-place",
        before: volume,
        command: &["volume", "resize", "data", "20MB", "--in-place"],
        fails: false,
        next: LOOK_AT_IT,
    },
    Change {
        name: "volume rollback",
        before: resized,
        command: &["volume", "rollback", "data"],
        fails: false,
        next: LOOK_AT_IT,
    },
    Change {
        name: "volume rm",
        before: resized,
        command: &["volume", "rm", "--history", "data"],
        fails: false,
        next: LOOK_AT_IT,
    },
    Change {
        name: "volume resize --roll",
        before: in_use,
        command: &["volume", "resize", "data", "40MB", "--roll"],
        fails: false,
        next: &["volume", "resize", "data", "1GB", "--dry-run", "--roll"],
    },
];

/// Of volumes with xfs.
const VOLUMES_OF_XFS: &[Change] = &[Change {
    name: "volume resize --in-place of xfs",
    before: of_xfs,
    command: &["volume", "resize", "data", "320MB", "--in-place"],
    fails: false,
    next: LOOK_AT_IT,
}];

/// What is always tried.
const ALWAYS: [&str; 5] = ["scale", "replace", "clone", "rename", "rm with all"];

/// All of it: in `tests/run --full`, and where a number tells how far apart the ways are that are tried.
fn full() -> Option<usize> {
    match std::env::var("GPUCTL_BREAK_EVERY") {
        Ok(every) => Some(every.parse().expect("a number")),
        Err(_) => gpuctl_tests::full().then_some(1),
    }
}

fn try_all(node: &Node, changes: &[Change]) -> Tally {
    let mut tally = Tally::default();
    // What a node has once something was on it, it keeps.
    for before in changes.last().map(|change| change.before).into_iter().chain([kept as _]) {
        before(node);
        clear(node);
    }
    node.gpuctl_ok(&["doctor", "--fix"]);
    for (number, change) in changes.iter().enumerate() {
        if std::env::var("GPUCTL_BREAK_ONLY").is_ok_and(|only| only != change.name) {
            continue;
        }
        let every = full().unwrap_or(31);
        // Another beginning for each.
        tally.add(every_way(node, change, &|way| way % every == number * 5 % every));
    }
    eprintln!(
        "{} tried: {} old, {} new, {} wrong",
        tally.tried,
        tally.old,
        tally.new,
        tally.wrong.len()
    );
    assert!(tally.wrong.is_empty(), "{}", tally.wrong.join("\n\n"));
    tally
}

fn node(range: usize) -> Node {
    let config = format!("[ports]\nrange = \"{range}0-{range}9\"\n");
    Node::start(Options { config, ..Options::default() })
}

#[test]
fn some_changes_broken_off_at_some_places_are_whole_or_nothing() {
    if !engine_runs_here() || full().is_some() {
        return;
    }
    let some: Vec<Change> =
        CONTAINERS.iter().filter(|change| ALWAYS.contains(&change.name)).copied().collect();
    assert_eq!(some.len(), ALWAYS.len());
    assert!(try_all(&node(2203), &some).tried >= 5);
}

/// Every third of them, each with all of its places.
fn part(rest: usize) {
    if full().is_none() {
        println!("skipped: every place where a change can be broken off: tests/run --full");
        return;
    }
    if engine_runs_here() {
        let some: Vec<Change> = CONTAINERS.iter().copied().skip(rest).step_by(3).collect();
        try_all(&node(2200 + rest), &some);
    }
}

fn node_with_volumes(config: &'static str) -> Node {
    Node::start(Options { volumes: Some(config), ..Options::default() })
}

const XFS: &str = "filesystem = \"xfs\"";

#[test]
fn every_change_to_a_volume_is_whole_or_nothing() {
    if full().is_some() && engine_runs_here() {
        try_all(&node_with_volumes(""), VOLUMES);
        try_all(&node_with_volumes(XFS), VOLUMES_OF_XFS);
    }
}

/// No step of any journal is one at which nothing is broken off.
#[test]
fn every_step_is_passed_by_one_of_these_changes() {
    if full().is_none() || !engine_runs_here() {
        return;
    }
    let mut tally = Tally::default();
    let (first, second) = (node(2204), node_with_volumes(""));
    let third = node_with_volumes(XFS);
    CONTAINERS.iter().for_each(|change| tally.add(once(&first, change)));
    VOLUMES.iter().for_each(|change| tally.add(once(&second, change)));
    VOLUMES_OF_XFS.iter().for_each(|change| tally.add(once(&third, change)));
    assert!(tally.steps.len() > 30, "the program names no steps: {:?}", tally.steps);
    let passed = |step: &str, when: &str| {
        let here = format!("{step}:{when}@");
        tally.points.iter().any(|point| point.starts_with(&here))
    };
    let nobody: Vec<&String> =
        tally.steps.iter().filter(|s| !passed(s, "begun") || !passed(s, "done")).collect();
    assert!(nobody.is_empty(), "steps that no change of these lists passes: {nobody:?}");
}

#[test]
fn every_change_is_whole_or_nothing_first() {
    part(0);
}

#[test]
fn every_change_is_whole_or_nothing_second() {
    part(1);
}

#[test]
fn every_change_is_whole_or_nothing_third() {
    part(2);
}
