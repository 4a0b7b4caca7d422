//! The disks that matter: what is free, and what the Docker root's filesystem means for volumes and for
//! changes that carry a layer.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use gpuctl_ledger::config::Config;
use gpuctl_ledger::model::ByteSize;

use super::Checks;
use crate::gpu;
use crate::volume;

const SPACE: &str = "disk space";
const FILESYSTEM: &str = "filesystem";
/// How long a disk may take to say what is free: one of the network may hang.
const LIMIT: Duration = Duration::from_secs(5);
/// Less than this share free, in percent, is a warning.
const LOW: u64 = 5;
/// Below this nothing can be written that matters, in bytes.
const NONE: u64 = 256 << 20;
/// Of inodes.
const FEW: u64 = 1000;
/// Drivers whose writable layers can be carried.
const LAYERED: [&str; 3] = ["overlay2", "overlayfs", "overlay"];

/// What is free on the disk of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Disk {
    /// What is kept there.
    holds: Vec<&'static str>,
    path: PathBuf,
    size: u64,
    free: u64,
    /// `None` where the filesystem makes them as it goes.
    inodes: Option<u64>,
}

/// What the Docker root lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Root {
    path: PathBuf,
    kind: String,
    /// Why there are no quotas.
    no_quota: Option<String>,
    /// Files can share their bytes.
    shares: bool,
    storage_driver: Option<String>,
}

pub(super) fn checks(config: &Config, storage_driver: Option<&str>, checks: &mut Checks) {
    let asked = config.clone();
    let driver = storage_driver.map(str::to_owned);
    let seen = gpu::within(LIMIT, move || Ok((disks(&asked), root(&asked, driver))));
    match seen {
        Ok((disks, root)) => {
            if let Some(root) = root {
                root.judge(checks);
            }
            for disk in disks {
                disk.judge(checks);
            }
        }
        Err(_) => {
            let text = format!("a disk did not say within {} s what is free", LIMIT.as_secs());
            let fix =
                format!("df {} {}", config.docker.root.display(), config.paths.state.display());
            checks.problem(SPACE, text, Some(fix));
        }
    }
}

/// Each disk once.
fn disks(config: &Config) -> Vec<Disk> {
    let folders = [
        ("containers", config.docker.root.clone()),
        ("the ledger", config.paths.state.clone()),
        ("volumes", config.volumes.images.clone()),
        ("kept layers", config.layers()),
        ("what runs now", config.paths.run.clone()),
    ];
    let mut found: BTreeMap<u64, Disk> = BTreeMap::new();
    for (holds, folder) in folders {
        // What is not there yet will be made on the disk of what is above it.
        let Some(path) = folder.ancestors().find(|p| p.exists()) else { continue };
        let (Ok(meta), Ok(disk)) = (std::fs::metadata(path), rustix::fs::statvfs(path)) else {
            continue;
        };
        let entry = found.entry(meta.dev()).or_insert_with(|| Disk {
            holds: Vec::new(),
            path: folder,
            size: disk.f_blocks.saturating_mul(disk.f_frsize),
            free: disk.f_bavail.saturating_mul(disk.f_frsize),
            inodes: (disk.f_files > 0).then_some(disk.f_favail),
        });
        entry.holds.push(holds);
    }
    found.into_values().collect()
}

fn root(config: &Config, storage_driver: Option<String>) -> Option<Root> {
    let path = config.docker.root.clone();
    let mount = volume::mount_of(&path).ok().flatten()?;
    Some(Root {
        kind: mount.kind,
        no_quota: volume::size::why_not(&path),
        shares: crate::layer::shares(&path, &path),
        storage_driver,
        path,
    })
}

impl Root {
    fn judge(&self, checks: &mut Checks) {
        let Self { path, kind, no_quota, shares, storage_driver } = self;
        let volumes = match no_quota {
            None => "volumes are kept to their size by quotas",
            Some(_) => "volumes with a size are files with a filesystem of their own",
        };
        let layers = if *shares {
            "a change that makes a new container shares its files and is quick"
        } else {
            "a change that makes a new container copies its whole writable layer"
        };
        let shown = path.display();
        match storage_driver.as_deref() {
            Some(driver) if !LAYERED.contains(&driver) => {
                let text = format!(
                    "{shown} has storage driver {driver}: changes in place work, and no layer can be \
                     carried to a new container"
                );
                let fix =
                    "storage-driver overlay2 in daemon.json; images and containers are made anew";
                checks.warning(FILESYSTEM, text, Some(fix.into()));
            }
            _ => checks.ok(FILESYSTEM, format!("{shown} is on {kind}: {volumes}; {layers}")),
        }
    }
}

