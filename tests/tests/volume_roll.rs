//! volume resize --roll and rollback --roll: containers move to the new version, all of them or none,
//! whatever fails and wherever it is killed.

use std::collections::BTreeSet;
use std::time::Duration;

use gpuctl_tests::node::wait_for;
use gpuctl_tests::{Node, Options, engine_runs_here, probe, state};
use serde_json::Value;

/// A volume of this size with a file; `train` writes to it and has two GPUs, `eval` reads it.
fn node_with(size: &str) -> Node {
    let node = Node::start(Options { volumes: Some(""), ..Options::default() });
    node.gpuctl_ok(&["volume", "create", "data", "--size", size]);
    run(&node, "train", &["--gpus", "2", "-v", "data-0:/data"]);
    run(&node, "eval", &["--mount", "type=volume,source=data-0,target=/sets,readonly"]);
    node.docker_ok(&["exec", "train-0", "sh", "-c", "echo one >/data/.file; echo tool >/tool"]);
    node
}

fn node() -> Node {
    node_with("32MB")
}

fn run(node: &Node, name: &str, flags: &[&str]) {
    let words = ["run", "-d", "--name", name, "--network", "none", "--stop-signal", "KILL"];
    let command = ["busybox", "sleep", "100000"];
    node.gpuctl_ok(&[&words[..], flags, &command].concat());
}

/// A managed container at its current version.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    docker_name: String,
    id: String,
    running: bool,
    version: u64,
    opens: BTreeSet<u32>,
    leased: BTreeSet<u32>,
}

#[track_caller]
fn seen(node: &Node, name: &str) -> Seen {
    let rows = node.gpuctl_ok(&["ps", "-a", "--format", "json"]);
    let rows = rows.lines().map(|row| serde_json::from_str::<Value>(row).expect("JSON"));
    let row = rows.into_iter().find(|row| row["name"] == name).expect("it is there");
    let version = row["version"].as_u64().expect("a number");
    let docker_name = format!("{name}-{version}");
    let running = row["running"] == true;
    let id = node.id(&docker_name);
    assert_eq!(row["id"], id.as_str());
    let leased: BTreeSet<u32> = node.leased_minors(&id);
    let opens = if running { probe::opens(node, &docker_name) } else { BTreeSet::new() };
    Seen { docker_name, id, running, version, opens, leased }
}

/// The volumes that a managed container mounts.
#[track_caller]
fn mounts(node: &Node, container: &str) -> Vec<String> {
    let text = node.docker_ok(&["inspect", container]);
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let mounts = all[0]["Mounts"].as_array().expect("mounts");
    mounts.iter().filter_map(|m| m["Name"].as_str().map(str::to_owned)).collect()
}

fn within(node: &Node, container: &str, script: &str) -> String {
    node.docker_ok(&["exec", container, "sh", "-c", script])
}

#[track_caller]
fn current_volume(node: &Node) -> String {
    let text = node.gpuctl_ok(&["volume", "inspect", "data", "--format", "json"]);
    let shown: Value = serde_json::from_str(&text).expect("JSON");
    shown["docker_name"].as_str().expect("a name").to_owned()
}

