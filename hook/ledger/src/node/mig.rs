//! Which MIG devices the driver shows in /proc: by the minors of their nvidia-caps nodes.

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::Config;
use crate::model::Gpu;
use crate::node::files;

/// Longest `access` file, in bytes.
const LONGEST: u64 = 4 << 10;
/// The most entries of a folder that are looked at.
const MOST: usize = 64;

/// Major number of nvidia-caps, by whose nodes MIG devices are opened: the kernel gives it out when
/// the driver loads. `None` where there is no such driver.
pub fn caps_major(config: &Config) -> Option<u32> {
    let bytes = files::read_bounded(&config.gpu.majors, 1 << 16).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().find_map(|line| {
        let (major, name) = line.trim().split_once(' ')?;
        if name.trim() == "nvidia-caps" { major.parse().ok() } else { None }
    })
}

/// Whether the driver's folder shows just the MIG devices of this GPU that the inventory has. They can
/// be made anew while the inventory is old, and another device then has the numbers of the one meant.
pub fn is_as_shown(proc: &Path, gpu: &Gpu) -> bool {
    let folder = proc.join(format!("capabilities/gpu{}/mig", gpu.minor));
    let known: BTreeSet<[u32; 2]> = gpu.mig.iter().map(|mig| mig.caps).collect();
    shown(&folder).is_some_and(|shown| shown == known)
}

/// The two minors of each; `None` where one of them cannot be read.
fn shown(folder: &Path) -> Option<BTreeSet<[u32; 2]>> {
    let mut found = BTreeSet::new();
    for instance in numbered(folder, "gi") {
        for part in numbered(&instance, "ci") {
            found.insert([minor(&instance)?, minor(&part)?]);
        }
    }
    Some(found)
}

/// The folders `<prefix>N` of a folder; none where it is not there, as on a GPU without MIG.
fn numbered(folder: &Path, prefix: &str) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let is_one = |name: &str| name.strip_prefix(prefix).is_some_and(|n| n.parse::<u32>().is_ok());
    let entries = entries.flatten().take(MOST);
    entries.filter(|e| e.file_name().to_str().is_some_and(is_one)).map(|e| e.path()).collect()
}

/// The minor that a capability's `access` file names.
fn minor(capability: &Path) -> Option<u32> {
    let bytes = files::read_bounded(&capability.join("access"), LONGEST).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().find_map(|line| line.strip_prefix("DeviceFileMinor:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_that_is_not_the_inventorys_is_found_out() {
        let proc = tempfile::tempdir().unwrap();
        let mut gpu: Gpu = serde_json::from_str(
            r#"{"index":0,"unit":"GPU-a","minor":1,"model":"m","pci":"0","memory":8,
            "mig":[{"index":0,"unit":"MIG-a","memory":2,"caps":[3,4]}]}"#,
        )
        .unwrap();
        let is = |gpu: &Gpu| is_as_shown(proc.path(), gpu);
        assert!(!is(&gpu), "the driver shows none");
        let make = |gi: u32, ci: u32, minors: [u32; 2]| {
            let gi = proc.path().join(format!("capabilities/gpu1/mig/gi{gi}"));
            let ci = gi.join(format!("ci{ci}"));
            std::fs::create_dir_all(&ci).unwrap();
            for (folder, minor) in [(gi, minors[0]), (ci, minors[1])] {
                std::fs::write(folder.join("access"), format!("DeviceFileMinor: {minor}\n"))
                    .unwrap();
            }
        };
        make(7, 0, [3, 4]);
        assert!(is(&gpu));
        make(9, 0, [5, 6]);
        assert!(!is(&gpu), "there is one more now");
        gpu.mig.clear();
        assert!(!is(&gpu), "it was whole when the inventory was made");
        gpu.minor = 0;
        assert!(is(&gpu), "whole, and has been");
    }
}
