//! Finds what belongs to a place - processes, mounts, cgroups - and ends it.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Place, Result, bridge, reaper};

/// Programs that are a place's own when they name it in their arguments or environment.
const OURS: [&str; 9] = [
    "dockerd",
    "containerd",
    "containerd-shim-runc-v2",
    "containerd-shim",
    "runc",
    "docker-proxy",
    "docker-gpuctl",
    "etcd",
    "gpuctl-hook",
];

/// Start time of a process in clock ticks since boot; `None` when there is none, or a zombie.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" { None } else { fields.nth(18)?.parse().ok() }
}

/// All processes that belong to the place, without zombies and without the caller: its Engine,
/// containerd, shims, runtimes, hooks, service, etcd, and all that runs in its containers.
pub fn of(place: &Place) -> Vec<i32> {
    let mut found: Vec<i32> = cgroups(place)
        .iter()
        .flat_map(|folder| tree(folder))
        .filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().filter_map(|l| l.parse().ok()).collect::<Vec<i32>>())
        .collect();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    found.extend(
        all.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(|pid| names(*pid, place)),
    );
    found.sort_unstable();
    found.dedup();
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let reaper = reaper::path(place);
    found.retain(|pid| {
        *pid != me && start_time(*pid).is_some() && exe(*pid) != Some(reaper.clone())
    });
    found
}

/// The reapers, which end by themselves when all else has ended.
fn reapers(place: &Place) -> Vec<i32> {
    let reaper = reaper::path(place);
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|pid| exe(*pid).as_ref() == Some(&reaper) && start_time(*pid).is_some())
        .collect()
}

/// The file that a process runs, also where it was deleted.
fn exe(pid: i32) -> Option<PathBuf> {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(exe.to_string_lossy().trim_end_matches(" (deleted)").into())
}

/// Whether it is a program of an Engine or of ours that names the place.
fn names(pid: i32, place: &Place) -> bool {
    let Some(exe) = exe(pid) else { return false };
    let known = exe.starts_with(place.root())
        || exe.file_name().and_then(|n| n.to_str()).is_some_and(|n| OURS.contains(&n));
    if !known {
        return false;
    }
    let has = |file: &str, needle: &[u8]| {
        fs::read(format!("/proc/{pid}/{file}"))
            .is_ok_and(|text| text.windows(needle.len()).any(|w| w == needle))
    };
    let mut folder = place.root().as_os_str().as_bytes().to_vec();
    folder.push(b'/');
    let mut config = b"GPUCTL_CONFIG=".to_vec();
    config.extend_from_slice(place.config().as_os_str().as_bytes());
    config.push(0);
    has("cmdline", &folder) || has("environ", &config)
}

/// The place's cgroup in every hierarchy that has it, under the Engine's name for it or systemd's; and those
/// of containers that lie beside it, where containerd's first runtime has made some.
pub fn cgroups(place: &Place) -> Vec<PathBuf> {
    let name = place.cgroup();
    let slice = format!("{name}.slice");
    // systemd puts a slice into those that its name begins with.
    let in_slices = name.split_once('-').map(|(first, _)| format!("{first}.slice/{slice}"));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut found: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, folder, kind) = (fields.next()?, fields.next()?, fields.next()?);
            kind.starts_with("cgroup").then(|| (Path::new(folder), kind == "cgroup2"))
        })
        .flat_map(|(folder, second)| {
            let mut found: Vec<PathBuf> =
                std::iter::once(&name).chain(&in_slices).map(|n| folder.join(n)).collect();
            if second {
                let of_engines = engines_folder(&own).map(|path| folder.join(path));
                let folders = of_engines.into_iter().chain([folder.to_owned()]);
                found.extend(folders.flat_map(|folder| strays(&folder, &slice)));
            }
            found
        })
        .filter(|folder| folder.is_dir())
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The cgroups of containers, in a folder, that should lie in a slice: containerd's first runtime hands systemd's
/// word for them, `SLICE:docker:ID`, to a runc that is not told of systemd and takes it for a path.
fn strays(folder: &Path, slice: &str) -> Vec<PathBuf> {
    let is_stray = |name: &str| name.strip_prefix(slice).is_some_and(|rest| rest.starts_with(':'));
    let below = fs::read_dir(folder).into_iter().flatten().flatten();
    below.filter(|e| e.file_name().to_str().is_some_and(is_stray)).map(|e| e.path()).collect()
}

