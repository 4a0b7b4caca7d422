//! clone: a second container with the first one's spec and files, and GPUs and ports of its own.

use gpuctl_tests::newer::Debian;
use gpuctl_tests::state::{self, Records};
use gpuctl_tests::{Node, Options, engine_runs_here, mends_here};

fn node(range: &str) -> Node {
    Node::start(Options { config: format!("[ports]\nrange = \"{range}\"\n"), ..Options::default() })
}

/// `train` with two GPUs, a file of its own, one less than its image, and what else it is given.
fn run(node: &Node, more: &[&str]) {
    let run = ["run", "-d", "--name", "train", "--gpus", "2", "--stop-signal", "KILL", "-e", "A=b"];
    node.gpuctl_ok(&[&run[..], more, &["busybox", "sleep", "100000"]].concat());
    let script = "echo tool >/tool; chmod 4750 /tool; rm /bin/df; mkdir /d; ln /tool /d/same";
    node.docker_ok(&["exec", "train-0", "sh", "-c", script]);
}

/// Its files are the first one's, seen from within.
#[track_caller]
fn has_the_files(node: &Node, docker_name: &str) {
    let script = "cat /tool; stat -c '%a %h' /tool /d/same; ls /bin/df 2>/dev/null || echo gone";
    let seen = node.docker_ok(&["exec", docker_name, "sh", "-c", script]);
    assert_eq!(seen, "tool\n4750 2\n4750 2\ngone", "{docker_name}");
}

#[test]
fn the_second_has_the_firsts_files_and_what_only_one_can_have_of_its_own() {
    if !engine_runs_here() {
        return;
    }
    let node = node("21700-21719");
    node.docker_ok(&["network", "create", "--subnet", "10.214.10.0/24", "lan"]);
    let place = ["--network", "lan", "--ip", "10.214.10.9"];
    let more = ["-p", "auto:22", "-p", "21999:80", "-v", "data:/data", "-v", "/scratch"];
    run(&node, &[&place[..], &more].concat());
    node.docker_ok(&["exec", "train-0", "sh", "-c", "echo x >/data/x; echo y >/scratch/y"]);
    let before = state::seen(&node, "train").unwrap();
    let ports = node.gpuctl_ok(&["ports", "-q"]);
    let got = node.gpuctl(&["clone", "train", "twin"]);
    assert_eq!((got.code, got.stdout.as_str()), (0, "twin-0\n"), "{got}");
    assert!(got.stderr.contains("twin is a clone of train, with 2 GPUs"), "{got}");
    assert_eq!(state::seen(&node, "train").unwrap(), before, "nothing became of the first");
    let twin = state::seen(&node, "twin").unwrap();
    assert_eq!((twin.running, twin.version, twin.opens.len()), (true, 0, 2), "{twin:?}");
    assert!(twin.opens.is_disjoint(&before.opens) && twin.opens == twin.leased);
    has_the_files(&node, "twin-0");
    let within = |script: &str| node.docker_ok(&["exec", "twin-0", "sh", "-c", script]);
    assert_eq!(within("hostname; echo $A; cat /data/x; ls /scratch"), "twin\nb\nx");
    // Its own ports, one for each that the first one names.
    let all = node.gpuctl_ok(&["ports", "-q"]);
    assert_eq!((ports.lines().count(), all.lines().count()), (1, 3), "{all}");
    assert!(all.contains(&ports) && !all.contains("21999"), "{all}");
    for name in ["twin", "twin-0", "train"] {
        let ping = ["busybox", "ping", "-c1", "-w2", name];
        node.docker_ok(&[&["run", "--rm", "--network", "lan", "busybox"][..], &ping].concat());
    }
    // What is written to one is not in the other; and it goes on as any other.
    within("echo more >>/tool");
    assert_eq!(node.docker_ok(&["exec", "train-0", "cat", "/tool"]), "tool");
    node.gpuctl_ok(&["scale", "twin", "--gpus", "1"]);
    assert_eq!(node.docker_ok(&["exec", "twin-1", "cat", "/tool"]), "tool\nmore");
    assert!(node.gpuctl_ok(&["history", "twin"]).contains("clone train-0"));
    // A stopped one gives a stopped one, with other GPUs where that is said.
    node.gpuctl_ok(&["stop", "train"]);
    node.gpuctl_ok(&["clone", "train", "third", "--gpus", "3"]);
    let third = state::seen(&node, "third").unwrap();
    assert_eq!((third.running, third.gpus.as_str(), third.leased.len()), (false, "3", 0));
    node.gpuctl_ok(&["start", "third"]);
    has_the_files(&node, "third-0");
    assert_eq!(state::seen(&node, "third").unwrap().opens.len(), 3);
    // What cannot be is said, and nothing is left of it.
    let records = (state::containers(&node), state::ledger(&node));
    for (words, code, why) in [
        (&["clone", "train", "twin"][..], 1, "the name twin is in use"),
        (&["clone", "train", "train"], 1, "the name of what is to be cloned"),
        (&["clone", "nobody", "fourth"], 1, "no container nobody"),
        (&["clone", "third", "fourth", "--gpus", "8"], 1, "8 GPUs asked for"),
    ] {
        let got = node.gpuctl(words);
        assert_eq!(got.code, code, "{got}");
        assert!(got.stderr.contains(why) && got.stderr.contains("hint: "), "{why}\n{got}");
        assert_eq!(records.0, state::containers(&node), "{got}");
        assert_eq!(state::difference(&records.1, &state::ledger(&node)), [""; 0], "{got}");
    }
    node.check();
    node.gpuctl_ok(&["rm", "-f", "-v", "--history", "train", "twin", "third"]);
    assert_eq!(state::difference(&Records::new(), &state::ledger(&node)), [""; 0]);
    assert_eq!(node.docker_ok(&["volume", "ls", "-q"]), "data");
}

