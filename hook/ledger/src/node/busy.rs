//! Who has a GPU open without the ledger's knowledge: processes with /dev/nvidiaN open, and what
//! the service's last look at the driver showed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, StatxFlags, major, minor, openat, readlinkat,
    statx,
};
use rustix::io::Errno;
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
    /// GPUs of which the driver has said who uses them.
    #[serde(default)]
    pub asked: BTreeSet<Unit>,
    /// Processes of the container that has the lease on the GPU: should they be left over, it is known
    /// of whom.
    #[serde(default)]
    pub inside: BTreeMap<Unit, Inside>,
}

/// A container's processes on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// The container's name in Docker.
    pub of: String,
    /// Their pids.
    pub pids: BTreeSet<u32>,
}

/// The service's last look, however old it is.
pub fn last_watch(path: &Path) -> Option<Watch> {
    files::read_json(path, LONGEST).ok()?
}

/// The service's last look, where it is fresh.
pub fn fresh_watch(path: &Path, now: Timestamp) -> Option<Watch> {
    let watch = last_watch(path)?;
    (now.millis_since(watch.at) <= FRESH_MS && watch.at.millis_since(now) <= FRESH_MS)
        .then_some(watch)
}

/// So many processes are worth a thread of their own.
const PER_THREAD: usize = 32;
/// Most threads of one look.
const MOST_THREADS: usize = 8;
/// How long a look at all open files may take before only those below /dev are looked at.
const FIRST_LIMIT: Duration = Duration::from_secs(1);
/// How long that second look may take. A user may have a million files open.
const SECOND_LIMIT: Duration = Duration::from_millis(500);

/// So many bytes of a listing are read at a time.
const LISTING: usize = 16 << 10;

/// A look at who has a GPU open, under way: at every open file of every process, so that it takes
/// longer the more there are. It can be begun early, beside the ledger's own waits.
///
/// Asking what an open file is can still wait for a dead network filesystem, though it is asked for
/// nothing that is not in memory. Of the processes that are not done with after a second only files
/// below /dev are asked, which cannot hang, and for half a second.
#[derive(Debug)]
pub struct Look {
    round: Round,
    begun: Instant,
}

/// What a look found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Processes that have a GPU open: pid and program name, by minor.
    pub open: BTreeMap<u32, Vec<(i32, String)>>,
    /// Processes that could not be looked at in time.
    pub unseen: Vec<i32>,
}

impl Look {
    /// Begins one.
    ///
    /// # Errors
    /// When /proc cannot be listed, or no thread can be started.
    pub fn begin() -> std::io::Result<Self> {
        let mut pids: Vec<i32> = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            pids.extend(entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
        }
        Self::at(pids)
    }

    /// Begins one at these processes only.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn at(pids: Vec<i32>) -> std::io::Result<Self> {
        Ok(Self { round: Round::begin(pids, false)?, begun: Instant::now() })
    }

    /// How long ago it was begun.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// What it found of the GPUs with these minors, once it is done. Programs named in `ignore` are
    /// those that watch GPUs and use none (nvidia-persistenced); only where root installed them.
    ///
    /// A process that goes away, or that cannot be looked at, is passed by.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn end(self, minors: &[u32], ignore: &[String]) -> std::io::Result<Found> {
        let (mut all, slow) = self.round.end(self.begun + FIRST_LIMIT);
        let mut unseen = Vec::new();
        if !slow.is_empty() {
            let (more, rest) = Round::begin(slow, true)?.end(Instant::now() + SECOND_LIMIT);
            all.extend(more);
            unseen = rest;
        }
        all.sort_unstable();
        let mut open: BTreeMap<u32, Vec<(i32, String)>> = BTreeMap::new();
        for (pid, its) in all {
            let its: Vec<u32> = its.into_iter().filter(|minor| minors.contains(minor)).collect();
            if its.is_empty() {
                continue;
            }
            let name = program(pid);
            if is_watcher(pid, &name, ignore) {
                continue;
            }
            for minor in its {
                open.entry(minor).or_default().push((pid, name.clone()));
            }
        }
        Ok(Found { open, unseen })
    }
}

/// A look at some processes by some threads, each of which takes the next one.
#[derive(Debug)]
struct Round {
    pids: Vec<i32>,
    told: mpsc::Receiver<(i32, Vec<u32>)>,
    stop: Arc<AtomicBool>,
}

