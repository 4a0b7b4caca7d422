//! One line for each decision about GPUs: appended to `audit.log` in the state folder, and sent to
//! the system's journal. A full log becomes `audit.log.1`, in the place of the one before.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Result, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::config::{Config, Paths};
use crate::model::{Holder, Timestamp, Unit};
use crate::node::journald;

/// The size at which a log is full, in bytes: some 30 000 decisions. What is kept is never more than
/// twice this, and the lines that a crowd writes while one of it rotates.
const LARGEST: u64 = 10 << 20;
/// Longest text of a line's field, in characters.
const LONGEST_TEXT: usize = 1500;
/// Longest line that this program writes, in bytes, with room: 128 GPUs and the longest texts.
pub const LONGEST_LINE: usize = 64 << 10;

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// GPUs were granted.
    Granted,
    /// A start or a change gave other GPUs than the container had before.
    Rebound,
    /// A start or a change was refused.
    Refused,
    /// GPUs were taken out of a spec that named or opened them without a request.
    Stripped,
    /// The exempt list let it through.
    Exempted,
    /// GPUs were given back.
    Released,
    /// The process is gone, and the GPUs wait for the container's next start.
    Reserved,
    /// A GPU is not granted until it is clean.
    Quarantined,
    /// A quarantine is over.
    Cleared,
    /// The container's own settings name GPUs that it did not get.
    Hint,
}

impl Decision {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Granted,
        Self::Rebound,
        Self::Refused,
        Self::Stripped,
        Self::Exempted,
        Self::Released,
        Self::Reserved,
        Self::Quarantined,
        Self::Cleared,
        Self::Hint,
    ];

    /// The word for it, in the log and for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Rebound => "rebound",
            Self::Refused => "refused",
            Self::Stripped => "stripped",
            Self::Exempted => "exempted",
            Self::Released => "released",
            Self::Reserved => "reserved",
            Self::Quarantined => "quarantined",
            Self::Cleared => "cleared",
            Self::Hint => "hint",
        }
    }

    /// The decision with this word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|decision| decision.word() == word)
    }
}

/// One decision, as a line of the log has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub time: Timestamp,
    /// What was decided.
    pub decision: Decision,
    /// Whether it was only looked on: what `policy.observe` keeps from being done.
    #[serde(default)]
    pub observe: bool,
    /// The container's id; empty where there is none.
    #[serde(default)]
    pub container: String,
    /// Its name in Docker; the managed name where it is not made yet; empty where neither is known.
    #[serde(default)]
    pub name: String,
    /// Who owns the container, or asked; absent where it is not known.
    #[serde(default)]
    pub user: Option<String>,
    /// The GPUs.
    #[serde(default)]
    pub gpus: Vec<Unit>,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

impl Entry {
    /// A decision of now about a container, of which nothing else is known yet.
    pub fn new(decision: Decision, container: &str, name: &str) -> Self {
        Self {
            time: Timestamp::now(),
            decision,
            observe: false,
            container: container.to_owned(),
            name: name.to_owned(),
            user: None,
            gpus: Vec::new(),
            reason: String::new(),
        }
    }

    /// The same about the holder of a lease.
    pub fn of(decision: Decision, holder: &Holder) -> Self {
        Self::new(decision, holder.container.as_str(), holder.shown()).user(holder.owner.clone())
    }

    /// With who owns it, or asked.
    #[must_use]
    pub fn user(mut self, user: Option<String>) -> Self {
        self.user = user;
        self
    }

    /// With the GPUs.
    #[must_use]
    pub fn gpus(mut self, units: &[Unit]) -> Self {
        self.gpus = units.to_vec();
        self
    }

