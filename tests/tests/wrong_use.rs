//! Wrong use, by root itself and by a user through the service: each is told with what to type
//! instead, ends with the exit code that Docker's commands have, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use gpuctl_tests::node::wait_for;
use gpuctl_tests::state::{self, Records};
use gpuctl_tests::{Node, Options, Output, engine_runs_here};

/// A command line, its exit code, and words that its error must have.
type Wrong = (&'static [&'static str], i32, &'static [&'static str]);

/// run ends with 125 where Docker itself is not asked or refuses.
const RUN: [Wrong; 30] = [
    (&["run", "-d", "--name", "train", "busybox", "true"], 125, &["train", "in use"]),
    (&["run", "-d", "--name", "train-1", "busybox", "true"], 125, &["train-1", "version"]),
    (&["run", "-d", "--name", "big", "--gpus", "9", "busybox", "true"], 125, &["9", "8"]),
    (&["run", "-d", "--name", "big", "--gpus", "6", "busybox", "true"], 125, &["6", "5", "train"]),
    (&["run", "-d", "--name", "big", "--gpus", "device=99", "busybox", "true"], 125, &["99"]),
    (&["run", "-d", "--name", "big", "--gpus", "device=GPU-no", "busybox"], 125, &["GPU-no"]),
    (&["run", "-d", "--name", "big", "--gpus", "device=0,0", "busybox"], 125, &["twice"]),
    (&["run", "-d", "--name", "big", "--gpus", "device=", "busybox"], 125, &["--gpus"]),
    (&["run", "-d", "--name", "big", "--gpus", "some", "busybox"], 125, &["some"]),
    (&["run", "-d", "--name", "big", "--gpus", "-2", "busybox"], 125, &["-2"]),
    (&["run", "-d", "--name", "big", "--gpus", "1.5", "busybox"], 125, &["1.5"]),
    (&["run", "-d", "--name", "big", "--gpus", "", "busybox"], 125, &["empty"]),
    (&["run", "-d", "--name", "big", "--gpus", "99999999999999999999", "busybox"], 125, &["999"]),
    (&["run", "-d", "--name", "big", "--gpus", "1", "--gpus", "2", "busybox"], 125, &["twice"]),
    (&["run", "-d", "--name", "big/er", "--gpus", "1", "busybox", "true"], 125, &["big/er"]),
    (&["run", "-d", "--name", "", "--gpus", "1", "busybox", "true"], 125, &["name"]),
    (
        &["run", "-d", "--name", "big", "--gpus", "1", "--runtime", "runc", "busybox"],
        125,
        &["runc"],
    ),
    (
        &["run", "-d", "--name", "big", "--label", "gpuctl.operation=x", "busybox", "true"],
        125,
        &["gpuctl.operation"],
    ),
    (&["run", "-d", "--name", "big", "--gpus", "1", "no-such-image:x", "true"], 125, &[]),
    (&["run", "-d", "--name", "big", "--gpus", "1", "Bad:Image:Name", "true"], 125, &[]),
    (&["run", "-d", "--name", "big", "--gpus", "1", "-p", "nonsense", "busybox"], 125, &[]),
    (&["run", "-d", "--name", "big", "--gpus", "1"], 1, &["image"]),
    (&["run"], 1, &["image"]),
    (&["run", "--no-such-flag", "busybox", "true"], 125, &["no-such-flag"]),
    (&["run", "-d", "--name"], 125, &["name"]),
    (&["run", "-d", "--from", "nobody", "--name", "big"], 125, &["nobody"]),
    (&["run", "-d", "--from", "train@9", "--name", "big"], 125, &["train@9"]),
    (&["run", "-d", "--from", "train", "--name", "big", "busybox", "true"], 125, &["--from"]),
    (&["exec", "nobody", "true"], 1, &["nobody"]),
    (&["exec", "train"], 1, &["requires COMMAND"]),
];