#[test]
fn containers_move_to_the_new_version_and_back() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    // One that has run and is stopped, one that Docker's own user made.
    run(&node, "idle", &["-v", "data-0:/data"]);
    node.docker_ok(&["exec", "idle-0", "touch", "/mine"]);
    node.gpuctl_ok(&["stop", "idle"]);
    let foreign = ["run", "-d", "--name", "foreign", "--network", "none", "-v", "data-0:/v:ro"];
    node.docker_ok(&[&foreign[..], &["busybox", "sleep", "100000"]].concat());
    let before = (state::ledger(&node), state::containers(&node));

    let refused = node.gpuctl(&["volume", "resize", "data", "48MB"]);
    assert!(refused.code == 1 && refused.stderr.contains("written to by train-0"), "{refused}");
    // --in-place is named where this kernel lets a mounted filesystem grow.
    assert!(refused.stderr.contains("--roll"), "{refused}");
    let plan = node.gpuctl_ok(&["volume", "resize", "data", "48MB", "--roll", "--dry-run"]);
    let at = |text: &str| plan.find(text).unwrap_or_else(|| panic!("{text}: {plan}"));
    assert!(at("make data-1") < at("stop train-0: down"), "{plan}");
    assert!(at("stop train-0: down") < at("copy "), "{plan}");
    assert!(at("copy ") < at("stop eval-0, create eval-1 with data-1"), "{plan}");
    assert!(at("start eval-1, train-1") < at("data is at version 1"), "{plan}");
    let both = node.gpuctl(&["volume", "resize", "data", "48MB", "--roll", "--in-place"]);
    assert_eq!(both.code, 1, "{both}");
    assert_eq!((state::ledger(&node), state::containers(&node)), before, "nothing was touched");

    let got = node.gpuctl(&["volume", "resize", "data", "48MB", "--roll"]);
    assert_eq!((got.code, got.stdout.as_str()), (0, "data-1\n"), "{got}");
    assert!(got.stderr.contains("foreign still mounts data-0"), "{got}");
    for name in ["train", "eval", "idle"] {
        assert_eq!(mounts(&node, &format!("{name}-1")), ["data-1"], "{name}");
        assert_eq!(mounts(&node, &format!("{name}-0")), ["data-0"], "{name}");
    }
    assert_eq!(
        within(&node, "train-1", "cat /data/.file /tool; echo two >>/data/.file"),
        "one\ntool"
    );
    assert_eq!(
        within(&node, "eval-1", "cat /sets/.file; touch /sets/x 2>&1 | wc -l"),
        "one\ntwo\n1"
    );
    assert_eq!(within(&node, "foreign", "cat /v/.file"), "one");
    let train = seen(&node, "train");
    assert_eq!((train.opens.len(), &train.opens), (2, &train.leased));
    let idle = seen(&node, "idle");
    assert!(!idle.running && idle.version == 1, "{idle:?}");
    node.gpuctl_ok(&["start", "idle"]);
    assert_eq!(within(&node, "idle-1", "ls /mine; cat /data/.file"), "/mine\none\ntwo");
    node.gpuctl_ok(&["stop", "idle"]);
    let history = node.gpuctl_ok(&["history", "train"]);
    assert!(history.contains("volume data: data-0 -> data-1"), "{history}");

    // Back: what was there before the resize, in a version of its own.
    let back = node.gpuctl(&["volume", "rollback", "data", "--roll"]);
    assert_eq!((back.code, back.stdout.as_str()), (0, "data-2\n"), "{back}");
    assert_eq!(within(&node, "train-2", "cat /data/.file /tool"), "one\ntool");
    assert_eq!(within(&node, "eval-2", "cat /sets/.file"), "one");
    assert_eq!(mounts(&node, "idle-2"), ["data-2"]);
    // Without it nothing that is mounted moves, and it is said what would.
    let stays = node.gpuctl(&["volume", "rollback", "data", "1"]);
    assert!(stays.code == 0 && stays.stdout == "data-3\n", "{stays}");
    assert!(stays.stderr.contains("docker gpuctl update train --volume data-2:data-3"), "{stays}");
    assert_eq!(mounts(&node, "train-2"), ["data-2"]);
    node.gpuctl_ok(&["update", "train", "--volume", "data-2:data-3"]);
    assert_eq!(within(&node, "train-3", "cat /data/.file"), "one\ntwo");
    node.check();
}

