//! The links /dev/char/MAJOR:MINOR of the driver's device nodes. Where systemd keeps the containers'
//! cgroups, it finds devices by these names when it writes the rules anew: after `docker update` or
//! `systemctl daemon-reload` a running container has lost every device whose link is missing
//! (<https://github.com/NVIDIA/nvidia-docker/issues/1730>).

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use gpuctl_ledger::config::Config;
use gpuctl_ledger::model::Inventory;
use gpuctl_ledger::node::links;
use nix::sys::stat::{major, minor};

use super::api::{Check, Verdict};

/// Nodes that every GPU container gets, besides its GPUs.
const SHARED: [&str; 4] = ["nvidiactl", "nvidia-modeset", "nvidia-uvm", "nvidia-uvm-tools"];

/// A device node below /dev.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    name: String,
    major: u64,
    minor: u64,
    /// Whether its link is there and leads to it.
    linked: bool,
}

/// Looks at the nodes of this node's GPUs; `fix` makes the links that are missing.
pub(super) fn check(
    config: &Config,
    inventory: &Inventory,
    cgroup_driver: &str,
    fix: bool,
) -> Check {
    let before = look(config, inventory, cgroup_driver);
    if !fix || before.verdict == Verdict::Ok {
        return before;
    }
    links::make(&config.gpu.dev, |_| true);
    let after = look(config, inventory, cgroup_driver);
    match after.verdict {
        Verdict::Ok => Check { verdict: Verdict::Fixed, ..after },
        _ => after,
    }
}

fn look(config: &Config, inventory: &Inventory, cgroup_driver: &str) -> Check {
    let gpus = inventory.gpus.iter().map(|gpu| format!("nvidia{}", gpu.minor));
    let names = gpus.chain(SHARED.map(str::to_owned));
    let devices: Vec<Device> = names.filter_map(|name| device(&config.gpu.dev, name)).collect();
    judge(&config.gpu.dev, &devices, cgroup_driver)
}

/// Numbers of a character device; `None` of anything else.
fn numbers(path: &Path) -> Option<(u64, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    meta.file_type().is_char_device().then(|| (major(meta.rdev()), minor(meta.rdev())))
}

fn device(dev: &Path, name: String) -> Option<Device> {
    let (major, minor) = numbers(&dev.join(&name))?;
    let link = dev.join(format!("char/{major}:{minor}"));
    Some(Device { name, major, minor, linked: numbers(&link) == Some((major, minor)) })
}

fn judge(dev: &Path, devices: &[Device], cgroup_driver: &str) -> Check {
    let check = |verdict, detail: String, fix| Check { name: "links".into(), verdict, detail, fix };
    if cgroup_driver != "systemd" {
        let text = format!("cgroup driver {cgroup_driver}: no links in /dev/char are needed");
        return check(Verdict::Ok, text, None);
    }
    let folder = dev.join("char");
    let missing: Vec<&Device> = devices.iter().filter(|d| !d.linked).collect();
    if missing.is_empty() {
        let text = format!("{} has the links of {} nodes", folder.display(), devices.len());
        return check(Verdict::Ok, text, None);
    }
    let names: Vec<&str> = missing.iter().map(|d| d.name.as_str()).collect();
    let text = format!(
        "{} has no link of {}: a container loses them at systemctl daemon-reload",
        folder.display(),
        names.join(", ")
    );
    let mut fix = format!("mkdir -p {}", folder.display());
    for Device { name, major, minor, .. } in missing {
        fix += &format!("; ln -sfn ../{name} {}/{major}:{minor}", folder.display());
    }
    check(Verdict::Warning, text, Some(fix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};

    fn one(name: &str, minor: u64, linked: bool) -> Device {
        Device { name: name.into(), major: 195, minor, linked }
    }

    #[test]
    fn a_missing_link_is_named_with_what_to_type_where_systemd_has_the_cgroups() {
        let devices =
            [one("nvidia0", 0, true), one("nvidia3", 3, false), one("nvidiactl", 255, false)];
        let told = judge(Path::new("/dev"), &devices, "systemd");
        assert_eq!(told.verdict, Verdict::Warning);
        assert!(told.detail.contains("no link of nvidia3, nvidiactl:"), "{}", told.detail);
        assert_eq!(
            told.fix.as_deref(),
            Some(
                "mkdir -p /dev/char; ln -sfn ../nvidia3 /dev/char/195:3; ln -sfn ../nvidiactl /dev/char/195:255"
            )
        );
        assert_eq!(judge(Path::new("/dev"), &devices[..1], "systemd").verdict, Verdict::Ok);
        let other = judge(Path::new("/dev"), &devices, "cgroupfs");
        assert_eq!((other.verdict, other.fix), (Verdict::Ok, None));
    }

    #[test]
    fn a_link_counts_where_it_leads_to_its_node() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: device nodes need root");
            return;
        }
        let dev = tempfile::tempdir().unwrap();
        for n in 0..4 {
            let node = dev.path().join(format!("nvidia{n}"));
            mknod(&node, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(195, n)).unwrap();
        }
        std::fs::write(dev.path().join("nvidia-uvm"), "no device").unwrap();
        let char = dev.path().join("char");
        std::fs::create_dir(&char).unwrap();
        for (link, to) in [("195:0", "../nvidia0"), ("195:1", "../nvidia3"), ("195:2", "../gone")] {
            std::os::unix::fs::symlink(to, char.join(link)).unwrap();
        }
        let names = (0..5).map(|n| format!("nvidia{n}")).chain(["nvidia-uvm".to_owned()]);
        let found: Vec<Device> = names.filter_map(|name| device(dev.path(), name)).collect();
        let linked = [(0, true), (1, false), (2, false), (3, false)];
        assert_eq!(found, linked.map(|(n, linked)| one(&format!("nvidia{n}"), n, linked)));
    }
}
