//! Processes, cgroups and the boot, from /proc.

use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::model::{BootId, Cgroup, ContainerId, Process};
use crate::node::files;
use crate::rules::liveness::Seen;

/// Longest file of /proc and of the like that is read here, in bytes.
const LONGEST: u64 = 1 << 20;

/// The kernel's id of this boot.
///
/// # Errors
/// The system's.
pub fn boot_id(path: &Path) -> Result<BootId> {
    let text = read_text(path)?;
    BootId::new(text.trim()).map_err(|_| Error::from(ErrorKind::InvalidData))
}

/// The inode that every kernel gives its initial PID namespace.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Whether this process is in the node's initial PID namespace: in another one the holders of GPUs
/// cannot be seen, and all would look dead.
pub fn sees_all() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|ns| ns.as_os_str() == INITIAL_PID_NAMESPACE)
}

/// The machine's id.
///
/// # Errors
/// The system's; an empty file is none.
pub fn machine_id(path: &Path) -> Result<String> {
    let text = read_text(path)?;
    let text = text.trim();
    if text.is_empty() || text.len() > 200 {
        return Err(Error::from(ErrorKind::InvalidData));
    }
    Ok(text.to_owned())
}

fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(files::read_bounded(path, LONGEST)?)
        .map_err(|_| Error::from(ErrorKind::InvalidData))
}