/// However a container came to have it to read only, by which words, and written how.
#[test]
fn who_only_read_reads_only_still() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    let readers: [(&str, &str, &[&str]); 4] = [
        ("from", "/data", &["--volumes-from", "train-0:ro"]),
        // Given on by one that has it so itself, besides a volume without a name.
        ("again", "/sets", &["--volumes-from", "eval-0", "-v", "/scratch"]),
        ("bound", "/b", &["-v", "data-0:/b/:ro"]),
        ("mounted", "/m/n", &["--mount", "type=volume,src=data-0,dst=/m//n/,readonly"]),
    ];
    for (name, _, flags) in readers {
        run(&node, name, flags);
    }
    run(&node, "shares", &["--volumes-from", "train-0"]);
    node.gpuctl_ok(&["volume", "resize", "data", "48MB", "--roll"]);
    within(&node, "train-1", "echo two >/data/.file");
    for (name, place, _) in readers {
        let container = format!("{name}-1");
        let script = format!(
            "cat {place}/.file; touch {place}/x 2>&1 | grep -c Read-only; grep -c ' {place} ' /proc/self/mountinfo"
        );
        assert_eq!(within(&node, &container, &script), "two\n1\n1", "{name}");
        assert!(mounts(&node, &container).contains(&"data-1".to_owned()), "{name}");
    }
    within(&node, "again-1", "touch /scratch/x");
    assert_eq!(within(&node, "shares-1", "echo three >/data/.file; cat /data/.file"), "three");
    // The next time too.
    node.gpuctl_ok(&["volume", "resize", "data", "64MB", "--roll"]);
    for (name, place, _) in readers {
        let script = format!("cat {place}/.file; touch {place}/x 2>&1 | grep -c Read-only");
        assert_eq!(within(&node, &format!("{name}-2"), &script), "three\n1", "{name}");
    }
    node.check();
}

#[test]
fn where_one_cannot_move_none_does() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    let roll = ["volume", "resize", "data", "48MB", "--roll"];
    let same = |before: &(state::Records, _), got: &dyn std::fmt::Display| {
        let after = state::ledger(&node);
        assert_eq!(state::difference(&before.0, &after), Vec::<String>::new(), "{got}");
        assert_eq!(state::containers(&node), before.1, "{got}");
        assert_eq!(node.docker_ok(&["volume", "ls", "-q"]), "data-0", "{got}");
    };
    let looked = || (state::ledger(&node), state::containers(&node));
    // Who is not ours and writes, who is paused, who goes when it stops, and a name that is taken.
    let foreign = ["run", "-d", "--name", "foreign", "--network", "none", "-v", "data-0:/v"];
    node.docker_ok(&[&foreign[..], &["busybox", "sleep", "100000"]].concat());
    let before = looked();
    let got = node.gpuctl(&roll);
    assert!(got.code == 1 && got.stderr.contains("written to by foreign"), "{got}");
    same(&before, &got);
    node.docker_ok(&["rm", "-f", "foreign"]);
    node.docker_ok(&["pause", "eval-0"]);
    let before = looked();
    let got = node.gpuctl(&roll);
    assert!(got.code == 1 && got.stderr.contains("eval-0 is paused"), "{got}");
    same(&before, &got);
    node.docker_ok(&["unpause", "eval-0"]);
    run(&node, "once", &["--rm", "-v", "data-0:/data"]);
    let before = looked();
    let got = node.gpuctl(&roll);
    assert!(got.code == 1 && got.stderr.contains("once-0 was run with --rm"), "{got}");
    same(&before, &got);
    node.gpuctl_ok(&["rm", "-f", "once"]);
    node.docker_ok(&["create", "--name", "train-1", "busybox"]);
    let before = looked();
    let got = node.gpuctl(&roll);
    assert!(got.code == 1 && got.stderr.contains("a container train-1 already"), "{got}");
    same(&before, &got);
    node.docker_ok(&["rm", "train-1"]);

    // One that fails when the other was made already: a file is where its folder was. All run again as they were.
    let folder = node.place().at("bound");
    std::fs::create_dir(&folder).expect("a folder");
    let bind = format!("type=bind,source={},target=/bound", folder.display());
    let volume = ["--mount", &bind, "-v", "data-0:/data"];
    run(&node, "zeta", &volume);
    std::fs::remove_dir(&folder).expect("it is empty");
    std::fs::write(&folder, "").expect("a file");
    let before = (state::ledger(&node), seen(&node, "train"), seen(&node, "eval"));
    let got = node.gpuctl(&roll);
    assert!(got.code == 1 && got.stderr.contains("train runs again as it was"), "{got}");
    assert!(got.stderr.contains("eval runs again as it was"), "{got}");
    assert_eq!(node.docker_ok(&["volume", "ls", "-q"]), "data-0");
    for (name, was) in [("train", &before.1), ("eval", &before.2)] {
        let (was, is) = (was.clone(), seen(&node, name));
        assert_eq!((is.id, is.running, is.version, &is.opens), (was.id, true, 0, &was.opens));
        assert_eq!(is.leased, is.opens);
    }
    assert_eq!(within(&node, "train-0", "cat /data/.file /tool"), "one\ntool");
    node.gpuctl_ok(&["rm", "-f", "zeta"]);
    node.check();
}

