//! Who has a GPU open without the ledger's knowledge: processes with /dev/nvidiaN open, and what
//! the service's last look at the driver showed.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstatat, major, minor};
use serde::{Deserialize, Serialize};

use crate::model::{Timestamp, Unit};
use crate::node::files;

/// The major number of /dev/nvidiaN; the kernel's list of majors has it fixed.
pub const NVIDIA_MAJOR: u64 = 195;
/// How old the service's look may be to count, in milliseconds.
pub const FRESH_MS: u64 = 5000;
/// Longest watch file, in bytes.
const LONGEST: u64 = 1 << 20;

/// What the service saw of the driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// When.
    pub at: Timestamp,
    /// Processes of no container with a lease on the GPU: pid and name.
    pub strangers: BTreeMap<Unit, Vec<(u32, String)>>,
    /// GPUs that do not answer as they should, and why.
    pub unhealthy: BTreeMap<Unit, String>,
}

/// The service's last look, where it is fresh.
pub fn fresh_watch(path: &Path, now: Timestamp) -> Option<Watch> {
    let watch: Watch = files::read_json(path, LONGEST).ok()??;
    (now.millis_since(watch.at) <= FRESH_MS && watch.at.millis_since(now) <= FRESH_MS)
        .then_some(watch)
}

/// Processes that have the device node of a GPU open: pid and program name, by minor. Programs
/// named in `ignore` are those that watch GPUs and use none (nvidia-persistenced).
///
/// Asking what an open file is can hang on a dead network filesystem: what takes longer than `limit`
/// is left, and only files below /dev are asked, which cannot hang.
///
/// # Errors
/// When /proc cannot be listed. A process that goes away, or that cannot be looked at, is passed by.
pub fn openers_within(
    minors: &[u32],
    ignore: &[String],
    limit: Duration,
) -> std::io::Result<BTreeMap<u32, Vec<(i32, String)>>> {
    let (tell, told) = mpsc::sync_channel(1);
    let (asked, ignored) = (minors.to_vec(), ignore.to_vec());
    std::thread::Builder::new().name("openers".into()).spawn(move || {
        let _ = tell.send(openers(&asked, &ignored, false));
    })?;
    match told.recv_timeout(limit) {
        Ok(found) => found,
        Err(_) => openers(minors, ignore, true),
    }
}

/// The look itself; `below_dev` looks only at what the kernel says lies below /dev.
fn openers(
    minors: &[u32],
    ignore: &[String],
    below_dev: bool,
) -> std::io::Result<BTreeMap<u32, Vec<(i32, String)>>> {
    let mut found: BTreeMap<u32, Vec<(i32, String)>> = BTreeMap::new();
    if minors.is_empty() {
        return Ok(found);
    }
    for entry in std::fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        let fds = format!("/proc/{pid}/fd");
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let Ok(mut dir) = nix::dir::Dir::open(fds.as_str(), flags, Mode::empty()) else { continue };
        let Ok(handle) = dir.as_fd().try_clone_to_owned() else { continue };
        let mut open_here: Vec<u32> = Vec::new();
        for fd in dir.iter().flatten() {
            let name = fd.file_name();
            if !name.to_bytes().first().is_some_and(u8::is_ascii_digit) {
                continue;
            }
            // What the link says is the kernel's own word, and asks no filesystem.
            let Ok(link) = readlinkat(&handle, name) else { continue };
            let link = link.as_bytes();
            if !link.starts_with(if below_dev { b"/dev/" } else { b"/" }) {
                continue;
            }
            let Ok(stat) = fstatat(&handle, name, AtFlags::empty()) else { continue };
            let is_char = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
            if !is_char || major(stat.st_rdev) != NVIDIA_MAJOR {
                continue;
            }
            let Ok(minor) = u32::try_from(minor(stat.st_rdev)) else { continue };
            if minors.contains(&minor) && !open_here.contains(&minor) {
                open_here.push(minor);
            }
        }
        if open_here.is_empty() {
            continue;
        }
        let name = program(pid);
        if ignore.contains(&name) {
            continue;
        }
        for minor in open_here {
            found.entry(minor).or_default().push((pid, name.clone()));
        }
    }
    Ok(found)
}

/// A process's short name, printable; `?` where it cannot be read.
pub fn program(pid: i32) -> String {
    files::read_bounded(Path::new(&format!("/proc/{pid}/comm")), 256).map_or_else(
        |_| "?".to_owned(),
        |name| {
            String::from_utf8_lossy(&name)
                .trim_end()
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect()
        },
    )
}