/// Others end with 1, or with 125 where a flag itself is wrong.
const OTHERS: [Wrong; 39] = [
    (&["create", "--name", "train", "busybox", "true"], 1, &["train", "in use"]),
    (&["create", "--name", "big", "--gpus", "9", "busybox", "true"], 1, &["9", "8"]),
    (&["create", "--name", "big", "--gpus", "some", "busybox", "true"], 125, &["some"]),
    (&["scale", "nobody", "--gpus", "1"], 1, &["nobody"]),
    (&["scale", "train-0", "--gpus", "1"], 1, &["train-0", "train is at 1"]),
    (&["scale", "train-9", "--gpus", "1"], 1, &["no version 9"]),
    (&["scale", "gone", "--gpus", "1"], 1, &["gone", "removed"]),
    (&["scale", "once", "--gpus", "2"], 1, &["once", "--rm"]),
    (&["scale", "plain", "--gpus", "1"], 1, &["plain"]),
    (&["scale", "train", "--gpus", "9"], 1, &["9", "8"]),
    (&["scale", "train", "--gpus", "8"], 1, &["8", "once"]),
    (&["scale", "train", "--gpus", "device=99"], 1, &["99"]),
    (&["scale", "down", "--gpus", "9"], 1, &["9", "8"]),
    (&["scale", "train"], 1, &["--gpus"]),
    (&["scale", "--gpus", "2"], 1, &["NAME"]),
    (&["scale", "train", "--gpus", "some"], 125, &["some"]),
    (&["scale", "train", "--gpus", "-2"], 125, &["-2"]),
    (&["scale", "train", "--gpus", "2", "--timeout", "soon"], 125, &["soon"]),
    (&["scale", "train", "--gpus", "2", "--no-such-flag"], 125, &["no-such-flag"]),
    (&["start", "nobody"], 1, &["nobody"]),
    (&["start", "gone"], 1, &["gone", "removed"]),
    (&["start", "train-0"], 1, &["train-0"]),
    (&["stop", "nobody"], 1, &["nobody"]),
    (&["stop", "train-0"], 1, &["train-0"]),
    (&["stop"], 1, &["NAME"]),
    (&["restart", "nobody"], 1, &["nobody"]),
    (&["rm", "nobody"], 1, &["nobody"]),
    (&["rm", "train"], 1, &["running"]),
    (&["rm", "-f", "train-0"], 1, &["train-0"]),
    (&["rm", "gone"], 1, &["gone"]),
    (&["rm"], 1, &["NAME"]),
    (&["logs", "nobody"], 1, &["nobody"]),
    (&["inspect", "nobody"], 1, &["nobody"]),
    (&["history", "nobody"], 1, &["nobody"]),
    (&["ps", "--format", "xml"], 1, &["xml"]),
    (&["ps", "--no-such-flag"], 125, &["no-such-flag"]),
    (&["fly"], 1, &["fly"]),
    (&["rm", "../../etc"], 1, &["../../etc"]),
    (&["start", ""], 1, &["container"]),
];

/// All that a wrong command could change.
struct Before {
    ledger: Records,
    docker: (BTreeMap<String, String>, BTreeSet<String>, BTreeSet<String>),
}

fn before(node: &Node) -> Before {
    let list = |line: &[&str]| node.docker_ok(line).lines().map(str::to_owned).collect();
    let docker = (state::containers(node), list(&["volume", "ls", "-q"]), list(&["images", "-aq"]));
    Before { ledger: state::ledger(node), docker }
}

/// Nothing has changed, or what.
fn change(node: &Node, old: &Before) -> Vec<String> {
    let now = before(node);
    let mut changed = state::difference(&old.ledger, &now.ledger);
    if now.docker != old.docker {
        changed.push(format!("{:?} -> {:?}", old.docker, now.docker));
    }
    changed
}

#[track_caller]
fn unchanged(node: &Node, old: &Before, got: &Output) {
    assert_eq!(change(node, old), [""; 0], "{got}");
}

/// What is wrong with how it was told.
fn faults(got: &Output, code: i32, words: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    if got.code != code {
        faults.push(format!("it ends with {}, not with {code}", got.code));
    }
    // docker inspect prints an empty list.
    if !got.stdout.is_empty() && got.stdout != "[]\n" {
        faults.push("it prints data".to_owned());
    }
    for start in ["error: ", "hint: "] {
        let lines = got.stderr.lines().filter(|l| l.starts_with(start)).count();
        if lines != 1 {
            faults.push(format!("it has {lines} lines of {start:?}"));
        }
    }
    for word in words {
        if !got.stderr.contains(word) {
            faults.push(format!("it does not say {word:?}"));
        }
    }
    for raw in ["os error", "Os {", "panicked", "SQLITE", "sqlite", "Some(", "None,"] {
        if got.stderr.contains(raw) {
            faults.push(format!("it says {raw:?}"));
        }
    }
    faults
}