impl Round {
    /// Begins it; `below_dev` looks only at what the kernel says lies below /dev.
    fn begin(pids: Vec<i32>, below_dev: bool) -> std::io::Result<Self> {
        let (tell, told) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (next, work) = (Arc::new(AtomicUsize::new(0)), Arc::new(pids.clone()));
        let threads = pids.len().div_ceil(PER_THREAD).min(cores()).clamp(1, MOST_THREADS);
        // Hung ones of earlier looks, if there are so many: then nobody is seen.
        let threads = if RUNNING.load(Ordering::Relaxed) < MOST_RUNNING { threads } else { 0 };
        for at in 0..threads {
            let (tell, stop, next, work) =
                (tell.clone(), Arc::clone(&stop), Arc::clone(&next), Arc::clone(&work));
            let running = Running::begin();
            let look = move || {
                let _running = running;
                let mut buffer = Vec::with_capacity(LISTING);
                while let Some(pid) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some(open) = open_gpus(*pid, below_dev, &mut buffer, &stop) else { return };
                    if tell.send((*pid, open)).is_err() {
                        return;
                    }
                }
            };
            let begun = std::thread::Builder::new().name("openers".into()).spawn(look);
            // One is enough.
            if let Err(e) = begun
                && at == 0
            {
                return Err(e);
            }
        }
        Ok(Self { pids, told, stop })
    }

    /// What it found until then, and the processes that it was not done with.
    fn end(self, until: Instant) -> (Vec<(i32, Vec<u32>)>, Vec<i32>) {
        let mut done = BTreeSet::new();
        let mut found = Vec::new();
        // The channel ends with its last thread.
        while let Ok((pid, open)) =
            self.told.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            done.insert(pid);
            if !open.is_empty() {
                found.push((pid, open));
            }
        }
        self.stop.store(true, Ordering::Relaxed);
        let rest = self.pids.into_iter().filter(|pid| !done.contains(pid)).collect();
        (found, rest)
    }
}

/// So many threads look, in this process.
static RUNNING: AtomicUsize = AtomicUsize::new(0);
/// With so many at it, no look starts more.
const MOST_RUNNING: usize = 4 * MOST_THREADS;

/// One of [`RUNNING`].
struct Running;

impl Running {
    fn begin() -> Self {
        RUNNING.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many cores this process may use.
fn cores() -> usize {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
    set.map_or(1, |set| {
        (0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).count()
    })
}

/// The minors of the GPUs that a process has open; none where it cannot be looked at. `None` once it
/// is to stop.
fn open_gpus(
    pid: i32,
    below_dev: bool,
    buffer: &mut Vec<u8>,
    stop: &AtomicBool,
) -> Option<Vec<u32>> {
    let mut found: Vec<u32> = Vec::new();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = openat(CWD, format!("/proc/{pid}/fd"), flags, Mode::empty()) else {
        return Some(found);
    };
    let mut entries = RawDir::new(&dir, buffer.spare_capacity_mut());
    while let Some(Ok(entry)) = entries.next() {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let fd = entry.file_name();
        if !fd.to_bytes().first().is_some_and(u8::is_ascii_digit) {
            continue;
        }
        // What the link says is the kernel's own word, and asks no filesystem.
        let is_below_dev =
            || readlinkat(&dir, fd, []).is_ok_and(|link| link.to_bytes().starts_with(b"/dev/"));
        if below_dev && !is_below_dev() {
            continue;
        }
        if let Some(minor) = gpu_minor(&dir, fd)
            && !found.contains(&minor)
        {
            found.push(minor);
        }
    }
    Some(found)
}

/// The minor of an open file, if it is a GPU's node. What its filesystem keeps in memory is enough:
/// a device's type and number do not change, and one that hangs is not asked.
fn gpu_minor(dir: &OwnedFd, fd: &CStr) -> Option<u32> {
    let (kind, device) = match statx(dir, fd, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE) {
        Ok(file) => (file.stx_mode.into(), (u64::from(file.stx_rdev_major), file.stx_rdev_minor)),
        // Linux before 4.11.
        Err(Errno::NOSYS) => {
            let file = rustix::fs::statat(dir, fd, AtFlags::empty()).ok()?;
            (file.st_mode, (u64::from(major(file.st_rdev)), minor(file.st_rdev)))
        }
        Err(_) => return None,
    };
    let is_gpu =
        FileType::from_raw_mode(kind) == FileType::CharacterDevice && device.0 == NVIDIA_MAJOR;
    is_gpu.then_some(device.1)
}

/// Whether a process, by its name and its file, is one of the programs that watch GPUs and use none.
pub fn is_watcher(pid: i32, name: &str, watchers: &[String]) -> bool {
    watchers.iter().any(|watcher| watcher == name) && is_roots_program(pid, name)
}

/// Whether a process runs a file of that name which only root can have put there: the name that a
/// process goes by, anybody can choose.
fn is_roots_program(pid: i32, name: &str) -> bool {
    let exe = format!("/proc/{pid}/exe");
    let Ok(path) = std::fs::read_link(&exe) else { return false };
    // The name that the kernel keeps is cut after 15 bytes.
    let named = path.file_name().is_some_and(|file| {
        file.as_bytes().starts_with(name.as_bytes())
            && (file.len() == name.len() || name.len() >= 15)
    });
    let wanted = StatxFlags::UID | StatxFlags::MODE;
    let file = statx(CWD, exe, AtFlags::STATX_DONT_SYNC, wanted);
    named && file.is_ok_and(|file| file.stx_uid == 0 && file.stx_mode & 0o022 == 0)
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

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    struct Program(Child);

    impl Program {
        fn start(program: &Path) -> Self {
            Self(Command::new(program).arg("60").spawn().unwrap())
        }
        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).unwrap()
        }
    }

