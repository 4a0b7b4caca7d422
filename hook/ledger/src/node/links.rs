//! The links /dev/char/MAJOR:MINOR of NVIDIA's device nodes. With systemd as the cgroup driver a
//! `daemon-reload` writes the containers' device rules anew by these names, and a running container
//! loses every device whose link is missing.
//!
//! The wrapper makes those of the nodes that it grants; `gpuctl-hook links`, at boot and from a udev
//! rule, makes all.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use nix::sys::stat::{major, minor};

use crate::config::{Config, plain_io_error};
use crate::node::busy::NVIDIA_MAJOR;
use crate::node::files;

/// The folder of the nodes by which MIG devices are opened.
const CAPS: &str = "nvidia-caps";
/// Minors of NVIDIA's major that are no GPU, and their names.
const SHARED: [(u32, &str); 2] = [(254, "nvidia-modeset"), (255, "nvidiactl")];
/// The most nodes of one folder that are looked at.
const MOST: usize = 4096;

/// One of NVIDIA's device nodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NvidiaNode {
    /// Its name below /dev: `nvidia3`, `nvidia-caps/nvidia-cap1`.
    pub name: String,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
}

impl NvidiaNode {
    /// Whether a container with these GPUs and nvidia-caps nodes is given it: by minors. What is
    /// neither goes to every container with a GPU.
    pub fn is_granted(&self, gpus: &[u32], caps: &[u32]) -> bool {
        let Ok(minor) = u32::try_from(self.minor) else { return false };
        if self.name.starts_with(CAPS) {
            return caps.contains(&minor);
        }
        let gpu = self.major == NVIDIA_MAJOR && SHARED.iter().all(|(shared, _)| *shared != minor);
        !gpu || gpus.contains(&minor)
    }
}

/// NVIDIA's nodes in `dev`: by name, and only character devices.
pub fn nodes(dev: &Path) -> BTreeSet<NvidiaNode> {
    let mut found = BTreeSet::new();
    for (folder, prefix) in [(dev.to_owned(), ""), (dev.join(CAPS), "nvidia-caps/")] {
        let entries = std::fs::read_dir(folder).into_iter().flatten().take(MOST).flatten();
        for entry in entries {
            let file = entry.file_name();
            let Some(file) = file.to_str().filter(|name| name.starts_with("nvidia")) else {
                continue;
            };
            // Not followed: a link is no node.
            let Ok(meta) = entry.path().symlink_metadata() else { continue };
            if meta.file_type().is_char_device() {
                let (major, minor) = (major(meta.rdev()), minor(meta.rdev()));
                found.insert(NvidiaNode { name: format!("{prefix}{file}"), major, minor });
            }
        }
    }
    found
}

/// Makes the missing links of those nodes in `dev` that are `wanted`; how many. What fails is left: a
/// container starts without.
pub fn make(dev: &Path, wanted: impl Fn(&NvidiaNode) -> bool) -> usize {
    nodes(dev)
        .iter()
        .filter(|node| wanted(node))
        .filter(|node| link(dev, node).is_ok_and(|m| m))
        .count()
}

/// Where a node's link is.
fn place(dev: &Path, node: &NvidiaNode) -> std::path::PathBuf {
    dev.join("char").join(format!("{}:{}", node.major, node.minor))
}

/// Whether a node's link is there and leads to it, or will once the node is there.
pub fn is_linked(dev: &Path, node: &NvidiaNode) -> bool {
    let link = place(dev, node);
    match std::fs::metadata(&link) {
        Ok(meta) => {
            let numbers = (major(meta.rdev()), minor(meta.rdev()));
            meta.file_type().is_char_device() && numbers == (node.major, node.minor)
        }
        Err(_) => std::fs::read_link(&link).is_ok_and(|to| to == to_node(node)),
    }
}

fn to_node(node: &NvidiaNode) -> std::path::PathBuf {
    format!("../{}", node.name).into()
}

/// Makes one link; whether it was missing. One that leads elsewhere is replaced.
fn link(dev: &Path, node: &NvidiaNode) -> std::io::Result<bool> {
    if is_linked(dev, node) {
        return Ok(false);
    }
    let (folder, link) = (dev.join("char"), place(dev, node));
    std::fs::create_dir_all(&folder)?;
    files::remove(&link)?;
    std::os::unix::fs::symlink(to_node(node), &link)?;
    Ok(true)
}