#[track_caller]
fn told(got: &Output, code: i32, words: &[&str]) {
    assert_eq!(faults(got, code, words), [""; 0], "{got}");
}

/// A node on which much can be done wrongly: train runs with 2 GPUs at version 1, once was run with
/// --rm, down is stopped, gone was removed; plain is Docker's own. 5 GPUs are free.
fn busy(options: Options) -> Node {
    let node = Node::start(options);
    let long = ["--stop-signal", "KILL", "busybox", "sleep", "100000"];
    let run = |more: &[&str]| node.gpuctl_ok(&[&["run", "-d"], more, &long[..]].concat());
    run(&["--name", "train", "--gpus", "1"]);
    node.gpuctl_ok(&["scale", "train", "--gpus", "2"]);
    run(&["--name", "once", "--rm", "--gpus", "1"]);
    run(&["--name", "down", "--gpus", "3"]);
    node.gpuctl_ok(&["stop", "down"]);
    run(&["--name", "gone", "--gpus", "1"]);
    node.gpuctl_ok(&["rm", "-f", "gone"]);
    node.docker_ok(&["run", "-d", "--name", "plain", "busybox", "sleep", "100000"]);
    assert_eq!(node.leases().len(), 3);
    node
}

/// Goes through all of them, and tells of all that are not as they should be.
fn wrong(node: &Node, ask: &dyn Fn(&[&str]) -> Output) {
    let old = before(node);
    let mut bad = Vec::new();
    for (line, code, words) in RUN.iter().chain(&OTHERS) {
        let got = ask(line);
        let mut faults = faults(&got, *code, words);
        faults.extend(change(node, &old));
        if !faults.is_empty() {
            bad.push(format!("{faults:#?}\n{got}\n"));
        }
    }
    assert!(bad.is_empty(), "{} of them:\n{}", bad.len(), bad.join("\n"));
    node.check();
}

#[test]
fn wrong_use_by_root() {
    if !engine_runs_here() {
        return;
    }
    let node = busy(Options::default());
    wrong(&node, &|line| node.gpuctl(line));
}

#[test]
fn wrong_use_through_the_service() {
    if !engine_runs_here() {
        return;
    }
    let node = busy(Options { service: true, ..Options::default() });
    let group = std::fs::metadata(node.place().docker_socket()).unwrap().gid();
    wrong(&node, &|line| node.gpuctl_as(1, group, line));
}

#[test]
fn what_is_no_change_changes_nothing() {
    if !engine_runs_here() {
        return;
    }
    let node = busy(Options::default());
    let old = before(&node);
    let same: [&[&str]; 3] = [
        &["scale", "train", "--gpus", "2"],
        &["scale", "train-1", "--gpus", "2"],
        &["scale", "down", "--gpus", "3"],
    ];
    for line in same {
        let got = node.gpuctl(line);
        assert!(got.code == 0 && got.stderr.contains("nothing to do"), "{got}");
        unchanged(&node, &old, &got);
    }
    let plans: [(&[&str], &[&str]); 5] = [
        (&["scale", "train", "--gpus", "4"], &["2 GPUs -> 4 GPUs", "restart", "train-2"]),
        (&["scale", "train", "--gpus", "0"], &["2 GPUs -> no GPU", "restart", "train-2"]),
        (&["scale", "train", "--gpus", "all", "-t", "7"], &["7 s"]),
        (&["scale", "down", "--gpus", "8"], &["3 GPUs -> 8 GPUs", "next start", "down-1"]),
        (&["scale", "train", "--gpus", "device=7"], &["device=7"]),
    ];
    for (line, words) in plans {
        let got = node.gpuctl(&[line, &["--dry-run"]].concat());
        if line.contains(&"all") && got.code == 1 {
            // Of all, those that others hold cannot be had: then the plan says so.
            told(&got, 1, &["once"]);
        } else {
            assert_eq!(got.code, 0, "{got}");
            for word in words {
                assert!(got.stdout.contains(word), "the plan does not say {word:?}\n{got}");
            }
        }
        unchanged(&node, &old, &got);
    }
    // A plan that cannot be carried out is refused as the change would be; it decides nothing, and so
    // there is no line of it.
    let audit = || std::fs::read_to_string(node.place().state().join("audit.log")).unwrap();
    let decided = audit();
    for name in ["train", "down"] {
        let line = ["scale", name, "--gpus", "9"];
        let got = node.gpuctl(&[&line[..], &["--dry-run"]].concat());
        told(&got, 1, &["9", "8"]);
        assert_eq!(audit(), decided, "{got}");
        assert_eq!(node.gpuctl(&line).code, 1);
        let told = audit().replacen(&decided, "", 1);
        assert!(told.contains("refused") && told.lines().count() == 1, "{told}");
        std::fs::write(node.place().state().join("audit.log"), &decided).unwrap();
    }
    let reads: [&[&str]; 9] = [
        &["ps"],
        &["ps", "-a"],
        &["ps", "-aq"],
        &["gpus"],
        &["gpus", "-q"],
        &["history", "train"],
        &["inspect", "train", "down"],
        &["logs", "train"],
        &["version"],
    ];
    for line in reads {
        let got = node.gpuctl(line);
        assert_eq!(got.code, 0, "{got}");
        unchanged(&node, &old, &got);
    }
    for line in [["start", "train"], ["stop", "down"]] {
        let got = node.gpuctl(&line);
        assert_eq!(got.code, 0, "what is so already is no error\n{got}");
        unchanged(&node, &old, &got);
    }
    node.check();
}