    impl Drop for Program {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_look_finds_who_has_a_gpu_open_and_tells_the_gpus_apart() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let node = folder.path().join("any name");
        let device = rustix::fs::makedev(u32::try_from(NVIDIA_MAJOR).unwrap(), 77);
        let kind = FileType::CharacterDevice;
        rustix::fs::mknodat(CWD, &node, kind, Mode::RWXU, device).unwrap();
        let look = || Look::begin().unwrap().end(&[77, 78], &[]).unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(look(), Found::default());
        // There is no driver: a handle that opens nothing stands for one.
        let _open = openat(CWD, &node, OFlags::PATH, Mode::empty()).unwrap();
        let found = look();
        assert_eq!(found.open.keys().collect::<Vec<_>>(), [&77]);
        assert_eq!(found.open[&77], [(me, program(me))]);
        assert_eq!(Look::begin().unwrap().end(&[78], &[]).unwrap(), Found::default());
    }

    #[test]
    fn what_is_not_done_in_time_is_said_to_be_unseen() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(
            open_gpus(me, false, &mut Vec::with_capacity(LISTING), &AtomicBool::new(true)),
            None
        );
        // No process has this id.
        let pids = vec![me, i32::MAX];
        let minute = Instant::now() + Duration::from_secs(60);
        assert_eq!(Round::begin(pids, false).unwrap().end(minute), (Vec::new(), Vec::new()));
        // One thread has told of one process, and hangs at the next.
        let (tell, told) = mpsc::channel();
        tell.send((1, vec![7])).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let round = Round { pids: vec![1, 2], told, stop: Arc::clone(&stop) };
        let soon = Instant::now() + Duration::from_millis(20);
        assert_eq!(round.end(soon), (vec![(1, vec![7])], vec![2]));
        assert!(stop.load(Ordering::Relaxed), "its threads are told to stop");
    }

    #[test]
    fn a_watcher_is_known_by_its_file_and_not_by_the_name_it_goes_by() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let real = Path::new("/bin/sleep");
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("sleep");
        std::fs::copy(real, &own).unwrap();
        std::os::unix::fs::chown(&own, Some(1000), None).unwrap();
        let roots = Program::start(real);
        assert!(is_roots_program(roots.pid(), "sleep"));
        assert!(is_watcher(roots.pid(), "sleep", &["other".into(), "sleep".into()]));
        assert!(!is_watcher(roots.pid(), "sleep", &["other".into()]));
        assert!(!is_roots_program(roots.pid(), "nvidia-smi"));
        let somebodys = Program::start(&own);
        assert!(!is_roots_program(somebodys.pid(), "sleep"));
    }
}