/// The points at which a roll may be killed, and whether it is done by then.
fn points() -> Vec<(String, bool)> {
    let mut points = Vec::new();
    for step in ["make", "stop", "copy", "move", "record"] {
        points.push((format!("volume-resize:{step}:begun"), step == "record"));
        points.push((format!("volume-resize:{step}:done"), step == "record"));
    }
    points.push(("volume-resize:end:done".to_owned(), true));
    for name in ["eval", "train"] {
        for step in ["claim", "stop", "create", "carry", "start", "record"] {
            for when in ["begun", "done"] {
                // It has started, and the next step is to record it.
                let done = step == "record" || (step, when) == ("start", "done");
                points.push((format!("replace:{step}:{when}@{name}"), done));
            }
        }
        points.push((format!("replace:end:done@{name}"), true));
    }
    points
}

/// Kills a roll at every point of these whose number leaves this rest, and has it brought to its end
/// by whoever comes next. Without GPUCTL_FULL at every third of them.
fn killed(rest: usize) {
    let node = node();
    let full = gpuctl_tests::full();
    let chosen = |number: usize| number % 3 == rest && (full || (number / 3).is_multiple_of(3));
    let (mut version, mut size) = (0, 32);
    for (number, (point, done)) in points().into_iter().enumerate().filter(|(n, _)| chosen(*n)) {
        let images = || {
            let files = std::fs::read_dir(node.place().at("volumes")).expect("a folder").flatten();
            files.filter(|f| f.file_name().to_string_lossy().ends_with(".img")).count()
        };
        let before = (seen(&node, "train").docker_name, seen(&node, "eval").docker_name, images());
        let wanted = if size == 32 { 40 } else { 32 };
        let text = format!("{wanted}MB");
        node.gpuctl_killed_at(&point, &["volume", "resize", "data", &text, "--roll"]);
        // The next command on the volume, on either container, doctor: each ends the whole of it.
        let ender: &[&str] = match number / 3 % 4 {
            0 => &["volume", "resize", "data", "1GB", "--dry-run", "--roll"],
            1 => &["update", "train", "--env", "A=1", "--dry-run"],
            2 => &["update", "eval", "--env", "A=1", "--dry-run"],
            _ => &["doctor", "--fix"],
        };
        let got = node.gpuctl(ender);
        let said = format!("{}{}", got.stdout, got.stderr);
        let doctor = node.gpuctl(&["doctor", "--fix"]);
        assert!(!said.contains("cannot be brought to an end"), "{point}: {got}");
        let by_volume = ender[0] != "update";
        if by_volume && !point.ends_with("end:done") {
            let how = if done { "it is done" } else { "it is undone" };
            assert!(said.contains(how), "{point}: {got}");
        }
        if done {
            version += 1;
            size = wanted;
        }
        let volume = format!("data-{version}");
        assert_eq!(current_volume(&node), volume, "{point}: {got}{doctor}");
        for (name, was) in [("train", &before.0), ("eval", &before.1)] {
            let seen = seen(&node, name);
            assert!(seen.running, "{point}: {name}: {got}{doctor}");
            assert_eq!(&seen.docker_name != was, done, "{point}: {name}: {got}{doctor}");
            assert_eq!(mounts(&node, &seen.docker_name), [volume.as_str()], "{point}");
            assert_eq!(seen.opens, seen.leased, "{point}");
            assert_eq!(seen.opens.len(), if name == "train" { 2 } else { 0 }, "{point}");
        }
        let train = seen(&node, "train").docker_name;
        assert_eq!(within(&node, &train, "cat /data/.file /tool"), "one\ntool", "{point}");
        assert_eq!(images(), before.2 + usize::from(done), "{point}");
        let open = state::ledger(&node);
        let open: Vec<&String> = open.keys().filter(|k| k.contains("operations/")).collect();
        assert!(open.is_empty(), "{point}: {open:?}");
        // Older versions are of no use here, and take loop devices.
        node.gpuctl_ok(&["prune", "train", "-f"]);
        node.gpuctl_ok(&["prune", "eval", "-f"]);
        node.gpuctl_ok(&["volume", "prune", "-f"]);
    }
    node.check();
}