    /// With the reason.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.reason = why.into();
        self
    }

    /// As what would have been decided: nothing of it was done.
    #[must_use]
    pub fn observed(mut self) -> Self {
        self.observe = true;
        self
    }

    /// Writes it to log and journal. A full or read-only disk, or a journal that does not listen,
    /// keeps nobody from starting a container.
    pub fn write(mut self, config: &Config) {
        for text in [&mut self.container, &mut self.name, &mut self.reason] {
            *text = printable(text);
        }
        self.user = self.user.as_deref().map(printable);
        if let Ok(mut line) = serde_json::to_vec(&self) {
            line.push(b'\n');
            let _ = append(&path(&config.paths), &line, LARGEST);
        }
        let _ = journald::send(&config.paths.journal, &self.fields());
    }

    /// What the journal is told.
    fn fields(&self) -> Vec<(&'static str, String)> {
        let units: Vec<&str> = self.gpus.iter().map(Unit::as_str).collect();
        let units = units.join(",");
        // As syslog has them: 6 is informational, 5 a notice, 4 a warning.
        let priority = match self.decision {
            Decision::Refused | Decision::Quarantined => "4",
            Decision::Rebound | Decision::Stripped | Decision::Exempted | Decision::Cleared => "5",
            Decision::Granted | Decision::Released | Decision::Reserved | Decision::Hint => "6",
        };
        vec![
            ("MESSAGE", self.message(&units)),
            ("PRIORITY", priority.to_owned()),
            ("SYSLOG_IDENTIFIER", "gpuctl".to_owned()),
            ("GPUCTL_DECISION", self.decision.word().to_owned()),
            ("GPUCTL_OBSERVE", u8::from(self.observe).to_string()),
            ("GPUCTL_CONTAINER", self.container.clone()),
            ("GPUCTL_NAME", self.name.clone()),
            ("GPUCTL_USER", self.user.clone().unwrap_or_else(|| "-".into())),
            ("GPUCTL_GPUS", units),
            ("GPUCTL_REASON", self.reason.clone()),
        ]
    }

    /// `granted train-1 (4e530d075be1) user root GPUs GPU-..,GPU-..: started`.
    fn message(&self, units: &str) -> String {
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let short: String = self.container.chars().take(12).collect();
        let observed = if self.observe { " (only observed)" } else { "" };
        format!(
            "{}{observed} {} ({}) user {} GPUs {}: {}",
            self.decision.word(),
            or_dash(&self.name),
            or_dash(&short),
            self.user.as_deref().unwrap_or("-"),
            or_dash(units),
            self.reason
        )
    }
}

/// The log.
pub fn path(paths: &Paths) -> PathBuf {
    paths.state.join("audit.log")
}

/// The log before it.
pub fn older_path(paths: &Paths) -> PathBuf {
    path(paths).with_extension("log.1")
}

/// Writes a decision of which no user is known.
pub fn write(config: &Config, decision: Decision, id: &str, name: &str, units: &[Unit], why: &str) {
    Entry::new(decision, id, name).gpus(units).why(why).write(config);
}

/// On one line, without control characters, and not too long.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_TEXT).collect()
}

/// Appends to the log, which is begun anew first where it has reached so many bytes.
fn append(path: &Path, line: &[u8], largest: u64) -> Result<()> {
    let (mut file, meta) = open(path)?;
    // A crowd may come to a log that is rotated again and again: one line is not worth more tries.
    if meta.len() >= largest && rotate(path, file.try_clone()?, &meta).is_ok() {
        file = open(path)?.0;
    }
    file.write_all(line)
}

/// Opens the log: no link, and a file of ours by what was opened, not by what the path said.
fn open(path: &Path) -> Result<(File, Metadata)> {
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok((file, meta))
}