#[test]
fn an_engine_that_cannot_do_it() {
    if !engine_runs_here() {
        return;
    }
    let node = busy(Options::default());
    let old = before(&node);
    let good = std::fs::read_to_string(node.place().config()).unwrap();
    // One without our runtime.
    node.edit_config(|text| text.replace("managed_name = \"gpuctl\"", "managed_name = \"other\""));
    for (line, code) in [
        (&["run", "-d", "--name", "big", "--gpus", "1", "busybox", "true"][..], 125),
        (&["run", "--rm", "--name", "big", "busybox", "true"], 125),
        (&["create", "--name", "big", "busybox", "true"], 1),
    ] {
        let got = node.gpuctl(line);
        told(&got, code, &["runtime other", "daemon.json"]);
        unchanged(&node, &old, &got);
    }
    let got = node.gpuctl(&["doctor"]);
    assert!(got.code == 1 && got.stdout.contains("runtime other"), "{got}");
    node.edit_config(|_| good);
    // Another than ours.
    let other = "unix:///nonexistent/docker.sock";
    let lines: [(&[&str], i32); 4] = [
        (&["run", "-d", "--name", "big", "--gpus", "1", "busybox", "true"], 125),
        (&["scale", "train", "--gpus", "1"], 1),
        (&["rm", "-f", "train"], 1),
        (&["ps"], 1),
    ];
    for (line, code) in lines {
        let got = node.docker(&[&["-H", other, "gpuctl"], line].concat());
        told(&got, code, &[other]);
        unchanged(&node, &old, &got);
    }
    // None.
    node.kill_engine();
    let ledger = state::ledger(&node);
    for (line, code) in lines {
        let got = node.gpuctl(line);
        told(&got, code, &["docker.sock"]);
        assert_eq!(state::difference(&ledger, &state::ledger(&node)), [""; 0], "{got}");
    }
    node.start_engine();
    node.check();
}

#[test]
fn what_is_too_long_for_its_record_is_refused_before_anything_stands_on_it() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let file = node.place().at("long.env");
    let write = |lines: usize| {
        let line = |n: usize| format!("V{n:06}={}\n", "x".repeat(991));
        let text: String = (0..lines).map(line).collect();
        std::fs::write(&file, text).unwrap();
    };
    let old = before(&node);
    let create = ["create", "--name", "big", "--gpus", "1", "--env-file", file.to_str().unwrap()];
    let create = [&create[..], &["--stop-timeout", "0", "busybox", "sleep", "100000"]].concat();
    // 1 MiB is the most; so much below it a later record would not fit.
    for lines in [1044, 1200] {
        write(lines);
        let got = node.gpuctl(&create);
        told(&got, 1, &["big-0", "KiB", "mounts"]);
        unchanged(&node, &old, &got);
    }
    write(1010);
    node.gpuctl_ok(&create);
    node.gpuctl_ok(&["start", "big"]);
    for gpus in ["2", "1"] {
        node.gpuctl_ok(&["scale", "big", "--gpus", gpus]);
    }
    assert_eq!(node.open_changes(), Vec::<String>::new());
    let now = state::seen(&node, "big").expect("it is there");
    assert_eq!((now.version, now.opens.len(), now.running), (2, 1, true), "{now:?}");
    // The record has all that it takes to build it again.
    node.gpuctl_ok(&["run", "-d", "--from", "big", "--name", "again"]);
    let count = ["exec", "again", "sh", "-c", "env | grep -c ^V0"];
    assert_eq!(node.gpuctl_ok(&count), "1010");
    node.gpuctl_ok(&["rm", "-f", "big", "again"]);
    node.check();
}