#[test]
fn a_roll_that_is_killed_is_all_old_or_all_new() {
    if engine_runs_here() {
        killed(0);
    }
}

#[test]
fn a_roll_that_is_killed_is_all_old_or_all_new_second() {
    if engine_runs_here() {
        killed(1);
    }
}

#[test]
fn a_roll_that_is_killed_is_all_old_or_all_new_third() {
    if engine_runs_here() {
        killed(2);
    }
}

/// The user gives up in the middle of the copy: the writer, which was stopped for it, runs again.
#[test]
fn a_roll_that_is_interrupted_goes_back() {
    use nix::sys::signal::{Signal, killpg};
    use nix::unistd::Pid;
    if !engine_runs_here() {
        return;
    }
    let node = node_with("400MB");
    let many =
        "cd /data; for d in $(seq 60); do mkdir $d; cd $d; seq 500 | xargs touch; cd ..; done";
    within(&node, "train-0", many);
    let before = state::ledger(&node);
    let copied = node.place().at("volumes/mounts/data-1/data");
    let mut child = node.spawn(&["gpuctl", "volume", "resize", "data", "500MB", "--roll"]);
    wait_for("the copy", Duration::from_secs(60), || {
        std::fs::read_dir(&copied).is_ok_and(|mut entries| entries.next().is_some())
    });
    assert!(!seen(&node, "train").running, "it is stopped for the copy");
    assert!(seen(&node, "eval").running, "one that reads runs on");
    killpg(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGINT).expect("runs");
    assert!(!child.wait().expect("it ends").success());
    wait_for("train to run again", Duration::from_secs(60), || {
        !node.docker_ok(&["ps", "-q", "--filter", "name=train-0"]).is_empty()
            && node.docker_ok(&["volume", "ls", "-q"]) == "data-0"
    });
    wait_for("the end", Duration::from_secs(10), || {
        !state::ledger(&node).keys().any(|key| key.contains("operations/"))
    });
    let open = state::difference(&before, &state::ledger(&node));
    // Started anew, its leases have other evidence.
    let rest: Vec<&String> = open.iter().filter(|d| !d.starts_with("leases/")).collect();
    assert!(rest.iter().all(|d| d.starts_with("bindings/")), "{rest:?}");
    let train = seen(&node, "train");
    assert_eq!((train.version, train.opens.len(), &train.opens), (0, 2, &train.leased));
    node.check();
}