/// Makes the full log `audit.log.1`, in the place of the one before. Whoever has it open yet writes
/// to it there: no line is lost.
///
/// The lock is on the full log itself, and whoever has it sees that the log is still that one: of a
/// crowd that finds it full one renames it, and nobody renames the new one. Nobody waits: while one
/// is at it, the others write to what they have open.
fn rotate(path: &Path, full: File, meta: &Metadata) -> Result<()> {
    let _lock = match Flock::lock(full, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, Errno::EWOULDBLOCK)) => return Err(ErrorKind::WouldBlock.into()),
        Err((_, e)) => return Err(e.into()),
    };
    let now = path.symlink_metadata()?;
    if (now.dev(), now.ino()) == (meta.dev(), meta.ino()) {
        // No link is followed: neither name is resolved to what it may point to.
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_full_log_becomes_the_older_one_and_the_one_before_goes() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            paths: Paths {
                state: dir.path().to_owned(),
                journal: dir.path().join("journal"),
                ..Default::default()
            },
            ..Default::default()
        };
        let (log, older) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
        std::fs::write(&older, "the one before").unwrap();
        write(&config, Decision::Granted, "ab12", "train", &[], "started");
        // Sparse: it takes no room.
        let full = std::fs::OpenOptions::new().write(true).open(&log).unwrap();
        full.set_len(LARGEST - 1).unwrap();
        write(&config, Decision::Granted, "ab12", "train", &[], "not full yet");
        assert_eq!(read(&older), "the one before");
        write(&config, Decision::Refused, "cd34", "late", &[], "none is free");
        assert!(std::fs::metadata(&older).unwrap().len() >= LARGEST);
        assert_eq!(read(&log).lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&read(&log)).unwrap();
        assert_eq!((&line["name"], &line["decision"]), (&"late".into(), &"refused".into()));
        let mode = std::fs::metadata(&log).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }

    #[test]
    fn only_what_was_not_done_is_said_to_be_observed() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.policy.observe = true;
        config.paths.state = dir.path().to_owned();
        config.paths.journal = dir.path().join("journal");
        // Of a managed container, which gets its GPUs in the observe stage too.
        Entry::new(Decision::Granted, "ab12", "train-0").write(&config);
        Entry::new(Decision::Granted, "cd34", "bare").observed().write(&config);
        let text = read(&path(&config.paths));
        let lines: Vec<Entry> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.iter().map(|l| l.observe).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn every_decision_has_a_word_and_is_read_back() {
        for decision in Decision::ALL {
            assert_eq!(Decision::of_word(decision.word()), Some(decision));
            assert_eq!(
                serde_json::to_value(decision).unwrap(),
                serde_json::Value::from(decision.word())
            );
        }
        let entry = Entry::new(Decision::Refused, "ab12", "train").why("none is free");
        let line = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&line).unwrap(), entry);
    }

    #[test]
    fn the_longest_line_fits() {
        let units: Vec<Unit> =
            (0..128).map(|n| Unit::new(format!("GPU-{n:0>96}")).unwrap()).collect();
        let long = "\u{10ffff}\"".repeat(LONGEST_TEXT);
        let entry = Entry::new(Decision::Granted, &long, &long).user(Some(long.clone()));
        let mut entry = entry.gpus(&units).why(&long);
        entry.reason = printable(&entry.reason);
        entry.name = printable(&entry.name);
        entry.container = printable(&entry.container);
        entry.user = entry.user.as_deref().map(printable);
        assert!(serde_json::to_vec(&entry).unwrap().len() < LONGEST_LINE);
    }

    #[test]
    fn who_found_it_full_but_comes_late_leaves_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        append(&log, b"full\n", 5).unwrap();
        let (late, seen) = open(&log).unwrap();
        append(&log, b"new\n", 5).unwrap();
        rotate(&log, late, &seen).unwrap();
        assert_eq!(
            (read(&log), read(&log.with_extension("log.1"))),
            ("new\n".into(), "full\n".into())
        );
    }

    #[test]
    fn a_crowd_rotates_once_and_loses_no_line() {
        const CROWD: u64 = 16;
        const EACH: u64 = 60;
        for _ in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            let (log, older) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
            let line = |one: u64, n: u64| format!("{one:4} {n:4} {}\n", "x".repeat(90));
            // What comes after the rotation does not fill the new one.
            let largest = CROWD * EACH * 100 * 6 / 10;
            std::thread::scope(|scope| {
                for one in 0..CROWD {
                    let (log, line) = (&log, &line);
                    scope.spawn(move || {
                        for n in 0..EACH {
                            append(log, line(one, n).as_bytes(), largest).unwrap();
                        }
                    });
                }
            });
            let both = format!("{}{}", read(&older), read(&log));
            let mut found: Vec<&str> = both.lines().collect();
            found.sort_unstable();
            let all: Vec<String> =
                (0..CROWD).flat_map(|one| (0..EACH).map(move |n| line(one, n))).collect();
            let all: Vec<&str> = all.iter().map(|l| l.trim_end_matches('\n')).collect();
            assert!(found == all, "{} of {} lines", found.len(), all.len());
        }
    }

    #[test]
    fn no_link_is_followed_and_a_fifo_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (log, older) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
        let theirs = dir.path().join("theirs");
        std::fs::write(&theirs, "as it was").unwrap();
        symlink(&theirs, &log).unwrap();
        assert!(append(&log, b"a line\n", 5).is_err());
        std::fs::remove_file(&log).unwrap();
        symlink(&theirs, &older).unwrap();
        append(&log, b"a line\n", 5).unwrap();
        append(&log, b"another\n", 5).unwrap();
        assert_eq!((read(&older), read(&log)), ("a line\n".into(), "another\n".into()));
        assert_eq!(read(&theirs), "as it was");
        std::fs::remove_file(&log).unwrap();
        nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _reader = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(&log)
            .unwrap();
        assert!(append(&log, b"a line\n", 5).is_err());
    }

    #[test]
    fn what_cannot_be_rotated_is_written_on() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        // A folder that is not empty is replaced by no rename.
        std::fs::create_dir_all(dir.path().join("audit.log.1/full")).unwrap();
        append(&log, b"a line\n", 5).unwrap();
        append(&log, b"another\n", 5).unwrap();
        assert_eq!(read(&log), "a line\nanother\n");
        // Somebody else is at it: nobody waits.
        std::fs::remove_dir_all(dir.path().join("audit.log.1")).unwrap();
        let _other = Flock::lock(open(&log).unwrap().0, FlockArg::LockExclusive).unwrap();
        append(&log, b"a third\n", 5).unwrap();
        assert_eq!(read(&log), "a line\nanother\na third\n");
    }
}
