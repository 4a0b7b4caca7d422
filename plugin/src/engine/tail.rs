//! The audit log as it is read: what is there, and what comes, over rotations.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Result};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gpuctl_ledger::audit::{self, Entry, LONGEST_LINE};
use gpuctl_ledger::config::Paths;
use nix::libc;

/// So long is a log read on that another has taken the place of: who had it open may write to it yet.
const LINGER: Duration = Duration::from_secs(2);

/// The log and those before it that may still be written to, oldest first.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    parts: Vec<Part>,
}

/// One file.
#[derive(Debug)]
struct Part {
    file: File,
    id: (u64, u64),
    /// What came of a line without its end.
    rest: Vec<u8>,
    /// The line is longer than any of ours: it is passed over.
    skip: bool,
    /// Since when another is in its place.
    replaced: Option<Instant>,
}

impl Tail {
    /// From the oldest line on.
    ///
    /// # Errors
    /// The system's. That there is no log yet is none.
    pub(super) fn begin(paths: &Paths) -> Result<Self> {
        let path = audit::path(paths);
        // The newer one first: should it be rotated now, it is not missed.
        let newer = Part::open(&path)?;
        let older = Part::open(&audit::older_path(paths))?;
        let older = older.filter(|old| newer.as_ref().is_none_or(|new| new.id != old.id));
        let mut parts: Vec<Part> = older.into_iter().collect();
        // Nobody has had it open since long ago: once read, it is done with.
        for part in &mut parts {
            part.replaced = Some(Instant::now());
        }
        parts.extend(newer);
        Ok(Self { path, parts })
    }

    /// Reads what has come since; `each` says whether to go on. Whether it said so to the last.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn read(&mut self, each: &mut dyn FnMut(Entry) -> bool) -> Result<bool> {
        let now = match self.path.symlink_metadata() {
            Ok(meta) => Some((meta.dev(), meta.ino())),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        if let Some(now) = now {
            for part in self.parts.iter_mut().filter(|part| part.id != now) {
                part.replaced.get_or_insert_with(Instant::now);
            }
            if self.parts.iter().all(|part| part.id != now) {
                self.parts.extend(Part::open(&self.path)?);
            }
        }
        for part in &mut self.parts {
            if !part.read(each)? {
                return Ok(false);
            }
        }
        self.parts.retain(|part| part.replaced.is_none_or(|since| since.elapsed() < LINGER));
        Ok(true)
    }
}

impl Part {
    /// Opens one: no link, and root's, by what was opened. `None` where there is none.
    fn open(path: &Path) -> Result<Option<Self>> {
        let flags = libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let meta = file.metadata()?;
        if !meta.is_file() || meta.uid() != nix::unistd::geteuid().as_raw() {
            return Err(ErrorKind::InvalidData.into());
        }
        let id = (meta.dev(), meta.ino());
        Ok(Some(Self { file, id, rest: Vec::new(), skip: false, replaced: None }))
    }

    fn read(&mut self, each: &mut dyn FnMut(Entry) -> bool) -> Result<bool> {
        let mut bytes = [0; 64 << 10];
        loop {
            let n = match self.file.read(&mut bytes) {
                Ok(0) => return Ok(true),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            for piece in bytes.get(..n).unwrap_or_default().split_inclusive(|b| *b == b'\n') {
                let ends = piece.ends_with(b"\n");
                self.skip |= self.rest.len() + piece.len() > LONGEST_LINE;
                if !self.skip {
                    self.rest.extend_from_slice(piece);
                }
                if !ends {
                    continue;
                }
                // A torn line, as a power cut leaves it, and one of a later version tell us nothing.
                let entry = serde_json::from_slice::<Entry>(&self.rest).ok().filter(|_| !self.skip);
                self.rest.clear();
                self.skip = false;
                if entry.is_some_and(|entry| !each(entry)) {
                    return Ok(false);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use gpuctl_ledger::audit::Decision;

    use super::*;

    fn paths(dir: &tempfile::TempDir) -> Paths {
        Paths { state: dir.path().to_owned(), ..Paths::default() }
    }

    fn line(name: &str) -> String {
        let entry = Entry::new(Decision::Granted, "ab12", name);
        format!("{}\n", serde_json::to_string(&entry).unwrap())
    }

    fn append(path: &Path, text: &str) {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn names(tail: &mut Tail) -> Vec<String> {
        let mut names = Vec::new();
        assert!(
            tail.read(&mut |entry| {
                names.push(entry.name);
                true
            })
            .unwrap()
        );
        names
    }

    #[test]
    fn what_comes_is_read_once_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(&dir);
        let (log, older) = (audit::path(&paths), audit::older_path(&paths));
        let mut tail = Tail::begin(&paths).unwrap();
        assert!(names(&mut tail).is_empty(), "there is no log yet");
        append(&log, &line("a"));
        assert_eq!(names(&mut tail), ["a"]);
        let mut late = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
        append(&log, &line("b"));
        std::fs::rename(&log, &older).unwrap();
        append(&log, &line("c"));
        assert_eq!(names(&mut tail), ["b", "c"]);
        // Who had the old one open writes to it there.
        late.write_all(line("d").as_bytes()).unwrap();
        append(&log, &line("e"));
        assert_eq!(names(&mut tail), ["d", "e"]);
        let mut whole = Tail::begin(&paths).unwrap();
        assert_eq!(names(&mut whole), ["a", "b", "d", "c", "e"]);
    }

    #[test]
    fn torn_long_and_foreign_lines_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(&dir);
        let log = audit::path(&paths);
        let mut tail = Tail::begin(&paths).unwrap();
        let whole = line("halves");
        let (one, two) = whole.split_at(20);
        append(&log, one);
        assert!(names(&mut tail).is_empty());
        append(&log, two);
        assert_eq!(names(&mut tail), ["halves"]);
        append(&log, &format!("{{\"time\":\n{}\nnot json\n", "x".repeat(3 * LONGEST_LINE)));
        append(&log, &line("after"));
        assert_eq!(names(&mut tail), ["after"]);
    }

    #[test]
    fn a_line_longer_than_any_of_ours_is_neither_told_nor_kept() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(&dir);
        let log = audit::path(&paths);
        let mut tail = Tail::begin(&paths).unwrap();
        // As whole as any, but for its length; and one that goes on and on.
        append(&log, &line(&"x".repeat(2 * LONGEST_LINE)));
        append(&log, &line("between"));
        assert_eq!(names(&mut tail), ["between"]);
        for _ in 0..64 {
            append(&log, &"x".repeat(LONGEST_LINE));
            assert!(names(&mut tail).is_empty());
            assert!(tail.parts.iter().all(|part| part.rest.len() <= LONGEST_LINE));
        }
        append(&log, "\n");
        append(&log, &line("after"));
        assert_eq!(names(&mut tail), ["after"]);
    }

    #[test]
    fn no_link_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(&dir);
        std::os::unix::fs::symlink("/etc/passwd", audit::path(&paths)).unwrap();
        assert!(Tail::begin(&paths).is_err());
    }
}