#[test]
fn killed_at_every_step_there_is_one_or_there_are_two() {
    if !engine_runs_here() {
        return;
    }
    let node = node("21720-21739");
    run(&node, &["-p", "auto:22"]);
    let first = state::seen(&node, "train").unwrap();
    let records = state::ledger(&node);
    let menders = [&["start", "twin"][..], &["doctor", "--fix"], &["clone", "train", "twin"]];
    for (mends, mender) in menders.into_iter().enumerate() {
        for (number, (point, done)) in [
            ("ports:begun", false),
            ("ports:done", false),
            ("create:begun", false),
            ("create:done", false),
            ("carry:begun", false),
            ("carry:done", false),
            ("start:begun", false),
            ("start:done", true),
            ("end:done", true),
        ]
        .into_iter()
        .enumerate()
        {
            if !mends_here(mends, number, menders.len()) {
                continue;
            }
            let at = format!("{point}, {mender:?}");
            node.gpuctl_killed_at(&format!("clone:{point}"), &["clone", "train", "twin"]);
            node.check_exclusive();
            let got = node.gpuctl(mender);
            assert_eq!(node.open_changes(), Vec::<String>::new(), "{at}\n{got}");
            if point != "end:done" {
                let word = if done { "it is done" } else { "it is undone" };
                let said = format!("clone to twin was broken off: {word}");
                assert!(got.to_string().contains(&said), "{at}\n{got}");
            }
            assert_eq!(state::seen(&node, "train").unwrap(), first, "{at}\n{got}");
            let status = ["inspect", "-f", "{{.State.Status}}", "train-0"];
            assert_eq!(node.docker_ok(&status), "running", "{at}");
            if done || mender[0] == "clone" {
                has_the_files(&node, "twin-0");
                assert_eq!(state::seen(&node, "twin").unwrap().opens.len(), 2, "{at}\n{got}");
                node.gpuctl_ok(&["rm", "-f", "--history", "twin"]);
            }
            assert_eq!(state::seen(&node, "twin"), None, "{at}\n{got}");
            assert_eq!(state::difference(&records, &state::ledger(&node)), [""; 0], "{at}\n{got}");
        }
    }
    node.check();
}

#[test]
fn with_containerds_image_store_too() {
    if !engine_runs_here() {
        return;
    }
    let Some(debian) = Debian::of("sid") else { return };
    let node = debian.containerd_node();
    run(&node, &[]);
    node.gpuctl_ok(&["clone", "train", "twin"]);
    has_the_files(&node, "twin-0");
    node.gpuctl_ok(&["stop", "train"]);
    node.gpuctl_ok(&["clone", "train", "third"]);
    node.gpuctl_ok(&["start", "third"]);
    has_the_files(&node, "third-0");
    let log = std::fs::read_to_string(node.config().paths.state.join("audit.log")).unwrap();
    assert!(
        !log.contains("\"refused\""),
        "the start that only shows a folder is no refusal: {log}"
    );
    node.check();
}
