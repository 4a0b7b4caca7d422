//! docs/reference/json.md: the fields that `--format json` prints, by what it prints on a node on which
//! there is something of everything.

use std::fmt::Write as _;

use gpuctl_tests::fields::Fields;
use gpuctl_tests::{Node, Options, engine_runs_here, programs};

const PAGE: &str = "docs/reference/json.md";

/// The commands that print tables, and what is typed after them.
const TABLES: [(&str, &[&str]); 8] = [
    ("doctor", &[]),
    ("events", &["--until", "0s", "-n", "all"]),
    ("gpus", &[]),
    ("history", &["train"]),
    ("ports", &[]),
    ("ps", &["-a"]),
    ("volume ls", &[]),
    ("volume history", &["data"]),
];

#[test]
fn the_fields_are_those_of_the_page() {
    if !engine_runs_here() {
        return;
    }
    let config = "[[gpu.shared]]\ngpus = [7]\nslots = 2\n".to_owned();
    let volumes = Some("");
    let node =
        Node::start(Options { service: true, name: "gpu1", config, volumes, ..Options::default() });
    let mut fields = TABLES.map(|(name, _)| (name, Fields::default()));
    let mut look = |node: &Node| {
        for ((name, words), (_, fields)) in TABLES.iter().zip(&mut fields) {
            let line: Vec<&str> = name.split(' ').chain(words.iter().copied()).collect();
            let got = node.gpuctl(&[&line, ["--format", "json"].as_slice()].concat());
            // doctor ends with 1 where it finds something.
            assert!(got.code == 0 || *name == "doctor", "{got}");
            fields.take(&got.stdout).unwrap_or_else(|why| panic!("{why}\n{got}"));
        }
    };
    let stays = ["busybox", "sleep", "1000000"];
    let run = |flags: &[&str]| {
        node.gpuctl_ok(&[&["run", "-d", "--stop-timeout", "1"], flags, &stays].concat());
    };
    node.gpuctl_ok(&["volume", "create", "data", "--size", "20MB"]);
    run(&["--name", "train", "--gpus", "2", "-p", "auto:22", "-v", "data-0:/data"]);
    run(&["--name", "slot", "--gpus", "shared"]);
    node.docker_ok(&[&["run", "-d", "--name", "bare", "--gpus", "1"], stays.as_slice()].concat());
    assert_eq!(node.docker(&["run", "--rm", "--gpus", "8", "busybox", "true"]).code, 125);
    look(&node);
    // A start that was refused and is tried again; a card that is not well; older versions and their files.
    let waits = ["run", "-d", "--name", "waits", "--restart", "unless-stopped", "--gpus", "6"];
    assert_eq!(node.docker(&[&waits[..], &stays].concat()).code, 125);
    // It starts as soon as train gives its GPUs back.
    look(&node);
    node.gpuctl_ok(&["stop", "train"]);
    node.gpuctl_ok(&["volume", "resize", "data", "40MB"]);
    node.gpuctl_ok(&["snapshot", "train"]);
    node.gpuctl_ok(&["update", "train", "-e", "A=b", "--gpus", "3"]);
    node.set_profile("lost-card");
    look(&node);
    node.gpuctl_ok(&["rm", "-f", "train"]);
    node.gpuctl_ok(&["volume", "rm", "data"]);
    look(&node);

    let mut text = String::from(
        "<!-- Made by tests/reference from the program. Changes here are lost. -->\n\n# JSON\n\n\
         What `--format json` prints: one object a line. `a[].b` is a field of the objects in the list `a`; what may be \
         null is not known there, or does not apply.\n",
    );
    for (name, fields) in &fields {
        let _ = write!(text, "\n## {name}\n\n{}", fields.table());
    }
    let path = programs::repository().join(PAGE);
    let now = std::fs::read_to_string(&path).unwrap_or_default();
    if now == text {
        return;
    }
    if std::env::var_os("GPUCTL_WRITE_DOCS").is_some() {
        return std::fs::write(&path, text).expect("written");
    }
    let gone: Vec<&str> = now.lines().filter(|l| !text.contains(l)).collect();
    let new: Vec<&str> = text.lines().filter(|l| !now.contains(l)).collect();
    panic!(
        "{PAGE} is stale\nno more: {gone:#?}\nnew: {new:#?}\n\nmake it anew: ./tests/reference --outputs"
    );
}