/// Makes the links of all nodes, and of those that the driver will make when they are first asked
/// for: at boot a GPU may have no node yet. How many.
///
/// # Errors
/// One line for people.
pub fn all(config: &Config) -> Result<usize, String> {
    let dev = &config.gpu.dev;
    let mut nodes = nodes(dev);
    let of_kernel = |minor: u32, name: String| NvidiaNode {
        name,
        major: NVIDIA_MAJOR,
        minor: u64::from(minor),
    };
    let gpus = minors(&config.gpu.proc);
    if !gpus.is_empty() {
        nodes.extend(SHARED.map(|(minor, name)| of_kernel(minor, name.into())));
    }
    nodes.extend(gpus.into_iter().map(|minor| of_kernel(minor, format!("nvidia{minor}"))));
    // Its major is given out when its module is loaded.
    let uvm = files::read_bounded(Path::new("/proc/devices"), 1 << 16).ok();
    let uvm = uvm.and_then(|text| major_of(&String::from_utf8_lossy(&text), "nvidia-uvm"));
    for (minor, name) in [(0, "nvidia-uvm"), (1, "nvidia-uvm-tools")] {
        nodes.extend(uvm.map(|major| NvidiaNode { name: name.into(), major, minor }));
    }
    let mut made = 0;
    for node in &nodes {
        made += usize::from(link(dev, node).map_err(|e| {
            format!(
                "the link {}/char/{}:{} cannot be made: {}",
                dev.display(),
                node.major,
                node.minor,
                plain_io_error(&e)
            )
        })?);
    }
    Ok(made)
}

/// The major that /proc/devices has for a name.
fn major_of(devices: &str, name: &str) -> Option<u64> {
    devices.lines().find_map(|line| {
        let (major, of) = line.trim().split_once(' ')?;
        (of.trim() == name).then(|| major.parse().ok())?
    })
}

/// The minors of the GPUs that the driver shows.
fn minors(proc: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(proc.join("gpus")).into_iter().flatten().take(MOST).flatten();
    let minor = |path: std::path::PathBuf| {
        let text = files::read_bounded(&path.join("information"), 1 << 16).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("Device Minor:"))?;
        line.trim().parse().ok()
    };
    entries.filter_map(|entry| minor(entry.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};

    #[test]
    fn a_granted_node_is_a_gpu_of_ones_own_its_caps_or_shared() {
        let node = |name: &str, major, minor| NvidiaNode { name: name.into(), major, minor };
        let granted = |node: NvidiaNode| node.is_granted(&[3], &[1]);
        assert!(granted(node("nvidia3", 195, 3)));
        assert!(!granted(node("nvidia1", 195, 1)));
        for shared in
            [("nvidiactl", 195, 255), ("nvidia-modeset", 195, 254), ("nvidia-uvm", 510, 0)]
        {
            assert!(granted(node(shared.0, shared.1, shared.2)), "{shared:?}");
        }
        assert!(granted(node("nvidia-caps/nvidia-cap1", 511, 1)));
        assert!(!granted(node("nvidia-caps/nvidia-cap3", 511, 3)));
    }

    #[test]
    fn links_are_made_once_mended_and_made_for_nodes_that_are_to_come() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: device nodes need root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (dev, proc) = (folder.path().join("dev"), folder.path().join("proc"));
        std::fs::create_dir_all(dev.join("nvidia-caps")).unwrap();
        for (name, major, minor) in
            [("nvidia0", 195, 0), ("nvidia-uvm", 510, 0), ("nvidia-caps/nvidia-cap2", 511, 2)]
        {
            mknod(&dev.join(name), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(major, minor)).unwrap();
        }
        std::fs::write(dev.join("nvidia9"), "no device").unwrap();
        std::fs::create_dir_all(proc.join("gpus/0000:01:00.0")).unwrap();
        std::fs::write(proc.join("gpus/0000:01:00.0/information"), "Device Minor: \t 7\n").unwrap();
        assert_eq!(make(&dev, |node| node.is_granted(&[0], &[])), 2);
        let text = format!("[gpu]\ndev = {dev:?}\nproc = {proc:?}\n");
        let config = Config::parse(&text).unwrap();
        // The caps node, GPU 7, nvidiactl and nvidia-modeset.
        assert_eq!(all(&config), Ok(4));
        let read = |link: &str| std::fs::read_link(dev.join("char").join(link)).ok();
        assert_eq!(read("195:0"), Some("../nvidia0".into()));
        assert_eq!(read("510:0"), Some("../nvidia-uvm".into()));
        assert_eq!(read("511:2"), Some("../nvidia-caps/nvidia-cap2".into()));
        assert_eq!(read("195:7"), Some("../nvidia7".into()));
        assert_eq!(read("195:9"), None);
        // One that leads elsewhere is replaced.
        std::fs::remove_file(dev.join("char/510:0")).unwrap();
        std::os::unix::fs::symlink("../nvidia0", dev.join("char/510:0")).unwrap();
        assert!(make(&dev, |_| true) >= 1);
        assert_eq!(read("510:0"), Some("../nvidia-uvm".into()));
        assert_eq!(make(&dev, |_| true), 0);
    }
}
