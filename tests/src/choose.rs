//! What a container gets and can open, by index; and what is said where it gets nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use gpuctl_sim::files::CAPS;
use serde_json::Value;

use crate::node::run;
use crate::{Node, Options, Output, probe, programs};

const LONG: [&str; 3] = ["busybox", "sleep", "100000"];

/// A node of a profile, with more of the config.
///
/// # Panics
/// When it does not come up.
pub fn node(profile: &'static str, config: &str) -> Node {
    Node::start(Options { profile, config: config.into(), ..Options::default() })
}

/// A node whose inventory the product has asked of the driver by itself.
///
/// # Panics
/// When it does not come up.
pub fn asked_node(profile: &'static str, config: &str) -> Node {
    let node = Node::start(Options {
        profile,
        config: config.into(),
        inventory: false,
        ..Options::default()
    });
    node.gpuctl_ok(&["gpus"]);
    node
}

/// The indexes of the GPUs that a container can open.
///
/// # Panics
/// When it does not run, or what it opens cannot be seen.
#[track_caller]
pub fn opens(node: &Node, name: &str) -> Vec<usize> {
    let minors = probe::opens(node, name);
    (0..node.gpus().len()).filter(|index| minors.contains(&node.minor(*index))).collect()
}

/// `docker run --name NAME FLAGS`, and the indexes of the GPUs that it can open.
///
/// # Panics
/// When it does not run, or what it opens cannot be seen.
#[track_caller]
pub fn bare(node: &Node, name: &str, flags: &[&str]) -> Vec<usize> {
    let got = run(node, name, flags);
    assert_eq!(got.code, 0, "{got}\n{}", node.site().engine().last_words());
    opens(node, name)
}

/// `docker gpuctl run`, and the indexes of the GPUs that it can open.
///
/// # Panics
/// When it does not run, or what it opens cannot be seen.
#[track_caller]
pub fn managed(node: &Node, name: &str, gpus: &str) -> Vec<usize> {
    let got = try_managed(node, name, gpus);
    assert_eq!(got.code, 0, "{got}\n{}", node.site().engine().last_words());
    opens(node, &format!("{name}-0"))
}

/// `docker gpuctl run` of a container that stays.
///
/// # Panics
/// When the CLI cannot be started.
pub fn try_managed(node: &Node, name: &str, gpus: &str) -> Output {
    let line = ["run", "-d", "--name", name, "--gpus", gpus, "--stop-timeout", "0"];
    node.gpuctl(&[&line[..], &LONG[..]].concat())
}

/// What is said on a terminal: the error, its rows and its hint, all of these among it.
///
/// # Panics
/// When nothing was refused, or a word is missing.
#[track_caller]
pub fn refused(got: &Output, words: &[&str]) {
    assert!(got.code == 125 || got.code == 1, "{got}");
    for word in words {
        assert!(got.stderr.contains(word), "no {word:?} in\n{got}");
    }
    assert!(got.stderr.contains("hint: "), "{got}");
}

/// Gives the node a profile changed from one that there is.
///
/// # Panics
/// When the profile cannot be read or written.
pub fn change(node: &Node, profile: &str, edit: impl FnOnce(&mut Value)) {
    let from = programs::profile(profile);
    let mut value: Value = serde_json::from_slice(&fs::read(from).unwrap()).unwrap();
    edit(&mut value);
    let path: PathBuf = node.place().root().join("changed.json");
    gpuctl_sim::files::write(&path, &value.to_string()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    node.set_profile_file(&path);
}

/// The minors of nvidia-caps that a container can open, of all that the node has and one more.
///
/// # Panics
/// When what it opens cannot be seen.
#[track_caller]
pub fn opens_caps(node: &Node, name: &str) -> BTreeSet<u32> {
    let mut minors: Vec<u32> =
        node.gpus().iter().flat_map(|g| g.mig().iter().flat_map(|m| m.caps)).collect();
    minors.push(200);
    let list = minors.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let script = format!(
        "for n in {list}; do rm -f /tmp/cap; mknod /tmp/cap c {CAPS} $n || exit 9; \
         echo \"$n $( {{ : </tmp/cap; }} 2>&1 )\"; done; rm -f /tmp/cap"
    );
    let got = node.docker(&["exec", name, "sh", "-c", &script]);
    assert_eq!((got.code, got.stdout.lines().count()), (0, minors.len()), "{got}");
    let open = got.stdout.lines().filter(|line| {
        let closed = line.ends_with("Operation not permitted");
        assert!(closed || line.ends_with("device or address"), "the probe met {line:?}");
        !closed
    });
    open.map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
}
