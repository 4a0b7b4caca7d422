//! What a container can really open. There is no driver behind the simulated nodes: opening one
//! says "No such device or address" where the cgroup lets it through, "Operation not permitted"
//! where not.

use std::collections::BTreeSet;

use crate::Node;

/// Tries every minor below this.
const MINORS: u32 = 10;

/// The minors that a running container can open, whatever its /dev shows: the probe makes nodes of
/// its own where mknod is allowed (Docker's default), which is what malice would do.
///
/// # Panics
/// When the probe itself does not work.
pub fn opens(node: &Node, container: &str) -> BTreeSet<u32> {
    let got = node.docker(&["exec", container, "sh", "-c", &script()]);
    assert_eq!(got.code, 0, "the probe failed\n{got}");
    read(&got.stdout)
}

/// The probe as a container's own program, for `sh -c`; what it prints goes to [`read`].
pub fn script() -> String {
    format!(
        "n=0; while [ $n -lt {MINORS} ]; do rm -f /tmp/probe$n; mknod /tmp/probe$n c 195 $n || exit 9; \
         echo \"$n $( {{ : </tmp/probe$n; }} 2>&1 )\"; rm -f /tmp/probe$n; n=$((n+1)); done"
    )
}

/// Whether a running container can open a GPU's node at one path of its own, whatever it is and
/// whoever put it there.
///
/// # Panics
/// When opening it says what no node of a GPU says.
pub fn opens_at(node: &Node, container: &str, path: &str) -> bool {
    let got = node.docker(&["exec", container, "sh", "-c", "( : <\"$0\" ) 2>&1; true", path]);
    assert_eq!(got.code, 0, "{got}");
    let said = got.stdout.trim();
    let open = ["No such device or address", "nonexistent device or address"];
    let shut = [
        "Operation not permitted",
        "ermission denied",
        "No such file",
        "nonexistent directory",
        "no such file",
    ];
    if open.iter().any(|word| said.ends_with(word)) {
        return true;
    }
    assert!(shut.iter().any(|word| said.contains(word)), "opening {path} says {said:?}");
    false
}

/// The nodes /dev/nvidiaN that a running container shows.
///
/// # Panics
/// When the container cannot be asked.
pub fn shows(node: &Node, container: &str) -> BTreeSet<u32> {
    let got = node.docker(&["exec", container, "ls", "/dev"]);
    assert_eq!(got.code, 0, "{got}");
    let names = got.stdout.lines().filter_map(|l| l.trim().strip_prefix("nvidia"));
    names.filter_map(|n| n.parse().ok()).collect()
}

/// The minors that are open by what the probe printed.
///
/// # Panics
/// When it printed anything else.
pub fn read(text: &str) -> BTreeSet<u32> {
    let mut open = BTreeSet::new();
    let mut seen = 0;
    for line in text.lines() {
        let (minor, said) = line.split_once(' ').expect("a number and what opening it said");
        seen += 1;
        if said.ends_with("No such device or address")
            || said.ends_with("nonexistent device or address")
        {
            open.insert(minor.parse().expect("a minor"));
        } else {
            assert!(said.ends_with("Operation not permitted"), "the probe met {line:?}");
        }
    }
    assert_eq!(seen, MINORS, "the probe said only {text:?}");
    open
}