#[test]
fn an_id_of_docker_names_a_container_too() {
    if !engine_runs_here() {
        return;
    }
    let node = busy(Options::default());
    let ids = node.gpuctl_ok(&["ps", "-aq"]);
    let ids: Vec<&str> = ids.lines().collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
    let whole = node.id("train-1");
    let train = &whole[..12];
    assert!(ids.contains(&train), "{ids:?}");
    node.gpuctl_ok(&["scale", train, "--gpus", "1"]);
    assert_eq!(node.gpuctl_ok(&["exec", &whole, "hostname"]), "train");
    for line in [["inspect", train], ["history", train], ["logs", train], ["restart", train]] {
        assert_eq!(node.gpuctl(&line).code, 0, "{line:?}");
    }
    // Docker's own are not ours.
    let plain = node.id("plain");
    told(&node.gpuctl(&["rm", "-f", &plain[..12]]), 1, &[&plain[..12], "no container"]);
    node.gpuctl_ok(&[&["rm", "-f"], &ids[..]].concat());
    assert_eq!(node.gpuctl_ok(&["ps", "-aq"]), "");
    assert!(node.leases().is_empty());
    node.check();
}

/// The files in a folder, by name.
fn files(folder: &std::path::Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn what_was_run_with_rm_leaves_nothing() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.gpuctl_ok(&["ps"]);
    let paths = node.config().paths;
    let left = || (state::ledger(&node), files(&paths.bindings()), files(&paths.locks()));
    let nothing = left();
    // Attached, the plugin sees its end.
    node.gpuctl_ok(&["run", "--rm", "--gpus", "1", "busybox", "true"]);
    assert_eq!(left(), nothing);
    let got = node.gpuctl(&["run", "--rm", "--name", "tt", "busybox", "sh", "-c", "exit 7"]);
    assert_eq!(got.code, 7, "{got}");
    assert_eq!(left(), nothing);
    // Detached without a service, nobody does, but the next of its name has it anew.
    let detached = ["run", "-d", "--rm", "--name", "tt", "busybox", "true"];
    let gone = || {
        wait_for("its end", Duration::from_secs(20), || node.docker_ok(&["ps", "-aq"]).is_empty());
    };
    for _ in 0..2 {
        node.gpuctl_ok(&detached);
        gone();
    }
    assert_eq!(node.gpuctl_ok(&["history", "tt", "-q"]).lines().count(), 1);
    // Removed by hand, its name is as any other's.
    let long =
        ["run", "-d", "--rm", "--name", "uu", "--stop-timeout", "0", "busybox", "sleep", "99"];
    for _ in 0..2 {
        node.gpuctl_ok(&long);
        node.gpuctl_ok(&["rm", "-f", "uu"]);
    }
    node.gpuctl_ok(&["rm", "--history", "uu"]);
    // With one, it goes by itself; the history of others of its name stays.
    node.gpuctl_ok(&["run", "-d", "--name", "old", "--gpus", "1", "busybox", "true"]);
    node.gpuctl_ok(&["rm", "-f", "old"]);
    let old = state::ledger(&node)["versions/old/0000000000"].clone();
    node.gpuctl_ok(&["run", "-d", "--rm", "--name", "old", "busybox", "true"]);
    gone();
    assert!(state::ledger(&node).contains_key("versions/old/0000000001"));
    node.start_service();
    wait_for("nothing", Duration::from_secs(40), || {
        let ledger = state::ledger(&node);
        let keys: Vec<&str> = ledger.keys().map(String::as_str).collect();
        keys == ["containers/old", "versions/old/0000000000"] && files(&paths.locks()).is_empty()
    });
    assert_eq!(state::ledger(&node)["versions/old/0000000000"], old);
    assert_eq!(left().1, nothing.1);
    node.gpuctl_ok(&["run", "-d", "--from", "old"]);
    node.check();
}
