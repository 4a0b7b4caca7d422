//! What a container can really open. The image has a node of every device that is tried, so that a
//! probe is one process: there is no driver behind NVIDIA's, so opening one says "No such device or
//! address" where the cgroup lets it through, and "Operation not permitted" where not.

use std::collections::BTreeSet;

/// Name, kind, major and minor of what is tried.
const NODES: [(&str, char, u32, u32); 9] = [
    ("nvidia-uvm", 'c', 510, 0),
    ("nvidia-cap1", 'c', 511, 1),
    ("null", 'c', 1, 3),
    ("zero", 'c', 1, 5),
    ("urandom", 'c', 1, 9),
    ("tty", 'c', 5, 0),
    ("kmsg", 'c', 1, 11),
    ("fuse", 'c', 10, 229),
    ("loop0", 'b', 7, 0),
];
/// Minors of NVIDIA's major that are tried.
const MINORS: [u32; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 254, 255];

/// Run in the container: a line for each node that can be opened.
pub const SCRIPT: &str = r#"for node in /probe/*; do
    said=$( { : <"$node"; } 2>&1 ) && said=open
    case $said in
        open | *"No such device"* | *"onexistent device"*) echo "${node##*/}" ;;
        *"not permitted") ;;
        *) echo "$node: $said" && exit 9 ;;
    esac
done"#;

/// Makes the nodes below `root`, as a script of sh.
pub(crate) fn nodes(root: &str) -> String {
    let gpus = MINORS.iter().map(|minor| (minor.to_string(), 'c', 195, *minor));
    let all =
        gpus.chain(NODES.iter().map(|(name, kind, a, b)| ((*name).to_owned(), *kind, *a, *b)));
    let line = |(name, kind, a, b): (String, char, u32, u32)| {
        format!("mknod -m 666 {root}/probe/{name} {kind} {a} {b}\n")
    };
    std::iter::once(format!("mkdir {root}/probe\n")).chain(all.map(line)).collect()
}

/// What can be opened, of what [`SCRIPT`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Minors of GPUs.
    pub gpus: BTreeSet<u32>,
    /// All else, by its name; `nvidiactl` is 255 and `nvidia-modeset` 254.
    pub others: BTreeSet<String>,
}

impl Open {
    /// Reads it.
    pub fn read(said: &str) -> Self {
        let mut open = Self { gpus: BTreeSet::new(), others: BTreeSet::new() };
        for name in said.lines() {
            match name.parse() {
                Ok(minor) if minor < 254 => drop(open.gpus.insert(minor)),
                _ => drop(open.others.insert(name.to_owned())),
            }
        }
        open
    }

    /// Whether all of these can be opened.
    pub fn has(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.others.contains(*name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_told_from_the_shared_nodes() {
        let open = Open::read("0\n254\n3\nnull\n");
        assert_eq!(open.gpus, [0, 3].into());
        assert!(open.has(&["254", "null"]) && !open.has(&["255"]));
    }

    #[test]
    fn every_node_is_made() {
        let script = nodes("/r");
        assert!(script.contains("mknod -m 666 /r/probe/7 c 195 7\n"), "{script}");
        assert!(script.contains("mknod -m 666 /r/probe/loop0 b 7 0\n"), "{script}");
        assert_eq!(script.lines().count(), 1 + MINORS.len() + NODES.len());
    }
}