/// Where runc puts what no absolute path names: beside the cgroup of the Engine, which is the caller's. By the
/// caller's /proc/self/cgroup, of version 2, and without the first slash.
fn engines_folder(own: &str) -> Option<&str> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(path.rsplit_once('/').map_or("", |(parent, _)| parent))
}

/// A folder and all below it, the deepest first.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let below = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = below
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .flat_map(|e| tree(&e.path()))
        .collect();
    found.push(folder.to_owned());
    found
}

/// The mounts below the place in the caller's namespace, the last made first.
pub fn mounts(place: &Place) -> Vec<PathBuf> {
    // Of the thread: a test may have a namespace of its own.
    let text = fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|l| l.split(' ').nth(1))
        .map(PathBuf::from)
        .filter(|p| p.starts_with(place.root()))
        .collect();
    found.reverse();
    found
}

/// Kills everything of the place, at once and without a farewell, as a power cut does. Files stay.
///
/// # Errors
/// When something is still there after ten seconds.
pub fn kill_all(place: &Place) -> Result<()> {
    kill_all_but(place, |_| false)
}

/// As [`kill_all`], and spares some: an etcd that stands for a machine of its own.
///
/// # Errors
/// As [`kill_all`].
pub fn kill_all_but(place: &Place, spared: impl Fn(&i32) -> bool) -> Result<()> {
    let sockets = shim_sockets(place);
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let mut left = of(place);
        if left.is_empty() {
            left = reapers(place);
        }
        left.retain(|pid| !spared(pid));
        if left.is_empty() {
            break;
        }
        if Instant::now() > until {
            return Err(format!("processes {left:?} of {} do not end", place.root().display()));
        }
        for pid in left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thaw(place);
        std::thread::sleep(Duration::from_millis(10));
    }
    for socket in sockets {
        let _ = fs::remove_file(socket);
    }
    remove_cgroups(place)
}

/// Lets what is paused go on: frozen, it does not die.
fn thaw(place: &Place) {
    for folder in cgroups(place).iter().flat_map(|f| tree(f)) {
        for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            if folder.join(file).exists() {
                let _ = fs::write(folder.join(file), word);
            }
        }
    }
}

fn remove_cgroups(place: &Place) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        for folder in cgroups(place).iter().flat_map(|f| tree(f)) {
            let _ = fs::remove_dir(folder);
        }
        let left = cgroups(place);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("cgroups {left:?} are still in use"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The sockets that containerd's shims made outside the place.
fn shim_sockets(place: &Place) -> Vec<PathBuf> {
    let bundles = fs::read_dir(place.bundles()).into_iter().flatten().flatten();
    bundles
        .filter_map(|e| fs::read_to_string(e.path().join("address")).ok())
        .filter_map(|t| t.trim().strip_prefix("unix://").map(PathBuf::from))
        .filter(|p| p.starts_with("/run/containerd/s"))
        .collect()
}

/// Ends everything of the place and removes its folder.
///
/// # Errors
/// When something does not end or go.
pub fn remove(place: &Place) -> Result<()> {
    kill_all(place)?;
    bridge::remove(place)?;
    for mount in mounts(place) {
        umount2(&mount, MntFlags::MNT_DETACH)
            .map_err(|e| format!("cannot unmount {}: {e}", mount.display()))?;
    }
    match fs::remove_dir_all(place.root()) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {e}", place.root().display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_cgroup_beside_its_slice_is_found_and_no_other_places() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a-1.slice:docker:x", "a-1.slice:docker:y", "a-12.slice:docker:x", "a-1.slice"]
        {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mut found = strays(folder.path(), "a-1.slice");
        found.sort();
        let wanted = ["x", "y"].map(|id| folder.path().join(format!("a-1.slice:docker:{id}")));
        assert_eq!(found, wanted);
    }

    #[test]
    fn runc_puts_it_beside_the_engines_own_cgroup() {
        let own = "5:devices:/other\n0::/system.slice/test.service\n";
        assert_eq!(engines_folder(own), Some("system.slice"));
        assert_eq!(engines_folder("0::/work\n"), Some(""));
        assert_eq!(engines_folder("0::/\n"), Some(""));
        assert_eq!(engines_folder("5:devices:/\n"), None);
    }
}