impl Disk {
    fn judge(&self, checks: &mut Checks) {
        let Self { holds, path, size, free, inodes } = self;
        let percent = free.saturating_mul(100).checked_div(*size).unwrap_or(0);
        let shown = path.display();
        let holds = holds.join(", ");
        let left = format!("{} of {} free ({percent}%)", ByteSize(*free), ByteSize(*size));
        // Not docker system prune: containers that are stopped are somebody's files.
        let fix = Some(
            "docker gpuctl prune, docker image prune, docker builder prune, docker gpuctl volume prune"
                .to_owned(),
        );
        // A small disk is not full by that.
        let full = *free < NONE.min(size / 100);
        match inodes.filter(|left| *left < FEW) {
            Some(left) => {
                checks.problem(SPACE, format!("{shown} ({holds}) has {left} inodes left"), fix);
            }
            None if full => {
                checks.problem(SPACE, format!("{shown} ({holds}) is full: {left}"), fix)
            }
            None if percent < LOW => {
                checks.warning(SPACE, format!("{shown} ({holds}) is nearly full: {left}"), fix);
            }
            None => checks.ok(SPACE, format!("{shown} ({holds}): {left}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::api::{Check, Verdict};
    use std::path::Path;

    fn of(path: &Path, size: u64, free: u64) -> Disk {
        Disk { holds: vec!["containers"], path: path.into(), size, free, inodes: None }
    }

    fn judged(disk: &Disk) -> Check {
        let mut checks = Checks::default();
        disk.judge(&mut checks);
        checks.0.remove(0)
    }

    #[test]
    fn a_disk_that_fills_up_is_told_before_it_is_full() {
        let disk = |free| of(Path::new("/d"), 1 << 40, free);
        assert_eq!(judged(&disk(1 << 39)).verdict, Verdict::Ok);
        let low = judged(&disk(40 << 30));
        assert_eq!(low.verdict, Verdict::Warning);
        assert_eq!(low.detail, "/d (containers) is nearly full: 40GB of 1TB free (3%)");
        assert_eq!(judged(&disk(100 << 20)).verdict, Verdict::Problem);
        let few = Disk { inodes: Some(12), ..disk(1 << 39) };
        assert_eq!(judged(&few).verdict, Verdict::Problem);
        // 64 MB of a disk of 1 GB: no more than a warning is due.
        assert_eq!(judged(&of(Path::new("/d"), 1 << 30, 64 << 20)).verdict, Verdict::Ok);
        assert_eq!(judged(&of(Path::new("/d"), 0, 0)).verdict, Verdict::Warning);
    }

    #[test]
    fn what_the_filesystem_means_is_said() {
        let told = |kind: &str, no_quota: Option<&str>, shares, driver: Option<&str>| {
            let root = Root {
                path: "/var/lib/docker".into(),
                kind: kind.into(),
                no_quota: no_quota.map(str::to_owned),
                shares,
                storage_driver: driver.map(str::to_owned),
            };
            let mut checks = Checks::default();
            root.judge(&mut checks);
            checks.0.remove(0)
        };
        let ext4 = told("ext4", Some("no"), false, Some("overlay2"));
        assert!(ext4.detail.contains("on ext4: volumes with a size are files"), "{ext4:?}");
        assert!(ext4.detail.contains("copies its whole writable layer"), "{ext4:?}");
        let xfs = told("xfs", None, true, Some("overlayfs"));
        assert!(
            xfs.detail.contains("quotas; a change that makes a new container shares"),
            "{xfs:?}"
        );
        assert_eq!(told("btrfs", Some("no"), true, Some("btrfs")).verdict, Verdict::Warning);
        assert_eq!(told("ext4", Some("no"), false, None).verdict, Verdict::Ok);
    }
}