/// State letter, parent and start time of `/proc/PID/stat`. The program's name in it may hold
/// anything, also parentheses: the fields begin after the last one.
fn parse_stat(text: &str) -> Option<(char, u64)> {
    let rest = text.get(text.rfind(')')? + 1..)?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 3 is the state; field 22, the start time, comes 19 later.
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

/// The process behind a pid now; `None` where there is none or it is a zombie.
///
/// # Errors
/// The system's, when looking failed.
pub fn find(pid: i32) -> Result<Option<Process>> {
    let gone =
        |e: &Error| e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(nix::libc::ESRCH);
    match files::read_bounded(&PathBuf::from(format!("/proc/{pid}/stat")), LONGEST) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let (state, start) =
                parse_stat(&text).ok_or_else(|| Error::from(ErrorKind::InvalidData))?;
            Ok((!matches!(state, 'Z' | 'X' | 'x')).then_some(Process { pid, start }))
        }
        Err(e) if gone(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// This process.
///
/// # Errors
/// When /proc is not readable.
pub fn own() -> Result<Process> {
    let pid = nix::unistd::getpid().as_raw();
    find(pid)?.ok_or_else(|| Error::from(ErrorKind::NotFound))
}

/// Whether a process that was written down is still there.
pub fn seen(process: Process) -> Seen {
    match find(process.pid) {
        Ok(Some(now)) if now.start == process.start => Seen::There,
        Ok(_) => Seen::Gone,
        Err(_) => Seen::Unknown,
    }
}

/// A process's cgroup: of the devices controller (v1), else of the unified hierarchy.
///
/// # Errors
/// The system's; [`ErrorKind::NotFound`] where it is in none that is mounted at the usual place.
pub fn cgroup_of(pid: i32) -> Result<Cgroup> {
    let folder = cgroup_folder(pid)?;
    let inode = std::fs::metadata(&folder)?.ino();
    Ok(Cgroup { folder: folder.to_string_lossy().into_owned(), inode })
}

/// Whether a process is in a cgroup that is named after a container: Docker's are.
pub fn is_of(pid: i32, container: &ContainerId) -> bool {
    cgroup_folder(pid).is_ok_and(|folder| folder.to_string_lossy().contains(container.as_str()))
}

fn cgroup_folder(pid: i32) -> Result<PathBuf> {
    let text = read_text(&PathBuf::from(format!("/proc/{pid}/cgroup")))?;
    let mut unified = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if controllers.split(',').any(|c| c == "devices") {
            return Ok(PathBuf::from(format!("/sys/fs/cgroup/devices{path}")));
        }
        if controllers.is_empty() {
            unified = Some(PathBuf::from(format!("/sys/fs/cgroup{path}")));
        }
    }
    unified.filter(|path| path.is_dir()).ok_or_else(|| Error::from(ErrorKind::NotFound))
}

/// Whether a process is in this cgroup or below it. One that is not there holds none, nor does one
/// whose place another has taken.
pub fn cgroup_seen(cgroup: &Cgroup) -> Seen {
    let folder = Path::new(&cgroup.folder);
    // Only where cgroups are; and the root one always has processes.
    if !folder.starts_with("/sys/fs/cgroup") || folder.components().any(|c| c.as_os_str() == "..") {
        return Seen::Unknown;
    }
    match std::fs::metadata(folder) {
        Ok(meta) if meta.ino() == cgroup.inode => {}
        Ok(_) => return Seen::Gone,
        Err(e) if e.kind() == ErrorKind::NotFound => return Seen::Gone,
        Err(_) => return Seen::Unknown,
    }
    // cgroup v2 tells it of the whole tree at once, also where there are threaded cgroups, whose own
    // list of processes cannot be read.
    match files::read_bounded(&folder.join("cgroup.events"), LONGEST) {
        Ok(bytes) => return populated(&String::from_utf8_lossy(&bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) if e.raw_os_error() == Some(nix::libc::ENODEV) => return Seen::Gone,
        Err(_) => return Seen::Unknown,
    }
    let mut folders = vec![folder.to_owned()];
    let mut looked_at = 0;
    while let Some(folder) = folders.pop() {
        looked_at += 1;
        if looked_at > 4096 {
            return Seen::Unknown;
        }
        match std::fs::read(folder.join("cgroup.procs")) {
            Ok(pids) if !pids.is_empty() => return Seen::There,
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) if e.raw_os_error() == Some(nix::libc::ENODEV) => continue,
            Err(_) => return Seen::Unknown,
        }
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    Seen::Gone
}

/// What `cgroup.events` says of processes in the cgroup and below it.
fn populated(events: &str) -> Seen {
    match events.lines().find_map(|line| line.strip_prefix("populated ")) {
        Some("0") => Seen::Gone,
        Some("1") => Seen::There,
        _ => Seen::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_tell_whether_anybody_is_there() {
        assert_eq!(populated("populated 1\nfrozen 0\n"), Seen::There);
        assert_eq!(populated("frozen 0\npopulated 0\n"), Seen::Gone);
        assert_eq!(populated("frozen 0\n"), Seen::Unknown);
    }

    /// A threaded cgroup does not list its processes; it holds them all the same.
    #[test]
    fn a_threaded_cgroup_is_there_and_then_gone() {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let v2 = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2"));
        let Some(v2) =
            v2.and_then(|l| l.split(' ').nth(1)).filter(|_| nix::unistd::geteuid().is_root())
        else {
            println!("skipped: a cgroup of one's own needs root and cgroup v2");
            return;
        };
        let folder = Path::new(v2).join(format!("gpuctl-test-{}", std::process::id()));
        let threaded = folder.join("threaded");
        std::fs::create_dir_all(&threaded).unwrap();
        std::fs::write(threaded.join("cgroup.type"), "threaded").unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        std::fs::write(folder.join("cgroup.procs"), child.id().to_string()).unwrap();
        std::fs::write(threaded.join("cgroup.threads"), child.id().to_string()).unwrap();
        let of = |folder: &Path| Cgroup {
            folder: folder.to_string_lossy().into_owned(),
            inode: std::fs::metadata(folder).unwrap().ino(),
        };
        let (whole, part) = (of(&folder), of(&threaded));
        let running = [cgroup_seen(&whole), cgroup_seen(&part)];
        child.kill().unwrap();
        child.wait().unwrap();
        let ended = [cgroup_seen(&whole), cgroup_seen(&part)];
        std::fs::remove_dir(&threaded).unwrap();
        std::fs::remove_dir(&folder).unwrap();
        assert_eq!(running, [Seen::There; 2]);
        assert_eq!(ended, [Seen::Gone; 2]);
        assert_eq!(cgroup_seen(&whole), Seen::Gone);
    }

    #[test]
    fn a_program_name_with_parentheses_does_not_shift_the_fields() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse_stat(&format!("7 (a) b) {tail}")), Some(('S', 4711)));
        assert_eq!(parse_stat("7 (a"), None);
    }

    #[test]
    fn a_child_is_there_then_a_zombie_then_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = find(pid).unwrap().unwrap();
        assert_eq!(seen(process), Seen::There);
        assert_eq!(seen(Process { start: process.start + 1, ..process }), Seen::Gone);
        child.kill().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while seen(process) == Seen::There && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // Not waited for: a zombie, which is dead.
        assert_eq!(seen(process), Seen::Gone);
        child.wait().unwrap();
        assert_eq!(seen(process), Seen::Gone);
    }

    #[test]
    fn a_cgroup_elsewhere_is_unknown_and_one_that_is_not_there_is_empty() {
        let seen = |folder: &str| cgroup_seen(&Cgroup { folder: folder.into(), inode: 1 });
        assert_eq!(seen("/tmp"), Seen::Unknown);
        assert_eq!(seen("/sys/fs/cgroup/../.."), Seen::Unknown);
        assert_eq!(seen("/sys/fs/cgroup/devices/no/such"), Seen::Gone);
    }

    #[test]
    fn our_own_cgroup_has_a_process_and_another_at_its_place_is_not_it() {
        let own = cgroup_of(nix::unistd::getpid().as_raw()).unwrap();
        assert_eq!(cgroup_seen(&own), Seen::There);
        assert_eq!(cgroup_seen(&Cgroup { inode: own.inode + 1, ..own }), Seen::Gone);
    }
}
